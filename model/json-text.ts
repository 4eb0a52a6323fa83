// JSON values read character by character while they are written: where a string, a nested value or a word ends, and what of it is certain so far.
// Owns escapes, depth and nothing else: whether a value is JSON is not asked, and what is no escape stays as it is written. Refuses half a character:
// the first half of a surrogate pair waits for the second. Format: RFC 8259.

export interface JsonText {
  /** Its last character has come. */
  readonly isClosed: boolean;
  /** Takes one character; gives the text that became certain with it. */
  push(char: string): string;
}

const ESCAPES: Readonly<Record<string, string>> = { b: "\b", f: "\f", n: "\n", r: "\r", t: "\t", "\"": "\"", "\\": "\\", "/": "/" };
const UNICODE_ESCAPE_CHARS = 6;
const isHighSurrogate = (char: string): boolean => char >= "\uD800" && char <= "\uDBFF";

/** What a string says, from behind its first quote to its last. */
export class StringText implements JsonText {
  isClosed = false;
  /** An escape that is not complete. */
  #escape = "";
  #highSurrogate = "";

  push(char: string): string {
    if (this.#escape === "") {
      if (char === "\\") this.#escape = char;
      else if (char === "\"") this.isClosed = true;
      return this.#escape === "" ? this.#whole(this.isClosed ? "" : char) : "";
    }
    const escape = this.#escape + char;
    if (this.#escape === "\\" && char !== "u") {
      this.#escape = "";
      return this.#whole(ESCAPES[char] ?? escape);
    }
    if (this.#escape !== "\\" && !/[0-9a-f]/i.test(char)) {
      const text = this.#whole(this.#escape);
      this.#escape = "";
      return text + this.push(char);
    }
    this.#escape = escape.length < UNICODE_ESCAPE_CHARS ? escape : "";
    return this.#escape === "" ? this.#whole(String.fromCharCode(parseInt(escape.slice(2), 16))) : "";
  }

  #whole(text: string): string {
    const all = this.#highSurrogate + text;
    const waits = !this.isClosed && isHighSurrogate(all.at(-1) ?? "");
    this.#highSurrogate = waits ? all.at(-1)! : "";
    return (waits ? all.slice(0, -1) : all).toWellFormed();
  }
}

/** An object or an array as it is written, from its first bracket to the one that closes it. */
export class NestedText implements JsonText {
  #depth = 0;
  #isInString = false;
  #isEscaped = false;

  get isClosed(): boolean { return this.#depth === 0; }

  push(char: string): string {
    if (this.#isInString) {
      if (this.#isEscaped) this.#isEscaped = false;
      else if (char === "\\") this.#isEscaped = true;
      else if (char === "\"") this.#isInString = false;
    } else if (char === "\"") this.#isInString = true;
    else if (char === "{" || char === "[") this.#depth++;
    else if (char === "}" || char === "]") this.#depth--;
    return char;
  }
}

/** A number, true, false or null. It ends before what is none of its characters, so nothing of it is certain until then. */
export class WordText implements JsonText {
  isClosed = false;
  /** All of it. */
  text = "";

  push(char: string): string {
    this.isClosed = /[\s,\]}]/.test(char);
    if (!this.isClosed) this.text += char;
    return this.isClosed ? this.text : "";
  }
}
