// Frames, hops, bytes, speed and dollars: hand-computed cases, and the expected values against drawing experts many times.

import { describe, expect, it, test } from "vitest";
import { FRAME_SIZES } from "../../../cli/plan-document.ts";
import { requestLayout, replyFrameBytes } from "../../../durable/protocol.ts";
import { stepSpeed, throughput } from "../../../fleet/capacity-speed.ts";
import { busiestExperts, hypergeometricAtMost, missChance } from "../../../fleet/even-draws.ts";
import { makePlan, type PlannedExpert, slicedExperts } from "../../../fleet/plan.ts";
import { dollarsPerIdleMonth, dollarsPerMillionTokens } from "../../../fleet/prices.ts";
import { evenTraffic, messageLoad, ringTraffic, type StepTraffic } from "../../../fleet/traffic.ts";
import { uniform } from "../../../model/random.ts";

const config = { hiddenSize: 64, nExperts: 8, layerFfns: ["moe", "moe"] as const, router: { topK: 2 } };
const table = (nSegments: number): PlannedExpert[] => [0, 1].flatMap((layer) => Array.from({ length: 8 }, (_, expert) => ({ layer, expert, segmentBytes: new Array<number>(nSegments).fill(100) })));

test("a frame's header, groups and tokens have the sizes of the wire", () => {
  const shape = { nRows: 3, hidden: 64, input: 64, activations: "f32" } as const;
  const bytes = (nGroups: number, nTokens: number): number => requestLayout({ ...shape, nGroups, nTokens }).frameBytes;
  expect(requestLayout({ ...shape, nRows: 0, nGroups: 0, nTokens: 0 }).frameBytes).toBe(FRAME_SIZES.headerBytes);
  expect(bytes(18, 8) - bytes(16, 8)).toBe(2 * FRAME_SIZES.groupBytes);
  expect(bytes(16, 16) - bytes(16, 8)).toBe(8 * FRAME_SIZES.tokenBytes);
  expect(replyFrameBytes(0, 64)).toBe(FRAME_SIZES.headerBytes);
});

