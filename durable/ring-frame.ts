// Frames between the stages of a ring, byte by byte as docs/protocol.md section 6 defines them.
// Owns encoding into, and validating decoding out of, one ArrayBuffer per frame. Refuses sockets and order (ring-line.ts), arithmetic (stage-core.ts).
// Header fields are read as little-endian u32 words; every host that has WebAssembly SIMD is little-endian.

import { checksumLanes, checksumWords } from "../model/checksum.ts";
import { LIMITS } from "./limits.ts";

export const RING_HEADER_BYTES = 64;
export const RING_MAGIC = 0x31524d57;
export const RING_VERSION = 1;
const HEADER_WORDS = 16;
const ENTRY_WORDS = 8;
const ASKED_WORDS = 4;
const NONE = 0xffffffff;

export const RING_KINDS = ["rows", "finals", "logits", "states", "largest", "done", "failed"] as const;
export type RingKind = (typeof RING_KINDS)[number];

/** What is asked of a token's last state: whole rows of logits, the `k` largest, or the state itself. */
export const RING_FORMS = ["none", "rows", "largest", "states"] as const;
export type RingForm = (typeof RING_FORMS)[number];

/** Why a step failed at a stage. */
export const RING_FAULTS = ["experts", "internal"] as const;
export type RingFault = (typeof RING_FAULTS)[number];

/** What every frame carries, whatever its kind. */
export interface RingAddress {
  readonly ring: number;
  readonly step: number;
  /** The sender's number. */
  readonly stage: number;
  readonly epoch: number;
}

/** Tokens of one timeline in a step, from position `start` on. */
export interface RingEntry {
  readonly timeline: number;
  readonly start: number;
  readonly nTokens: number;
  readonly ropeOffset: number;
  /** Numbers of its pages, of 32 positions each, as far as the step needs them. */
  readonly pages: ArrayLike<number>;
  readonly form: RingForm;
  readonly of: "last" | "all";
  /** Of the largest; 0 otherwise. */
  readonly k: number;
}

/** A row that somebody asked for. */
export interface RingAsked {
  readonly entry: number;
  /** Among the entry's asked rows. */
  readonly row: number;
  readonly form: RingForm;
  readonly k: number;
}

export type RingFrame = RingAddress & (
  | { readonly kind: "rows"; readonly entries: readonly RingEntry[]; readonly copies: readonly (readonly [from: number, to: number])[]; readonly ids: Uint32Array; readonly hidden: number; readonly rows: Float32Array }
  | { readonly kind: "finals"; readonly asked: readonly RingAsked[]; readonly hidden: number; readonly rows: Float32Array }
  | { readonly kind: "logits"; readonly index: number; readonly from: number; readonly to: number; readonly values: Float32Array }
  | { readonly kind: "states"; readonly index: number; readonly values: Float32Array }
  /** `notFinite`: the lowest row of the span whose logit is none; -1 where all are. */
  | { readonly kind: "largest"; readonly index: number; readonly from: number; readonly to: number; readonly ids: Uint32Array; readonly values: Float32Array; readonly notFinite: number }
  | { readonly kind: "done" }
  | { readonly kind: "failed"; readonly fault: RingFault; readonly message: string });

/** A frame that cannot be trusted. */
export class RingFrameError extends Error {
  override readonly name = "RingFrameError";
}

const pad16 = (bytes: number): number => Math.ceil(bytes / 16) * 16;

/** Bytes of a `rows` frame. */
export const rowsFrameBytes = (of: { readonly nEntries: number; readonly nPages: number; readonly nCopies: number; readonly nTokens: number; readonly hidden: number }): number =>
  RING_HEADER_BYTES + of.nEntries * ENTRY_WORDS * 4 + pad16(of.nPages * 4) + pad16(of.nCopies * 8) + pad16(of.nTokens * 4) + pad16(of.nTokens * of.hidden * 4);

/** Most tokens of a step whose `rows` frame fits, with `nEntries` entries of `nPages` pages together and half as many copies. */
export function ringChunkTokens(of: { readonly nEntries: number; readonly nPages: number; readonly hidden: number }): number {
  const space = LIMITS.frameBytes - rowsFrameBytes({ ...of, nCopies: of.nEntries, nTokens: 0 }) - 32; // two sections' padding
  return Math.min(LIMITS.chunkTokens, Math.floor(space / (4 + of.hidden * 4)));
}

/** Writes sections one after the other, each at a multiple of 16. */
class Sections {
  readonly words: Uint32Array;
  #at = HEADER_WORDS;
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
  #skip(count: number): void { this.#at += pad16(count * 4) / 4; }
}

interface Shape {
  readonly nEntries: number;
  readonly nTokens: number;
  readonly nAsked: number;
  readonly hidden: number;
  readonly from: number;
  readonly to: number;
  readonly value: number;
  readonly code: number;
}
const NOTHING: Shape = { nEntries: 0, nTokens: 0, nAsked: 0, hidden: 0, from: 0, to: 0, value: 0, code: 0 };

