// Bytes before a pass runs: what the outline says of a candidate is what its pack has, to the byte, in every kind of architecture; where it cannot know, the pack is between its bounds.

import { beforeAll, describe, expect, it } from "vitest";
import { buildKernels } from "../../../cli/build-kernels.mjs";
import { kernelModules } from "../../../cli/open-pack.ts";
import { outlineAfter, outlinedBytes, outlineOf, packedBytes, trunkActiveBytes } from "../../../cli/search/model-outline.ts";
import { openModelFolder } from "../../../formats/canonical-model.ts";
import type { Checkpoint } from "../../../formats/checkpoint.ts";
import { MemorySink, MemorySource } from "../../../formats/memory-source.ts";
import type { PackSink } from "../../../formats/pack-sink.ts";
import { writePack } from "../../../formats/pack-writer.ts";
import type { PackManifest } from "../../../formats/manifest.ts";
import { parseBitPlan } from "../../../passes/bit-plan.ts";
import { mergeModel } from "../../../passes/merge-model.ts";
import { pruneModel } from "../../../passes/prune-model.ts";
import { quantizeModel } from "../../../passes/quantize-model.ts";
import type { PassCall } from "../../../passes/search-space.ts";
import { openTinyHuggingFace } from "../../support/pack-to-memory.ts";
import { tinyModel } from "../../support/tiny-models.ts";

beforeAll(() => buildKernels({ log: () => {} }));

const SEQUENCES = [0, 1].map((s) => Array.from({ length: 24 }, (_, i) => (i * 31 + s * 7 + 3) % 97));
const CONTEXT = 64;

const call = (pass: string, options: PassCall["options"]): PassCall => ({ pass, options });

/** Runs the passes; "$plan" is given. */
async function made(checkpoint: Checkpoint, calls: readonly PassCall[], plan = ""): Promise<Checkpoint> {
  for (const { pass, options } of calls) {
    if (pass === "bits") continue;
    const from = checkpoint;
    const run = (sink: PackSink): Promise<object> => pass === "prune" ? pruneModel(from, sink, kernelModules(), { keep: Number(options["keep"]), score: "random", seed: 1, domains: [SEQUENCES] })
      : pass === "merge" ? mergeModel(from, sink, kernelModules(), { share: Number(options["share"]), join: "mean", rank: 1, sequences: SEQUENCES, seed: 1 })
      : quantizeModel(from, sink, kernelModules(), { plan: parseBitPlan(String(options["plan"]).replace("$plan", plan), from.config), method: pass as "gptq", sequences: SEQUENCES, actOrder: false, damping: 0.01, weighting: "count" });
    const sink = new MemorySink();
    await run(sink);
    checkpoint = await openModelFolder(new MemorySource(sink.files), pass);
  }
  return checkpoint;
}

async function packed(checkpoint: Checkpoint): Promise<PackManifest> {
  return (await writePack(checkpoint, new MemorySink(), { id: "candidate", quant: "source", contextLength: CONTEXT })).manifest;
}

const EXACT: readonly (readonly PassCall[])[] = [
  [], [call("nearest", { plan: "all=8" })], [call("nearest", { plan: "all=8; routed=4; exp[l1e0]=2; exp[l1e1].down=2" })], [call("gptq", { plan: "attn=4; routed=8; shared=4; dense=4" })],
  [call("prune", { keep: 4 })], [call("prune", { keep: 4 }), call("nearest", { plan: "all=4; embed=8; head=8" })], [call("merge", { share: 0.5 }), call("nearest", { plan: "all=8" })],
  [call("prune", { keep: 6 }), call("merge", { share: 0.75 }), call("nearest", { plan: "all=8; routed=4" })],
];
const BOUNDED: readonly (readonly PassCall[])[] = [
  [call("bits", { bits: 3 }), call("gptq", { plan: "all=8; $plan" })], [call("merge", { share: 0.5 }), call("gptq", { plan: "all=8; routed=4" })],
];

describe.each(["qwen3_moe", "qwen2_moe", "granitemoe"] as const)("%s", (architecture) => {
  it("takes what was said, to the byte", async () => {
    const checkpoint = await openTinyHuggingFace(tinyModel(architecture, 9));
    for (const calls of EXACT) {
      const said = outlinedBytes(outlineAfter(outlineOf(checkpoint), calls)!, CONTEXT);
      const manifest = await packed(await made(checkpoint, calls));
      const name = calls.map(({ pass }) => pass).join(" ");
      expect([name, said.bytes.least, said.bytes.most]).toEqual([name, packedBytes(manifest), packedBytes(manifest)]);
      // Where all experts of a layer are of one size, so is what a token reads.
      if (calls.at(-1)?.options["plan"]?.toString().includes("exp") === true) continue;
      const { config } = manifest;
      const chosen = [...Map.groupBy(manifest.experts, ({ layer }) => layer).values()].reduce((sum, of) => sum + config.router.topK * of[0]!.segments.reduce((bytes, s) => bytes + s.bytes, 0), 0);
      expect([name, said.activeBytes.least, said.activeBytes.most]).toEqual([name, trunkActiveBytes(manifest) + chosen, trunkActiveBytes(manifest) + chosen]);
    }
  });

  it("takes no less and no more than was said where that is not known", async () => {
    const checkpoint = await openTinyHuggingFace(tinyModel(architecture, 10));
    for (const calls of BOUNDED) {
      const { bytes, pack } = outlinedBytes(outlineAfter(outlineOf(checkpoint), calls)!, CONTEXT);
      const found = packedBytes(await packed(await made(checkpoint, calls, "routed=2; exp[l0e1]=4; exp[l1e1]=4")));
      expect(bytes.least).toBeLessThan(bytes.most);
      expect(found).toBeGreaterThanOrEqual(bytes.least);
      expect(found).toBeLessThanOrEqual(bytes.most);
      expect(pack).toBeNull();
    }
  });
});

it("has a token read all of the trunk, but of an embedding that is not the head, and of the rotation table, its own row", async () => {
  const untied = await packed(await openTinyHuggingFace(tinyModel("qwen3_moe", 9)));
  const { embed, rope, ...rest } = untied.blobs;
  const { config: c } = untied;
  expect(c.tieWordEmbeddings).toBe(false);
  const others = Object.values(rest).reduce((sum, { bytes }) => sum + bytes, 0);
  expect(trunkActiveBytes(untied)).toBe(others + Math.ceil(embed!.bytes / c.vocabSize) + 4 * c.rope.dim);
  expect(rope!.bytes).toBe(4 * c.rope.dim * CONTEXT);
  const tied = { ...untied, config: { ...c, tieWordEmbeddings: true } };
  expect(trunkActiveBytes(tied)).toBe(others + embed!.bytes + 4 * c.rope.dim);
});

it("says nothing of passes it does not know", async () => {
  const checkpoint = await openTinyHuggingFace(tinyModel("qwen3_moe", 9));
  expect(outlineAfter(outlineOf(checkpoint), [call("later", {}), call("nearest", { plan: "all=8" })])).toBeNull();
  expect(outlineAfter(outlineOf(checkpoint), [call("prune", { keep: "most" })])).toBeNull();
});
