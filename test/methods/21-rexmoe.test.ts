// Row 21, ReXMoE (2025): layers that follow one another share a pool of experts; each has a router over all of them. A pool in which every layer keeps to its own experts
// is the model without one, bit for bit; in a pack, in memory and on a shard an expert is there once.

import { describe, expect, it } from "vitest";
import { openPack } from "../../formats/pack-reader.ts";
import { expertTable, makePlan } from "../../fleet/plan.ts";
import { freezeConfig } from "../../model/architectures/common.ts";
import type { ModelConfig } from "../../model/config.ts";
import { forwardDefinition, type DefinitionMatrix } from "../../model/definition.ts";
import { createScalarKernels } from "../../model/scalar-kernels.ts";
import type { Tap } from "../../model/taps.ts";
import { RESERVED_BYTES } from "../../model/wasm-kernels.ts";
import { MemorySink } from "../../formats/memory-source.ts";
import { pruneModel } from "../../passes/prune-model.ts";
import { directEngine, logitsOf, type PlainWeights } from "../support/direct-engine.ts";
import { packToMemory } from "../support/pack-to-memory.ts";
import { plainCheckpoint } from "../support/plain-checkpoint.ts";
import { seededConfig, seededWeights } from "../support/seeded-model.ts";

const IDS = [3, 17, 60, 4, 4, 29, 8, 55, 31, 12, 0, 41, 7];
const four = { nLayers: 4, layerFfns: ["moe", "moe", "moe", "moe"], slidingWindows: [0, 0, 0, 0] } as const;
const plain: ModelConfig = { ...seededConfig, ...four, nExperts: 6, router: { ...seededConfig.router, logitBias: true } };
const pooled: ModelConfig = { ...plain, nExperts: 12, expertPool: { layers: 2 } };
const engineOf = (config: ModelConfig, weights: PlainWeights) =>
  directEngine(config, weights, RESERVED_BYTES, { kernels: createScalarKernels(new WebAssembly.Memory({ initial: 16 })), contextLength: 64 }).engine;

/** The plain model as a pool of two layers whose routers never look at each other's experts. */
function asPool(own: PlainWeights): PlainWeights {
  return (name): DefinitionMatrix => {
    const [, layer, expert, rest] = /^layers\.(\d+)\.experts\.(\d+)\.(.+)$/.exec(name) ?? [];
    if (layer !== undefined) return own(`layers.${Number(layer) + Math.floor(Number(expert) / 6)}.experts.${Number(expert) % 6}.${rest}`);
    const [, of, part] = /^layers\.(\d+)\.(router|routerBias)$/.exec(name) ?? [];
    if (of === undefined) return own(name);
    const values = Array.from(own(name).values);
    const none = new Array<number>(values.length).fill(part === "router" ? 0 : -1e30);
    return { rows: part === "router" ? 12 : 1, cols: part === "router" ? plain.hiddenSize : 12, values: Float32Array.from(Number(of) % 2 === 0 ? [...values, ...none] : [...none, ...values]) };
  };
}

it("a pool whose layers keep to their own experts is the model without one, bit for bit", async () => {
  const own = seededWeights(plain, 11);
  expect(await logitsOf(engineOf(pooled, asPool(own)), IDS, [5, 3])).toEqual(await logitsOf(engineOf(plain, own), IDS, [5, 3]));
});

it("layers reach their neighbours' experts, as the definition says", async () => {
  const weights = seededWeights(pooled, 11);
  const used = new Map<number, Set<number>>();
  const tap: Tap = { at: "selection", run: ({ layer, ids }) => { used.set(layer, new Set([...(used.get(layer) ?? []), ...ids])); } };
  const engine = engineOf(pooled, weights);
  const { logits: [logits] } = await engine.step([{ timeline: engine.kv.open(IDS.length), ids: IDS, logits: "all" }], [tap]);
  const expected = forwardDefinition(pooled, weights, IDS).logits.flat();
  const scale = Math.max(...expected.map(Math.abs));
  expected.forEach((value, i) => expect(Math.abs(logits![i]! - value) / scale).toBeLessThan(2e-5));
  for (const own of used.values()) expect([...own].some((id) => id < 6) && [...own].some((id) => id >= 6)).toBe(true);
});

describe("an expert is there once", async () => {
  const { source, files } = await packToMemory(plainCheckpoint(pooled, seededWeights(pooled, 11)), { quant: "q8" });
  const { manifest } = await openPack(source);
  const bytes = (of: typeof manifest.experts): number => of.reduce((sum, { segments }) => sum + segments.reduce((n, segment) => n + segment.bytes, 0), 0);

  it("in the pack: both layers' tables name the same bytes", () => {
    const stored = new Map(manifest.experts.flatMap(({ segments }) => segments.flatMap(({ extents }) => extents.map(([part, offset, size]) => [`${part} ${offset}`, size] as const))));
    expect([...stored.values()].reduce((a, b) => a + b, 0)).toBe(bytes(manifest.experts) / 2);
    expect(manifest.experts.length).toBe(48);
    const hashOf = (layer: number, expert: number) => manifest.experts.find((e) => e.layer === layer && e.expert === expert)!.segments[0]!.hash;
    expect(hashOf(1, 7)).toBe(hashOf(0, 7));
    expect(hashOf(2, 7)).not.toBe(hashOf(0, 7));
    expect([...files.values()].reduce((sum, file) => sum + file.length, 0)).toBeLessThan(bytes(manifest.experts));
  });

  it("on one shard: a plan puts a group's experts together, and counts their bytes once", () => {
    // Five shards do not divide twelve experts: each layer for itself would begin where there is most room.
    const plan = makePlan(expertTable(manifest), 5);
    for (let expert = 0; expert < 12; expert++) {
      expect(plan.shardOf(1, expert, 0)).toBe(plan.shardOf(0, expert, 0));
      expect(plan.shardOf(3, expert, 0)).toBe(plan.shardOf(2, expert, 0));
    }
    expect(plan.shardBytes.reduce((a, b) => a + b, 0)).toBe(bytes(manifest.experts) / 2);
    expect(Math.max(...plan.shardBytes) / Math.min(...plan.shardBytes)).toBeLessThan(1.3);
  });
});

it("a pool of one layer, or one that does not divide the layers, is no pool; passes that work layer by layer say so", async () => {
  for (const layers of [1, 3]) expect(() => freezeConfig("a config", { ...pooled, expertPool: { layers } })).toThrow("pools of experts");
  const checkpoint = plainCheckpoint(pooled, seededWeights(pooled, 11));
  await expect(pruneModel(checkpoint, new MemorySink(), {} as never, {} as never)).rejects.toThrow("share a pool");
});
