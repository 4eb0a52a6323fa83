// Timelines that take over what earlier ones evaluated: the same logits as cold, bit for bit; nothing kept is written; memory comes back and gives way.

import { describe, expect, it } from "vitest";
import type { ModelConfig } from "../../../model/config.ts";
import type { Engine } from "../../../model/engine.ts";
import { CapacityError } from "../../../model/heap.ts";
import { KV_BLOCK, type KvFormat } from "../../../model/kernels.ts";
import type { SharedTokens } from "../../../model/kv-cache.ts";
import { plainInverseFrequencies } from "../../../model/rope.ts";
import { createScalarKernels } from "../../../model/scalar-kernels.ts";
import { directEngine } from "../../support/direct-engine.ts";
import { seededConfig as base, seededWeights } from "../../support/seeded-model.ts";

const MLA: Partial<ModelConfig> = {
  nKvHeads: 1, headDim: 20, mla: { qLoraRank: null, kvLoraRank: 16, nopeHeadDim: 8, ropeHeadDim: 4, valueHeadDim: 12, normEps: 1e-6 }, attentionScale: 12 ** -0.5,
  rope: { ...base.rope, style: "interleaved", dim: 4, inverseFrequencies: plainInverseFrequencies(4, 10000) },
};
const IDS = Array.from({ length: 3 * KV_BLOCK + 11 }, (_, i) => (i * i * 7 + 3 * i + 11) % 61);
const CONTEXT = 160;

const build = (over: Partial<ModelConfig> = {}, kvFormat: KvFormat = "f16") => {
  const config = { ...base, ...over };
  return directEngine(config, seededWeights(config, 5), 65536, { kernels: createScalarKernels(new WebAssembly.Memory({ initial: 4 })), contextLength: CONTEXT, kvFormat, maxChunkTokens: 48 });
};
const shared = (ids: readonly number[], scope = "k"): SharedTokens => ({ scope, ids });

/** Logits of every position that is evaluated now, and how many were not; what is evaluated is kept. */
async function run(engine: Engine, ids: readonly number[], { scope = "k", chunk = 48 }: { scope?: string; chunk?: number } = {}): Promise<{ reused: number; logits: Uint32Array }> {
  const timeline = engine.kv.open(ids.length + 3, shared(ids, scope));
  const reused = timeline.length;
  const out: number[] = [];
  for (let at = reused; at < ids.length; at += chunk) {
    const { logits } = await engine.step([{ timeline, ids: ids.slice(at, at + chunk), logits: "all" }]);
    out.push(...new Uint32Array(logits[0]!.buffer, logits[0]!.byteOffset, logits[0]!.length));
  }
  engine.kv.keep(timeline, shared(ids, scope));
  engine.kv.close(timeline);
  return { reused, logits: Uint32Array.from(out) };
}

describe.each([["heads of their own", {}], ["a window", { slidingWindows: [5, 0] }], ["latent attention", MLA]] satisfies [string, Partial<ModelConfig>][])("%s", (_, over) => {
  it.each(["f32", "f16", "q8"] as const)("%s: a sequence that begins like an earlier one gives the bits of a cold one", async (kvFormat) => {
    const cold = (await run(build(over, kvFormat).engine, IDS)).logits;
    const { engine } = build(over, kvFormat);
    const vocab = engine.config.vocabSize;
    for (const known of [1, 7, KV_BLOCK, KV_BLOCK + 1, 2 * KV_BLOCK + 30]) await run(engine, [...IDS.slice(0, known), 60 - IDS[known]!, 3, 4], { chunk: 11 });
    for (const [n, reused] of [[5, 4], [KV_BLOCK, KV_BLOCK - 1], [KV_BLOCK + 9, KV_BLOCK + 8], [IDS.length, 2 * KV_BLOCK + 30]] as const) {
      const found = await run(engine, IDS.slice(0, n), { chunk: 5 });
      expect(found.reused).toBe(reused);
      expect(found.logits).toEqual(cold.subarray(reused * vocab, n * vocab));
    }
    // All but the last token is known now.
    expect((await run(engine, IDS)).reused).toBe(IDS.length - 1);
  });
});

