// Frames of the wire between orchestrator and shards, byte by byte as docs/protocol.md sections 2 to 4 define them.
// Owns encoding into, and validating decoding out of, one ArrayBuffer per frame: a handful of views per frame, nothing per
// expert or row. Refuses: sockets, retries and timing (client.ts), arithmetic (shard-compute.ts).
// Header fields are read as little-endian u32 words; every host that has WebAssembly SIMD is little-endian.

import { activationRowBytes, type ActivationFormat } from "../model/kernels.ts";
import { LIMITS } from "./limits.ts";

export const FRAME_HEADER_BYTES = 64;
export const FRAME_MAGIC = 0x31454d57;
export const FRAME_VERSION = 1;
const HEADER_WORDS = 16;

export const FRAME_KINDS = ["request", "reply", "refusal"] as const;
export type FrameKind = (typeof FRAME_KINDS)[number];

export const FRAME_REFUSALS = ["warming", "bad-frame", "bad-checksum", "wrong-epoch", "unknown-slot", "internal"] as const;
export type FrameRefusal = (typeof FRAME_REFUSALS)[number];

const ACTIVATION_CODES: readonly ActivationFormat[] = ["f32", "qa8"];

/** What every frame says about itself. Counts are frame-wide, sizes in bytes. */
export interface FrameHeader {
  readonly kind: FrameKind;
  readonly connection: number;
  readonly frame: number;
  readonly step: number;
  readonly layer: number;
  readonly attempt: number;
  readonly epoch: number;
  readonly nRows: number;
  readonly nGroups: number;
  readonly nTokens: number;
  readonly hidden: number;
  readonly activations: ActivationFormat;
  readonly refusal: FrameRefusal | null;
  readonly payloadBytes: number;
  readonly value: number;
}

/** A request's shape: enough to size and validate it. */
export interface RequestShape {
  readonly nRows: number;
  readonly nGroups: number;
  readonly nTokens: number;
  readonly hidden: number;
  readonly activations: ActivationFormat;
}

/** A decoded frame, or what is wrong with it. `header` is null when the header itself cannot be trusted. */
export type Decoded =
  | { readonly ok: true; readonly header: FrameHeader; readonly buffer: ArrayBuffer }
  | { readonly ok: false; readonly fault: "bad-frame" | "bad-checksum"; readonly message: string; readonly header: FrameHeader | null };

const roundUp16 = (bytes: number): number => Math.ceil(bytes / 16) * 16;

/** Byte offsets of a request's sections within the frame, and its length in all. */
export function requestLayout(shape: RequestShape): { readonly activations: number; readonly groups: number; readonly tokens: number; readonly frameBytes: number } {
  const groups = FRAME_HEADER_BYTES + shape.nRows * activationRowBytes(shape.activations, shape.hidden);
  const tokens = groups + roundUp16(shape.nGroups * 8);
  return { activations: FRAME_HEADER_BYTES, groups, tokens, frameBytes: tokens + roundUp16(shape.nTokens * 2) };
}

/** Length of the reply to a request, header included. */
export const replyFrameBytes = (nTokens: number, hidden: number): number => FRAME_HEADER_BYTES + roundUp16(nTokens * hidden * 4);

/**
 * Largest number of tokens in one step whose worst case (every selected expert of every token on one shard) fits one request
 * and one reply frame; at least 1, at most LIMITS.chunkTokens. docs/protocol.md section 3.
 */
export function maxChunkTokens(shape: { readonly topK: number; readonly maxSegments: number; readonly hidden: number; readonly activations: ActivationFormat }): number {
  const space = LIMITS.frameBytes - FRAME_HEADER_BYTES;
  const rowsPerToken = shape.topK * shape.maxSegments;
  const byReply = Math.floor(space / (rowsPerToken * shape.hidden * 4));
  // 30 bytes: two sections' padding.
  const byRequest = Math.floor((space - 30) / (activationRowBytes(shape.activations, shape.hidden) + rowsPerToken * (8 + 2)));
  return Math.max(1, Math.min(byReply, byRequest, LIMITS.chunkTokens));
}

/** Checksum of u32 words [from, to), docs/protocol.md section 4. */
export function checksumWords(words: Uint32Array, from: number, to: number): number {
  let h = 0x811c9dc5 | 0;
  for (let i = from; i < to; i++) {
    h = Math.imul(h ^ words[i]!, 0x01000193);
    h ^= h >>> 15;
  }
  return h >>> 0;
}

