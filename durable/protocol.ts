// Frames of the wire between orchestrator and shards, byte by byte as docs/protocol.md sections 2 to 4 define them.
// Owns encoding into, and validating decoding out of, one ArrayBuffer per frame: a handful of views per frame, nothing per
// expert or row. Refuses: sockets, retries and timing (client.ts), arithmetic (served-experts.ts).
// Header fields are read as little-endian u32 words; every host that has WebAssembly SIMD is little-endian.

import { checksumLanes, checksumWords } from "../model/checksum.ts";
import { expertInputSize, expertOutputSize, inputRowsPerToken, type ModelConfig } from "../model/config.ts";
import { activationRowBytes, type ActivationFormat } from "../model/kernels.ts";
import { LIMITS } from "./limits.ts";

export const FRAME_HEADER_BYTES = 64;
export const FRAME_MAGIC = 0x31454d57;
export const FRAME_VERSION = 2;
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
  /** Numbers of a request's activation rows: hidden, or what `value` says of latent experts. */
  readonly input: number;
  readonly activations: ActivationFormat;
  readonly refusal: FrameRefusal | null;
  readonly payloadBytes: number;
  /** Checksum of the payload, as the sender says. */
  readonly payloadSum: number;
  readonly value: number;
}

/** A request's shape: enough to size and validate it. */
export interface RequestShape {
  readonly nRows: number;
  readonly nGroups: number;
  readonly nTokens: number;
  /** Numbers of a reply's rows, and of the request's. */
  readonly hidden: number;
  readonly input: number;
  readonly activations: ActivationFormat;
}

/** A decoded frame, or what is wrong with it. `header` is null when the header itself cannot be trusted. */
export type Decoded =
  | { readonly ok: true; readonly header: FrameHeader; readonly buffer: ArrayBuffer }
  | { readonly ok: false; readonly fault: "bad-frame" | "bad-checksum"; readonly message: string; readonly header: FrameHeader | null };

const roundUp16 = (bytes: number): number => Math.ceil(bytes / 16) * 16;

/** Byte offsets of a request's sections within the frame, and its length in all. */
export function requestLayout(shape: RequestShape): { readonly activations: number; readonly groups: number; readonly tokens: number; readonly frameBytes: number } {
  const groups = FRAME_HEADER_BYTES + shape.nRows * activationRowBytes(shape.activations, shape.input);
  const tokens = groups + roundUp16(shape.nGroups * 8);
  return { activations: FRAME_HEADER_BYTES, groups, tokens, frameBytes: tokens + roundUp16(shape.nTokens * 2) };
}

/** Length of the reply to a request, header included. */
export const replyFrameBytes = (nTokens: number, hidden: number): number => FRAME_HEADER_BYTES + roundUp16(nTokens * hidden * 4);

/**
 * Largest number of tokens in one step whose worst case (every selected expert of every token on one shard) fits one request
 * and one reply frame; at least 1, at most LIMITS.chunkTokens. docs/protocol.md section 3.
 */
export function maxChunkTokens(config: Pick<ModelConfig, "hiddenSize" | "latentExperts"> & { readonly router: Pick<ModelConfig["router"], "topK" | "branches"> }, maxSegments: number, activations: ActivationFormat): number {
  const space = LIMITS.frameBytes - FRAME_HEADER_BYTES;
  const { router: { topK } } = config;
  const outputs = topK * maxSegments;
  const byReply = Math.floor(space / (outputs * expertOutputSize(config) * 4));
  // 30 bytes: two sections' padding.
  const byRequest = Math.floor((space - 30) / (Math.min(topK, inputRowsPerToken(config)) * activationRowBytes(activations, expertInputSize(config)) + outputs * (8 + 2)));
  return Math.max(1, Math.min(byReply, byRequest, LIMITS.chunkTokens));
}

