// One model in all its stored forms: same config, same numbers. And what a checkpoint may not be.

import { describe, expect, it } from "vitest";
import { type ByteSource, SourceError } from "../../../formats/byte-source.ts";
import { Checkpoint, expertName } from "../../../formats/checkpoint.ts";
import { decodeRows } from "../../../formats/dequantize.ts";
import { openGguf } from "../../../formats/gguf-checkpoint.ts";
import { readGgufHeader } from "../../../formats/gguf.ts";
import { openHuggingFace } from "../../../formats/huggingface.ts";
import { MemorySource } from "../../../formats/memory-source.ts";
import { ARCHITECTURES } from "../../../model/architectures/index.ts";
import { EXPERT_MATRICES, type ModelConfig } from "../../../model/config.ts";
import { ggufFile, text, u32 } from "../../support/gguf-writer.ts";
import { openTinyGguf, openTinyHuggingFace } from "../../support/pack-to-memory.ts";
import { type TensorData, safetensorsFile } from "../../support/safetensors-writer.ts";
import { storedRows } from "../../support/stored-rows.ts";
import { isPermuted, permuteForGguf, transpose } from "../../support/tiny-files.ts";
import { TINY_ARCHITECTURES, type TinyModel, tinyModel } from "../../support/tiny-models.ts";

/** Every weight of the checkpoint equals the model's, and places come in the promised order; q and k of a GGUF with permuted rows are so here. */
async function expectWeights(checkpoint: Checkpoint, model: TinyModel): Promise<void> {
  const places = [...checkpoint.places()];
  expect(places.map((p) => p.name)).toEqual([...model.weights.keys()]);
  const { config } = checkpoint;
  for (const place of places) {
    const weight = model.weights.get(place.name)!;
    const last = place.name.split(".").at(-1)!;
    const permuted = checkpoint.kind === "gguf" && isPermuted(config.architecture) && /^[qk](Bias)?$/.test(last);
    const expected = permuted ? permuteForGguf(weight, last.startsWith("q") ? config.nHeads : config.nKvHeads) : weight.values;
    expect([place.nRows, place.nCols], place.name).toEqual([weight.rows, weight.cols]);
    const found = await checkpoint.readF32(place.name);
    // The slow comparison is for its message.
    if (Buffer.compare(bytesOf(found), bytesOf(expected)) !== 0) expect(found, place.name).toEqual(expected);
  }
}

const bytesOf = (values: Float32Array): Uint8Array => new Uint8Array(values.buffer, values.byteOffset, values.byteLength);

/** config.json's record with what GGUF says otherwise: rows of q and k lie permuted, and the rotary embedding with them. */
const asGguf = (config: ModelConfig): ModelConfig => (isPermuted(config.architecture) ? { ...config, rope: { ...config.rope, style: "interleaved" } } : config);

const MOE_ARCHITECTURES = TINY_ARCHITECTURES.filter((a) => !["llama", "qwen2", "qwen3"].includes(a));