/** Writes every header field except the checksums. `words` covers the whole frame. */
function writeHeader(words: Uint32Array, h: FrameHeader): void {
  words[0] = FRAME_MAGIC;
  words[1] = FRAME_VERSION | ((FRAME_KINDS.indexOf(h.kind) + 1) << 16);
  words[2] = h.connection;
  words[3] = h.frame;
  words[4] = h.step;
  words[5] = h.layer | (h.attempt << 16);
  words[6] = h.epoch;
  words[7] = h.nRows;
  words[8] = h.nGroups;
  words[9] = h.nTokens;
  words[10] = h.hidden;
  words[11] = ACTIVATION_CODES.indexOf(h.activations) | ((h.refusal === null ? 0 : FRAME_REFUSALS.indexOf(h.refusal) + 1) << 16);
  words[12] = h.payloadBytes;
  words[14] = h.value;
}

const sealPayload = (words: Uint32Array): void => { words[13] = checksumWords(words, HEADER_WORDS, words.length); };
const sealHeader = (words: Uint32Array): void => { words[15] = checksumWords(words, 0, HEADER_WORDS - 1); };

/**
 * Seals a request whose payload sections are already written: header, payload checksum, header checksum. Connection, frame
 * number, epoch and attempt are set by `addressFrame` when it is sent.
 */
export function sealRequest(buffer: ArrayBuffer, shape: RequestShape, layer: number, step: number): void {
  const words = new Uint32Array(buffer);
  writeHeader(words, {
    ...shape, kind: "request", connection: 0, frame: 0, step: step >>> 0, layer, attempt: 0, epoch: 0,
    refusal: null, payloadBytes: buffer.byteLength - FRAME_HEADER_BYTES, value: 0,
  });
  sealPayload(words);
  sealHeader(words);
}

/** Sets what belongs to one attempt of a frame, and the header checksum over it. The payload is not touched. */
export function addressFrame(buffer: ArrayBuffer, connection: number, frame: number, epoch: number, attempt: number): void {
  const words = new Uint32Array(buffer, 0, HEADER_WORDS);
  words[2] = connection;
  words[3] = frame;
  words[5] = (words[5]! & 0xffff) | (attempt << 16);
  words[6] = epoch;
  sealHeader(words);
}

/** Seals a reply whose rows are already written behind the header. `computeUs` is the time the clock saw, in microseconds. */
export function sealReply(buffer: ArrayBuffer, request: FrameHeader, computeUs: number): void {
  const words = new Uint32Array(buffer);
  writeHeader(words, {
    ...request, kind: "reply", nRows: request.nTokens, refusal: null,
    payloadBytes: buffer.byteLength - FRAME_HEADER_BYTES, value: computeUs >>> 0,
  });
  sealPayload(words);
  sealHeader(words);
}

/** A refusal frame in answer to `request`; the message is cut at 1,024 bytes. */
export function encodeRefusal(request: FrameHeader, refusal: FrameRefusal, message: string, retryAfterMs: number): ArrayBuffer {
  const text = new TextEncoder().encode(message).subarray(0, 1024);
  const buffer = new ArrayBuffer(FRAME_HEADER_BYTES + roundUp16(text.length));
  new Uint8Array(buffer, FRAME_HEADER_BYTES).set(text);
  const words = new Uint32Array(buffer);
  writeHeader(words, {
    ...request, kind: "refusal", refusal, payloadBytes: buffer.byteLength - FRAME_HEADER_BYTES, value: Math.max(0, Math.round(retryAfterMs)) >>> 0,
  });
  sealPayload(words);
  sealHeader(words);
  return buffer;
}

/** The message of a refusal frame. */
export function refusalMessage(buffer: ArrayBuffer): string {
  const bytes = new Uint8Array(buffer, FRAME_HEADER_BYTES);
  const end = bytes.indexOf(0);
  return new TextDecoder().decode(end < 0 ? bytes : bytes.subarray(0, end));
}

/**
 * Validates a received frame: length, magic, version, both checksums, and that the sections add up. A request's lists are
 * checked too (ascending groups, counts that sum to nTokens, row numbers in range and ascending), so the receiver may index
 * with them. Whether expert and segment exist is for the shard to say.
 */