/** Writes every header field except the checksums, from word `at` on. */
function writeHeader(words: Uint32Array, at: number, h: FrameHeader): void {
  words[at] = FRAME_MAGIC;
  words[at + 1] = FRAME_VERSION | ((FRAME_KINDS.indexOf(h.kind) + 1) << 16);
  words[at + 2] = h.connection;
  words[at + 3] = h.frame;
  words[at + 4] = h.step;
  words[at + 5] = h.layer | (h.attempt << 16);
  words[at + 6] = h.epoch;
  words[at + 7] = h.nRows;
  words[at + 8] = h.nGroups;
  words[at + 9] = h.nTokens;
  words[at + 10] = h.hidden;
  words[at + 11] = ACTIVATION_CODES.indexOf(h.activations) | ((h.refusal === null ? 0 : FRAME_REFUSALS.indexOf(h.refusal) + 1) << 16);
  words[at + 12] = h.payloadBytes;
  words[at + 14] = h.kind === "request" && h.input !== h.hidden ? h.input : h.value;
}

/** Sets the payload's checksum, and the header's over it. */
function seal(words: Uint32Array, at: number, payloadSum: number): void {
  words[at + 13] = payloadSum;
  sealHeader(words, at);
}

const sealHeader = (words: Uint32Array, at: number): void => { words[at + 15] = checksumWords(words, at, at + HEADER_WORDS - 1); };

/**
 * Seals a request of `frameBytes` bytes at word `at`, whose payload sections are already written: header, payload checksum (computed
 * by the caller), header checksum. Connection, frame number, epoch and attempt are set by `addressFrame` when it is sent.
 */
export function sealRequest(words: Uint32Array, at: number, shape: RequestShape, frameBytes: number, layer: number, step: number, payloadSum: number): void {
  writeHeader(words, at, {
    ...shape, kind: "request", connection: 0, frame: 0, step: step >>> 0, layer, attempt: 0, epoch: 0,
    refusal: null, payloadBytes: frameBytes - FRAME_HEADER_BYTES, payloadSum: 0, value: 0,
  });
  seal(words, at, payloadSum);
}

/** Sets what belongs to one attempt of a frame, and the header checksum over it. The payload is not touched. */
export function addressFrame(buffer: ArrayBuffer, connection: number, frame: number, epoch: number, attempt: number): void {
  const words = new Uint32Array(buffer, 0, HEADER_WORDS);
  words[2] = connection;
  words[3] = frame;
  words[5] = (words[5]! & 0xffff) | (attempt << 16);
  words[6] = epoch;
  sealHeader(words, 0);
}

/** Seals a reply at word `at`, whose rows are already written behind the header. `computeUs` is the time the clock saw, in microseconds. */
export function sealReply(words: Uint32Array, at: number, request: FrameHeader, computeUs: number, payloadSum: number): void {
  const bytes = replyFrameBytes(request.nTokens, request.hidden);
  writeHeader(words, at, {
    ...request, kind: "reply", nRows: request.nTokens, refusal: null, payloadBytes: bytes - FRAME_HEADER_BYTES, value: computeUs >>> 0,
  });
  seal(words, at, payloadSum);
}

/** A refusal frame in answer to `request`; the message is cut at 1,024 bytes. */
export function encodeRefusal(request: FrameHeader, refusal: FrameRefusal, message: string, retryAfterMs: number): ArrayBuffer {
  const text = new TextEncoder().encode(message).subarray(0, 1024);
  const buffer = new ArrayBuffer(FRAME_HEADER_BYTES + roundUp16(text.length));
  new Uint8Array(buffer, FRAME_HEADER_BYTES).set(text);
  const words = new Uint32Array(buffer);
  writeHeader(words, 0, {
    ...request, kind: "refusal", refusal, payloadBytes: buffer.byteLength - FRAME_HEADER_BYTES, value: Math.max(0, Math.round(retryAfterMs)) >>> 0,
  });
  seal(words, 0, payloadChecksum(buffer));
  return buffer;
}

/** The message of a refusal frame. */
export function refusalMessage(buffer: ArrayBuffer): string {
  const bytes = new Uint8Array(buffer, FRAME_HEADER_BYTES);
  const end = bytes.indexOf(0);
  return new TextDecoder().decode(end < 0 ? bytes : bytes.subarray(0, end));
}

/** Checksum of a frame's payload without kernels: for refusals and tests. */
export const payloadChecksum = (frame: ArrayBuffer): number => checksumLanes(new Uint32Array(frame), HEADER_WORDS, frame.byteLength / 4);

