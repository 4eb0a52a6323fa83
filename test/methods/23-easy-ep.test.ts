// Row 23, EASY-EP (2025): pruning for a domain. The score by hand and by brute force; what stays computes what it computed; the rest of the model is as it was; experts masked by a request are gone as those taken out; and of the demo
// model, half of the experts for one domain.

import { beforeAll, describe, expect, it } from "vitest";
import { buildKernels } from "../../cli/build-kernels.mjs";
import { kernelModules } from "../../cli/open-pack.ts";
import { openModelFolder } from "../../formats/canonical-model.ts";
import type { Checkpoint } from "../../formats/checkpoint.ts";
import { MemorySink, MemorySource } from "../../formats/memory-source.ts";
import { openPack } from "../../formats/pack-reader.ts";
import type { TraceRecord } from "../../formats/trace.ts";
import { moeLayersOf } from "../../model/config.ts";
import { type Intervention, interventionsProblem } from "../../model/interventions.ts";
import { wholeModel } from "../../model/stage-span.ts";
import { traceLayers } from "../../passes/calibration-trace.ts";
import { bestExperts, expertScores, mixedScores } from "../../passes/expert-scores.ts";
import { pruneModel, type PruneOptions, type PruneReport } from "../../passes/prune-model.ts";
import { demoWindows, missingTexts, openDemo } from "../support/demo-texts.ts";
import { meanNll } from "../support/mean-nll.ts";
import { openTinyHuggingFace, packToMemory } from "../support/pack-to-memory.ts";
import { openStage } from "../support/ring.ts";
import { TINY_ARCHITECTURES, tinyModel } from "../support/tiny-models.ts";

beforeAll(() => buildKernels({ log: () => {} }));

const SEQUENCES = Array.from({ length: 6 }, (_, s) => Array.from({ length: 17 + s }, (_, i) => (i * 31 + s * 7 + 3) % 97));

async function pruned(checkpoint: Checkpoint, options: Partial<PruneOptions> & Pick<PruneOptions, "keep">): Promise<{ model: Checkpoint; report: PruneReport }> {
  const sink = new MemorySink();
  const report = await pruneModel(checkpoint, sink, kernelModules(), { score: "easy-ep", seed: 1, domains: [SEQUENCES], ...options });
  return { report, model: await openModelFolder(new MemorySource(sink.files), "pruned") };
}

describe("the score", () => {
  const record = (ids: number[], weights: number[], norms: number[], cosine: number): TraceRecord => ({ request: 0, token: 0, layer: 0, ids, weights, norms, cosine: [cosine] });

  it("by hand", () => {
    // Token 1 turned by 0.2: 0.75 * 4 * 0.2 and 0.25 * 2 * 0.2; token 2 not turned but stretched: nothing; token 3 turned round: 1 * 1 * 2.
    const records = [record([2, 0], [0.75, 0.25], [4, 2], 0.8), record([1, 2], [0.5, 0.5], [9, 9], 1), record([0, 1], [1, 0], [1, 5], -1)];
    expect([...expertScores("easy-ep", 0, records, 4, 1)].map((x) => Math.round(1e9 * x) / 1e9)).toEqual([2.1, 0, 0.6, 0]);
    expect([...expertScores("frequency", 0, records, 4, 1)]).toEqual([2, 2, 2, 0]);
    expect(expertScores("random", 0, records, 4, 1)).toEqual(expertScores("random", 0, [], 4, 1));
    expect(expertScores("random", 0, records, 4, 1)).not.toEqual(expertScores("random", 0, records, 4, 2));
  });

  it("mixes domains by shares, and takes as many of every group", () => {
    expect([...mixedScores([Float64Array.of(1, 3, 0, 0), Float64Array.of(0, 0, 100, 100)])]).toEqual([0.25, 0.75, 0.5, 0.5]);
    expect(bestExperts(Float64Array.of(5, 4, 3, 2, 1, 0), 2)).toEqual([0, 1]);
    expect(bestExperts(Float64Array.of(5, 4, 3, 2, 1, 0), 2, 2)).toEqual([0, 3]);
    expect(bestExperts(Float64Array.of(1, 1, 1), 2)).toEqual([0, 1]);
  });
});

