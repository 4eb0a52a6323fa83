// `verify --source`: for every architecture an f32 pack says what its source says, a q4 pack less exactly, and another model is refused.

import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { buildKernels } from "../../../cli/build-kernels.mjs";
import { compareWithSource } from "../../../cli/commands/verify.ts";
import { openPack } from "../../../formats/pack-reader.ts";
import type { Quant } from "../../../formats/pack-formats.ts";
import { openCheckpoint } from "../../../cli/open-model.ts";
import { packToMemory } from "../../support/pack-to-memory.ts";
import { TINY_ARCHITECTURES, tinyModel, type TinyArchitecture } from "../../support/tiny-models.ts";

let folder: string;
beforeAll(async () => {
  await buildKernels({ log: () => {} });
  folder = mkdtempSync(join(tmpdir(), "workers-moe-verify-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** A tiny model's Hugging Face folder on disk. */
function writeModel(architecture: TinyArchitecture, seed: number): string {
  const path = join(folder, `${architecture}-${seed}`);
  mkdirSync(path, { recursive: true });
  for (const [name, bytes] of tinyModel(architecture, seed).huggingFaceFiles()) writeFileSync(join(path, name), bytes);
  return path;
}
async function agreement(path: string, quant: Quant, against = path) {
  const { source } = await packToMemory(await openCheckpoint(path), { quant });
  return compareWithSource(source, await openPack(source), against, { tokens: 24 });
}

describe.each(TINY_ARCHITECTURES)("%s", (architecture) => {
  it("an f32 pack agrees to rounding, a q4 pack does not", async () => {
    const path = writeModel(architecture, 1);
    const exact = await agreement(path, "f32");
    expect(exact.tokens).toBe(24);
    expect(exact.logitError).toBeLessThan(1e-4);
    expect(exact.klMost).toBeLessThan(1e-6);
    expect(exact.sameTop).toBe(1);
    expect(exact.layers.map(({ layer }) => layer)).toEqual(Array.from({ length: exact.layers.length }, (_, i) => i));
    for (const { leastCosine } of exact.layers) expect(leastCosine).toBeGreaterThan(1 - 1e-6);
    expect(exact.perplexity[1]).toBeCloseTo(exact.perplexity[0], 2);
    const coarse = await agreement(path, "q4");
    expect(coarse.logitError).toBeGreaterThan(0.01);
    expect(coarse.klMean).toBeGreaterThan(exact.klMean);
    expect(Math.min(...coarse.layers.map(({ meanCosine }) => meanCosine))).toBeLessThan(1 - 1e-4);
  });
});

it("refuses a source that the pack was not made from", async () => {
  const [one, other] = [writeModel("olmoe", 1), writeModel("qwen3_moe", 1)];
  await expect(agreement(one, "q8", other)).rejects.toThrow(/was made from olmoe-1 .*; .*qwen3_moe-1 is another model/);
});
