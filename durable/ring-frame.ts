// Frames between the stages of a ring, byte by byte as docs/protocol.md section 6 defines them.
// Owns the header, and encoding into, and validating decoding out of, one ArrayBuffer per frame. Refuses sockets and order (ring-line.ts), arithmetic (stage-core.ts), and the sections
// of the frame that carries a step (ring-rows.ts).
// Header fields are read as little-endian u32 words; every host that has WebAssembly SIMD is little-endian.

import { checksumLanes, checksumWords } from "../model/checksum.ts";
import type { HeadAsk } from "../model/head-rows.ts";
import type { HeadAnswer } from "../model/ring-logits.ts";
import type { PrunedCalls } from "../model/online-pruning.ts";
import type { Span } from "../model/stage-span.ts";
import type { LeftOut } from "./left-out-rows.ts";
import { LIMITS } from "./limits.ts";
import { type RowsFrame, rowsPayload, takeRows } from "./ring-rows.ts";
import { askBytes, bad, pad16, paddedWords, type Payload, putAsks, RING_HEADER_WORDS, Sections, type Shape, takeAsks, wantedOf } from "./ring-sections.ts";

export type { RingEntry, RowsFrame } from "./ring-rows.ts";
export { RingFrameError } from "./ring-sections.ts";

export const RING_HEADER_BYTES = RING_HEADER_WORDS * 4;
export const RING_MAGIC = 0x31524d57;
export const RING_VERSION = 4;
const SUM_WORD = 19;
const LEFT_OUT_WORDS = 4;
const NONE = 0xffffffff;

export const RING_KINDS = ["rows", "finals", "answer", "done", "failed", "probe", "routes", "leftOut", "pruned"] as const;
export type RingKind = (typeof RING_KINDS)[number];

/** Why a step failed at a stage. */
export const RING_FAULTS = ["experts", "internal", "away"] as const;
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

export interface FailedFrame {
  readonly kind: "failed";
  readonly fault: RingFault;
  readonly message: string;
  /** Whose fault it was; null where that was no shard's. */
  readonly shard: string | null;
  readonly retryable: boolean;
}

export interface LeftOutFrame {
  readonly kind: "leftOut";
  readonly rows: readonly LeftOut[];
  /** Names of shards that are away for the sender. */
  readonly away: readonly string[];
}

export interface PrunedFrame {
  readonly kind: "pruned";
  /** By entry of the step. */
  readonly calls: readonly PrunedCalls[];
}

type FrameOfKind = PrunedFrame | RowsFrame | FinalsFrame | AnswerFrame | FailedFrame | LeftOutFrame | { readonly kind: "done" | "probe" } | { readonly kind: "routes"; readonly words: Uint32Array };
export type RingFrame = RingAddress & FrameOfKind;

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** The frame as bytes. Throws RangeError where it would be larger than a frame may be. */
export function encodeRing(frame: RingFrame): ArrayBuffer {
  const { kind, ring, step, stage, epoch, tally } = frame;
  const { bytes, shape, write } = payloadOf(frame);
  const { nEntries = 0, nTokens = 0, nAsks = 0, hidden = 0, from = 0, to = 0, value = 0, code = 0 } = shape;
  if (bytes > LIMITS.frameBytes || code > 0xffff) throw new RangeError(`A ${kind} frame of step ${step} would have ${bytes} bytes and name ${code} ids; ${LIMITS.frameBytes} and 65535 are the limits.`);
  const buffer = new ArrayBuffer(bytes);
  const at = new Sections(buffer);
  write(at);
  at.words.set([
    RING_MAGIC, RING_VERSION | ((RING_KINDS.indexOf(kind) + 1) << 16), ring, step, stage | (code << 16), epoch, nEntries, nTokens, nAsks, hidden,
    from, to, bytes - RING_HEADER_BYTES, checksumLanes(at.words, RING_HEADER_WORDS, at.words.length), value,
    tally.frames, Math.min(tally.bytes, NONE), tally.retries, tally.hedges,
  ]);
  at.words[SUM_WORD] = checksumWords(at.words, 0, SUM_WORD);
  return buffer;
}