describe("frames to shards", () => {
  it("one shard gets one frame a layer, whatever the step", () => {
    for (const tokens of [1, 7]) {
      const layers = evenTraffic({ config, activations: "f32", segmentsPerExpert: 1 }, makePlan(table(1), 1), tokens, FRAME_SIZES);
      expect(layers.map(({ frames }) => frames)).toEqual([1, 1]);
    }
    // Header both ways, one row of 64 f32, two groups, two tokens, two rows of the reply.
    const [layer] = evenTraffic({ config, activations: "f32", segmentsPerExpert: 1 }, makePlan(table(1), 1), 1, FRAME_SIZES);
    expect(layer!.bytes).toBeCloseTo(2 * 64 + 256 + 2 * 8 + 2 * 2 + 2 * 256, 9);
  });

  it("an expert a shard: one token sends topK frames", () => {
    const [layer] = evenTraffic({ config, activations: "f32", segmentsPerExpert: 1 }, makePlan(table(1), 8), 1, FRAME_SIZES);
    expect(layer!.frames).toBeCloseTo(2, 12);
    expect(layer!.bytes).toBeCloseTo(2 * (2 * 64 + 256 + 8 + 2 + 256), 9);
  });

  it("two shards of four experts: both get one unless both experts lie on the same", () => {
    // Both on one: 4/8 x 3/7 for each of the two.
    const [layer] = evenTraffic({ config, activations: "f32", segmentsPerExpert: 1 }, makePlan(table(1), 2), 1, FRAME_SIZES);
    expect(layer!.frames).toBeCloseTo(2 - 2 * (4 / 8) * (3 / 7), 12);
    const [two] = evenTraffic({ config, activations: "f32", segmentsPerExpert: 1 }, makePlan(table(1), 2), 2, FRAME_SIZES);
    expect(two!.frames).toBeCloseTo(2 - 2 * ((4 / 8) * (3 / 7)) ** 2, 12);
  });

  it("a sliced expert asks every shard that holds a part of it", () => {
    const [layer] = evenTraffic({ config, activations: "f32", segmentsPerExpert: 4 }, makePlan(table(4), 4, slicedExperts), 1, FRAME_SIZES);
    expect(layer!.frames).toBe(4);
    // A quarter of two experts on each.
    for (const [read, products] of Array.from(layer!.expertsRead, (n, shard) => [n, layer!.expertTokens[shard]!] as const)) expect([read, products]).toEqual([0.5, 0.5]);
    expect(layer!.busiestExperts).toBeCloseTo(0.5, 12);
    expect(layer!.bytes).toBeCloseTo(4 * (2 * 64 + 256) + 8 * (8 + 2 + 256), 9);
  });

  it("agrees with drawing", () => {
    const [plan, tokens, rounds] = [makePlan(table(1), 3), 3, 20_000];
    let [frames, groups, rows, most] = [0, 0, 0, 0];
    for (let round = 0; round < rounds; round++) {
      const touched = new Set<number>();
      const chosen = new Set<number>();
      for (let t = 0; t < tokens; t++) {
        const first = Math.floor(uniform(5, round, t, 0) * 8);
        const second = (first + 1 + Math.floor(uniform(5, round, t, 1) * 7)) % 8;
        const shards = [first, second].map((expert) => plan.shardOf(0, expert, 0));
        for (const shard of shards) touched.add(shard);
        chosen.add(first).add(second);
        rows += new Set(shards).size;
        if (t === 0) most += shards[0] === shards[1] ? 2 : 1;
      }
      frames += touched.size;
      groups += chosen.size;
    }
    const [layer] = evenTraffic({ config, activations: "f32", segmentsPerExpert: 1 }, plan, tokens, FRAME_SIZES);
    expect(layer!.frames).toBeCloseTo(frames / rounds, 1);
    expect(layer!.bytes / ((frames / rounds) * 128 + (rows / rounds) * 256 + (groups / rounds) * 8 + tokens * 2 * 258)).toBeCloseTo(1, 2);
    // Shards are taken as apart from each other: near, not equal.
    expect(Math.abs(layer!.busiestExperts - most / rounds)).toBeLessThan(0.1);
    expect(layer!.expertsRead.reduce((a, b) => a + b)).toBeCloseTo(groups / rounds, 1);
    expect(layer!.expertTokens.reduce((a, b) => a + b)).toBeCloseTo(tokens * 2, 9);
  });
});

test("chances of hypergeometric draws", () => {
  expect(missChance(8, 2, 4)).toBeCloseTo((4 / 8) * (3 / 7), 12);
  expect(missChance(8, 2, 7)).toBe(0);
  expect(hypergeometricAtMost(8, 2, 4, 0)).toBeCloseTo((4 / 8) * (3 / 7), 12);
  expect(hypergeometricAtMost(8, 2, 4, 1)).toBeCloseTo(1 - (4 / 8) * (3 / 7), 12);
  // Of four drawn from five at least two are among three: two with chance 3/5 (the one left out is one of the three).
  expect(hypergeometricAtMost(5, 4, 3, 1)).toBe(0);
  expect(hypergeometricAtMost(5, 4, 3, 2)).toBeCloseTo(3 / 5, 12);
  expect(hypergeometricAtMost(5, 4, 3, 3)).toBeCloseTo(1, 12);
});