describe.each(TINY_ARCHITECTURES)("%s", (architecture) => {
  it("holds the same numbers as F32, F16, BF16, sharded, and as GGUF", async () => {
    const model = tinyModel(architecture, 21);
    for (const options of [{ dtype: "F32" }, { dtype: "F16" }, { dtype: "BF16" }, { shards: 3 }] as const) await expectWeights(await openTinyHuggingFace(model, options), model);
    for (const options of [{ type: "F32" }, { type: "F16", alignment: 128 }, { type: "BF16", version: 2 }] as const) await expectWeights(await openTinyGguf(model, options), model);
  });

  it.each(["Q8_0", "Q4_0", "MXFP4"] as const)("reads %s as the numbers that went in", async (type) => {
    const model = tinyModel(architecture, 22, { exactIn: type });
    await expectWeights(await openTinyGguf(model, { type }), model);
    await expectWeights(await openTinyHuggingFace(model, { dtype: "F32" }), model);
  });

  it("has one config in both forms, but for the rotary style where rows are permuted", async () => {
    const model = tinyModel(architecture, 23);
    const fromFolder = (await openTinyHuggingFace(model)).config;
    expect((await openTinyGguf(model)).config).toEqual(asGguf(fromFolder));
  });

  it("may tie its head, or not", async () => {
    for (const tied of [true, false]) {
      const model = tinyModel(architecture, 24, { config: { tie_word_embeddings: tied, ...(tied ? { lm_head_bias: false } : {}) } });
      for (const checkpoint of [await openTinyHuggingFace(model), await openTinyGguf(model)]) {
        expect(checkpoint.config.tieWordEmbeddings).toBe(tied);
        expect([...checkpoint.places()].some((p) => p.name === "head")).toBe(!tied);
        await expectWeights(checkpoint, model);
      }
    }
  });

  it("gives rows of any batch as it gives them all", async () => {
    const model = tinyModel(architecture, 26, { exactIn: "MXFP4" });
    const opened = [await openTinyHuggingFace(model), await openTinyHuggingFace(model, { experts: "plain", dtype: "F32" }), await openTinyGguf(model, { type: "MXFP4", mla: "fused" })];
    for (const checkpoint of opened) {
      for (const place of checkpoint.places()) {
        const all = await checkpoint.readRows(place, 0, place.nRows);
        expect(all.length, place.name).toBe(place.nRows * place.rowBytes);
        const [first, n] = [Math.floor(place.nRows / 3), Math.ceil(place.nRows / 2)];
        const some = await checkpoint.readRows(place, first, n);
        expect(Buffer.compare(some, all.subarray(first * place.rowBytes, (first + n) * place.rowBytes)), place.name).toBe(0);
      }
    }
  });
});

