// Frames between the stages of a ring, byte by byte as docs/protocol.md section 6 defines them.
// Owns encoding into, and validating decoding out of, one ArrayBuffer per frame. Refuses sockets and order (ring-line.ts), arithmetic (stage-core.ts).
// Header fields are read as little-endian u32 words; every host that has WebAssembly SIMD is little-endian.

import { checksumLanes, checksumWords } from "../model/checksum.ts";
import type { HeadAsk } from "../model/head-rows.ts";
import type { HeadAnswer } from "../model/ring-logits.ts";
import type { Span } from "../model/stage-span.ts";
import { LIMITS } from "./limits.ts";

export const RING_HEADER_BYTES = 80;
export const RING_MAGIC = 0x31524d57;
export const RING_VERSION = 1;
const HEADER_WORDS = 20;
const SUM_WORD = 19;
const ENTRY_WORDS = 8;
const ASK_WORDS = 4;
const NONE = 0xffffffff;

export const RING_KINDS = ["rows", "finals", "answer", "done", "failed", "probe", "routes"] as const;
export type RingKind = (typeof RING_KINDS)[number];

const ASK_FORMS = ["whole", "top", "among", "states"] as const satisfies readonly HeadAsk["form"][];

/** Why a step failed at a stage. */
export const RING_FAULTS = ["experts", "internal"] as const;
export type RingFault = (typeof RING_FAULTS)[number];

/** What a step has cost the stages it has passed. */
export interface RingTally {
  readonly frames: number;
  readonly bytes: number;
  readonly retries: number;
  readonly hedges: number;
}
export const NO_TALLY: RingTally = Object.freeze({ frames: 0, bytes: 0, retries: 0, hedges: 0 });

/** What every frame carries, whatever its kind. */
export interface RingAddress {
  readonly ring: number;
  readonly step: number;
  /** The sender's number. */
  readonly stage: number;
  readonly epoch: number;
  readonly tally: RingTally;
}

/** Tokens of one timeline in a step, from position `start` on. */
export interface RingEntry {
  readonly timeline: number;
  readonly start: number;
  readonly nTokens: number;
  /** Positions the timeline may hold. */
  readonly maxTokens: number;
  readonly ropeOffset: number;
  /** Numbers of its pages, of 32 positions each, as far as the step needs them. */
  readonly pages: ArrayLike<number>;
}

export interface RowsFrame {
  readonly kind: "rows";
  readonly entries: readonly RingEntry[];
  /** What is asked of final rows; tokens are numbers within the step. */
  readonly asks: readonly HeadAsk[];
  readonly copies: readonly (readonly [from: number, to: number])[];
  readonly ids: Uint32Array;
  readonly hidden: number;
  /** f32 [tokens, hidden]; null before the first stage. */
  readonly rows: Float32Array | null;
  /** Stages tell how they routed. */
  readonly isTraced: boolean;
}

export interface FinalsFrame {
  readonly kind: "finals";
  readonly asks: readonly HeadAsk[];
  readonly hidden: number;
  /** f32 [asks, hidden] */
  readonly rows: Float32Array;
}

export interface AnswerFrame {
  readonly kind: "answer";
  /** Of the ask. */
  readonly index: number;
  readonly headRows: Span;
  readonly answer: HeadAnswer;
}

export type RingFrame = RingAddress & (RowsFrame | FinalsFrame | AnswerFrame | { readonly kind: "done" | "probe" } | { readonly kind: "failed"; readonly fault: RingFault; readonly message: string }
  | { readonly kind: "routes"; readonly words: Uint32Array });

/** A frame that cannot be trusted. */
export class RingFrameError extends Error {
  override readonly name = "RingFrameError";
}

const pad16 = (bytes: number): number => Math.ceil(bytes / 16) * 16;

interface RowsShape {
  readonly nEntries: number;
  readonly nAsks: number;
  readonly nWanted: number;
  readonly nPages: number;
  readonly nCopies: number;
  readonly nTokens: number;
  readonly hidden: number;
}

const askBytes = ({ nAsks, nWanted }: Pick<RowsShape, "nAsks" | "nWanted">): number => nAsks * ASK_WORDS * 4 + pad16(nWanted * 4);

