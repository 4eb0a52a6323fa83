// The quantising pass: what it writes is what the pack computes with, sizes to the byte; calibration pays on the texts' own distribution; later layers see earlier ones quantised.

import { beforeAll, describe, expect, it } from "vitest";
import { buildKernels } from "../../../cli/build-kernels.mjs";
import { kernelModules } from "../../../cli/open-pack.ts";
import { openModelFolder } from "../../../formats/canonical-model.ts";
import type { Checkpoint } from "../../../formats/checkpoint.ts";
import { decodeRows } from "../../../formats/dequantize.ts";
import { MemorySink, MemorySource } from "../../../formats/memory-source.ts";
import { parseBitPlan } from "../../../passes/bit-plan.ts";
import { gptq } from "../../../passes/gptq.ts";
import { Hessian } from "../../../passes/hessian.ts";
import { LayerInputs } from "../../../passes/layer-inputs.ts";
import { LayeredModel } from "../../../passes/layered-model.ts";
import { quantizeModel, type QuantizeOptions, type QuantizeReport } from "../../../passes/quantize-model.ts";
import { checkpointWeights } from "../../../passes/streamed-model.ts";
import { openTinyHuggingFace, packToMemory } from "../../support/pack-to-memory.ts";
import { SeededRandom } from "../../support/seeded-random.ts";
import { TINY_ARCHITECTURES, type TinyArchitecture, tinyModel } from "../../support/tiny-models.ts";

beforeAll(() => buildKernels({ log: () => {} }));

/** Sequences with habits: each id mostly follows from the one before. */
function sequencesOf(seed: number, n: number, length: number): number[][] {
  const random = new SeededRandom(seed);
  return Array.from({ length: n }, () => {
    let id = random.below(97);
    return Array.from({ length }, () => (id = random.uniform() < 0.7 ? (id * 13 + 5) % 97 : random.below(97)));
  });
}

interface Quantized { readonly model: Checkpoint; readonly report: QuantizeReport; readonly files: Map<string, Uint8Array> }

/** In the precision of the values, which rounding starts from. */
const tiny = (architecture: TinyArchitecture): Promise<Checkpoint> => openTinyHuggingFace(tinyModel(architecture, 12), { dtype: "F32", experts: "plain" });

async function quantized(checkpoint: Checkpoint, plan: string, options: Partial<QuantizeOptions> = {}): Promise<Quantized> {
  const sink = new MemorySink();
  const report = await quantizeModel(checkpoint, sink, kernelModules(), {
    plan: parseBitPlan(plan, checkpoint.config), method: "gptq", actOrder: false, damping: 0.01, weighting: "count", sequences: sequencesOf(1, 24, 40), ...options,
  });
  return { report, files: sink.files, model: await openModelFolder(new MemorySource(sink.files), "quantised") };
}

/** Root mean square of the difference of what the last layer gives, over texts the pass has not seen. */
async function distance(a: Checkpoint, b: Checkpoint): Promise<number> {
  const outputs = await Promise.all([a, b].map(async (of) => {
    const model = await LayeredModel.open(checkpointWeights(of, 64), sequencesOf(2, 12, 40), kernelModules());
    for (let layer = 0; layer < of.config.nLayers; layer++) await model.runLayer(layer);
    return model.rows;
  }));
  const [x, y] = outputs as [Float32Array, Float32Array];
  return Math.sqrt(x.reduce((sum, value, i) => sum + (value - y[i]!) ** 2, 0) / x.length);
}

