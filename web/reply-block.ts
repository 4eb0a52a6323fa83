// One reply on the page while it streams: reasoning in a fold above the answer, the answer's tokens, calls of tools as code below.
// Owns the elements inside a turn, the answer's text and the calls. Refuses requests and turns: app.ts has those. Tokens are coloured wherever they are.

import { type TokenView, traceOf } from "./token-view.ts";
import type { Call } from "./request.ts";
import type { StreamChunk, ToolCallDelta } from "../worker/wire-types.ts";

export class ReplyBlock {
  /** The answer so far, without reasoning and calls: what the next request says the model has said. */
  answer = "";
  readonly #turn: HTMLElement;
  readonly #view: TokenView;
  #reasoning: { readonly fold: HTMLDetailsElement; readonly text: HTMLElement; readonly title: HTMLElement } | null = null;
  readonly #calls = new Map<number, { readonly code: HTMLElement; id: string; name: string; arguments: string }>();

  constructor(turn: HTMLElement, view: TokenView) {
    this.#turn = turn;
    this.#view = view;
  }

  /** The calls so far, in the model's order. */
  get calls(): readonly Call[] {
    return [...this.#calls.values()].map(({ id, name, arguments: given }) => ({ id, name, arguments: given }));
  }

  /** Shows a chunk; false where it has neither text nor a token. */
  add(chunk: StreamChunk): boolean {
    const choice = chunk.choices[0];
    const text = choice?.text ?? choice?.delta?.content ?? "";
    const thought = choice?.delta?.reasoning_content ?? "";
    const calls = choice?.delta?.tool_calls ?? [];
    const token = chunk.moe?.token;
    if (token === undefined && text === "" && thought === "" && calls.length === 0) return false;
    let trace = token === undefined ? null : traceOf(token);
    const show = (host: HTMLElement, piece: string): void => {
      this.#view.add(host, token?.id ?? -1, piece, trace);
      trace = null; // a token that ends one part and begins the next is counted once
    };
    if (thought !== "") show(this.#thoughts(), thought);
    if (text !== "" && this.answer === "") this.#closeThoughts();
    if (text !== "") show(this.#turn, text);
    for (const call of calls) show(this.#call(call), `${call.function.name === undefined ? "" : `${call.function.name} `}${call.function.arguments}`);
    // A token without text of its own, such as half a character or a marker, belongs to what is being written.
    if (trace !== null) show(this.#reasoning?.fold.open === true && this.answer === "" ? this.#reasoning.text : this.#turn, "");
    this.answer += text;
    return true;
  }

  /** The stream is over, however it ended: reasoning that led to no answer stays open. */
  end(): void {
    if (this.#reasoning !== null) this.#reasoning.title.textContent = "Reasoning";
  }

  #thoughts(): HTMLElement {
    if (this.#reasoning === null) {
      const [fold, title, text] = [document.createElement("details"), document.createElement("summary"), document.createElement("div")];
      fold.className = "reasoning";
      fold.open = true;
      title.textContent = "Thinking…";
      fold.append(title, text);
      this.#turn.append(fold);
      this.#reasoning = { fold, title, text };
    }
    return this.#reasoning.text;
  }

  #closeThoughts(): void {
    if (this.#reasoning === null) return;
    this.#reasoning.fold.open = false;
    this.#reasoning.title.textContent = "Reasoning";
  }

  #call({ index, id, function: { name = "", arguments: piece } }: ToolCallDelta): HTMLElement {
    let call = this.#calls.get(index);
    if (call === undefined) {
      const code = document.createElement("code");
      code.className = "call";
      this.#turn.append(code);
      this.#calls.set(index, (call = { code, id: id ?? `call_${index}`, name, arguments: "" }));
    }
    call.arguments += piece;
    return call.code;
  }
}
