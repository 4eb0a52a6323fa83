// Frames between stages: what is encoded comes back bit for bit, whatever its values; a frame with any bit changed, cut or lengthened is refused with a
// sentence; and the tokens of a step are as many as fit.

import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { LIMITS } from "../../../durable/limits.ts";
import { decodeRing, encodeRing, NO_TALLY, RingFrameError, type RingAddress, type RingEntry, type RingFrame, type RowsFrame } from "../../../durable/ring-frame.ts";
import { ringChunkTokens, rowsFrameBytes } from "../../../durable/ring-rows.ts";
import { SeededRandom } from "../../../durable/clock.ts";
import type { HeadAsk } from "../../../model/head-rows.ts";

const u32 = fc.nat(0xffffffff);
const address = { ring: u32, step: u32, stage: fc.nat(0xffff), epoch: u32, tally: fc.record({ frames: u32, bytes: u32, retries: u32, hedges: u32 }) };
/** Any bits, NaNs with payloads among them. */
const bits = (n: number): fc.Arbitrary<Float32Array> => fc.uint32Array({ minLength: n, maxLength: n }).map((words) => new Float32Array(words.buffer));
const words = (n: number): fc.Arbitrary<Uint32Array> => fc.uint32Array({ minLength: n, maxLength: n }).map((w) => w.slice());

const askOf = (token: number): fc.Arbitrary<HeadAsk> => fc.oneof(fc.constantFrom("whole" as const, "states" as const).map((form) => ({ token, form })), fc.nat(64).map((k) => ({ token, form: "top" as const, k })),
  fc.array(u32, { maxLength: 7 }).map((ids) => ({ token, form: "among" as const, ids: Uint32Array.from(ids) })));
const asksOf = (nTokens: number): fc.Arbitrary<HeadAsk[]> => fc.array(fc.nat(nTokens - 1), { maxLength: 6 }).chain((tokens) => fc.tuple(...tokens.sort((x, y) => x - y).map(askOf)) as fc.Arbitrary<HeadAsk[]>);
const terms = fc.constantFrom(null, { leavesOut: false }, { leavesOut: true });
const rowsFrame: fc.Arbitrary<RingFrame> = fc.tuple(fc.array(fc.record({
  timeline: u32, start: fc.nat(300), nTokens: fc.integer({ min: 1, max: 9 }), ropeOffset: fc.nat(5000), more: fc.nat(2),
}), { minLength: 1, maxLength: 5 }), fc.array(fc.tuple(u32, u32), { maxLength: 3 }), fc.integer({ min: 1, max: 40 }), fc.boolean()).chain(([found, copies, hidden, isFirst]) => {
  const routings = [`{"pruning":${hidden}}`, JSON.stringify({ interventions: [{ op: "mask", experts: { 3: [hidden] } }], note: "äß€" })].slice(0, hidden % 3);
  const entries = found.map(({ more, ...entry }, i): RingEntry => ({ ...entry, routing: (i + hidden) % (routings.length + 1), maxTokens: entry.start + entry.nTokens + more, pages: Uint32Array.from({ length: Math.ceil((entry.start + entry.nTokens) / 32) + more }, (_, i) => entry.timeline ^ i) }));
  const nTokens = entries.reduce((sum, e) => sum + e.nTokens, 0);
  return fc.record({ ...address, kind: fc.constant("rows" as const), entries: fc.constant(entries), asks: asksOf(nTokens), copies: fc.constant(copies), routings: fc.constant(routings), ids: words(nTokens), hidden: fc.constant(hidden), rows: isFirst ? fc.constant(null) : bits(nTokens * hidden), isTraced: fc.boolean(), terms });
});
const finals: fc.Arbitrary<RingFrame> = fc.tuple(asksOf(9), fc.integer({ min: 1, max: 33 })).chain(([asks, hidden]) =>
  fc.record({ ...address, kind: fc.constant("finals" as const), asks: fc.constant(asks), hidden: fc.constant(hidden), rows: bits(asks.length * hidden) }));
const answer: fc.Arbitrary<RingFrame> = fc.tuple(fc.nat(100_000), fc.nat(70), fc.nat(9)).chain(([from, n, nIds]) => fc.record({
  ...address, kind: fc.constant("answer" as const), index: u32, headRows: fc.constant([from, from + n] as const), answer: fc.record({ ids: words(nIds), values: bits(n), notFinite: fc.oneof(fc.constant(-1), fc.nat(0xfffffffe)) }) }));