const formWord = ({ form, of }: Pick<RingEntry, "form" | "of">): number => RING_FORMS.indexOf(form) + (of === "all" ? 256 : 0);

/** The frame as bytes. Throws RangeError where it would be larger than a frame may be. */
export function encodeRing(frame: RingFrame): ArrayBuffer {
  switch (frame.kind) {
    case "rows": {
      const { entries, copies, ids, hidden, rows } = frame;
      const nPages = entries.reduce((sum, { pages }) => sum + pages.length, 0);
      const bytes = rowsFrameBytes({ nEntries: entries.length, nPages, nCopies: copies.length, nTokens: ids.length, hidden });
      return sealed(frame, bytes, { ...NOTHING, nEntries: entries.length, nTokens: ids.length, hidden, from: nPages, to: copies.length }, (at) => {
        at.put(entries.flatMap((e) => [e.timeline, e.start, e.nTokens, e.ropeOffset, e.pages.length, formWord(e), e.k, 0]));
        at.put(entries.flatMap(({ pages }) => Array.from(pages)));
        at.put(copies.flat());
        at.put(ids);
        at.bits(rows);
      });
    }
    case "finals": {
      const { asked, hidden, rows } = frame;
      return sealed(frame, RING_HEADER_BYTES + asked.length * ASKED_WORDS * 4 + pad16(rows.byteLength), { ...NOTHING, nAsked: asked.length, hidden }, (at) => {
        at.put(asked.flatMap(({ entry, row, form, k }) => [entry, row, RING_FORMS.indexOf(form), k]));
        at.bits(rows);
      });
    }
    case "logits":
      return sealed(frame, RING_HEADER_BYTES + pad16(frame.values.byteLength), { ...NOTHING, from: frame.from, to: frame.to, value: frame.index }, (at) => at.bits(frame.values));
    case "states":
      return sealed(frame, RING_HEADER_BYTES + pad16(frame.values.byteLength), { ...NOTHING, hidden: frame.values.length, value: frame.index }, (at) => at.bits(frame.values));
    case "largest": {
      const { ids, values, notFinite, from, to, index } = frame;
      return sealed(frame, RING_HEADER_BYTES + 2 * pad16(ids.byteLength) + 16, { ...NOTHING, nAsked: ids.length, from, to, value: index }, (at) => {
        at.put(ids);
        at.bits(values);
        at.put([notFinite < 0 ? NONE : notFinite]);
      });
    }
    case "done":
      return sealed(frame, RING_HEADER_BYTES, NOTHING, () => undefined);
    case "failed": {
      const text = new TextEncoder().encode(frame.message).subarray(0, 1024);
      const bytes = new Uint8Array(pad16(text.length));
      bytes.set(text);
      return sealed(frame, RING_HEADER_BYTES + bytes.length, { ...NOTHING, code: RING_FAULTS.indexOf(frame.fault) + 1, value: text.length }, (at) => at.put(new Uint32Array(bytes.buffer)));
    }
  }
}

function sealed({ kind, ring, step, stage, epoch }: RingFrame, bytes: number, shape: Shape, write: (at: Sections) => void): ArrayBuffer {
  if (bytes > LIMITS.frameBytes) throw new RangeError(`A ${kind} frame of step ${step} would have ${bytes} bytes; ${LIMITS.frameBytes} is the limit.`);
  const buffer = new ArrayBuffer(bytes);
  const at = new Sections(buffer);
  write(at);
  at.words.set([
    RING_MAGIC, RING_VERSION | ((RING_KINDS.indexOf(kind) + 1) << 16), ring, step, stage | (shape.code << 16), epoch, shape.nEntries, shape.nTokens, shape.nAsked, shape.hidden,
    shape.from, shape.to, bytes - RING_HEADER_BYTES, checksumLanes(at.words, HEADER_WORDS, at.words.length), shape.value,
  ]);
  at.words[15] = checksumWords(at.words, 0, HEADER_WORDS - 1);
  return buffer;
}

