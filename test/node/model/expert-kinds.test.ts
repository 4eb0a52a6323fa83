// Kinds of experts without a gate, end to end: a tiny canonical model to its pack, and the pack's logits against the float64 definition; the same bits from every kernel
// variant, chunk and segment; manifests, sizes and plans that agree on what an expert is.

import { beforeAll, describe, expect, it } from "vitest";
import { buildKernels } from "../../../cli/build-kernels.mjs";
import { inspect } from "../../../cli/commands/inspect.ts";
import { plannedPack } from "../../../cli/memory-table.ts";
import { evaluate, kernelModules, openPackFrom } from "../../../cli/open-pack.ts";
import { parameterCounts } from "../../../fleet/capacity-pack.ts";
import { openModelFolder } from "../../../formats/canonical-model.ts";
import { afterPass, unchanged, writeCanonical } from "../../../formats/canonical-writer.ts";
import type { Checkpoint } from "../../../formats/checkpoint.ts";
import { MemorySink, MemorySource } from "../../../formats/memory-source.ts";
import type { Quant } from "../../../formats/pack-formats.ts";
import { validateManifest } from "../../../formats/manifest.ts";
import { forwardDefinition } from "../../../model/definition.ts";
import type { KernelModules } from "../../../model/wasm-kernels.ts";
import { logitDifference } from "../../support/logit-difference.ts";
import { openTinyPlain, packToMemory, type MemoryPack } from "../../support/pack-to-memory.ts";
import { tinyModel, type TinyModel } from "../../support/tiny-models.ts";

beforeAll(() => buildKernels({ log: () => {} }));

const UNGATED = ["relu-mlp", "gelu-mlp"] as const;
const IDS = Array.from({ length: 37 }, (_, i) => (i * i * 5 + 3 * i + 7) % 97);
const VOCAB = 97;
/** Two segments of 32 and a ragged one of 12. */
const SIZES = { intermediate_size: 76 };

async function canonical(model: TinyModel): Promise<Checkpoint> {
  const plain = openTinyPlain(model);
  const sink = new MemorySink();
  await writeCanonical(sink, afterPass(plain, { pass: "drawn", options: {} }), [...plain.places()].map(({ name }) => unchanged(plain, name)));
  return openModelFolder(new MemorySource(sink.files), "canonical");
}

async function logitsOf({ source }: MemoryPack, options: { readonly modules?: KernelModules; readonly maxChunkTokens?: number } = {}): Promise<Float32Array> {
  const { engine } = await openPackFrom(source, options);
  const out = new Float32Array(IDS.length * VOCAB);
  await evaluate(engine, IDS, (position, logits) => out.set(logits, position * VOCAB));
  return out;
}
const bits = (x: Float32Array): Uint32Array => new Uint32Array(x.buffer, x.byteOffset, x.length);

describe.each(UNGATED)("%s", (expertKind) => {
  it.each([["f32", "BF16", 2e-5], ["q8", "Q8_0", 0.05], ["q4", "Q4_0", 0.05]] as const)("%s: a canonical model's pack gives the logits of the definition", async (quant: Quant, exactIn, bound) => {
    const rows: [ArrayLike<number>, ArrayLike<number>][] = [];
    for (let seed = 1; seed <= 12 && rows.length < 60; seed++) {
      // Where int8 round, every token takes all experts: no choice for them to turn over.
      const model = tinyModel("olmoe", seed, { expertKind, exactIn, config: quant === "f32" ? SIZES : { ...SIZES, num_experts_per_tok: 8 } });
      const truth = forwardDefinition(model.config, (name) => model.weights.get(name)!, IDS);
      const logits = await logitsOf(await packToMemory(await canonical(model), { quant, segmentWidth: 32 }));
      for (const t of IDS.keys()) {
        if (truth.routing.some((layer) => layer[t]!.margin < 1e-3)) break;
        rows.push([truth.logits[t]!, logits.subarray(t * VOCAB, (t + 1) * VOCAB)]);
      }
    }
    expect(rows.length).toBeGreaterThanOrEqual(40);
    const { relative } = logitDifference(rows);
    expect(relative).toBeLessThan(bound);
    if (quant !== "f32") expect(relative).toBeGreaterThan(1e-4); // int8 activations are no f32
  });

  it.each(["f32", "q8", "q4"] as const)("%s: the same bits from every variant and chunk", async (quant) => {
    const pack = await packToMemory(await canonical(tinyModel("olmoe", 5, { expertKind, config: SIZES })), { quant, segmentWidth: 32 });
    const { simd128, relaxedI32, relaxedI16 } = kernelModules();
    const first = bits(await logitsOf(pack));
    for (const modules of [{ simd128 }, { simd128, relaxedI32: relaxedI32! }, { simd128, relaxedI16: relaxedI16! }]) {
      for (const maxChunkTokens of [1, 5]) expect(bits(await logitsOf(pack, { modules, maxChunkTokens }))).toEqual(first);
    }
  });

  it("has no gate anywhere: canonical names, sizes, planned and made packs", async () => {
    const model = tinyModel("olmoe", 6, { expertKind, config: SIZES });
    const checkpoint = await canonical(model);
    expect(checkpoint.config).toMatchObject({ expertKind, expertIntermediateSize: 76 });
    expect([...checkpoint.places()].flatMap(({ name }) => /experts\.7\.(\w+)$/.exec(name)?.[1] ?? [])).toEqual(["up", "down", "upBias", "downBias", "up", "down", "upBias", "downBias"]);
    const counts = parameterCounts(checkpoint.config);
    expect(counts.total).toBe([...checkpoint.places()].reduce((sum, { nRows, nCols }) => sum + nRows * nCols, 0));
    expect(counts.ofOneExpert).toBe(2 * 76 * 64 + 76 + 64);
    expect(inspect({ kind: "checkpoint", checkpoint } as never).expertBytes).toEqual({ first: 4 * (2 * 76 * 64 + 76 + 64), largest: 4 * (2 * 76 * 64 + 76 + 64) });
    for (const quant of ["f32", "q8", "q2"] as const) {
      const { summary: { manifest } } = await packToMemory(checkpoint, { quant, segmentWidth: 32 });
      expect(manifest.config.expertKind).toBe(expertKind);
      const planned = plannedPack("tiny", checkpoint.config, quant, manifest.contextLength, 32);
      expect(planned.experts.map(({ segments }) => segments.map(({ bytes }) => bytes))).toEqual(manifest.experts.map(({ segments }) => segments.map(({ bytes }) => bytes)));
      expect(manifest.experts[0]!.segments.map(({ start, end }) => [start, end])).toEqual([[0, 32], [32, 64], [64, 76]]);
      // One matrix and its biases of the right bytes, and of those of a gated expert alone.
      expect(() => validateManifest("it", { ...manifest, config: { ...manifest.config, expertKind: "swiglu" } })).toThrow(/segment 0 has \d+ bytes, expected \d+/);
    }
  });
});
