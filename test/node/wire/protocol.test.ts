// Frames byte by byte: the layout of docs/protocol.md is spelt out here in numbers, and no damaged frame is ever taken for a good one.

import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { activationRowBytes } from "../../../model/kernels.ts";
import { LIMITS } from "../../../durable/limits.ts";
import {
  addressFrame, encodeRefusal, FRAME_REFUSALS, maxChunkTokens, payloadChecksum, refusalMessage, replyFrameBytes, requestLayout, type FrameHeader,
} from "../../../durable/protocol.ts";
import { checksumLanes, checksumWords } from "../../../model/checksum.ts";
import { decodeFrame, requestViews, sealReplyFrame, sealRequestFrame } from "./whole-frame.ts";

/** Three rows of hidden 64 in qa8 (80 bytes each); expert 5 segment 0 on rows 0, 2; expert 5 segment 1 on rows 0, 2; expert 300 segment 2 on row 1. */
function request(): ArrayBuffer {
  const shape = { nRows: 3, nGroups: 3, nTokens: 5, hidden: 64, input: 64, activations: "qa8" as const };
  const at = requestLayout(shape);
  const buffer = new ArrayBuffer(at.frameBytes);
  new Uint8Array(buffer, at.activations, 240).forEach((_, i, bytes) => { bytes[i] = i * 7; });
  new Uint32Array(buffer, at.groups, 6).set([5, 2, 5 | (1 << 16), 2, 300 | (2 << 16), 1]);
  new Uint16Array(buffer, at.tokens, 5).set([0, 2, 0, 2, 1]);
  sealRequestFrame(buffer, shape, 11, 77);
  addressFrame(buffer, 0xfffffff0, 9, 4, 2);
  return buffer;
}

const headerOf = (buffer: ArrayBuffer): FrameHeader => {
  const decoded = decodeFrame(buffer);
  if (!decoded.ok) throw new Error(decoded.message);
  return decoded.header;
};

/** Reseals after an edit, so that only the edited field is wrong. */
function edited(edit: (words: Uint32Array, bytes: DataView) => void): ReturnType<typeof decodeFrame> {
  const buffer = request();
  const words = new Uint32Array(buffer);
  edit(words, new DataView(buffer));
  words[13] = checksumLanes(words, 16, words.length);
  words[15] = checksumWords(words, 0, 15);
  return decodeFrame(buffer);
}

