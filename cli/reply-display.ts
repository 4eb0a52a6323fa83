// A chat reply in the terminal: the answer as it is, reasoning dimmed before it, calls of tools as a line each. Owns what is written where:
// without a terminal the answer alone goes to stdout, everything else to stderr, so that a pipe holds answers only. Refuses parsing.

import { styleText } from "node:util";
import type { ReplyPart } from "../model/reply-parser.ts";

export interface DisplayStreams {
  readonly isTerminal: boolean;
  readonly out: (text: string) => void;
  readonly aside: (text: string) => void;
}

export class ReplyDisplay {
  /** The answer so far: what the conversation keeps as its content. */
  answer = "";
  /** What was thought before it: some templates want it back. */
  reasoning = "";
  readonly #streams: DisplayStreams;
  #last: ReplyPart["kind"] | null = null;
  /** stdout has had the end of a line. */
  #hasLine = false;

  constructor(streams: DisplayStreams) {
    this.#streams = streams;
  }

  show(parts: readonly ReplyPart[]): void {
    for (const part of parts) {
      const beginsAnother = this.#last !== part.kind || (part.kind === "tool" && part.name !== undefined);
      if (beginsAnother) this.#endLine();
      this.#last = part.kind;
      if (part.kind === "content") {
        this.answer += part.text;
        this.#out(part.text);
      } else if (part.kind === "reasoning") {
        this.reasoning += part.text;
        this.#aside(part.text);
      } else {
        this.#aside(part.name === undefined ? part.arguments : `${part.name} ${part.arguments}`);
      }
    }
  }

  /** Ends the reply. Every reply ends a line of stdout, so that a reader of the pipe counts as many answers as messages. */
  end(): void {
    this.#endLine();
    if (!this.#hasLine) this.#out("\n");
  }

  #endLine(): void {
    if (this.#last === "content" || (this.#last !== null && this.#streams.isTerminal)) this.#out("\n");
    else if (this.#last !== null) this.#streams.aside("\n");
  }

  #out(text: string): void {
    this.#hasLine ||= text === "\n";
    this.#streams.out(text);
  }

  #aside(text: string): void {
    if (this.#streams.isTerminal) this.#streams.out(styleText("dim", text, { validateStream: false }));
    else this.#streams.aside(text);
  }
}