describe("the ring", () => {
  const shape = { hiddenSize: 64, vocabSize: 1000, tieWordEmbeddings: false };
  const stage = (embedding: [number, number], layers: [number, number], head: [number, number]) => ({ embeddingRows: embedding, layers, headRows: head });

  it("of one stage sends nothing", () => {
    expect(ringTraffic(shape, [stage([0, 1000], [0, 4], [0, 1000])], { tokens: 1, outputs: 1 }, FRAME_SIZES)).toEqual({ frames: 0, hops: 0, bytes: 0, received: [0] });
  });

  it("of two sends the residual on and the logits back", () => {
    const ring = ringTraffic(shape, [stage([0, 1000], [0, 2], [0, 0]), stage([0, 0], [2, 4], [0, 1000])], { tokens: 3, outputs: 2 }, FRAME_SIZES);
    expect(ring).toEqual({ frames: 2, hops: 2, bytes: 2 * 64 + 3 * 256 + 2 * 4000, received: [1, 1] });
  });

  it("with a head over two more sends them the last rows, and a prompt's middle chunk does not", () => {
    const stages = [stage([0, 1000], [0, 2], [0, 0]), stage([0, 0], [2, 4], [0, 200]), stage([0, 0], [4, 4], [200, 1000])];
    const ring = ringTraffic(shape, stages, { tokens: 1, outputs: 1 }, FRAME_SIZES);
    expect(ring).toEqual({ frames: 4, hops: 3, bytes: 4 * 64 + 256 + 256 + 4000, received: [2, 1, 1] });
    expect(ringTraffic(shape, stages, { tokens: 8, outputs: 0 }, FRAME_SIZES)).toMatchObject({ frames: 1, hops: 1, received: [0, 1, 0] });
  });

  it("with an embedding over two asks the holder of a token's row only", () => {
    const ring = ringTraffic(shape, [stage([0, 500], [0, 0], [0, 0]), stage([500, 1000], [0, 4], [0, 1000])], { tokens: 1, outputs: 1 }, FRAME_SIZES);
    // Half of the tokens come from stage 0 to the layers, of the other half the id is sent; the logits return.
    expect(ring).toEqual({ frames: 2, hops: 3, bytes: 2 * 64 + 128 + 2 + 4000, received: [1, 1] });
  });
});

describe("messages against the guide", () => {
  const layers = [0, 1].map((layer) => ({ layer, touchChance: Float64Array.of(1, 0.5), expertsRead: Float64Array.of(2, 1), expertTokens: Float64Array.of(6, 2), busiestExperts: 2, frames: 1.5, bytes: 0 }));
  const step: StepTraffic = { tokens: 4, layers, expertFrames: 3, ringFrames: 2, ringReceived: [1, 1], hops: 6, expertBytes: 0, ringBytes: 0 };
  const of = (lanes: number) => ({ lanes, experts: { shards: [{}, {}] }, stages: [{ layers: [0, 1] }, { layers: [1, 2] }] }) as unknown as Parameters<typeof messageLoad>[0];

  it("takes the busiest stage of one lane", () => {
    expect(messageLoad(of(1), step)).toEqual({ stageMessagesPerStep: 2.5, shardMessagesPerStep: 2, guideTokensPerSecond: 1000 * 4 / 2.5 });
  });

  it("and the busiest shard of several, which all share", () => {
    expect(messageLoad(of(4), step).guideTokensPerSecond).toBe(1000 * 4 / 2);
  });
});