describe("a frame", () => {
  it("lies in memory as the document says", () => {
    const buffer = request();
    const view = new DataView(buffer);
    expect(buffer.byteLength).toBe(64 + 240 + 32 + 16);
    expect(new TextDecoder().decode(new Uint8Array(buffer, 0, 4))).toBe("WME1");
    expect([4, 6].map((at) => view.getUint16(at, true))).toEqual([2, 1]);
    expect([8, 12, 16].map((at) => view.getUint32(at, true))).toEqual([0xfffffff0, 9, 77]);
    expect([20, 22].map((at) => view.getUint16(at, true))).toEqual([11, 2]);
    expect([24, 28, 32, 36, 40].map((at) => view.getUint32(at, true))).toEqual([4, 3, 3, 5, 64]);
    expect([44, 46].map((at) => view.getUint16(at, true))).toEqual([1, 0]);
    expect(view.getUint32(48, true)).toBe(288);
    expect([304, 306, 312, 314, 320, 322].map((at) => view.getUint16(at, true))).toEqual([5, 0, 5, 1, 300, 2]);
    expect([336, 338, 340, 342, 344].map((at) => view.getUint16(at, true))).toEqual([0, 2, 0, 2, 1]);
    let h = 0x811c9dc5;
    for (let at = 0; at < 60; at += 4) {
      h = Math.imul(h ^ view.getUint32(at, true), 0x01000193);
      h ^= h >>> 15;
    }
    expect(view.getUint32(60, true)).toBe(h >>> 0);
    // The payload: sixteen chains, then one over the sixteen.
    const next = (chain: number, word: number): number => {
      const product = Math.imul(chain ^ word, 0x01000193);
      return product ^ (product >>> 15);
    };
    const chains = Array.from({ length: 16 }, (_, lane) => (0x811c9dc5 + lane) | 0);
    for (let i = 0; i < 288 / 4; i++) chains[i % 16] = next(chains[i % 16]!, view.getUint32(64 + i * 4, true));
    expect(view.getUint32(52, true)).toBe(chains.reduce(next, 0x811c9dc5) >>> 0);
  });

  it("comes back as it was sent", () => {
    const buffer = request();
    const header = headerOf(buffer);
    expect(header).toEqual({
      kind: "request", connection: 0xfffffff0, frame: 9, step: 77, layer: 11, attempt: 2, epoch: 4, nRows: 3, nGroups: 3, nTokens: 5, hidden: 64, input: 64,
      activations: "qa8", refusal: null, payloadBytes: 288, payloadSum: payloadChecksum(buffer), value: 0,
    });
    const { activations, groups, tokens } = requestViews(buffer, header);
    expect([activations.length, [...groups], [...tokens]]).toEqual([240, [5, 2, 65541, 2, 300 | (2 << 16), 1], [0, 2, 0, 2, 1]]);
    const reply = new ArrayBuffer(replyFrameBytes(5, 64));
    new Float32Array(reply, 64).fill(1.5);
    sealReplyFrame(reply, header, 1234);
    expect(headerOf(reply)).toMatchObject({ kind: "reply", frame: 9, connection: 0xfffffff0, layer: 11, attempt: 2, nRows: 5, nTokens: 5, value: 1234, payloadBytes: 1280 });
    for (const refusal of FRAME_REFUSALS) {
      const frame = encodeRefusal(header, refusal, "läuft noch", 250);
      expect(headerOf(frame)).toMatchObject({ kind: "refusal", refusal, value: 250, frame: 9 });
      expect(refusalMessage(frame)).toBe("läuft noch");
    }
  });

  it("says how many numbers a row has where experts are latent, and answers in rows of hidden", () => {
    const shape = { nRows: 3, nGroups: 1, nTokens: 2, hidden: 64, input: 32, activations: "f32" as const };
    const at = requestLayout(shape);
    expect(at.groups - at.activations).toBe(3 * 32 * 4);
    const buffer = new ArrayBuffer(at.frameBytes);
    new Uint32Array(buffer, at.groups, 2).set([1, 2]);
    new Uint16Array(buffer, at.tokens, 2).set([0, 2]);
    sealRequestFrame(buffer, shape, 0, 0);
    expect(new DataView(buffer).getUint32(56, true)).toBe(32);
    const header = headerOf(buffer);
    expect(header).toMatchObject({ hidden: 64, input: 32 });
    const reply = new ArrayBuffer(replyFrameBytes(2, 64));
    sealReplyFrame(reply, header, 5);
    expect(headerOf(reply)).toMatchObject({ hidden: 64, input: 64, value: 5, payloadBytes: 2 * 64 * 4 });
    new DataView(buffer).setUint32(56, 64, true);
    const words = new Uint32Array(buffer, 0, 16);
    words[15] = checksumWords(words, 0, 15);
    expect(decodeFrame(buffer)).toMatchObject({ ok: false, message: expect.stringMatching(/hidden size 64 has 480 bytes; expected 864\.$/) as string });
  });

  it("is refused when any one byte is changed", () => {
    const whole = request();
    fc.assert(fc.property(fc.nat(whole.byteLength - 1), fc.integer({ min: 1, max: 255 }), (at, flip) => {
      const buffer = whole.slice(0);
      new Uint8Array(buffer)[at]! ^= flip;
      expect(decodeFrame(buffer).ok).toBe(false);
    }), { numRuns: 2_000, seed: 1 });
  });

  it("is refused when cut, lengthened or over the limit", () => {
    const whole = request();
    for (let bytes = 0; bytes < whole.byteLength; bytes++) expect(decodeFrame(whole.slice(0, bytes)).ok).toBe(false);
    const longer = new ArrayBuffer(whole.byteLength + 16);
    new Uint8Array(longer).set(new Uint8Array(whole));
    expect(decodeFrame(longer)).toMatchObject({ ok: false, fault: "bad-frame", message: "A request frame announces 288 payload bytes and carries 304." });
    expect(decodeFrame(new ArrayBuffer(LIMITS.frameBytes + 16))).toMatchObject({ ok: false, message: `A frame has 1048592 bytes; expected a multiple of 16 from 64 to 1048576.` });
  });

  it("says whose payload is damaged, so that it can be asked for again", () => {
    const buffer = request();
    new Uint8Array(buffer)[100]! ^= 1;
    expect(decodeFrame(buffer)).toMatchObject({ ok: false, fault: "bad-checksum", header: { frame: 9, layer: 11 } });
  });

  const lies: [string, (words: Uint32Array, bytes: DataView) => void, RegExp][] = [
    ["another version", (w) => { w[1] = 3 | (1 << 16); }, /version 3; expected 2/],
    ["an unknown kind", (w) => { w[1] = 2 | (4 << 16); }, /kind 4; expected 1 to 3/],
    ["an unknown activation format", (w) => { w[11] = 2; }, /activation format 2; expected 0 or 1/],
    ["a refusal code on a request", (w) => { w[11] = 1 | (1 << 16); }, /request frame has refusal code 1/],
    ["an unknown refusal", (w) => { w[1] = 2 | (3 << 16); w[11] = 1 | (9 << 16); }, /refusal code 9/],
    ["more rows than it carries", (w) => { w[7] = 4; }, /has 352 bytes; expected 432/],
    ["a billion tokens", (w) => { w[9] = 1e9; }, /expected 2000000336/],
    ["no groups", (w) => { w[8] = 0; }, /none may be 0/],
    ["a hidden size of 0", (w) => { w[10] = 0; }, /none may be 0/],
    ["groups out of order", (_, b) => { b.setUint16(312, 4, true); }, /Group 1 .*expert 4, segment 1\) does not come after/],
    ["a group twice", (_, b) => { b.setUint16(314, 0, true); }, /Group 1 .*expert 5, segment 0\) does not come after/],
    ["an empty group", (_, b) => { b.setUint32(308, 0, true); }, /Group 0 .*lists 0 tokens; expected 1 to 5/],
    ["a group longer than the list", (_, b) => { b.setUint32(324, 2, true); }, /Group 2 .*lists 2 tokens; expected 1 to 1/],
    ["groups shorter than the list", (_, b) => { b.setUint32(316, 1, true); b.setUint16(342, 0, true); }, /list 4 tokens; its header says 5/],
    ["a row that is not there", (_, b) => { b.setUint16(344, 3, true); }, /row 3 after row -1; expected ascending rows below 3/],
    ["rows out of order", (_, b) => { b.setUint16(336, 2, true); }, /row 2 after row 2/],
  ];
  for (const [what, edit, message] of lies) {
    it(`is refused with ${what}, even with right checksums`, () => {
      const decoded = edited(edit);
      expect(decoded).toMatchObject({ ok: false, fault: "bad-frame" });
      expect(decoded.ok ? "" : decoded.message).toMatch(message);
    });
  }
});