describe.each(TINY_ARCHITECTURES)("%s", (architecture) => {
  it("is written whole, and packed as it was rounded", async () => {
    const checkpoint = await tiny(architecture);
    const fits = (name: string): boolean => checkpoint.place(name).nCols % 32 === 0;
    expect([...checkpoint.places()].filter(({ name, nRows }) => nRows > 1 && !name.endsWith("router")).every(({ name }) => fits(name))).toBe(true);
    const { model, report, files } = await quantized(checkpoint, "all=8; routed=4; shared=4; dense=4");
    const planned = [...checkpoint.places()].filter((place) => parseBitPlan("all=8", checkpoint.config).typeOf(place) !== null).map(({ name }) => name);
    expect(report.matrices.map(({ name }) => name).sort()).toEqual(planned.sort());
    // Bits of the report are the bytes of the file.
    for (const { name, type, bits } of report.matrices) expect([name, model.place(name).type, model.place(name).storedBytes * 8]).toEqual([name, type, bits]);
    const header = JSON.parse(new TextDecoder().decode(files.get("model.safetensors")!.subarray(8, 8 + Number(new DataView(files.get("model.safetensors")!.buffer).getBigUint64(0, true))))) as Record<string, { data_offsets: [number, number] }>;
    const quantizedBytes = Object.entries(header).filter(([name]) => name.includes(":")).reduce((sum, [, { data_offsets: [from, end] }]) => sum + end - from, 0);
    expect(report.matrices.reduce((sum, { bits }) => sum + bits, 0)).toBe(8 * quantizedBytes);
    expect(report.layers.length).toBe(checkpoint.config.nLayers);
    for (const { error } of report.layers) expect(error).toBeLessThan(0.2);
    const { manifest } = (await packToMemory(model)).summary;
    expect(manifest.experts.every(({ gateUp, down }) => gateUp === "q4" && down === "q4")).toBe(true);
    expect(manifest.quantization.requested).toBe("source");
    expect(manifest.activations).toBe(checkpoint.config.nExperts > 0 ? "qa8" : "f32");
    expect(model.lineage!.passes).toEqual([{ pass: "gptq", options: { plan: "all=8; routed=4; shared=4; dense=4", calibrationTokens: 960, method: "gptq", actOrder: false, damping: 0.01, weighting: "count" } }]);
  });
});

it("takes each expert's Hessian from the tokens that chose it, behind what is quantised already", async () => {
  const checkpoint = await tiny("qwen3_moe");
  const sequences = sequencesOf(1, 24, 40);
  for (const [weighting, plan, type] of [["count", "routed=2", "Q2_32"], ["affinity", "routed=2", "Q2_32"], ["count", "routed=3", "Q3_32"]] as const) {
    const { model } = await quantized(checkpoint, plan, { weighting, sequences });
    // Layer 1 again by hand: through layer 0 as it was written.
    const layered = await LayeredModel.open(checkpointWeights(model, 40), sequences, kernelModules());
    await layered.runLayer(0);
    const { routing, values, width } = await new LayerInputs(layered, checkpoint, 40, 1).feedForward();
    for (const expert of [0, 5]) {
      const hessian = new Hessian(width);
      routing!.ids.forEach((id, i) => { if (id === expert) hessian.add(values, Math.floor(i / 2) * width, weighting === "affinity" ? routing!.weights[i]! : 1); });
      expect(hessian.rows).toBeGreaterThan(32);
      const name = `layers.1.experts.${expert}.up`;
      const [place, found] = [checkpoint.place(name), model.place(name)];
      const expected = gptq(await checkpoint.readF32(name), place.nRows, place.nCols, hessian.matrix(), { type, actOrder: false, damping: 0.01 });
      expect(decodeRows(type, await model.readRows(found, 0, found.nRows), found.nRows, found.nCols)).toEqual(expected.values);
    }
  }
});

it("is closer to the model than rounding to the nearest, on texts it has not seen", async () => {
  const checkpoint = await tiny("qwen3_moe");
  for (const plan of ["all=4", "routed=3", "routed=2"]) {
    const nearest = await distance(checkpoint, (await quantized(checkpoint, plan, { method: "nearest", sequences: [] })).model);
    for (const actOrder of [false, true]) expect(await distance(checkpoint, (await quantized(checkpoint, plan, { actOrder })).model)).toBeLessThan(0.95 * nearest);
  }
});

it("goes through a model a second time, and keeps the record of both", async () => {
  const first = await quantized(await tiny("olmoe"), "attn=8");
  const second = await quantized(first.model, "routed=4");
  expect(second.model.place("layers.0.q").type).toBe("Q8_0");
  expect(second.model.lineage!.passes.map(({ options }) => options["plan"])).toEqual(["attn=8", "routed=4"]);
  expect(second.model.lineage!.source).toEqual(first.model.lineage!.source);
});

it("refuses a plan that names nothing of the model, or columns that make no groups, and writes nothing", async () => {
  await expect(quantized(await tiny("llama"), "routed=4")).rejects.toThrow(/The bit plan "routed=4" names no matrix of /);
  const narrow = await openTinyHuggingFace(tinyModel("qwen3_moe", 3, { config: { moe_intermediate_size: 48 } }));
  await expect(quantized(narrow, "routed=4")).rejects.toThrow(/\(layers\.0\.experts\.0\.down\) has 48 columns; the plan's Q4_0 takes multiples of 32\./);
});
