// Frames between stages: what is encoded comes back bit for bit, whatever its values; a frame with any bit changed, cut or lengthened is refused with a
// sentence; and the tokens of a step are as many as fit.

import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { LIMITS } from "../../../durable/limits.ts";
import { decodeRing, encodeRing, RING_FORMS, ringChunkTokens, RingFrameError, rowsFrameBytes, type RingEntry, type RingFrame } from "../../../durable/ring-frame.ts";
import { SeededRandom } from "../../../durable/clock.ts";

const u32 = fc.nat(0xffffffff);
const address = { ring: u32, step: u32, stage: fc.nat(0xffff), epoch: u32 };
/** Any bits, NaNs with payloads among them. */
const bits = (n: number): fc.Arbitrary<Float32Array> => fc.uint32Array({ minLength: n, maxLength: n }).map((words) => new Float32Array(words.buffer));
const words = (n: number): fc.Arbitrary<Uint32Array> => fc.uint32Array({ minLength: n, maxLength: n }).map((w) => w.slice());

const rowsFrame: fc.Arbitrary<RingFrame> = fc.tuple(fc.array(fc.record({
  timeline: u32, start: fc.nat(300), nTokens: fc.integer({ min: 1, max: 9 }), ropeOffset: fc.nat(5000), form: fc.constantFrom(...RING_FORMS), of: fc.constantFrom("last" as const, "all" as const), k: fc.nat(64), more: fc.nat(2),
}), { minLength: 1, maxLength: 5 }), fc.array(fc.tuple(u32, u32), { maxLength: 3 }), fc.integer({ min: 1, max: 40 })).chain(([found, copies, hidden]) => {
  const entries = found.map(({ more, ...entry }): RingEntry => ({ ...entry, pages: Uint32Array.from({ length: Math.ceil((entry.start + entry.nTokens) / 32) + more }, (_, i) => entry.timeline ^ i) }));
  const nTokens = entries.reduce((sum, e) => sum + e.nTokens, 0);
  return fc.record({ ...address, kind: fc.constant("rows" as const), entries: fc.constant(entries), copies: fc.constant(copies), ids: words(nTokens), hidden: fc.constant(hidden), rows: bits(nTokens * hidden) });
});
const finals: fc.Arbitrary<RingFrame> = fc.tuple(fc.array(fc.record({ entry: u32, row: u32, form: fc.constantFrom(...RING_FORMS), k: u32 }), { maxLength: 5 }), fc.integer({ min: 1, max: 33 })).chain(([asked, hidden]) =>
  fc.record({ ...address, kind: fc.constant("finals" as const), asked: fc.constant(asked), hidden: fc.constant(hidden), rows: bits(asked.length * hidden) }));
const logits: fc.Arbitrary<RingFrame> = fc.tuple(fc.nat(100_000), fc.nat(70)).chain(([from, n]) => fc.record({ ...address, kind: fc.constant("logits" as const), index: u32, from: fc.constant(from), to: fc.constant(from + n), values: bits(n) }));
const states: fc.Arbitrary<RingFrame> = fc.nat(70).chain((n) => fc.record({ ...address, kind: fc.constant("states" as const), index: u32, values: bits(n) }));
const largest: fc.Arbitrary<RingFrame> = fc.nat(64).chain((k) => fc.record({ ...address, kind: fc.constant("largest" as const), index: u32, from: u32, to: u32, ids: words(k), values: bits(k), notFinite: fc.oneof(fc.constant(-1), fc.nat(0xfffffffe)) }));
const plain: fc.Arbitrary<RingFrame> = fc.oneof(fc.record({ ...address, kind: fc.constant("done" as const) }),
  fc.record({ ...address, kind: fc.constant("failed" as const), fault: fc.constantFrom("experts" as const, "internal" as const), message: fc.string({ unit: "grapheme", maxLength: 60 }) }));
const anyFrame = fc.oneof(rowsFrame, finals, logits, states, largest, plain);

