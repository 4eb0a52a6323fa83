// The payload of a ring's frame as sections, one after the other, each at a multiple of 16: words, floats by their bits, text, and the asks that several kinds of frame carry.
// Owns where a section begins and that what it says of itself adds up. Refuses headers (ring-frame.ts) and what a kind of frame is made of. docs/protocol.md section 6.

import type { HeadAsk } from "../model/head-rows.ts";

export const RING_HEADER_WORDS = 20;
export const ASK_WORDS = 4;
const ASK_FORMS = ["whole", "top", "among", "states"] as const satisfies readonly HeadAsk["form"][];

/** A frame that cannot be trusted. */
export class RingFrameError extends Error {
  override readonly name = "RingFrameError";
}

export const bad = (message: string): never => { throw new RingFrameError(message); };

export const pad16 = (bytes: number): number => Math.ceil(bytes / 16) * 16;

/** What a header says of its payload, whatever its kind makes of it. */
export interface Shape {
  readonly nEntries: number;
  readonly nTokens: number;
  readonly nAsks: number;
  readonly hidden: number;
  readonly from: number;
  readonly to: number;
  readonly value: number;
  /** Upper half of word 4. */
  readonly code: number;
}

/** A payload to be written. */
export interface Payload {
  readonly bytes: number;
  readonly shape: Partial<Shape>;
  readonly write: (at: Sections) => void;
}

/** Writes or reads sections one after the other. */
export class Sections {
  readonly words: Uint32Array;
  #at = RING_HEADER_WORDS;
  constructor(buffer: ArrayBuffer) {
    this.words = new Uint32Array(buffer);
  }
  put(values: ArrayLike<number>): void {
    this.words.set(values, this.#at);
    this.#skip(values.length);
  }
  /** Bytes, not floats: a float copy may change the bits of a NaN. */
  bits(values: Float32Array): void {
    this.put(new Uint32Array(values.buffer, values.byteOffset, values.length));
  }
  take(count: number): Uint32Array {
    const found = this.words.subarray(this.#at, this.#at + count);
    this.#skip(count);
    return found;
  }
  floats(count: number): Float32Array {
    const found = this.take(count);
    return new Float32Array(found.buffer, found.byteOffset, count);
  }
  /** A section of so many bytes, which hold text. */
  text(bytes: number): Uint8Array {
    const found = this.take(pad16(bytes) / 4);
    return new Uint8Array(found.buffer, found.byteOffset, bytes);
  }
  #skip(count: number): void { this.#at += pad16(count * 4) / 4; }
}

/** Bytes as words, up to a multiple of 16. */
export function paddedWords(bytes: ArrayLike<number>): Uint32Array {
  const all = new Uint8Array(pad16(bytes.length));
  all.set(bytes);
  return new Uint32Array(all.buffer);
}

export const askBytes = ({ nAsks, nWanted }: { readonly nAsks: number; readonly nWanted: number }): number => nAsks * ASK_WORDS * 4 + pad16(nWanted * 4);

/** Ids that asks name, one ask after the other. */
export const wantedOf = (asks: readonly HeadAsk[]): number[] => asks.flatMap((ask) => (ask.form === "among" ? Array.from(ask.ids) : []));

export function putAsks(at: Sections, asks: readonly HeadAsk[]): void {
  at.put(asks.flatMap((ask) => [ask.token, ASK_FORMS.indexOf(ask.form) + 1, ask.form === "top" ? ask.k : ask.form === "among" ? ask.ids.length : 0, 0]));
  at.put(wantedOf(asks));
}

export function takeAsks(at: Sections, nAsks: number, nWanted: number): HeadAsk[] {
  const raw = at.take(nAsks * ASK_WORDS);
  const wanted = at.take(nWanted);
  let used = 0;
  const asks = Array.from({ length: nAsks }, (_, i): HeadAsk => {
    const [token, code, n] = raw.subarray(i * ASK_WORDS) as unknown as [number, number, number];
    const form = ASK_FORMS[code - 1] ?? bad(`Ask ${i} has form ${code}; expected 1 to ${ASK_FORMS.length}.`);
    if (form === "top") return { token, form, k: n };
    if (form !== "among") return { token, form };
    if (n > nWanted - used) bad(`Ask ${i} names ${n} ids; ${nWanted - used} are left.`);
    return { token, form, ids: wanted.subarray(used, used += n) };
  });
  if (used !== nWanted) bad(`The asks of a frame name ${used} ids; its header says ${nWanted}.`);
  return asks;
}
