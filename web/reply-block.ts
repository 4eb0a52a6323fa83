// One reply on the page while it streams: reasoning in a fold above the answer, the answer's tokens, calls of tools as code below.
// Owns the elements inside a turn and the answer's text. Refuses requests and turns: app.ts has those. Tokens are coloured wherever they are.

import { type TokenView, traceOf } from "./token-view.ts";
import type { StreamChunk } from "../worker/wire-types.ts";

export class ReplyBlock {
  /** The answer so far, without reasoning and calls: what the next request says the model has said. */
  answer = "";
  readonly #turn: HTMLElement;
  readonly #view: TokenView;
  #reasoning: { readonly fold: HTMLDetailsElement; readonly text: HTMLElement; readonly title: HTMLElement } | null = null;
  readonly #calls = new Map<number, HTMLElement>();

  constructor(turn: HTMLElement, view: TokenView) {
    this.#turn = turn;
    this.#view = view;
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
    for (const call of calls) show(this.#call(call.index), `${call.function.name === undefined ? "" : `${call.function.name} `}${call.function.arguments}`);
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

  #call(index: number): HTMLElement {
    const known = this.#calls.get(index);
    if (known !== undefined) return known;
    const made = document.createElement("code");
    made.className = "call";
    this.#turn.append(made);
    this.#calls.set(index, made);
    return made;
  }
}