/** Typed arrays as plain words, so that NaNs compare by their bits and views by their content. */
const plainly = (frame: RingFrame): unknown => JSON.parse(JSON.stringify(frame, (_, value: unknown) =>
  ArrayBuffer.isView(value) ? Array.from(new Uint32Array(value.buffer, value.byteOffset, value.byteLength / 4)) : value));

describe("a ring frame", () => {
  it("comes back as it was, bit for bit", () => {
    fc.assert(fc.property(anyFrame, (frame) => { expect(plainly(decodeRing(encodeRing(frame)))).toEqual(plainly(frame)); }), { numRuns: 400 });
  });

  it("with any bit changed is refused", () => {
    fc.assert(fc.property(anyFrame, fc.nat(), (frame, at) => {
      const buffer = encodeRing(frame);
      new Uint8Array(buffer)[at % buffer.byteLength]! ^= 1 << (at % 8);
      expect(() => decodeRing(buffer)).toThrow(RingFrameError);
    }), { numRuns: 600 });
  });

  it("that is cut or goes on is refused", () => {
    fc.assert(fc.property(anyFrame, fc.integer({ min: -64, max: 64 }).filter((n) => n !== 0), (frame, more) => {
      const buffer = encodeRing(frame);
      expect(() => decodeRing(more < 0 ? buffer.slice(0, more) : buffer.transfer(buffer.byteLength + more))).toThrow(RingFrameError);
    }), { numRuns: 200 });
  });

  it("of noise is refused with a sentence, and nothing else", () => {
    const random = new SeededRandom(5);
    for (let i = 0; i < 3_000; i++) {
      const w = Uint32Array.from({ length: 16 + 4 * Math.floor(random.next() * 20) }, () => Math.floor(random.next() * 2 ** (random.next() < 0.5 ? 8 : 32)));
      w[0] = 0x31524d57;
      expect(() => decodeRing(w.buffer)).toThrow(RingFrameError);
    }
  });

  it("larger than a frame may be is not made", () => {
    const values = new Float32Array(LIMITS.frameBytes / 4);
    expect(() => encodeRing({ kind: "logits", ring: 1, step: 2, stage: 3, epoch: 1, index: 0, from: 0, to: values.length, values })).toThrow(/would have \d+ bytes; 1048576 is the limit/);
  });

  it("whose entries ask for tokens or pages that are not there is refused", () => {
    const entry: RingEntry = { timeline: 1, start: 40, nTokens: 2, ropeOffset: 0, pages: [7], form: "rows", of: "last", k: 0 };
    const frame: RingFrame = { kind: "rows", ring: 1, step: 2, stage: 0, epoch: 1, entries: [entry], copies: [], ids: Uint32Array.of(1, 2), hidden: 1, rows: new Float32Array(2) };
    expect(() => decodeRing(encodeRing(frame))).toThrow("Entry 0 of a rows frame has 2 tokens from position 40 and 1 pages");
    expect(() => decodeRing(encodeRing({ ...frame, entries: [{ ...entry, start: 0, nTokens: 1 }] }))).toThrow("have 1 tokens and 1 pages; its header says 2 and 1");
  });
});

describe("the tokens of a step", () => {
  it("are the most that fit a frame", () => {
    for (const hidden of [64, 2048, 4096, 7168]) for (const nEntries of [1, 32]) for (const nPages of [nEntries, 128 * nEntries]) {
      const n = ringChunkTokens({ nEntries, nPages, hidden });
      const bytes = (nTokens: number): number => rowsFrameBytes({ nEntries, nPages, nCopies: nEntries, nTokens, hidden });
      expect(n).toBeGreaterThan(0);
      expect(bytes(n)).toBeLessThanOrEqual(LIMITS.frameBytes);
      if (n < LIMITS.chunkTokens) expect(bytes(n + 1)).toBeGreaterThan(LIMITS.frameBytes);
    }
  });
});