function payloadOf(frame: FrameOfKind): Payload {
  switch (frame.kind) {
    case "rows":
      return rowsPayload(frame);
    case "finals": {
      const { asks, hidden, rows } = frame;
      const shape = { nAsks: asks.length, nWanted: wantedOf(asks).length };
      return { bytes: RING_HEADER_BYTES + askBytes(shape) + pad16(rows.byteLength), shape: { nAsks: asks.length, hidden, code: shape.nWanted }, write: (at) => { putAsks(at, asks); at.bits(rows); } };
    }
    case "answer": {
      const { headRows: [from, to], index, answer: { ids, values, notFinite } } = frame;
      return {
        bytes: RING_HEADER_BYTES + pad16(ids.byteLength) + pad16(values.byteLength) + 16, shape: { nTokens: ids.length, nEntries: values.length, from, to, value: index },
        write: (at) => { at.put(ids); at.bits(values); at.put([notFinite < 0 ? NONE : notFinite]); },
      };
    }
    case "done":
    case "probe":
      return { bytes: RING_HEADER_BYTES, shape: {}, write: () => undefined };
    case "routes":
      return { bytes: RING_HEADER_BYTES + pad16(frame.words.byteLength), shape: { nTokens: frame.words.length }, write: (at) => at.put(frame.words) };
    case "failed": {
      const name = encoder.encode(frame.shard ?? "").subarray(0, 512);
      const text = [...name, ...encoder.encode(frame.message).subarray(0, 1024)];
      return { bytes: RING_HEADER_BYTES + pad16(text.length), shape: { code: RING_FAULTS.indexOf(frame.fault) + 1, value: text.length, from: name.length, to: frame.retryable ? 1 : 0 }, write: (at) => at.put(paddedWords(text)) };
    }
    case "pruned":
      return { bytes: RING_HEADER_BYTES + pad16(frame.calls.length * 8), shape: { nEntries: frame.calls.length }, write: (at) => at.put(frame.calls.flatMap(({ leftOut, of }) => [leftOut, of])) };
    case "leftOut": {
      const { rows, away } = frame;
      const names = encoder.encode(away.map((name) => `${name}\0`).join(""));
      return {
        bytes: RING_HEADER_BYTES + rows.length * LEFT_OUT_WORDS * 4 + pad16(names.length), shape: { nEntries: rows.length, value: names.length },
        write: (at) => { at.put(rows.flatMap((row) => [row.timeline, row.position, row.rows, 0])); at.put(paddedWords(names)); },
      };
    }
  }
}

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
  const sum = checksumLanes(w, RING_HEADER_WORDS, w.length);
  if (w[13] !== sum) return bad(`The payload of a ${kind} frame has checksum ${w[13]}; its bytes give ${sum}.`);
  const address: RingAddress = { ring: w[2]!, step: w[3]!, stage: w[4]! & 0xffff, epoch: w[5]!, tally: { frames: w[15]!, bytes: w[16]!, retries: w[17]!, hedges: w[18]! } };
  const shape = { code: w[4]! >>> 16, nEntries: w[6]!, nTokens: w[7]!, nAsks: w[8]!, hidden: w[9]!, from: w[10]!, to: w[11]!, value: w[14]! };
  return { ...address, ...takePayload(kind, at, shape, bytes) };
}

function takePayload(kind: RingKind, at: Sections, shape: Shape, bytes: number): FrameOfKind {
  const { code, nEntries, nTokens, nAsks, hidden, from, to, value } = shape;
  const expect = (expected: number): void => { if (expected !== bytes) bad(`A ${kind} frame with ${nEntries} entries, ${nTokens} tokens, ${nAsks} asks and hidden size ${hidden} has ${bytes} bytes; expected ${expected}.`); };
  switch (kind) {
    case "rows":
      return takeRows(at, shape, expect);
    case "finals":
      expect(RING_HEADER_BYTES + askBytes({ nAsks, nWanted: code }) + pad16(nAsks * hidden * 4));
      return { kind, asks: takeAsks(at, nAsks, code), hidden, rows: at.floats(nAsks * hidden) };
    case "answer": {
      if (to < from) bad(`An answer is of head rows ${from} to ${to}.`);
      expect(RING_HEADER_BYTES + pad16(nTokens * 4) + pad16(nEntries * 4) + 16);
      const ids = at.take(nTokens);
      const values = at.floats(nEntries);
      const [notFinite] = at.take(1);
      return { kind, index: value, headRows: [from, to], answer: { ids, values, notFinite: notFinite === NONE ? -1 : notFinite! } };
    }
    case "done":
    case "probe":
      expect(RING_HEADER_BYTES);
      return { kind };
    case "routes":
      expect(RING_HEADER_BYTES + pad16(nTokens * 4));
      return { kind, words: at.take(nTokens) };
    case "failed": {
      const fault = RING_FAULTS[code - 1] ?? bad(`A failed frame has code ${code}; expected 1 to ${RING_FAULTS.length}.`);
      if (value > bytes - RING_HEADER_BYTES || from > value || to > 1) bad(`A failed frame announces a text of ${value} bytes, ${from} of them a name, and carries ${bytes - RING_HEADER_BYTES}.`);
      const text = at.text(value);
      return { kind, fault, message: decoder.decode(text.subarray(from)), shard: fault === "internal" ? null : decoder.decode(text.subarray(0, from)), retryable: to === 1 };
    }
    case "pruned": {
      expect(RING_HEADER_BYTES + pad16(nEntries * 8));
      const raw = at.take(nEntries * 2);
      return { kind, calls: Array.from({ length: nEntries }, (_, i): PrunedCalls => ({ leftOut: raw[2 * i]!, of: raw[2 * i + 1]! })) };
    }
    case "leftOut": {
      expect(RING_HEADER_BYTES + nEntries * LEFT_OUT_WORDS * 4 + pad16(value));
      const raw = at.take(nEntries * LEFT_OUT_WORDS);
      const names = decoder.decode(at.text(value)).split("\0");
      if (names.pop() !== "") bad("The names of a leftOut frame do not end with a zero byte.");
      return { kind, rows: Array.from({ length: nEntries }, (_, i): LeftOut => ({ timeline: raw[4 * i]!, position: raw[4 * i + 1]!, rows: raw[4 * i + 2]! })), away: names };
    }
  }
}