describe.each(TINY_ARCHITECTURES.filter((name) => moeLayersOf(tinyModel(name, 1).config).length > 0))("%s", (architecture) => {
  it("keeps the best of every layer, as they were, and runs", async () => {
    const checkpoint = await openTinyHuggingFace(tinyModel(architecture, 14, architecture.startsWith("deepseek") ? { config: { n_routed_experts: 16 } } : {}));
    const { nExperts, router } = checkpoint.config;
    const keep = nExperts / 2;
    const { model, report } = await pruned(checkpoint, { keep });
    expect(model.config).toEqual({ ...checkpoint.config, nExperts: keep });
    // By brute force over the same texts.
    const traced: TraceRecord[][] = [];
    for await (const { records } of traceLayers(checkpoint, SEQUENCES, kernelModules(), ["ids", "weights", "norms", "cosine"])) traced.push([...records]);
    for (const [i, { layer, kept, scores }] of report.layers.entries()) {
      expect(traced[i]!.length).toBe(report.calibrationTokens);
      for (let expert = 0; expert < nExperts; expert++) {
        const own = traced[i]!.reduce((sum, { ids, weights, norms, cosine }) => sum + Array.from(ids).reduce((of, id, rank) => of + (id === expert ? weights[rank]! * norms![rank]! * Math.max(0, 1 - cosine![0]!) : 0), 0), 0);
        const all = traced[i]!.reduce((sum, { weights, norms, cosine }) => sum + Array.from(weights).reduce((of, weight, rank) => of + weight * norms![rank]! * Math.max(0, 1 - cosine![0]!), 0), 0);
        expect(scores[expert]).toBeCloseTo(own / all, 9);
      }
      const worstKept = Math.min(...kept.map((e) => scores[e]!));
      if (router.nGroups === 1) for (let e = 0; e < nExperts; e++) if (!kept.includes(e)) expect(scores[e]).toBeLessThanOrEqual(worstKept);
      for (const [to, from] of kept.entries()) {
        for (const matrix of ["gate", "up", "down"]) expect(await model.readF32(`layers.${layer}.experts.${to}.${matrix}`)).toEqual(await checkpoint.readF32(`layers.${layer}.experts.${from}.${matrix}`));
      }
      const rows = await checkpoint.readF32(`layers.${layer}.router`);
      const { nCols } = checkpoint.place(`layers.${layer}.router`);
      expect([...await model.readF32(`layers.${layer}.router`)]).toEqual(kept.flatMap((e) => [...rows.subarray(e * nCols, (e + 1) * nCols)]));
    }
    for (const { name } of model.places()) if (!/experts\.|\.router|Bias$/.test(name)) expect(await model.readF32(name)).toEqual(await checkpoint.readF32(name));
    expect((await packToMemory(model)).summary.manifest.config.nExperts).toBe(keep);
    // Where all stay, everything does.
    const whole = await pruned(checkpoint, { keep: nExperts });
    expect((await packToMemory(whole.model)).summary.manifest.experts).toEqual((await packToMemory(checkpoint)).summary.manifest.experts);
  });
});

it.each(TINY_ARCHITECTURES.filter((name) => moeLayersOf(tinyModel(name, 1).config).length > 0))("masked by a request is taken out, bit for bit: %s", async (architecture) => {
  const checkpoint = await openTinyHuggingFace(tinyModel(architecture, 14, architecture.startsWith("deepseek") ? { config: { n_routed_experts: 16 } } : {}));
  const { nExperts } = checkpoint.config;
  const { model, report } = await pruned(checkpoint, { keep: nExperts / 2 });
  const logitsOf = async (of: Checkpoint, interventions: readonly Intervention[]): Promise<Float32Array[]> => {
    const { source } = await packToMemory(of);
    const { manifest } = await openPack(source);
    expect(interventionsProblem(manifest.config, interventions)).toBeNull();
    const { engine } = await openStage(source, manifest, wholeModel(manifest.config), 64);
    return Promise.all(SEQUENCES.slice(0, 1).map(async (ids) => (await engine.step([{ timeline: engine.kv.open(40), ids, logits: "all", routing: { interventions } }])).logits[0]!));
  };
  const mask: Intervention = { op: "mask", experts: Object.fromEntries(report.layers.map(({ layer, kept }) => [layer, Array.from({ length: nExperts }, (_, e) => e).filter((e) => !kept.includes(e))])) };
  const expected = await logitsOf(model, []);
  expect(await logitsOf(checkpoint, [mask])).toEqual(expected);
  expect(await logitsOf(checkpoint, [])).not.toEqual(expected);
});

it("refuses to keep fewer than a token takes, more than there are, uneven groups, and dense models", async () => {
  const refusal = async (architecture: (typeof TINY_ARCHITECTURES)[number], keep: number): Promise<unknown> => pruned(await openTinyHuggingFace(tinyModel(architecture, 1)), { keep }).catch((error: Error) => error.message);
  expect(await refusal("qwen3_moe", 1)).toBe("1 experts per layer were to stay; expected 2, which a token takes, to 8.");
  expect(await refusal("qwen3_moe", 9)).toBe("9 experts per layer were to stay; expected 2, which a token takes, to 8.");
  expect(await refusal("deepseek_v3", 6)).toBe("6 experts per layer were to stay; expected 3, which a token takes, to 8, a multiple of its 4 groups.".replace("3,", `${tinyModel("deepseek_v3", 1).config.router.topK},`));
  expect(await refusal("llama", 4)).toMatch(/is a dense model: it has no experts to take out\.$/);
});

describe.skipIf(missingTexts !== null)(`on the demo model${missingTexts === null ? "" : ` (${missingTexts})`}`, () => {
  it.each(["drama", "code"] as const)("half of the experts, chosen for one domain, lose less there than those it asks most, and far less than any: %s", async (domain) => {
    const demo = await openDemo();
    const [calibration, judged] = [{ first: 0, count: 12, length: 256 }, { first: 60_000, count: 10, length: 128 }].map((of) => demoWindows(demo, domain, { ...of, every: 2500 })) as [number[][], number[][]];
    const lossWith = async (score: PruneOptions["score"], seed = 1): Promise<number> => meanNll((await pruned(demo, { keep: 16, domains: [calibration], score, seed })).model, judged);
    const before = await meanNll(demo, judged);
    const [own, frequency, drawn] = [await lossWith("easy-ep"), await lossWith("frequency"), await lossWith("random")];
    // Measured: docs/compression.md.
    expect(own).toBeLessThan(frequency);
    expect(own - before).toBeLessThan(0.25 * (drawn - before));
  }, 300_000);
});
