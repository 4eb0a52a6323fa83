// Packing by a bit plan: the same bytes as one format for all where the plan says so, each matrix in the plan's format elsewhere, sizes as they are accounted, and plans
// that one pack cannot hold.

import { describe, expect, it } from "vitest";
import type { Checkpoint } from "../../../formats/checkpoint.ts";
import type { PackManifest } from "../../../formats/manifest.ts";
import { formatOf, type Quant } from "../../../formats/pack-formats.ts";
import { typeOfFormat } from "../../../formats/stored-types.ts";
import { accountBits } from "../../../passes/bit-accounting.ts";
import { parseBitPlan } from "../../../passes/bit-plan.ts";
import { openTinyGguf, openTinyHuggingFace, packToMemory } from "../../support/pack-to-memory.ts";
import { TINY_ARCHITECTURES, tinyModel } from "../../support/tiny-models.ts";

const packed = async (checkpoint: Checkpoint, quant: Quant | string): Promise<PackManifest> => {
  const named = ["q8", "q4", "q3", "q2", "source"].includes(quant);
  return (await packToMemory(checkpoint, { quant: named ? quant as Quant : parseBitPlan(quant, checkpoint.config) })).summary.manifest;
};

/** All that a pack holds but the words that asked for it. */
const contents = ({ quantization: _, ...manifest }: PackManifest): object => manifest;

describe.each(TINY_ARCHITECTURES)("%s", (architecture) => {
  it("is byte for byte the pack of one format where the plan says the same", async () => {
    const checkpoint = await openTinyHuggingFace(tinyModel(architecture, 71));
    for (const [plan, quant] of [["all=8", "q8"], ["all=4; embed=8; head=8", "q4"], ["all=3; embed=8; head=8", "q3"], ["all=2; embed=8; head=8", "q2"]] as const) {
      const [byPlan, byQuant] = [await packed(checkpoint, plan), await packed(checkpoint, quant)];
      expect(contents(byPlan)).toEqual(contents(byQuant));
      expect(byPlan.quantization).toEqual({ ...byQuant.quantization, requested: plan });
    }
  });
});

it("gives each matrix its format, in the size that is accounted, and leaves the rest as the file has it", async () => {
  const checkpoint = await openTinyHuggingFace(tinyModel("qwen3_moe", 72));
  const text = "attn=4; routed=2; exp[l1e3]=8; exp[l0e2].down=4; exp[l1e4].gateUp=3; attn[l1]=16";
  const manifest = await packed(checkpoint, text);
  expect(["embed", "layers.0.q", "layers.1.q", "layers.0.router", "head"].map((name) => manifest.blobs[name]!.format)).toEqual(["bf16", "q4", "bf16", "f32", "bf16"]);
  const expert = (layer: number, n: number): readonly string[] => manifest.experts.filter((of) => of.layer === layer && of.expert === n).map(({ gateUp, down }) => `${gateUp}+${down}`);
  expect([expert(0, 0), expert(1, 3), expert(0, 2), expert(1, 4)]).toEqual([["q2+q2"], ["q8+q8"], ["q2+q4"], ["q3+q2"]]);
  const plan = parseBitPlan(text, checkpoint.config);
  const account = accountBits(checkpoint, { typeOf: (place) => typeOfFormat(formatOf(place, plan)) });
  expect(8 * manifest.experts.flatMap(({ segments }) => segments).reduce((sum, { bytes }) => sum + bytes, 0)).toBe(account.parts.get("routed")!.bits);
  const attention = Object.entries(manifest.blobs).filter(([name]) => /^layers\.\d\.[qkvo]$/.test(name));
  expect(8 * attention.reduce((sum, [, { bytes }]) => sum + bytes, 0)).toBe(account.parts.get("attn")!.bits);
});

it("rounds what is in few bits already once more, and takes over what the plan does not name", async () => {
  const checkpoint = await openTinyGguf(tinyModel("qwen3_moe", 73, { exactIn: "Q8_0" }), { type: "Q8_0" });
  const [byPlan, source] = [await packed(checkpoint, "routed=4"), await packed(checkpoint, "source")];
  expect(byPlan.blobs["layers.0.q"]).toEqual(source.blobs["layers.0.q"]);
  expect(byPlan.experts.every(({ gateUp, down }) => gateUp === "q4" && down === "q4")).toBe(true);
});

it("is refused where experts would take two kinds of activations", async () => {
  const checkpoint = await openTinyHuggingFace(tinyModel("qwen3_moe", 74));
  await expect(packed(checkpoint, "routed[l0]=4")).rejects.toThrow(/the bit plan "routed\[l0\]=4" makes layers\.0\.experts\.0\.gate q4 and layers\.1\.experts\.0\.gate bf16; experts of one pack must all take the same activations: give bits to all of them, or to none\./);
});