/** Bytes of a `rows` frame that carries residuals. */
export const rowsFrameBytes = (of: RowsShape): number =>
  RING_HEADER_BYTES + of.nEntries * ENTRY_WORDS * 4 + askBytes(of) + pad16(of.nPages * 4) + pad16(of.nCopies * 8) + pad16(of.nTokens * 4) + pad16(of.nTokens * of.hidden * 4);

/** Most tokens of a step whose `rows` frame fits, whatever is asked of them, with `nEntries` entries of `nPages` pages together, a copy for each, and `nWanted` ids. */
export function ringChunkTokens(of: { readonly nEntries: number; readonly nPages: number; readonly nWanted: number; readonly hidden: number }): number {
  const space = LIMITS.frameBytes - rowsFrameBytes({ ...of, nCopies: of.nEntries, nAsks: 0, nTokens: 0 }) - 32; // two sections' padding
  return Math.min(LIMITS.chunkTokens, Math.floor(space / (4 + ASK_WORDS * 4 + of.hidden * 4)));
}

/** Writes or reads sections one after the other, each at a multiple of 16. */
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
  readonly nAsks: number;
  readonly hidden: number;
  readonly from: number;
  readonly to: number;
  readonly value: number;
  /** Upper half of word 4. */
  readonly code: number;
}
const NOTHING: Shape = { nEntries: 0, nTokens: 0, nAsks: 0, hidden: 0, from: 0, to: 0, value: 0, code: 0 };

const wantedOf = (asks: readonly HeadAsk[]): number[] => asks.flatMap((ask) => (ask.form === "among" ? Array.from(ask.ids) : []));

function putAsks(at: Sections, asks: readonly HeadAsk[]): void {
  at.put(asks.flatMap((ask) => [ask.token, ASK_FORMS.indexOf(ask.form) + 1, ask.form === "top" ? ask.k : ask.form === "among" ? ask.ids.length : 0, 0]));
  at.put(wantedOf(asks));
}

/** The frame as bytes. Throws RangeError where it would be larger than a frame may be. */
export function encodeRing(frame: RingFrame): ArrayBuffer {
  switch (frame.kind) {
    case "rows": {
      const { entries, asks, copies, ids, hidden, rows, isTraced } = frame;
      const shape = { nEntries: entries.length, nAsks: asks.length, nWanted: wantedOf(asks).length, nPages: entries.reduce((sum, { pages }) => sum + pages.length, 0), nCopies: copies.length, nTokens: ids.length, hidden };
      const bytes = rowsFrameBytes(shape) - (rows === null ? pad16(ids.length * hidden * 4) : 0);
      return sealed(frame, bytes, { ...NOTHING, ...shape, from: shape.nPages, to: shape.nCopies, code: shape.nWanted, value: (rows === null ? 0 : 1) + (isTraced ? 2 : 0) }, (at) => {
        at.put(entries.flatMap((e) => [e.timeline, e.start, e.nTokens, e.maxTokens, e.ropeOffset, e.pages.length, 0, 0]));
        putAsks(at, asks);
        at.put(entries.flatMap(({ pages }) => Array.from(pages)));
        at.put(copies.flat());
        at.put(ids);
        if (rows !== null) at.bits(rows);
      });
    }
    case "finals": {
      const { asks, hidden, rows } = frame;
      const shape = { nAsks: asks.length, nWanted: wantedOf(asks).length };
      return sealed(frame, RING_HEADER_BYTES + askBytes(shape) + pad16(rows.byteLength), { ...NOTHING, nAsks: asks.length, hidden, code: shape.nWanted }, (at) => {
        putAsks(at, asks);
        at.bits(rows);
      });
    }
    case "answer": {
      const { headRows: [from, to], index, answer: { ids, values, notFinite } } = frame;
      return sealed(frame, RING_HEADER_BYTES + pad16(ids.byteLength) + pad16(values.byteLength) + 16, { ...NOTHING, nTokens: ids.length, nEntries: values.length, from, to, value: index }, (at) => {
        at.put(ids);
        at.bits(values);
        at.put([notFinite < 0 ? NONE : notFinite]);
      });
    }
    case "done":
    case "probe":
      return sealed(frame, RING_HEADER_BYTES, NOTHING, () => undefined);
    case "routes":
      return sealed(frame, RING_HEADER_BYTES + pad16(frame.words.byteLength), { ...NOTHING, nTokens: frame.words.length }, (at) => at.put(frame.words));
    case "failed": {
      const text = new TextEncoder().encode(frame.message).subarray(0, 1024);
      const bytes = new Uint8Array(pad16(text.length));
      bytes.set(text);
      return sealed(frame, RING_HEADER_BYTES + bytes.length, { ...NOTHING, code: RING_FAULTS.indexOf(frame.fault) + 1, value: text.length }, (at) => at.put(new Uint32Array(bytes.buffer)));
    }
  }
}