/** A received frame, checked whole: header, payload, and that its sections add up. Its arrays lie in `buffer`. Throws RingFrameError. */
export function decodeRing(buffer: ArrayBuffer): RingFrame {
  const bad = (message: string): never => { throw new RingFrameError(message); };
  const bytes = buffer.byteLength;
  if (bytes < RING_HEADER_BYTES || bytes > LIMITS.frameBytes || bytes % 16 !== 0) return bad(`A ring frame has ${bytes} bytes; expected a multiple of 16 from ${RING_HEADER_BYTES} to ${LIMITS.frameBytes}.`);
  const at = new Sections(buffer);
  const w = at.words;
  if (w[0] !== RING_MAGIC) return bad(`A ring frame starts with 0x${w[0]!.toString(16)}; expected 0x${RING_MAGIC.toString(16)}.`);
  if (w[15] !== checksumWords(w, 0, HEADER_WORDS - 1)) return bad(`A ring frame's header has checksum ${w[15]}; its bytes give ${checksumWords(w, 0, HEADER_WORDS - 1)}.`);
  if ((w[1]! & 0xffff) !== RING_VERSION) return bad(`A ring frame has version ${w[1]! & 0xffff}; expected ${RING_VERSION}.`);
  const kind = RING_KINDS[(w[1]! >>> 16) - 1] ?? bad(`A ring frame has kind ${w[1]! >>> 16}; expected 1 to ${RING_KINDS.length}.`);
  if (w[12] !== bytes - RING_HEADER_BYTES) return bad(`A ${kind} frame announces ${w[12]} payload bytes and carries ${bytes - RING_HEADER_BYTES}.`);
  const sum = checksumLanes(w, HEADER_WORDS, w.length);
  if (w[13] !== sum) return bad(`The payload of a ${kind} frame has checksum ${w[13]}; its bytes give ${sum}.`);
  const address: RingAddress = { ring: w[2]!, step: w[3]!, stage: w[4]! & 0xffff, epoch: w[5]! };
  const [nEntries, nTokens, nAsked, hidden, from, to, value] = [w[6]!, w[7]!, w[8]!, w[9]!, w[10]!, w[11]!, w[14]!];
  const expect = (expected: number): void => { if (expected !== bytes) bad(`A ${kind} frame with ${nEntries} entries, ${nTokens} tokens, ${nAsked} rows and hidden size ${hidden} has ${bytes} bytes; expected ${expected}.`); };
  switch (kind) {
    case "rows": {
      expect(rowsFrameBytes({ nEntries, nPages: from, nCopies: to, nTokens, hidden }));
      const raw = at.take(nEntries * ENTRY_WORDS);
      const pages = at.take(from);
      const copied = at.take(2 * to);
      const copies = Array.from({ length: to }, (_, i): [number, number] => [copied[2 * i]!, copied[2 * i + 1]!]);
      let [page, token] = [0, 0];
      const entries = Array.from({ length: nEntries }, (_, i): RingEntry => {
        const [timeline, start, n, ropeOffset, nPages, word, k] = raw.subarray(i * ENTRY_WORDS) as unknown as [number, number, number, number, number, number, number];
        const form = RING_FORMS[word & 0xff] ?? bad(`Entry ${i} of a rows frame asks for form ${word & 0xff}; expected 0 to ${RING_FORMS.length - 1}.`);
        if (n === 0 || n > nTokens - token || nPages > from - page || nPages * 32 < start + n) {
          bad(`Entry ${i} of a rows frame has ${n} tokens from position ${start} and ${nPages} pages, of ${nTokens - token} tokens and ${from - page} pages left.`);
        }
        const own = pages.subarray(page, page + nPages);
        page += nPages;
        token += n;
        return { timeline, start, nTokens: n, ropeOffset, pages: own, form, of: word >= 256 ? "all" : "last", k };
      });
      if (token !== nTokens || page !== from) bad(`The entries of a rows frame have ${token} tokens and ${page} pages; its header says ${nTokens} and ${from}.`);
      return { ...address, kind, entries, copies, ids: at.take(nTokens), hidden, rows: at.floats(nTokens * hidden) };
    }
    case "finals": {
      expect(RING_HEADER_BYTES + nAsked * ASKED_WORDS * 4 + pad16(nAsked * hidden * 4));
      const raw = at.take(nAsked * ASKED_WORDS);
      const asked = Array.from({ length: nAsked }, (_, i): RingAsked => ({
        entry: raw[i * 4]!, row: raw[i * 4 + 1]!, k: raw[i * 4 + 3]!, form: RING_FORMS[raw[i * 4 + 2]!] ?? bad(`Row ${i} of a finals frame asks for form ${raw[i * 4 + 2]}; expected 0 to ${RING_FORMS.length - 1}.`),
      }));
      return { ...address, kind, asked, hidden, rows: at.floats(nAsked * hidden) };
    }
    case "logits":
      if (to < from) bad(`A logits frame is of head rows ${from} to ${to}.`);
      expect(RING_HEADER_BYTES + pad16((to - from) * 4));
      return { ...address, kind, index: value, from, to, values: at.floats(to - from) };
    case "states":
      expect(RING_HEADER_BYTES + pad16(hidden * 4));
      return { ...address, kind, index: value, values: at.floats(hidden) };
    case "largest": {
      expect(RING_HEADER_BYTES + 2 * pad16(nAsked * 4) + 16);
      const ids = at.take(nAsked);
      const values = at.floats(nAsked);
      const [notFinite] = at.take(1);
      return { ...address, kind, index: value, from, to, ids, values, notFinite: notFinite === NONE ? -1 : notFinite! };
    }
    case "done":
      expect(RING_HEADER_BYTES);
      return { ...address, kind };
    case "failed": {
      const fault = RING_FAULTS[(w[4]! >>> 16) - 1] ?? bad(`A failed frame has code ${w[4]! >>> 16}; expected 1 to ${RING_FAULTS.length}.`);
      if (value > bytes - RING_HEADER_BYTES) bad(`A failed frame announces a message of ${value} bytes and carries ${bytes - RING_HEADER_BYTES}.`);
      return { ...address, kind, fault, message: new TextDecoder().decode(new Uint8Array(buffer, RING_HEADER_BYTES, value)) };
    }
  }
}