describe("speed", () => {
  const rates = { kernelGbPerSecond: 1, kernelGopPerSecond: 10, attentionGbPerSecond: 2, roundTripMs: 4, sendMs: 0.5 };
  const pack = { config: { ...config, tieWordEmbeddings: false }, experts: [0, 1].flatMap((layer) => Array.from({ length: 8 }, () => ({ layer, segments: [{ bytes: 1e6 }] }))) } as unknown as Parameters<typeof stepSpeed>[0];
  const of = { bytes: { trunkBytes: 9e6, ropeBytes: 1e6, embeddingBytes: 3e6 }, parameters: { trunkProducts: 1e6, ofOneExpert: 1e6 }, kvBytesPerToken: 1000, experts: {},
    stages: [{ weightBytes: 7e6, expertBytes: 1e6, layers: [0, 1] }, { weightBytes: 2e6, expertBytes: 0, layers: [1, 2] }] } as unknown as Parameters<typeof stepSpeed>[1];
  const experts = (tokens: number, held: readonly number[]) => ({
    expertsRead: Float64Array.from(held, (n) => n * (1 - (1 - 2 / 8) ** tokens)), expertTokens: Float64Array.from(held, (n) => tokens * 2 * n / 8), busiestExperts: busiestExperts(8, 2, Uint32Array.from(held)),
  });
  const step = (tokens: number, held: number[]): StepTraffic => ({
    tokens, layers: [0, 1].map((layer) => ({ layer, touchChance: new Float64Array(held.length).fill(1), ...experts(tokens, held), frames: held.length, bytes: 0 })),
    expertFrames: 2 * held.length, ringFrames: 2, ringReceived: [1, 1], hops: 6, expertBytes: 0, ringBytes: 0,
  });

  it("of one token over one shard: every byte once, in turn with its messages", () => {
    const found = stepSpeed(pack, of, step(1, [8]), 1000, rates);
    // 5 MB of trunk, 1 MB of cache at 2 GB/s, two experts of 1 MB in each of two layers; six hops of 2 ms and four frames.
    expect(found).toMatchObject({ trunkMs: 5, attentionMs: 0.5, expertsMs: 4, messagesMs: 14, stepMs: 23.5, shardComputeMs: 4 });
    // Three quarters of the trunk, and one layer's experts, round trip and frame.
    expect(found.busiestStageMs).toBeCloseTo(5.5 * 0.75 + 2 + 4 + 0.5, 12);
  });

  it("of one token whose experts lie with their layers: the same products, no round trip of theirs, and no shards to pay", () => {
    const { layers, ...rest } = step(1, [8]);
    const found = stepSpeed(pack, of, { ...rest, layers: layers.map((layer) => ({ ...layer, frames: 0 })), expertFrames: 0, hops: 2 }, 1000, rates);
    expect(found).toMatchObject({ trunkMs: 5, attentionMs: 0.5, expertsMs: 4, messagesMs: 5, stepMs: 14.5, shardComputeMs: 0 });
    expect(found.busiestStageMs).toBeCloseTo(5.5 * 0.75 + 2, 12);
  });

  it("of an expert a shard: the shards work at once, and are paid one by one", () => {
    const found = stepSpeed(pack, of, step(1, new Array<number>(8).fill(1)), 1000, rates);
    expect(found.expertsMs).toBeCloseTo(2, 12);
    expect(found.shardComputeMs).toBeCloseTo(4, 12);
  });

  it("of many tokens: operations, no longer bytes", () => {
    const found = stepSpeed(pack, of, step(100, [8]), 0, rates);
    expect(found.trunkMs).toBeCloseTo(2 * 100e6 / 10e9 * 1000, 9);
    // 100 tokens x 2 experts x 1e6 multiplies in each of two layers.
    expect(found.expertsMs).toBeCloseTo(2 * (2 * 200e6 / 10e9 * 1000), 9);
  });

  it("of a lane: its streams once a step, unless one stage takes longer", () => {
    const speed = (stepMs: number, busiestStageMs: number) => ({ stepMs, busiestStageMs }) as Parameters<typeof throughput>[1];
    expect(throughput({ lanes: 2, streamsPerLane: 4 }, speed(50, 30), speed(100, 25), 2)).toEqual({ streamTokensPerSecond: 20, regionTokensPerSecond: 2 * 40 });
    expect(throughput({ lanes: 2, streamsPerLane: 4 }, speed(50, 30), speed(100, 80), 2)).toEqual({ streamTokensPerSecond: 20, regionTokensPerSecond: 2 * 25 });
  });
});

describe("dollars", () => {
  it("of tokens", () => {
    // 20 messages are one request of $0.15 a million; a second of 0.128 GB is $1.6e-6; a request in 500 tokens.
    expect(dollarsPerMillionTokens({ messages: 20, stageSeconds: 1, shardSeconds: 0.5, workerRequests: 1 / 500 })).toEqual({
      messages: expect.closeTo(0.15, 12) as number, stages: expect.closeTo(1.6, 12) as number, shards: expect.closeTo(0.8, 12) as number, worker: expect.closeTo(0.0006, 12) as number, total: expect.closeTo(2.5506, 12) as number,
    });
  });

  it("of a month in which nobody asks", () => {
    const month = dollarsPerIdleMonth({ packBytes: 10e9, cachedBytes: 5e9, objects: 10, keepers: 2, kept: 9 });
    expect(month).toMatchObject({ store: expect.closeTo(0.15, 12) as number, cache: expect.closeTo(1, 12) as number, total: expect.closeTo(1.15, 12) as number });
    // An object awake all month: 2,592,000 s x $1.6e-6; kept warm: every 8 s an alarm, which is a request and a row, in two of them, and nine calls.
    expect(month.awake).toBeCloseTo(41.472, 9);
    expect(month.keepWarm).toBeCloseTo(0.324 * (2 * 1.15 + 9 * 0.15), 12);
  });
});
