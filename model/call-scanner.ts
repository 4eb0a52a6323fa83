// Calls of tools in the text between <tool_call> and </tool_call>, read while it is written: `{"name": …, "arguments": …}`, one or several, in a list or
// one after the other. Owns the moment a call is certain: when its name is, whichever key comes first. From then on its arguments are given as they grow,
// in their own words (where they are a JSON string: what it says); whether those are JSON is for their reader to see. Refuses text that is no call, from
// the character on that says so. A call once given is not taken back: one that breaks off has the arguments it came to, and what follows is text again.

import { type JsonText, NestedText, StringText, WordText } from "./json-text.ts";

export interface CallPiece {
  /** Number of the call in the reply. */
  readonly index: number;
  /** With the first piece of a call. */
  readonly name?: string;
  arguments: string;
}

export interface CallText {
  readonly pieces: readonly CallPiece[];
  /** Null while all may be calls. Else the text that turned out to be none: what was `taken` before, and the `rest` from the character on that says so. */
  readonly broken: { readonly taken: string; readonly rest: string } | null;
}

/** between: outside of any call. The others are what its object expects next, or what is being read ("in-"). */
type Place = "between" | "key" | "in-key" | "colon" | "value" | "in-value" | "comma";

const SPACE = /\s/;
/** Granite and Llama write the second. */
const ARGUMENT_KEYS: ReadonlySet<string> = new Set(["arguments", "parameters"]);

export class CallScanner {
  readonly #firstCall: number;
  #nCalls: number;
  #place: Place = "between";
  /** Text read that is no part of a call that was given. */
  #taken = "";
  #value: JsonText = new WordText();
  /** The key, or the name, as far as it is read. */
  #spelled = "";
  #role: "name" | "arguments" | "other" = "other";
  /** Of the call being read; null until it is certain. */
  #name: string | null = null;
  /** Arguments that wait for the name; null where none have come. */
  #held: string | null = null;

  /** `nCalls`: how many the reply had before. */
  constructor(nCalls: number) {
    this.#firstCall = nCalls;
    this.#nCalls = nCalls;
  }

  get nCalls(): number { return this.#nCalls; }
  get hasCalls(): boolean { return this.#nCalls > this.#firstCall; }
  /** Outside of any call, and at least one was given. */
  get isDone(): boolean { return this.#place === "between" && this.hasCalls; }

  push(text: string): CallText {
    const pieces: CallPiece[] = [];
    for (let i = 0; i < text.length; i++) {
      if (!this.#take(text[i]!, pieces)) return { pieces, broken: { taken: this.#taken, rest: text.slice(i) } };
      this.#taken = this.#name !== null || this.isDone ? "" : this.#taken + text[i]!;
    }
    return { pieces, broken: null };
  }

  /** No more will come: the last pieces, and the text that became no call. */
  end(): { readonly pieces: readonly CallPiece[]; readonly taken: string } {
    const pieces: CallPiece[] = [];
    if (this.#place === "in-value" && this.#role === "arguments" && this.#value instanceof WordText) this.#grow(this.#value.text, pieces);
    return { pieces, taken: this.#taken };
  }

  /** False where this character makes it no call. */
  #take(char: string, pieces: CallPiece[]): boolean {
    if (SPACE.test(char) && !this.#place.startsWith("in-")) return true;
    switch (this.#place) {
      case "between":
        // A bracket too many is a slip that small models make; it is no text.
        if (char !== "{") return "[],}".includes(char);
        [this.#place, this.#name, this.#held] = ["key", null, null];
        return true;
      case "key":
        if (char === "}") return this.#close(pieces);
        if (char !== "\"") return false;
        [this.#place, this.#value, this.#spelled] = ["in-key", new StringText(), ""];
        return true;
      case "in-key":
        this.#spelled += this.#value.push(char);
        if (this.#value.isClosed) this.#place = "colon";
        return true;
      case "colon":
        this.#place = "value";
        return char === ":";
      case "value":
        return this.#open(char, pieces);
      case "in-value":
        return this.#read(char, pieces);
      case "comma":
        if (char === "}") return this.#close(pieces);
        this.#place = "key";
        return char === ",";
    }
  }

  /** The first character of a value. Of two values for one thing the first counts, since it may have been given. */
  #open(char: string, pieces: CallPiece[]): boolean {
    this.#role = this.#spelled === "name" && this.#name === null ? "name" : ARGUMENT_KEYS.has(this.#spelled) && this.#held === null ? "arguments" : "other";
    this.#place = "in-value";
    this.#spelled = "";
    if (this.#role === "arguments") this.#held = "";
    if (char === "\"") {
      this.#value = new StringText();
      return true;
    }
    this.#value = char === "{" || char === "[" ? new NestedText() : new WordText();
    return this.#role !== "name" && this.#read(char, pieces);
  }

  #read(char: string, pieces: CallPiece[]): boolean {
    const text = this.#value.push(char);
    if (this.#role === "name") this.#spelled += text;
    if (this.#role === "arguments") this.#grow(text === "null" && this.#value instanceof WordText ? "{}" : text, pieces);
    if (!this.#value.isClosed) return true;
    this.#place = "comma";
    if (this.#role === "name") {
      if (this.#spelled === "") return false;
      this.#name = this.#spelled;
      pieces.push({ index: this.#nCalls++, name: this.#name, arguments: this.#held ?? "" });
    }
    // A word ends before this character, which says what comes after it.
    return !(this.#value instanceof WordText) || this.#take(char, pieces);
  }

  #grow(text: string, pieces: CallPiece[]): void {
    if (text === "") return;
    const [index, last] = [this.#nCalls - 1, pieces.at(-1)];
    if (this.#name === null) this.#held += text;
    else if (last?.index === index) last.arguments += text;
    else pieces.push({ index, arguments: text });
  }

  #close(pieces: CallPiece[]): boolean {
    if (this.#name === null) return false;
    if (this.#held === null) this.#grow("{}", pieces);
    this.#place = "between";
    return true;
  }
}
