// The arithmetic of the benchmarks: medians, targets, what streams amount to, what a breakdown counts. Nothing is timed here.

import { describe, expect, it } from "vitest";
import { timedKernels } from "../../../bench/breakdown.ts";
import { speedOf } from "../../../bench/http-client.ts";
import { measure } from "../../../bench/kernel-measure.ts";
import { tableText, target } from "../../../bench/report.ts";
import { median, percentile, rounded } from "../../../bench/statistics.ts";
import { streamsReport } from "../../../bench/serve.ts";
import type { Kernels } from "../../../model/kernels.ts";

describe("figures", () => {
  it("take the middle, and the mean of two middles", () => {
    expect(median([3, 1, 2])).toBe(2);
    expect(median([4, 1, 2, 3])).toBe(2.5);
    expect(() => median([])).toThrow(/no values/);
  });

  it("take percentiles by nearest rank", () => {
    const values = Array.from({ length: 100 }, (_, i) => 100 - i);
    expect([percentile(values, 0.5), percentile(values, 0.99), percentile(values, 1), percentile([7], 0.01)]).toEqual([50, 99, 100, 7]);
  });

  it("keep three digits", () => {
    expect([rounded(123456), rounded(0.0012345), rounded(0)]).toEqual([123000, 0.00123, 0]);
  });

  it("meet a bar from the right side", () => {
    expect([target(8, 8, 12).reached, target(12, 8, 12).reached, target(7.9, 8, 12).reached]).toEqual(["bar", "stretch", "neither"]);
    expect([target(1.2, 1.2, 1.1).reached, target(1.1, 1.2, 1.1).reached, target(1.21, 1.2, 1.1).reached]).toEqual(["bar", "stretch", "neither"]);
    expect([target(1, 2, 3).wanted, target(1, 3, 2).wanted]).toEqual(["at least", "at most"]);
  });

  it("align a table", () => {
    expect(tableText([["", "a"], ["long", 1]])).toBe("      a\nlong  1");
  });
});

describe("speeds", () => {
  it("count the prompt until the first token and the others from there", () => {
    expect(speedOf({ promptTokens: 100, tokenMs: [500, 600, 700], text: "" })).toEqual({ promptTokensPerSecond: 200, tokensPerSecond: 10 });
  });

  it("take the decoding speed of streams from the time in which all of them decode", () => {
    const report = streamsReport([
      { promptTokens: 8, tokenMs: [100, 200, 300, 400], text: "" },
      { promptTokens: 8, tokenMs: [150, 250, 350, 450], text: "" },
    ], 1e9);
    // From 150 to 400 ms: 200, 300, 400 of the first, 250, 350 of the second.
    expect(report.decode).toEqual({ tokensPerSecond: 20, gops: 20 });
    expect(report.tokensPerSecond).toBe(rounded(8000 / 450));
    expect(report.interTokenMs).toEqual({ p50: 100, p99: 100 });
    expect(report.firstTokenMs).toEqual({ p50: 100, p99: 150 });
  });

  it("give no decoding speed where one stream ends before another begins", () => {
    expect(streamsReport([{ promptTokens: 1, tokenMs: [1, 2], text: "" }, { promptTokens: 1, tokenMs: [3, 4], text: "" }], 1).decode).toBeNull();
  });

  it("divide by the median of interleaved samples, synchronous or not", async () => {
    let nowMs = 0;
    const work = (name: string, ms: number, pending: boolean) => ({ name, bytes: 4e6, operations: 2e6, run: () => { nowMs += ms; return pending ? Promise.resolve() : undefined; } });
    const measured = await measure([work("a", 2, false), work("b", 4, true)], { nowMs: () => nowMs, sampleMs: 10, rounds: 3 });
    expect(measured).toEqual([{ name: "a", gigabytesPerSecond: 2, gigaOperationsPerSecond: 1 }, { name: "b", gigabytesPerSecond: 1, gigaOperationsPerSecond: 0.5 }]);
  });
});

describe("the breakdown", () => {
  it("passes arguments through and counts calls under the part they serve", () => {
    const seen: number[][] = [];
    const record = (...args: number[]): void => void seen.push(args);
    const fake = { name: "fake", memory: null, matmul: record, expertFfn: record, addRows: record } as unknown as Kernels;
    const timed = timedKernels({ vocabSize: 99, nExperts: 8 });
    const kernels = timed.wrap(fake);
    kernels.matmul(4, 0, 99, 32, 0, 1, 0, 0, 0);
    kernels.matmul(0, 0, 8, 32, 0, 1, 0, 0, 0);
    kernels.matmul(4, 0, 32, 32, 0, 1, 0, 0, 0);
    kernels.matmul(4, 0, 32, 32, 0, 2, 0, 0, 0);
    kernels.addRows(1, 2, 3, 4, 5, 6);
    expect(kernels.name).toBe("fake");
    expect(seen.at(-1)).toEqual([1, 2, 3, 4, 5, 6]);
    const taken = timed.take(1000);
    expect(Object.fromEntries(Object.entries(taken).map(([part, { calls }]) => [part, calls]))).toEqual({ "head": 1, "router product": 1, "trunk products": 2, "addRows": 1, "rest": 1 });
    expect(Object.values(taken).reduce((sum, { ms }) => sum + ms, 0)).toBeCloseTo(1000, 6);
    expect(Object.keys(timed.take(0))).toEqual(["rest"]);
  });
});