describe("forms that some files have", () => {
  it.each(MOE_ARCHITECTURES)("GGUF of %s with gate and up in one tensor", async (architecture) => {
    const model = tinyModel(architecture, 27);
    await expectWeights(await openTinyGguf(model, { experts: "fused" }), model);
  });

  it.each(MOE_ARCHITECTURES)("GGUF of %s with a tensor for each expert", async (architecture) => {
    const model = tinyModel(architecture, 28);
    await expectWeights(await openTinyGguf(model, { experts: "own" }), model);
  });

  it.each(["olmoe", "qwen2_moe", "qwen3_moe", "deepseek_v2", "deepseek_v3"] as const)("folder of %s with stacked experts", async (architecture) => {
    const model = tinyModel(architecture, 25);
    await expectWeights(await openTinyHuggingFace(model, { fused: true }), model);
  });

  it.each(["phimoe", "qwen2", "olmoe"] as const)("GGUF of %s with q, k and v in one tensor", async (architecture) => {
    const model = tinyModel(architecture, 29);
    const checkpoint = await openTinyGguf(model, { fusedQkv: true });
    expect(checkpoint.place("layers.1.v").tensor).toBe("blk.1.attn_qkv.weight");
    expect(checkpoint.config).toEqual(model.config);
    await expectWeights(checkpoint, model);
  });

  it.each(["deepseek_v2", "deepseek_v3"] as const)("GGUF of %s with kv_b in one tensor, as older files have it", async (architecture) => {
    const model = tinyModel(architecture, 30);
    const checkpoint = await openTinyGguf(model, { mla: "fused", type: "BF16" });
    expect(checkpoint.place("layers.1.kB.2")).toMatchObject({ tensor: "blk.1.attn_kv_b.weight", type: "BF16", storedType: "BF16" });
    expect(checkpoint.config).toEqual(model.config);
    await expectWeights(checkpoint, model);
  });

  it("transposes quantised rows by way of F32, and says what they were", async () => {
    const model = tinyModel("deepseek_v2", 31);
    const checkpoint = await openTinyGguf(model, { mla: "fused", overrideType: (name) => (name.endsWith("attn_kv_b.weight") ? "Q8_0" : null) });
    const { kvLoraRank, nopeHeadDim, valueHeadDim } = checkpoint.config.mla!;
    const kB = checkpoint.place("layers.0.kB.1");
    expect(kB).toMatchObject({ type: "F32", storedType: "Q8_0", storedBytes: (kvLoraRank * nopeHeadDim / 32) * 34, nRows: kvLoraRank, nCols: nopeHeadDim });
    expect(checkpoint.place("layers.0.vB.1")).toMatchObject({ type: "Q8_0", nRows: valueHeadDim, nCols: kvLoraRank });
    const [read, meant] = [await checkpoint.readF32("layers.0.kB.1"), model.weights.get("layers.0.kB.1")!.values];
    const rounded = storedRows("Q8_0", transpose({ rows: kvLoraRank, cols: nopeHeadDim, values: meant }), nopeHeadDim, kvLoraRank);
    expect(read).toEqual(transpose({ rows: nopeHeadDim, cols: kvLoraRank, values: decodeRows("Q8_0", rounded, nopeHeadDim, kvLoraRank) }));
  });

  it("gpt-oss in MXFP4 blocks and unpacked: the same rows, as GGUF's blocks in the first case", async () => {
    const model = tinyModel("gpt_oss", 32, { exactIn: "MXFP4" });
    const packed = await openTinyHuggingFace(model);
    const gguf = await openTinyGguf(model, { type: "MXFP4" });
    for (const m of EXPERT_MATRICES) {
      const place = packed.place(expertName(1, 5, m));
      expect(place).toMatchObject({ type: "MXFP4", storedType: "MXFP4" });
      expect(await packed.readRows(place, 0, place.nRows)).toEqual(await gguf.readRows(gguf.place(place.name), 0, place.nRows));
      expect((await openTinyHuggingFace(model, { experts: "plain" })).place(place.name)).toMatchObject({ type: "BF16", tensor: `model.layers.1.mlp.experts.${m === "down" ? "down" : "gate_up"}_proj` });
    }
    await expectWeights(packed, model);
  });

  it("FP8 with a factor for every block: DeepSeek-V3's folder and its GGUF in BF16 hold the same numbers", async () => {
    // Wide enough that down and o have two columns of blocks, and gate two rows of them.
    const model = tinyModel("deepseek_v3", 33, { exactIn: "F8_E4M3", config: { v_head_dim: 48 } });
    const folder = await openTinyHuggingFace(model, { dtype: "F8_E4M3" });
    expect(folder.place("layers.0.shared.down")).toMatchObject({ type: "F32", storedType: "F8_E4M3", storedBytes: 64 * 160, rowBytes: 640 });
    expect(folder.place("layers.1.kB.3")).toMatchObject({ type: "F32", storedType: "F8_E4M3", tensor: "model.layers.1.self_attn.kv_b_proj.weight" });
    await expectWeights(folder, model);
    await expectWeights(await openTinyGguf(model, { type: "BF16", mla: "fused" }), model);
    const qwen = tinyModel("qwen3_moe", 33, { exactIn: "F8_E4M3", config: { head_dim: 64 } });
    await expectWeights(await openTinyHuggingFace(qwen, { dtype: "F8_E4M3", factors: "BF16" }), qwen);
  });

  it("layers behind the last, for multi-token prediction, are left out with a warning; other architectures have none", async () => {
    const model = tinyModel("deepseek_v3", 34);
    for (const checkpoint of [await openTinyHuggingFace(model, { extraLayer: true }), await openTinyGguf(model, { extraLayer: true })]) {
      expect(checkpoint.warnings).toEqual([expect.stringMatching(/Layer 3 lies behind the last of 3 \(multi-token prediction\)/)]);
      expect(checkpoint.config.nLayers).toBe(3);
      await expectWeights(checkpoint, model);
    }
    await expect(openTinyHuggingFace(tinyModel("qwen3_moe", 34), { extraLayer: true })).rejects.toThrow(/2 tensors have no place .*model\.layers\.2\.eh_proj/);
  });

  it("Qwen's dense layers among the sparse ones", async () => {
    for (const config of [{ mlp_only_layers: [1], num_hidden_layers: 3 }, { decoder_sparse_step: 2, num_hidden_layers: 4 }]) {
      for (const architecture of ["qwen2_moe", "qwen3_moe"] as const) {
        const model = tinyModel(architecture, 35, { config });
        expect(model.config.layerFfns).toEqual(config.num_hidden_layers === 3 ? ["moe", "dense", "moe"] : ["dense", "moe", "dense", "moe"]);
        const gguf = await openTinyGguf(model);
        expect(gguf.config).toEqual(model.config);
        await expectWeights(gguf, model);
        await expectWeights(await openTinyHuggingFace(model), model);
      }
    }
  });

  it("biases in attention, permuted with q and k where those are", async () => {
    for (const architecture of ["llama", "granitemoe", "olmoe", "qwen3_moe", "qwen3"] as const) {
      const model = tinyModel(architecture, 36, { config: { attention_bias: true } });
      expect(model.config).toMatchObject({ qkvBias: true, oBias: true });
      const gguf = await openTinyGguf(model);
      expect(gguf.config).toEqual(asGguf(model.config));
      await expectWeights(gguf, model);
      await expectWeights(await openTinyHuggingFace(model), model);
    }
  });

  it("both forms of kv_b beside each other", async () => {
    const model = tinyModel("deepseek_v2", 37);
    const header = await readGgufHeader(new MemorySource(new Map([["x.gguf", model.ggufBytes()]])), "x.gguf");
    expect(header.tensors.has("blk.0.attn_k_b.weight")).toBe(true);
    const both = new Map([...header.tensors]).set("blk.0.attn_kv_b.weight", { ...header.tensors.get("blk.0.attn_k_b.weight")!, name: "blk.0.attn_kv_b.weight" });
    const names = ARCHITECTURES.find((a) => a.name === "deepseek_v2")!.gguf;
    const source = new MemorySource(new Map([["x.gguf", model.ggufBytes()]]));
    const checkpoint = new Checkpoint({ kind: "gguf", name: "x", sha256: "", config: model.config, names, tokenizer: null, source, tensors: both, warnings: [] });
    expect(checkpoint.place("layers.0.kB.0").tensor).toBe("blk.0.attn_k_b.weight");
  });
});