export function decodeFrame(buffer: ArrayBuffer): Decoded {
  const bad = (message: string, header: FrameHeader | null = null): Decoded => ({ ok: false, fault: "bad-frame", message, header });
  const bytes = buffer.byteLength;
  if (bytes < FRAME_HEADER_BYTES || bytes > LIMITS.frameBytes || bytes % 16 !== 0) {
    return bad(`A frame has ${bytes} bytes; expected a multiple of 16 from ${FRAME_HEADER_BYTES} to ${LIMITS.frameBytes}.`);
  }
  const words = new Uint32Array(buffer);
  if (words[0] !== FRAME_MAGIC) return bad(`A frame starts with 0x${words[0]!.toString(16)}; expected 0x${FRAME_MAGIC.toString(16)}.`);
  const headerSum = checksumWords(words, 0, HEADER_WORDS - 1);
  if (words[15] !== headerSum) {
    return { ok: false, fault: "bad-checksum", header: null, message: `A frame's header has checksum ${words[15]}; its bytes give ${headerSum}.` };
  }
  const version = words[1]! & 0xffff;
  if (version !== FRAME_VERSION) return bad(`A frame has version ${version}; expected ${FRAME_VERSION}.`);
  const kind = FRAME_KINDS[(words[1]! >>> 16) - 1];
  if (kind === undefined) return bad(`A frame has kind ${words[1]! >>> 16}; expected 1 to ${FRAME_KINDS.length}.`);
  const activations = ACTIVATION_CODES[words[11]! & 0xffff];
  if (activations === undefined) return bad(`A frame has activation format ${words[11]! & 0xffff}; expected 0 or 1.`);
  const code = words[11]! >>> 16;
  const refusal = code === 0 ? null : FRAME_REFUSALS[code - 1];
  if (refusal === undefined || (refusal === null) !== (kind !== "refusal")) return bad(`A ${kind} frame has refusal code ${code}.`);
  const header: FrameHeader = {
    kind, connection: words[2]!, frame: words[3]!, step: words[4]!, layer: words[5]! & 0xffff, attempt: words[5]! >>> 16,
    epoch: words[6]!, nRows: words[7]!, nGroups: words[8]!, nTokens: words[9]!, hidden: words[10]!, activations, refusal,
    payloadBytes: words[12]!, value: words[14]!,
  };
  if (header.payloadBytes !== bytes - FRAME_HEADER_BYTES) {
    return bad(`A ${kind} frame announces ${header.payloadBytes} payload bytes and carries ${bytes - FRAME_HEADER_BYTES}.`, header);
  }
  const payloadSum = checksumWords(words, HEADER_WORDS, words.length);
  if (words[13] !== payloadSum) {
    return { ok: false, fault: "bad-checksum", header, message: `The payload of ${kind} frame ${header.frame} has checksum ${words[13]}; its bytes give ${payloadSum}.` };
  }
  if (kind === "refusal") return { ok: true, header, buffer };
  if (header.nTokens === 0 || header.nGroups === 0 || header.nRows === 0 || header.nRows > 0xffff || header.hidden === 0) {
    return bad(`A ${kind} frame has ${header.nRows} rows, ${header.nGroups} groups, ${header.nTokens} tokens and hidden size ${header.hidden}; none may be 0 and rows at most 65535.`, header);
  }
  const expected = kind === "request" ? requestLayout(header).frameBytes : replyFrameBytes(header.nTokens, header.hidden);
  if (expected !== bytes) {
    return bad(`A ${kind} frame with ${header.nRows} rows, ${header.nGroups} groups, ${header.nTokens} tokens and hidden size ${header.hidden} has ${bytes} bytes; expected ${expected}.`, header);
  }
  if (kind === "request") {
    const fault = faultInLists(buffer, header);
    if (fault !== null) return bad(fault, header);
  }
  return { ok: true, header, buffer };
}

/** Views on a request's lists. Group g is words[2g] = expert | segment << 16, words[2g + 1] = count. */
export function requestViews(buffer: ArrayBuffer, header: FrameHeader): { readonly activations: Uint8Array; readonly groups: Uint32Array; readonly tokens: Uint16Array } {
  const at = requestLayout(header);
  return {
    activations: new Uint8Array(buffer, at.activations, at.groups - at.activations),
    groups: new Uint32Array(buffer, at.groups, header.nGroups * 2),
    tokens: new Uint16Array(buffer, at.tokens, header.nTokens),
  };
}

function faultInLists(buffer: ArrayBuffer, header: FrameHeader): string | null {
  const { groups, tokens } = requestViews(buffer, header);
  let previous = -1;
  let start = 0;
  for (let g = 0; g < header.nGroups; g++) {
    const expert = groups[2 * g]! & 0xffff;
    const segment = groups[2 * g]! >>> 16;
    const order = expert * 0x10000 + segment;
    if (order <= previous) return `Group ${g} of request frame ${header.frame} (expert ${expert}, segment ${segment}) does not come after the one before it.`;
    previous = order;
    const count = groups[2 * g + 1]!;
    if (count === 0 || count > header.nTokens - start) {
      return `Group ${g} of request frame ${header.frame} lists ${count} tokens; expected 1 to ${header.nTokens - start}.`;
    }
    for (let i = start, last = -1; i < start + count; i++) {
      const row = tokens[i]!;
      if (row >= header.nRows || row <= last) return `Group ${g} of request frame ${header.frame} lists row ${row} after row ${last}; expected ascending rows below ${header.nRows}.`;
      last = row;
    }
    start += count;
  }
  return start === header.nTokens ? null : `The groups of request frame ${header.frame} list ${start} tokens; its header says ${header.nTokens}.`;
}
