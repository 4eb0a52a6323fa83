// From checkpoint to logits: every architecture, as Hugging Face folder and as GGUF, through its pack and the WebAssembly kernels.
// f32 packs are judged by the float64 definition; the source form and the kernel variant must not change a bit.
import { beforeAll, describe, expect, test } from "vitest";
import { evaluate, kernelModules, openPackFrom } from "../../../cli/open-pack.ts";
import { QUANTS } from "../../../formats/pack-formats.ts";
import type { PackOptions } from "../../../formats/pack-writer.ts";
import { buildKernels } from "../../../cli/build-kernels.mjs";
import { forwardDefinition } from "../../../model/definition.ts";
import type { KernelModules } from "../../../model/wasm-kernels.ts";
import { openTinyGguf, openTinyHuggingFace, packToMemory } from "../../support/pack-to-memory.ts";
import { TINY_ARCHITECTURES, tinyModel, type TinyArchitecture, type TinyModel } from "../../support/tiny-models.ts";

beforeAll(() => buildKernels({ log: () => {} }));

const ids = Array.from({ length: 37 }, (_, i) => (i * i * 5 + 3 * i + 7) % 97);
const bits = (x: Float32Array) => new Uint32Array(x.buffer, x.byteOffset, x.length);

async function logitsOfPack(pack: Awaited<ReturnType<typeof packToMemory>>, options: { modules?: KernelModules; maxChunkTokens?: number } = {}) {
  const { engine, kernels, manifest } = await openPackFrom(pack.source, options);
  const out = new Float32Array(ids.length * engine.config.vocabSize);
  await evaluate(engine, ids, (position, logits) => out.set(logits, position * engine.config.vocabSize));
  return { logits: out, kernels: kernels.kernels.name, manifest };
}

const fromFolder = async (model: TinyModel, options: Partial<PackOptions>) => packToMemory(await openTinyHuggingFace(model), options);

describe.each(TINY_ARCHITECTURES)("%s", (architecture: TinyArchitecture) => {
  test("f32 logits agree with the float64 definition within 1e-4 of the largest", async () => {
    let judged = 0;
    for (let seed = 1; seed <= 40 && judged < 60; seed++) {
      const model = tinyModel(architecture, seed);
      const truth = forwardDefinition(model.config, (name) => model.weights.get(name)!, ids);
      const unclear = ids.findIndex((_, t) => truth.routing.some((layer) => layer[t]!.margin < 1e-3));
      const upTo = unclear < 0 ? ids.length : unclear;
      const { logits } = await logitsOfPack(await fromFolder(model, { quant: "f32" }));
      const scale = Math.max(1, ...truth.logits.slice(0, upTo).flat().map(Math.abs));
      for (let t = 0; t < upTo; t++) {
        for (let v = 0; v < 97; v++) expect(Math.abs(logits[t * 97 + v]! - truth.logits[t]![v]!)).toBeLessThan(1e-4 * scale);
      }
      judged += upTo;
    }
    expect(judged).toBeGreaterThanOrEqual(60);
  });

  test("folder and GGUF give the same logits", async () => {
    const model = tinyModel(architecture, 3, { exactIn: "Q8_0" });
    const folder = await logitsOfPack(await packToMemory(await openTinyHuggingFace(model, { dtype: "F32" }), { quant: "f32" }));
    const gguf = await logitsOfPack(await packToMemory(await openTinyGguf(model, { type: "Q8_0" }), { quant: "f32" }));
    // Where GGUF permutes the rows of q and k, sums over a head run in another order.
    if (folder.manifest.config.rope.style !== gguf.manifest.config.rope.style) folder.logits.forEach((value, i) => expect(gguf.logits[i]).toBeCloseTo(value, 4));
    else expect(bits(gguf.logits)).toEqual(bits(folder.logits));
  });

  test("Q8_0 of a GGUF runs as it is, and close to its f32 values", async () => {
    const model = tinyModel(architecture, 5, { exactIn: "Q8_0" });
    const exact = await logitsOfPack(await packToMemory(await openTinyGguf(model, { type: "Q8_0" }), { quant: "f32" }));
    const source = await logitsOfPack(await packToMemory(await openTinyGguf(model, { type: "Q8_0" }), { quant: "source" }));
    const { experts, shared } = source.manifest;
    expect(new Set([...experts, ...shared].flatMap(({ gateUp, down }) => [gateUp, down]))).toEqual(new Set(["q8"]));
    const errors = ids.map((_, t) => {
      const [a, b] = [exact, source].map(({ logits }) => logits.subarray(t * 97, (t + 1) * 97)) as [Float32Array, Float32Array];
      return Math.sqrt(a.reduce((sum, value, v) => sum + (value - b[v]!) ** 2, 0) / a.reduce((sum, value) => sum + value ** 2, 0));
    }).sort((a, b) => a - b);
    // int8 activations. Of the median token: at some, near-ties of these small routers flip, and later ones attend to those.
    expect(errors[ids.length >> 1]).toBeLessThan(0.05);
    expect(errors[0]).toBeGreaterThan(0);
  });
});

describe("bits do not depend on", () => {
  test.each(QUANTS)("the kernel variant or the chunk size (%s)", async (quant) => {
    const pack = await fromFolder(tinyModel("qwen3_moe", 11), { quant, segmentWidth: 32 });
    const { simd128, relaxedI32, relaxedI16 } = kernelModules();
    const first = await logitsOfPack(pack);
    expect(["relaxed-i32", "relaxed-i16"]).toContain(first.kernels);
    for (const modules of [{ simd128 }, { simd128, relaxedI32: relaxedI32! }, { simd128, relaxedI16: relaxedI16! }]) {
      for (const maxChunkTokens of [1, 5]) {
        const other = await logitsOfPack(pack, { modules, maxChunkTokens });
        expect(bits(other.logits)).toEqual(bits(first.logits));
      }
    }
  });
});