it("reads rows in batches that cover the matrix once", async () => {
  const checkpoint = await openTinyHuggingFace(tinyModel("qwen3_moe", 1, { config: { vocab_size: 9000 } }), { dtype: "F32" });
  const rows: number[] = [];
  let bytes = 0;
  for await (const batch of checkpoint.readMatrix("embed")) {
    expect(batch.firstRow % 32).toBe(0);
    rows.push(batch.nRows);
    bytes += batch.bytes.length;
  }
  expect(rows.length).toBeGreaterThan(1);
  expect(rows.reduce((a, b) => a + b)).toBe(9000);
  expect(bytes).toBe(9000 * 64 * 4);
});

describe("settings beside the weights", () => {
  const files = (change: (f: Map<string, Uint8Array>) => void): MemorySource => {
    const f = tinyModel("olmoe", 1).huggingFaceFiles();
    change(f);
    return new MemorySource(f);
  };
  const set = (f: Map<string, Uint8Array>, name: string, change: (json: Record<string, unknown>) => void): void => {
    const json = JSON.parse(new TextDecoder().decode(f.get(name))) as Record<string, unknown>;
    change(json);
    f.set(name, new TextEncoder().encode(JSON.stringify(json)));
  };

  it("end-of-text ids come from config, generation config and tokenizer", async () => {
    const source = files((f) => {
      set(f, "generation_config.json", (j) => { j.eos_token_id = [5, 9]; });
      set(f, "tokenizer_config.json", (j) => { j.eos_token = { content: "<|padding|>" }; });
    });
    expect((await openHuggingFace(source, "x")).config.eosTokenIds).toEqual([0, 1, 5, 9]);
  });

  it("BOS is prepended where tokenizer_config says so, or where the tokenizer's own template does", async () => {
    const withBos = files((f) => set(f, "tokenizer_config.json", (j) => Object.assign(j, { bos_token: "<|endoftext|>", add_bos_token: true })));
    const checkpoint = await openHuggingFace(withBos, "x");
    expect([checkpoint.config.bosTokenId, checkpoint.tokenizer!.addBos]).toEqual([0, true]);
    const byTemplate = files((f) => {
      set(f, "tokenizer_config.json", (j) => { j.bos_token = "<|endoftext|>"; delete j.add_bos_token; });
      set(f, "tokenizer.json", (j) => { j.post_processor = { type: "TemplateProcessing", single: [{ SpecialToken: { id: "<|endoftext|>", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }] }; });
    });
    expect((await openHuggingFace(byTemplate, "x")).config.bosTokenId).toBe(0);
    const neither = files((f) => set(f, "tokenizer_config.json", (j) => Object.assign(j, { bos_token: "<|endoftext|>", add_bos_token: false })));
    expect((await openHuggingFace(neither, "x")).config.bosTokenId).toBe(null);
  });

  it("the chat template comes from its file, from a string, or from a list", async () => {
    const template = async (change: (f: Map<string, Uint8Array>) => void) => (await openHuggingFace(files(change), "x")).tokenizer!.chatTemplate;
    expect(await template((f) => f.set("chat_template.jinja", new TextEncoder().encode("from file")))).toBe("from file");
    expect(await template((f) => set(f, "tokenizer_config.json", (j) => { j.chat_template = [{ name: "tool_use", template: "t" }, { name: "default", template: "d" }]; }))).toBe("d");
    expect(await template((f) => set(f, "tokenizer_config.json", (j) => { delete j.chat_template; }))).toBe(null);
  });

  it("a folder without tokenizer runs on ids only, and says so", async () => {
    const checkpoint = await openHuggingFace(files((f) => f.delete("tokenizer.json")), "x");
    expect(checkpoint.tokenizer).toBe(null);
    expect(checkpoint.warnings).toEqual([expect.stringMatching(/no tokenizer\.json/)]);
  });

  it("a tokenizer larger than the vocabulary is refused", async () => {
    const source = files((f) => set(f, "tokenizer.json", (j) => { (j.added_tokens as object[]).push({ id: 97, content: "<|extra|>", special: true }); }));
    await expect(openHuggingFace(source, "x")).rejects.toThrow(/tokenizer\.json has ids up to 97, but the model's vocabulary has 97/);
  });
});

describe("what is refused", () => {
  const folder = (tensors: (t: TensorData[]) => TensorData[]): MemorySource => {
    const model = tinyModel("olmoe", 2);
    const list: TensorData[] = [...model.weights].map(([name, w]) => ({ name, dtype: "F32", shape: [w.rows, w.cols], bytes: new Uint8Array(w.values.buffer) }));
    const named = list.map((t): TensorData => {
      const expert = /^layers\.(\d+)\.experts\.(\d+)\.(\w+)$/.exec(t.name);
      if (expert) return { ...t, name: `model.layers.${expert[1]}.mlp.experts.${expert[2]}.${expert[3]}_proj.weight` };
      const trunk: Record<string, string> = { embed: "model.embed_tokens.weight", norm: "model.norm.weight", head: "lm_head.weight", attnNorm: "input_layernorm", ffnNorm: "post_attention_layernorm", q: "self_attn.q_proj", k: "self_attn.k_proj", v: "self_attn.v_proj", o: "self_attn.o_proj", qNorm: "self_attn.q_norm", kNorm: "self_attn.k_norm", router: "mlp.gate" };
      const layer = /^layers\.(\d+)\.(\w+)$/.exec(t.name);
      const name = layer ? `model.layers.${layer[1]}.${trunk[layer[2]!]}.weight` : trunk[t.name]!;
      return { ...t, name, shape: t.shape[0] === 1 ? [t.shape[1]!] : t.shape };
    });
    return new MemorySource(model.huggingFaceFiles().set("model.safetensors", safetensorsFile(tensors(named))));
  };
  const replace = (name: string, change: Partial<TensorData>) => (list: TensorData[]) => list.map((t) => (t.name === name ? { ...t, ...change } : t));

  it.each([
    ["a missing tensor", (l: TensorData[]) => l.filter((t) => t.name !== "model.layers.1.self_attn.o_proj.weight"), /tensor model\.layers\.1\.self_attn\.o_proj\.weight \(layers\.1\.o\) is missing/],
    ["a missing expert", (l: TensorData[]) => l.filter((t) => !t.name.includes("layers.1.mlp.experts.7.up")), /the tensor of layers\.1\.experts\.7\.up is missing; looked for model\.layers\.1\.mlp\.experts\.7\.up_proj\.weight and/],
    ["a wrong shape", replace("model.layers.0.self_attn.k_proj.weight", { shape: [64, 32] }), /k_proj\.weight in model\.safetensors \(layers\.0\.k\) has shape \[64, 32\], expected \[32, 64\]/],
    ["a wrong type", replace("model.norm.weight", { dtype: "F64", shape: [32] }), /has shape \[32\], expected \[64\]/],
    ["a type it does not read", replace("model.layers.0.mlp.gate.weight", { dtype: "I32" }), /mlp\.gate\.weight in model\.safetensors .* has type I32, which this version does not read/],
    ["a tensor with no place", (l: TensorData[]) => [...l, { name: "model.layers.0.self_attn.q_proj.bias", dtype: "F32", shape: [64], bytes: new Uint8Array(256) }], /1 tensors have no place .*q_proj\.bias/],
  ])("%s", async (_, change, message) => {
    await expect(openHuggingFace(folder(change), "x")).rejects.toThrow(message);
  });

  /** The one file of a folder, with its tensors changed. */
  const changed = (files: Map<string, Uint8Array>, change: (t: TensorData[]) => TensorData[]): MemorySource => {
    const file = files.get("model.safetensors")!;
    const headerBytes = Number(new DataView(file.buffer, file.byteOffset).getBigUint64(0, true));
    const header = JSON.parse(new TextDecoder().decode(file.subarray(8, 8 + headerBytes))) as Record<string, { dtype: string; shape: number[]; data_offsets: [number, number] }>;
    const tensors = Object.entries(header).filter(([name]) => name !== "__metadata__")
      .map(([name, { dtype, shape, data_offsets: [from, to] }]): TensorData => ({ name, dtype, shape, bytes: file.subarray(8 + headerBytes + from, 8 + headerBytes + to) }));
    return new MemorySource(new Map(files).set("model.safetensors", safetensorsFile(change(tensors))));
  };
  const fp8 = (): Map<string, Uint8Array> => tinyModel("deepseek_v3", 3, { exactIn: "F8_E4M3" }).huggingFaceFiles({ dtype: "F8_E4M3" });
  const mxfp4 = (): Map<string, Uint8Array> => tinyModel("gpt_oss", 3, { exactIn: "MXFP4" }).huggingFaceFiles();
  const without = (name: string) => (list: TensorData[]) => list.filter((t) => t.name !== name);
  const renamed = (name: string, to: string) => (list: TensorData[]) => list.map((t) => (t.name === name ? { ...t, name: to } : t));
  const KV_B = "model.layers.1.self_attn.kv_b_proj.weight";
  const BLOCKS = "model.layers.1.mlp.experts.gate_up_proj_blocks";
  const SCALES = "model.layers.1.mlp.experts.gate_up_proj_scales";

  it.each([
    ["FP8 without factors", fp8, without(`${KV_B}_scale_inv`), /kv_b_proj\.weight_scale_inv, the scales of .*kv_b_proj\.weight, is missing/],
    ["FP8 factors of another shape", fp8, replace(`${KV_B}_scale_inv`, { shape: [1, 2] }), /scale_inv in model\.safetensors, .* is F32 \[1, 2\], expected F32 or BF16 \[2, 1\]/],
    ["FP8 factors of another type", fp8, replace(`${KV_B}_scale_inv`, { dtype: "I32" }), /is I32 \[2, 1\], expected F32 or BF16 \[2, 1\]/],
    ["factors that belong to nothing", fp8, renamed(`${KV_B}_scale_inv`, "x_scale_inv"), /kv_b_proj\.weight_scale_inv, .*is missing/],
    ["kv_b of another shape", fp8, replace(KV_B, { shape: [128, 64] }), /kv_b_proj\.weight in model\.safetensors \(layers\.1\.kB\.0\) has shape \[128, 64\], expected \[256, 32\]/],
    ["MXFP4 without exponents", mxfp4, without(SCALES), /gate_up_proj_scales, the scales of .*gate_up_proj_blocks, is missing/],
    ["MXFP4 exponents of another shape", mxfp4, replace(SCALES, { shape: [8, 64, 4] }), /is U8 \[8, 64, 4\], expected U8 \[8, 128, 2\]/],
    ["MXFP4 blocks of another type", mxfp4, replace(BLOCKS, { dtype: "I8" }), /has type I8, expected U8, the nibbles of MXFP4/],
    ["MXFP4 blocks of another shape", mxfp4, replace(BLOCKS, { shape: [8, 128, 1, 32] }), /has shape \[8, 128, 1, 32\], expected \[8, 128, 2, 16\]/],
    ["biases that are missing", mxfp4, without("model.layers.0.mlp.experts.down_proj_bias"), /down_proj_bias \(layers\.0\.experts\.0\.downBias\) is missing/],
    ["sinks that are missing", mxfp4, without("model.layers.0.self_attn.sinks"), /self_attn\.sinks \(layers\.0\.sinks\) is missing/],
  ])("%s", async (_, files, change, message) => {
    expect(await openHuggingFace(changed(files(), (t) => t), "x")).toBeInstanceOf(Checkpoint);
    await expect(openHuggingFace(changed(files(), change), "x")).rejects.toThrow(message);
  });

  it("factors of rotary frequencies that are no small vector", async () => {
    const bytes = (extra: Parameters<typeof ggufFile>[1]): Uint8Array => ggufFile(new Map([["general.architecture", text("llama")]]), extra);
    for (const tensor of [{ name: "rope_freqs.weight", type: "F16", shape: [8], bytes: new Uint8Array(16) }, { name: "rope_freqs.weight", type: "F32", shape: [2048], bytes: new Uint8Array(8192) }]) {
      await expect(openGguf(new MemorySource(new Map([["x.gguf", bytes([tensor])]])), "x.gguf")).rejects.toThrow(/x\.gguf: tensor rope_freqs\.weight is F\d\d \[\d+\], expected at most 1024 factors in F32/);
    }
  });

  it("a key that no one knows is passed over, and said to be", async () => {
    const files = tinyModel("olmoe", 2, { config: { my_new_setting: 3, torch_dtype: "bfloat16", initializer_range: 0.02 } }).huggingFaceFiles();
    expect((await openHuggingFace(new MemorySource(files), "x")).warnings).toEqual(["config.json has keys that this version does not know and passes over: my_new_setting."]);
  });

  it("a read that fails leaves nothing behind: the matrix is read when the source is well again", async () => {
    const model = tinyModel("gpt_oss", 4);
    const good = new MemorySource(model.huggingFaceFiles());
    let isBroken = false;
    const flaky: ByteSource = { description: "flaky", hasRanges: true, size: (name) => good.size(name), read: (name, offset, length) => {
      if (isBroken) throw new SourceError("the line is down");
      return good.read(name, offset, length);
    } };
    const checkpoint = await openHuggingFace(flaky, "x");
    const place = checkpoint.place(expertName(0, 2, "gate"));
    isBroken = true;
    await expect(checkpoint.readRows(place, 0, 3)).rejects.toThrow(/Tensor model\.layers\.0\.mlp\.experts\.gate_up_proj \(layers\.0\.experts\.2\.gate\), rows 0 to 2: the line is down/);
    isBroken = false;
    expect(await checkpoint.readF32(place.name)).toEqual(model.weights.get(place.name)!.values);
  });

  it("accepts the unaltered folder, and the stored rotary frequencies of old ones", async () => {
    const inverse: TensorData = { name: "model.layers.0.self_attn.rotary_emb.inv_freq", dtype: "F32", shape: [8], bytes: new Uint8Array(32) };
    const checkpoint = await openHuggingFace(folder((l) => [...l, inverse]), "x");
    expect(checkpoint.place(expertName(1, 7, EXPERT_MATRICES[2])).tensor).toBe("model.layers.1.mlp.experts.7.down_proj.weight");
  });

  it("a folder that is none, and a GGUF with no architecture", async () => {
    await expect(openHuggingFace(new MemorySource(new Map()), "x")).rejects.toThrow(/no config\.json/);
    const file = new MemorySource(new Map([["x.gguf", ggufFile(new Map([["n", u32(1)]]), [])]]));
    await expect(openGguf(file, "x.gguf")).rejects.toThrow(/x\.gguf has no general\.architecture/);
  });
});