function sealed({ kind, ring, step, stage, epoch, tally }: RingFrame, bytes: number, shape: Shape, write: (at: Sections) => void): ArrayBuffer {
  if (bytes > LIMITS.frameBytes || shape.code > 0xffff) throw new RangeError(`A ${kind} frame of step ${step} would have ${bytes} bytes and name ${shape.code} ids; ${LIMITS.frameBytes} and 65535 are the limits.`);
  const buffer = new ArrayBuffer(bytes);
  const at = new Sections(buffer);
  write(at);
  at.words.set([
    RING_MAGIC, RING_VERSION | ((RING_KINDS.indexOf(kind) + 1) << 16), ring, step, stage | (shape.code << 16), epoch, shape.nEntries, shape.nTokens, shape.nAsks, shape.hidden,
    shape.from, shape.to, bytes - RING_HEADER_BYTES, checksumLanes(at.words, HEADER_WORDS, at.words.length), shape.value,
    tally.frames, Math.min(tally.bytes, NONE), tally.retries, tally.hedges,
  ]);
  at.words[SUM_WORD] = checksumWords(at.words, 0, SUM_WORD);
  return buffer;
}

const bad = (message: string): never => { throw new RingFrameError(message); };

/** A received frame, checked whole: header, payload, and that its sections add up. Its arrays lie in `buffer`. Throws RingFrameError. */
export function decodeRing(buffer: ArrayBuffer): RingFrame {
  const bytes = buffer.byteLength;
  if (bytes < RING_HEADER_BYTES || bytes > LIMITS.frameBytes || bytes % 16 !== 0) return bad(`A ring frame has ${bytes} bytes; expected a multiple of 16 from ${RING_HEADER_BYTES} to ${LIMITS.frameBytes}.`);
  const at = new Sections(buffer);
  const w = at.words;
  if (w[0] !== RING_MAGIC) return bad(`A ring frame starts with 0x${w[0]!.toString(16)}; expected 0x${RING_MAGIC.toString(16)}.`);
  if (w[SUM_WORD] !== checksumWords(w, 0, SUM_WORD)) return bad(`A ring frame's header has checksum ${w[SUM_WORD]}; its bytes give ${checksumWords(w, 0, SUM_WORD)}.`);
  if ((w[1]! & 0xffff) !== RING_VERSION) return bad(`A ring frame has version ${w[1]! & 0xffff}; expected ${RING_VERSION}.`);
  const kind = RING_KINDS[(w[1]! >>> 16) - 1] ?? bad(`A ring frame has kind ${w[1]! >>> 16}; expected 1 to ${RING_KINDS.length}.`);
  if (w[12] !== bytes - RING_HEADER_BYTES) return bad(`A ${kind} frame announces ${w[12]} payload bytes and carries ${bytes - RING_HEADER_BYTES}.`);
  const sum = checksumLanes(w, HEADER_WORDS, w.length);
  if (w[13] !== sum) return bad(`The payload of a ${kind} frame has checksum ${w[13]}; its bytes give ${sum}.`);
  const address: RingAddress = { ring: w[2]!, step: w[3]!, stage: w[4]! & 0xffff, epoch: w[5]!, tally: { frames: w[15]!, bytes: w[16]!, retries: w[17]!, hedges: w[18]! } };
  const [code, nEntries, nTokens, nAsks, hidden, from, to, value] = [w[4]! >>> 16, w[6]!, w[7]!, w[8]!, w[9]!, w[10]!, w[11]!, w[14]!];
  const expect = (expected: number): void => { if (expected !== bytes) bad(`A ${kind} frame with ${nEntries} entries, ${nTokens} tokens, ${nAsks} asks and hidden size ${hidden} has ${bytes} bytes; expected ${expected}.`); };
  switch (kind) {
    case "rows": {
      if (value > 3) bad(`A rows frame has flags ${value}; expected 0 to 3.`);
      const hasRows = (value & 1) === 1;
      expect(rowsFrameBytes({ nEntries, nAsks, nWanted: code, nPages: from, nCopies: to, nTokens, hidden }) - (hasRows ? 0 : pad16(nTokens * hidden * 4)));
      const raw = at.take(nEntries * ENTRY_WORDS);
      const asks = takeAsks(at, nAsks, code);
      const pages = at.take(from);
      const copied = at.take(2 * to);
      asks.forEach(({ token }, i) => { if (token >= nTokens || (i > 0 && token < asks[i - 1]!.token)) bad(`Ask ${i} of a rows frame is about token ${token} of ${nTokens}; ascending ones were expected.`); });
      return {
        ...address, kind, entries: takeEntries(raw, nEntries, pages, nTokens), asks, hidden,
        copies: Array.from({ length: to }, (_, i): [number, number] => [copied[2 * i]!, copied[2 * i + 1]!]), ids: at.take(nTokens), rows: hasRows ? at.floats(nTokens * hidden) : null, isTraced: value >= 2,
      };
    }
    case "finals":
      expect(RING_HEADER_BYTES + askBytes({ nAsks, nWanted: code }) + pad16(nAsks * hidden * 4));
      return { ...address, kind, asks: takeAsks(at, nAsks, code), hidden, rows: at.floats(nAsks * hidden) };
    case "answer": {
      if (to < from) bad(`An answer is of head rows ${from} to ${to}.`);
      expect(RING_HEADER_BYTES + pad16(nTokens * 4) + pad16(nEntries * 4) + 16);
      const ids = at.take(nTokens);
      const values = at.floats(nEntries);
      const [notFinite] = at.take(1);
      return { ...address, kind, index: value, headRows: [from, to], answer: { ids, values, notFinite: notFinite === NONE ? -1 : notFinite! } };
    }
    case "done":
    case "probe":
      expect(RING_HEADER_BYTES);
      return { ...address, kind };
    case "routes":
      expect(RING_HEADER_BYTES + pad16(nTokens * 4));
      return { ...address, kind, words: at.take(nTokens) };
    case "failed": {
      const fault = RING_FAULTS[code - 1] ?? bad(`A failed frame has code ${code}; expected 1 to ${RING_FAULTS.length}.`);
      if (value > bytes - RING_HEADER_BYTES) bad(`A failed frame announces a message of ${value} bytes and carries ${bytes - RING_HEADER_BYTES}.`);
      return { ...address, kind, fault, message: new TextDecoder().decode(new Uint8Array(buffer, RING_HEADER_BYTES, value)) };
    }
  }
}

function takeEntries(raw: Uint32Array, nEntries: number, pages: Uint32Array, nTokens: number): RingEntry[] {
  let [page, token] = [0, 0];
  const entries = Array.from({ length: nEntries }, (_, i): RingEntry => {
    const [timeline, start, n, maxTokens, ropeOffset, nPages] = raw.subarray(i * ENTRY_WORDS) as unknown as [number, number, number, number, number, number];
    if (n === 0 || n > nTokens - token || nPages > pages.length - page || nPages * 32 < start + n || start + n > maxTokens) {
      bad(`Entry ${i} of a rows frame has ${n} tokens from position ${start} of ${maxTokens} and ${nPages} pages, of ${nTokens - token} tokens and ${pages.length - page} pages left.`);
    }
    const own = pages.subarray(page, page + nPages);
    page += nPages;
    token += n;
    return { timeline, start, nTokens: n, maxTokens, ropeOffset, pages: own };
  });
  if (token !== nTokens || page !== pages.length) bad(`The entries of a rows frame have ${token} tokens and ${page} pages; its header says ${nTokens} and ${pages.length}.`);
  return entries;
}

function takeAsks(at: Sections, nAsks: number, nWanted: number): HeadAsk[] {
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
