// One model in all its stored forms: same config, same numbers. And what a checkpoint may not be.

import { describe, expect, it } from "vitest";
import { type Checkpoint, expertName } from "../../../formats/checkpoint.ts";
import { openGguf } from "../../../formats/gguf-checkpoint.ts";
import { openHuggingFace } from "../../../formats/huggingface.ts";
import { MemorySource } from "../../../formats/memory-source.ts";
import { EXPERT_MATRICES } from "../../../model/config.ts";
import { ggufFile, u32 } from "../../support/gguf-writer.ts";
import { openTinyGguf, openTinyHuggingFace } from "../../support/pack-to-memory.ts";
import { type TensorData, safetensorsFile } from "../../support/safetensors-writer.ts";
import { TINY_ARCHITECTURES, type TinyModel, permuteForGguf, tinyModel } from "../../support/tiny-models.ts";

/** Every weight of the checkpoint equals the model's; q and k of a GGUF with interleaved rotary are permuted. */
async function expectWeights(checkpoint: Checkpoint, model: TinyModel): Promise<void> {
  const places = [...checkpoint.places()];
  expect(places.map((p) => p.name).sort()).toEqual([...model.weights.keys()].sort());
  const { config } = checkpoint;
  for (const place of places) {
    const weight = model.weights.get(place.name)!;
    const last = place.name.split(".").at(-1);
    const permuted = config.rope.style === "interleaved" && (last === "q" || last === "k");
    const expected = permuted ? permuteForGguf(weight, last === "q" ? config.nHeads : config.nKvHeads) : weight.values;
    expect(await checkpoint.readF32(place.name), place.name).toEqual(expected);
  }
}

describe.each(TINY_ARCHITECTURES)("%s", (architecture) => {
  it("holds the same numbers as F32, F16, BF16, sharded, and as GGUF in every form", async () => {
    const model = tinyModel(architecture, 21);
    for (const options of [{ dtype: "F32" }, { dtype: "F16" }, { dtype: "BF16" }, { shards: 3 }] as const) await expectWeights(await openTinyHuggingFace(model, options), model);
    for (const options of [{ type: "F32" }, { type: "F16" }, { type: "BF16", version: 2 }, { experts: "fused" }, { experts: "own", alignment: 128 }] as const) {
      await expectWeights(await openTinyGguf(model, options), model);
    }
  });

  it.each(["Q8_0", "Q4_0"] as const)("reads %s as the numbers that went in", async (type) => {
    const model = tinyModel(architecture, 22, { exactIn: type });
    await expectWeights(await openTinyGguf(model, { type }), model);
    await expectWeights(await openTinyHuggingFace(model, { dtype: "F32" }), model);
  });

  it("has one config in both forms, but for the rotary style where rows are permuted", async () => {
    const model = tinyModel(architecture, 23);
    const fromFolder = (await openTinyHuggingFace(model)).config;
    const fromFile = (await openTinyGguf(model)).config;
    expect(fromFile).toEqual({ ...fromFolder, rope: { ...fromFolder.rope, style: architecture === "mixtral" ? "interleaved" : "half" } });
  });

  it("may tie its head", async () => {
    const model = tinyModel(architecture, 24, { config: { tie_word_embeddings: true } });
    for (const checkpoint of [await openTinyHuggingFace(model), await openTinyGguf(model)]) {
      expect(checkpoint.config.tieWordEmbeddings).toBe(true);
      expect([...checkpoint.places()].some((p) => p.name === "head")).toBe(false);
      await expectWeights(checkpoint, model);
    }
  });
});

it.each(["olmoe", "qwen3_moe"] as const)("%s may have fused expert tensors in its folder", async (architecture) => {
  const model = tinyModel(architecture, 25);
  await expectWeights(await openTinyHuggingFace(model, { fused: true }), model);
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