describe("kept pages", () => {
  it("are shared by sequences that run at the same time, and no one's writing reaches another", async () => {
    const cold = (await run(build().engine, IDS)).logits;
    const { engine } = build();
    const vocab = engine.config.vocabSize;
    await run(engine, IDS.slice(0, 50));
    const endings = [IDS.slice(50, 60), [1, 2, 3, 4], [9, 8, 7]];
    const expected = await Promise.all(endings.map(async (ending) => (await run(build().engine, [...IDS.slice(0, 50), ...ending])).logits));
    const open = endings.map((ending) => ({ ending, timeline: engine.kv.open(80, shared([...IDS.slice(0, 50), ...ending])) }));
    expect(new Set(open.map(({ timeline }) => timeline.pages[0])).size).toBe(1);
    expect(new Set(open.map(({ timeline }) => timeline.pages[1])).size).toBe(3);
    const found: number[][] = [[], [], []];
    for (let i = 0; i < 10; i++) {
      const going = open.filter(({ ending }) => i < ending.length);
      const { logits } = await engine.step(going.map(({ timeline, ending }) => ({ timeline, ids: [ending[i]!], logits: "all" as const })));
      going.forEach((one, g) => found[open.indexOf(one)]!.push(...new Uint32Array(logits[g]!.buffer, logits[g]!.byteOffset, vocab)));
    }
    found.forEach((bits, i) => expect(Uint32Array.from(bits)).toEqual(expected[i]!.subarray(50 * vocab)));
    expect(Uint32Array.from(found[0]!)).toEqual(cold.subarray(50 * vocab, 60 * vocab));
  });

  it("of another key, or of other rotary frequencies, are not taken over", async () => {
    const { engine } = build();
    await run(engine, IDS, { scope: "a" });
    expect((await run(engine, IDS, { scope: "b" })).reused).toBe(0);
    expect((await run(engine, IDS, { scope: "a" })).reused).toBe(IDS.length - 1);
    const long = build({ rope: { ...base.rope, long: { fromPositions: 60, inverseFrequencies: base.rope.inverseFrequencies.map((f) => f / 3), magnitude: 1.2 } } }).engine;
    const reserve = (nTokens: number): number => {
      const timeline = long.kv.open(nTokens, shared(IDS.slice(0, 40)));
      long.kv.close(timeline);
      return timeline.length;
    };
    await run(long, IDS.slice(0, 40)); // reserves 43: short frequencies
    expect([reserve(60), reserve(61)]).toEqual([39, 0]);
  });

  it("give way to sequences that need memory, the least recently used first, and all memory comes back", async () => {
    const { engine, heap } = build();
    const before = heap.usedBytes;
    await run(engine, IDS.slice(0, 40));
    await run(engine, [...IDS.slice(0, 30), ...IDS.slice(50, 90)], { scope: "other" });
    expect(engine.kv.keptPages).toBe(2 + 3);
    const ballast = heap.alloc(heap.limitBytes - heap.usedBytes - 2 * engine.kv.pageBytes - 4096, "ballast");
    expect((await run(engine, IDS.slice(0, 40))).reused).toBe(39); // one new page for the copy, and its table
    const timeline = engine.kv.open(4 * KV_BLOCK);
    expect(engine.kv.keptPages).toBeLessThan(5);
    expect(() => engine.kv.open(CONTEXT)).toThrow(CapacityError);
    expect(engine.kv.keptPages).toBe(0);
    engine.kv.close(timeline);
    heap.free(ballast);
    expect(heap.usedBytes).toBe(before);
  });

  it("are those of evaluated tokens: guesses that were taken back, and a closed timeline's, are not", async () => {
    const { engine } = build();
    const timeline = engine.kv.open(40, null);
    await engine.step([{ timeline, ids: IDS.slice(0, 20), logits: "none" }]);
    engine.kv.keep(timeline, shared(IDS.slice(0, 17))); // three of them were guesses
    timeline.length = 17;
    engine.kv.close(timeline);
    engine.kv.keep(timeline, shared(IDS.slice(0, 20)));
    const next = engine.kv.open(40, shared(IDS));
    expect(next.length).toBe(17);
  });
});