/** The fault of a payload whose checksum is `found`, in words; null when it is what the header says. */
export const faultOfPayload = (header: FrameHeader, found: number): string | null =>
  found >>> 0 === header.payloadSum ? null : `The payload of ${header.kind} frame ${header.frame} has checksum ${header.payloadSum}; its bytes give ${found >>> 0}.`;

/**
 * Validates a received frame's header: length, magic, version, its checksum, and that the sections add up. The payload is not read:
 * whoever takes it checks it (faultOfPayload, and faultOfLists for a request).
 */
export function decodeHeader(buffer: ArrayBuffer): Decoded {
  const bad = (message: string, header: FrameHeader | null = null): Decoded => ({ ok: false, fault: "bad-frame", message, header });
  const bytes = buffer.byteLength;
  if (bytes < FRAME_HEADER_BYTES || bytes > LIMITS.frameBytes || bytes % 16 !== 0) {
    return bad(`A frame has ${bytes} bytes; expected a multiple of 16 from ${FRAME_HEADER_BYTES} to ${LIMITS.frameBytes}.`);
  }
  const words = new Uint32Array(buffer, 0, HEADER_WORDS);
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
    epoch: words[6]!, nRows: words[7]!, nGroups: words[8]!, nTokens: words[9]!, hidden: words[10]!, input: (kind === "request" && words[14]!) || words[10]!, activations, refusal,
    payloadBytes: words[12]!, payloadSum: words[13]!, value: words[14]!,
  };
  if (header.payloadBytes !== bytes - FRAME_HEADER_BYTES) {
    return bad(`A ${kind} frame announces ${header.payloadBytes} payload bytes and carries ${bytes - FRAME_HEADER_BYTES}.`, header);
  }
  if (kind === "refusal") return { ok: true, header, buffer };
  if (header.nTokens === 0 || header.nGroups === 0 || header.nRows === 0 || header.nRows > 0xffff || header.hidden === 0) {
    return bad(`A ${kind} frame has ${header.nRows} rows, ${header.nGroups} groups, ${header.nTokens} tokens and hidden size ${header.hidden}; none may be 0 and rows at most 65535.`, header);
  }
  const expected = kind === "request" ? requestLayout(header).frameBytes : replyFrameBytes(header.nTokens, header.hidden);
  if (expected !== bytes) {
    return bad(`A ${kind} frame with ${header.nRows} rows, ${header.nGroups} groups, ${header.nTokens} tokens and hidden size ${header.hidden}${header.input === header.hidden ? "" : `, rows of ${header.input},`} has ${bytes} bytes; expected ${expected}.`, header);
  }
  return { ok: true, header, buffer };
}

/**
 * What is wrong with a request's lists, or null: ascending groups, counts that sum to nTokens, row numbers in range and ascending, so
 * that the receiver may index with them. Whether expert and segment exist is for the shard to say. Group g is
 * u32[groups + 2g] = expert | segment << 16, u32[groups + 2g + 1] = count; the lists begin at u16[tokens].
 */
export function faultOfLists(header: FrameHeader, u32: Uint32Array, groups: number, u16: Uint16Array, tokens: number): string | null {
  let previous = -1;
  let start = 0;
  for (let g = 0; g < header.nGroups; g++) {
    const expert = u32[groups + 2 * g]! & 0xffff;
    const segment = u32[groups + 2 * g]! >>> 16;
    const order = expert * 0x10000 + segment;
    if (order <= previous) return `Group ${g} of request frame ${header.frame} (expert ${expert}, segment ${segment}) does not come after the one before it.`;
    previous = order;
    const count = u32[groups + 2 * g + 1]!;
    if (count === 0 || count > header.nTokens - start) {
      return `Group ${g} of request frame ${header.frame} lists ${count} tokens; expected 1 to ${header.nTokens - start}.`;
    }
    for (let i = start, last = -1; i < start + count; i++) {
      const row = u16[tokens + i]!;
      if (row >= header.nRows || row <= last) return `Group ${g} of request frame ${header.frame} lists row ${row} after row ${last}; expected ascending rows below ${header.nRows}.`;
      last = row;
    }
    start += count;
  }
  return start === header.nTokens ? null : `The groups of request frame ${header.frame} list ${start} tokens; its header says ${header.nTokens}.`;
}