describe("the chunk size", () => {
  it("lets the worst case of a step fit both frames, and no larger one", () => {
    // Here the request is the larger of the two frames.
    expect(maxChunkTokens({ hiddenSize: 544, router: { topK: 1 } }, 1, "f32")).toBe(479);
    fc.assert(fc.property(
      fc.record({ topK: fc.integer({ min: 1, max: 8 }), maxSegments: fc.integer({ min: 1, max: 4 }), hidden: fc.integer({ min: 1, max: 128 }).map((n) => n * 32), latent: fc.option(fc.record({ rank: fc.integer({ min: 1, max: 64 }).map((n) => n * 32), nGroups: fc.integer({ min: 1, max: 8 }) })), activations: fc.constantFrom("qa8" as const, "f32" as const) }),
      (shape) => {
        const { topK, maxSegments, hidden, latent, activations } = shape;
        const input = latent?.rank ?? hidden;
        const n = maxChunkTokens({ hiddenSize: hidden, router: { topK }, ...(latent === null ? {} : { latentExperts: latent }) }, maxSegments, activations);
        const bytes = (tokens: number): number => {
          const rows = tokens * topK * maxSegments;
          return Math.max(replyFrameBytes(rows, hidden), requestLayout({ hidden, input, activations, nRows: tokens * Math.min(topK, latent?.nGroups ?? 1), nGroups: rows, nTokens: rows }).frameBytes);
        };
        if (n > 1) expect(bytes(n)).toBeLessThanOrEqual(LIMITS.frameBytes);
        if (n < LIMITS.chunkTokens) expect(bytes(n + 1)).toBeGreaterThan(LIMITS.frameBytes - 32);
      },
    ), { seed: 3 });
    expect(maxChunkTokens({ hiddenSize: 256, router: { topK: 4 } }, 1, "qa8")).toBe(255);
    expect(activationRowBytes("qa8", 256)).toBe(288);
  });
});