const plain: fc.Arbitrary<RingFrame> = fc.oneof(fc.record({ ...address, kind: fc.constantFrom("done" as const, "probe" as const) }),
  fc.record({ ...address, kind: fc.constant("failed" as const), fault: fc.constant("internal" as const), message: fc.string({ unit: "grapheme", maxLength: 60 }), shard: fc.constant(null), retryable: fc.constant(false) }),
  fc.record({ ...address, kind: fc.constant("failed" as const), fault: fc.constantFrom("experts" as const, "away" as const), message: fc.string({ unit: "grapheme", maxLength: 60 }), shard: fc.string({ unit: "grapheme", maxLength: 30 }), retryable: fc.boolean() }));
const leftOut: fc.Arbitrary<RingFrame> = fc.record({
  ...address, kind: fc.constant("leftOut" as const), rows: fc.array(fc.record({ timeline: u32, position: u32, rows: u32 }), { maxLength: 9 }),
  away: fc.array(fc.string({ unit: "grapheme", maxLength: 30 }).map((name) => name.replaceAll("\0", "")), { maxLength: 4 }),
});
const routes: fc.Arbitrary<RingFrame> = fc.nat(70).chain((n) => fc.record({ ...address, kind: fc.constant("routes" as const), words: words(n) }));
const pruned: fc.Arbitrary<RingFrame> = fc.record({ ...address, kind: fc.constant("pruned" as const), calls: fc.array(fc.record({ leftOut: u32, of: u32 }), { maxLength: 9 }) });
const anyFrame = fc.oneof(routes, leftOut, pruned, rowsFrame, finals, answer, plain);

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
      const w = Uint32Array.from({ length: 20 + 4 * Math.floor(random.next() * 20) }, () => Math.floor(random.next() * 2 ** (random.next() < 0.5 ? 8 : 32)));
      w[0] = 0x31524d57;
      expect(() => decodeRing(w.buffer)).toThrow(RingFrameError);
    }
  });

  it("larger than a frame may be is not made", () => {
    const values = new Float32Array(LIMITS.frameBytes / 4);
    expect(() => encodeRing({ kind: "answer", ring: 1, step: 2, stage: 3, epoch: 1, tally: NO_TALLY, index: 0, headRows: [0, values.length], answer: { values, ids: new Uint32Array(0), notFinite: -1 } })).toThrow(/would have \d+ bytes and name 0 ids; 1048576/);
  });

  it("whose entries and asks speak of tokens, pages or ids that are not there is refused", () => {
    const entry: RingEntry = { timeline: 1, start: 40, nTokens: 2, maxTokens: 90, ropeOffset: 0, pages: [7], routing: 0 };
    const frame: RingAddress & RowsFrame = { kind: "rows", ring: 1, step: 2, stage: 0, epoch: 1, tally: NO_TALLY, entries: [entry], asks: [], copies: [], routings: [], ids: Uint32Array.of(1, 2), hidden: 1, rows: new Float32Array(2), isTraced: false, terms: null };
    const decoded = (changed: Partial<RowsFrame>) => () => decodeRing(encodeRing({ ...frame, ...changed }));
    expect(decoded({})).toThrow("Entry 0 of a rows frame has 2 tokens from position 40 of 90 and 1 pages");
    expect(decoded({ entries: [{ ...entry, start: 0, maxTokens: 1 }] })).toThrow("has 2 tokens from position 0 of 1 ");
    expect(decoded({ entries: [{ ...entry, start: 0, nTokens: 1 }] })).toThrow("have 1 tokens and 1 pages; its header says 2 and 1");
    const right = { entries: [{ ...entry, start: 0 }] };
    expect(decoded({ entries: [{ ...entry, start: 0, routing: 2 }], routings: ["{}"] })).toThrow("Entry 0 of a rows frame asks for routing 2; the frame has 1.");
    expect(decoded({ ...right, asks: [{ token: 2, form: "whole" }] })).toThrow("Ask 0 of a rows frame is about token 2 of 2");
    expect(decoded({ ...right, asks: [{ token: 1, form: "whole" }, { token: 0, form: "whole" }] })).toThrow("Ask 1 of a rows frame is about token 0");
  });
});

describe("the tokens of a step", () => {
  it("are the most that fit a frame, whatever is asked of them", () => {
    for (const hidden of [64, 2048, 4096, 7168]) for (const nEntries of [1, 32]) for (const nPages of [nEntries, 128 * nEntries]) for (const nWanted of [0, 5000]) for (const nRoutingBytes of [0, 141, 700_001]) {
      const n = ringChunkTokens({ nEntries, nPages, nWanted, nRoutingBytes, hidden });
      const bytes = (nTokens: number): number => rowsFrameBytes({ nEntries, nPages, nWanted, nCopies: nEntries, nTokens, nAsks: nTokens, nRoutingBytes, hidden });
      expect(n).toBeGreaterThan(0);
      expect(bytes(n)).toBeLessThanOrEqual(LIMITS.frameBytes);
      if (n < LIMITS.chunkTokens) expect(bytes(n + 1)).toBeGreaterThan(LIMITS.frameBytes - 48);
    }
  });
});
