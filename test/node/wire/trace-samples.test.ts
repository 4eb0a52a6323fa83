// Sampled routing: the share that is asked for, in a bounded memory that forgets the oldest, as a file anyone can read.

import { describe, expect, it } from "vitest";
import { SeededRandom } from "../../../durable/clock.ts";
import type { TokenRoute } from "../../../durable/step-trace.ts";
import { TraceSamples, traceShare } from "../../../durable/trace-samples.ts";
import { readTrace, traceRecordBytes, type TraceHeader } from "../../../formats/trace.ts";

const HEADER: TraceHeader = { model: "tiny", packHash: "ab", nExperts: 8, topK: 2, moeLayers: [1, 3], columns: ["ids", "weights"] };
const RECORD_BYTES = traceRecordBytes(HEADER);
const route = (first: number): TokenRoute => ({ experts: [[first, 7], [7, first]], weights: [[0.75, 0.25], [0.5, 0.5]], shards: [], frames: [] });

const samplesOf = (share: number, records = 1000): TraceSamples => new TraceSamples(HEADER, share, new SeededRandom(1), { traceBytes: records * RECORD_BYTES });

describe("samples", () => {
  it("are of the asked share of the generations, numbered one after the other", () => {
    const [none, some, all] = [0, 0.25, 1].map((share) => {
      const samples = samplesOf(share);
      return Array.from({ length: 4000 }, () => samples.draw()).filter((number) => number !== null);
    }) as [number[], number[], number[]];
    expect(none).toEqual([]);
    expect(all).toEqual(all.map((_, i) => i));
    expect(all).toHaveLength(4000);
    expect(some).toEqual(some.map((_, i) => i));
    expect(some.length).toBeGreaterThan(900);
    expect(some.length).toBeLessThan(1100);
  });

  it("are a trace file, a record per token and layer with experts", () => {
    const samples = samplesOf(1);
    samples.add(0, [{ position: 0, route: route(1) }, { position: 1, route: route(2) }]);
    samples.add(4, [{ position: 9, route: route(3) }]);
    const trace = readTrace(samples.file(), "samples");
    expect(trace.header).toEqual(HEADER);
    expect(Array.from({ length: trace.length }, (_, i) => trace.record(i)).map(({ request, token, layer, ids }) => [request, token, layer, ids])).toEqual([
      [0, 0, 1, [1, 7]], [0, 0, 3, [7, 1]], [0, 1, 1, [2, 7]], [0, 1, 3, [7, 2]], [4, 9, 1, [3, 7]], [4, 9, 3, [7, 3]],
    ]);
  });

  it("never take more than their memory: the oldest go first, and what is too large alone is not kept", () => {
    const samples = samplesOf(1, 10);
    for (let i = 0; i < 9; i++) {
      samples.add(i, [{ position: i, route: route(i % 8) }]);
      expect(readTrace(samples.file(), "samples").length).toBe(Math.min(10, 2 * (i + 1)));
    }
    samples.add(9, Array.from({ length: 6 }, (_, position) => ({ position, route: route(0) })));
    const kept = readTrace(samples.file(), "samples");
    expect(Array.from({ length: kept.length }, (_, i) => kept.record(i).request)).toEqual([4, 4, 5, 5, 6, 6, 7, 7, 8, 8]);
    samples.add(10, Array.from({ length: 4 }, (_, position) => ({ position, route: route(0) })));
    const later = readTrace(samples.file(), "samples");
    expect(Array.from({ length: later.length }, (_, i) => later.record(i).request)).toEqual([8, 8, ...Array<number>(8).fill(10)]);
  });

  it("of a model without experts are none", () => {
    const samples = new TraceSamples({ ...HEADER, nExperts: 0, topK: 0, moeLayers: [] }, 1, new SeededRandom(1), { traceBytes: 100 });
    samples.add(0, []);
    expect(readTrace(samples.file(), "samples").length).toBe(0);
  });
});

describe("TRACE_SHARE", () => {
  it.each([[undefined, 0], ["0", 0], ["0.01", 0.01], ["1", 1]])("%j", (text, share) => expect(traceShare(text === undefined ? {} : { TRACE_SHARE: text })).toBe(share));
  it.each(["", " ", "-0.1", "1.5", "often", "NaN"])("refuses %j", (text) => expect(() => traceShare({ TRACE_SHARE: text })).toThrow(`The variable TRACE_SHARE is "${text}"`));
});
