// The benchmark's generated model: its files are valid GGUF to two readers, hold the same weights whatever the mixture, and a tokenizer whose
// every token is ASCII. K-quants are decoded here by ggml's own rules, written a second time.

import { gguf } from "@huggingface/gguf";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { encodeQ4K, encodeQ6K, Q4_K_BYTES, Q6_K_BYTES } from "../../../bench/model/k-quants.ts";
import { activeBytes, OLMOE_SHAPE, operationsPerToken, parametersOf, randomModel, type ModelQuant, type ModelShape } from "../../../bench/model/random-model.ts";
import { RandomSource, seedOf } from "../../../bench/model/random-source.ts";
import { asciiVocabulary, END_OF_TEXT_ID, promptOf } from "../../../bench/model/vocabulary.ts";
import { FolderSource } from "../../../cli/file-source.ts";
import { decodeRows } from "../../../formats/dequantize.ts";
import { openGguf } from "../../../formats/gguf-checkpoint.ts";
import { readGgufHeader } from "../../../formats/gguf.ts";
import { createTokenizer } from "../../../model/tokenizer.ts";

const TINY: ModelShape = { hidden: 256, nLayers: 3, nHeads: 4, nKvHeads: 4, nExperts: 4, topK: 2, expertWidth: 256, vocabulary: 1000, contextLength: 128 };
/** Large enough a vocabulary that every word of a prompt is a token. */
const WORDY: ModelShape = { ...TINY, nLayers: 1, nExperts: 2, vocabulary: 20_000 };
const folder = mkdtempSync(join(tmpdir(), "workers-moe-bench-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const bytesOf = (quant: ModelQuant, { shape = TINY, seed = 3 } = {}): Buffer => Buffer.concat([...randomModel(shape, quant, seed)]);
function write(quant: ModelQuant, bytes = bytesOf(quant)): string {
  const name = `${quant.replaceAll(" ", "-")}.gguf`;
  writeFileSync(join(folder, name), bytes);
  return name;
}

/** ggml-quants.c, dequantize_row_q4_K. */
function decodeQ4K(block: Uint8Array): Float32Array {
  const view = new DataView(block.buffer, block.byteOffset);
  const [d, dMin] = [view.getFloat16(0, true), view.getFloat16(2, true)];
  const q = block.subarray(4, 16);
  const out = new Float32Array(256);
  for (let j = 0; j < 8; j++) {
    const scale = j < 4 ? q[j]! & 63 : (q[j + 4]! & 15) | ((q[j - 4]! >> 6) << 4);
    const min = j < 4 ? q[j + 4]! & 63 : (q[j + 4]! >> 4) | ((q[j]! >> 6) << 4);
    for (let l = 0; l < 32; l++) {
      const byte = block[16 + 32 * Math.floor(j / 2) + l]!;
      out[32 * j + l] = d * scale * (j % 2 === 0 ? byte & 15 : byte >> 4) - dMin * min;
    }
  }
  return out;
}

/** ggml-quants.c, dequantize_row_q6_K. */
function decodeQ6K(block: Uint8Array): Float32Array {
  const view = new DataView(block.buffer, block.byteOffset);
  const d = view.getFloat16(208, true);
  const out = new Float32Array(256);
  for (let n = 0; n < 2; n++) {
    const [ql, qh, sc] = [64 * n, 128 + 32 * n, 192 + 8 * n];
    for (let l = 0; l < 32; l++) {
      const is = Math.floor(l / 16);
      const high = block[qh + l]!;
      const q = [
        (block[ql + l]! & 15) | ((high & 3) << 4), (block[ql + l + 32]! & 15) | (((high >> 2) & 3) << 4),
        (block[ql + l]! >> 4) | (((high >> 4) & 3) << 4), (block[ql + l + 32]! >> 4) | ((high >> 6) << 4),
      ];
      q.forEach((value, i) => (out[128 * n + 32 * i + l] = d * view.getInt8(sc + is + 2 * i) * (value - 32)));
    }
  }
  return out;
}

const normals = (n: number, seed: number): Float32Array => {
  const out = new Float32Array(n);
  new RandomSource(seed).fillNormal(out, 1);
  return out;
};
const relativeError = (a: Float32Array, b: Float32Array): number => {
  let [errors, squares] = [0, 0];
  a.forEach((x, i) => {
    errors += (x - b[i]!) ** 2;
    squares += x * x;
  });
  return Math.sqrt(errors / squares);
};

describe("K-quants", () => {
  it("Q4_K decodes to within a few percent, Q6_K to within two, of normal values", () => {
    const x = normals(1024, 11);
    const q4 = encodeQ4K(x, 512);
    const q6 = encodeQ6K(x, 512);
    expect([q4.length, q6.length]).toEqual([4 * Q4_K_BYTES, 4 * Q6_K_BYTES]);
    for (let i = 0; i < 4; i++) {
      const block = x.subarray(256 * i, 256 * (i + 1));
      expect(relativeError(block, decodeQ4K(q4.subarray(Q4_K_BYTES * i, Q4_K_BYTES * (i + 1))))).toBeLessThan(0.1);
      expect(relativeError(block, decodeQ6K(q6.subarray(Q6_K_BYTES * i, Q6_K_BYTES * (i + 1))))).toBeLessThan(0.025);
    }
  });

  it("keep zeros, one-sided blocks and single large values", () => {
    for (const x of [new Float32Array(256), Float32Array.from({ length: 256 }, (_, i) => 1 + i / 256), Float32Array.from({ length: 256 }, (_, i) => (i === 77 ? -3 : 0))]) {
      const scale = Math.max(...x.map(Math.abs)) || 1;
      decodeQ4K(encodeQ4K(x, 256)).forEach((value, i) => expect(Math.abs(value - x[i]!)).toBeLessThanOrEqual(0.08 * scale));
      decodeQ6K(encodeQ6K(x, 256)).forEach((value, i) => expect(Math.abs(value - x[i]!)).toBeLessThanOrEqual(0.04 * scale));
    }
  });
});

describe("the random source", () => {
  it("draws normal deviates, the same for the same seed", () => {
    const x = normals(200_000, seedOf("blk.0.attn_q.weight", 3));
    const mean = x.reduce((sum, value) => sum + value, 0) / x.length;
    expect(Math.abs(mean)).toBeLessThan(0.01);
    expect(x.reduce((sum, value) => sum + value * value, 0) / x.length).toBeCloseTo(1, 1);
    expect(x.filter((value) => Math.abs(value) < 0.6745).length / x.length).toBeCloseTo(0.5, 1);
    expect(normals(100, 5)).toEqual(normals(100, 5));
    expect(seedOf("a", 1)).not.toBe(seedOf("b", 1));
    expect(seedOf("a", 1)).not.toBe(seedOf("a", 2));
  });
});

describe("the generated file", () => {
  it("is what llama.cpp calls OLMoE, to an independent reader, in every mixture", async () => {
    const types: Record<string, Record<string, number>> = {};
    for (const quant of ["Q4_0", "Q8_0", "Q4_K_M"] as const) {
      const { metadata, tensorInfos } = await gguf(join(folder, write(quant)), { allowLocalFile: true });
      expect(metadata).toMatchObject({ "general.architecture": "olmoe", "olmoe.expert_count": 4, "olmoe.expert_used_count": 2, "olmoe.block_count": 3, "olmoe.embedding_length": 256 });
      expect(tensorInfos.length).toBe(3 + 12 * 3);
      expect(tensorInfos.find(({ name }) => name === "blk.1.ffn_up_exps.weight")!.shape.map(Number)).toEqual([256, 256, 4]);
      types[quant] = Object.fromEntries(tensorInfos.map(({ name, dtype }) => [name, Number(dtype)]));
    }
    const head = (quant: string): number => types[quant]!["output.weight"]!;
    expect(["Q4_0", "Q8_0", "Q4_K_M"].map(head)).toEqual([14, 8, 14]);
    expect([0, 1, 2].map((layer) => types["Q4_K_M"]![`blk.${layer}.ffn_down_exps.weight`])).toEqual([12, 12, 14]);
    expect(types["Q4_K_M"]!["blk.2.attn_q.weight"]).toBe(12);
  });

  it("holds the same weights at four and at eight bits, and no logit for the end token", async () => {
    const source = new FolderSource(folder);
    const rows = async (quant: ModelQuant, name: string, type: "Q4_0" | "Q8_0", n: number): Promise<Float32Array> => {
      const file = bytesOf(quant);
      const { offset } = (await readGgufHeader(source, write(quant, file))).tensors.get(name)!;
      return decodeRows(type, new Uint8Array(file.subarray(offset, offset + n * (type === "Q8_0" ? 34 : 18) * 8)), n, 256);
    };
    const q4 = await rows("Q4_0", "blk.1.attn_q.weight", "Q4_0", 8);
    const q8 = await rows("Q8_0", "blk.1.attn_q.weight", "Q8_0", 8);
    expect(relativeError(q8, q4)).toBeGreaterThan(0.02);
    expect(relativeError(q8, q4)).toBeLessThan(0.15);
    const head = await rows("Q8_0", "output.weight", "Q8_0", 2);
    expect(head.subarray(0, 256).every((value) => value === 0)).toBe(true);
    expect(head.subarray(256).some((value) => value !== 0)).toBe(true);
    expect(bytesOf("Q8_0").equals(bytesOf("Q8_0"))).toBe(true);
    expect(bytesOf("Q8_0").equals(bytesOf("Q8_0", { seed: 4 }))).toBe(false);
  });

  it("opens as a checkpoint whose tokenizer counts one token per word of a prompt", async () => {
    const checkpoint = await openGguf(new FolderSource(folder), write("Q4_K_M", bytesOf("Q4_K_M", { shape: WORDY })));
    expect(checkpoint.config).toMatchObject({ nExperts: 2, expertIntermediateSize: 256, vocabSize: 20_000, eosTokenIds: [END_OF_TEXT_ID], tieWordEmbeddings: false });
    const tokenizer = createTokenizer(JSON.parse(new TextDecoder().decode(checkpoint.tokenizer!.json)) as object);
    const prompt = promptOf(120, 9);
    const ids = tokenizer.encodeText(prompt);
    expect(ids.length).toBe(120);
    expect(tokenizer.decode(ids)).toBe(prompt);
    expect(promptOf(120, 10).slice(0, 8)).not.toBe(prompt.slice(0, 8));
  });

  it("has the size the comparison names", () => {
    expect(parametersOf(OLMOE_SHAPE)).toBe(392_815_616);
    // 96M active weights: 4.5 bits each make 54 MB, and the head's other 2.06 bits 8.4 MB more.
    expect(activeBytes(OLMOE_SHAPE, "Q4_0") / 1e6).toBeCloseTo(62.8, 1);
    expect(operationsPerToken(OLMOE_SHAPE)).toEqual({ prompt: 2 * (6 * (4 * 1024 ** 2 + 16 * 1024 + 2 * 3 * 1024 ** 2)), decode: 2 * (6 * (4 * 1024 ** 2 + 16 * 1024 + 2 * 3 * 1024 ** 2) + 32_000 * 1024), head: 2 * 32_000 * 1024 });
  });
});

describe("the vocabulary", () => {
  it("has distinct tokens, ASCII but for the two signs of byte-level BPE, each merged from two others", () => {
    const { tokens, types, merges } = asciiVocabulary(32_000);
    expect(tokens.length).toBe(32_000);
    expect(new Set(tokens).size).toBe(32_000);
    expect(tokens.every((token) => /^[\x21-\x7e\u0120\u010a]+$/.test(token))).toBe(true);
    expect(types.filter((type) => type === 3).length).toBe(1);
    const known = new Set(tokens);
    for (const merge of merges) {
      const [left, right] = merge.split(" ");
      expect(known.has(left!) && known.has(right!) && known.has(left! + right!), merge).toBe(true);
    }
    expect(() => asciiVocabulary(1_000_000)).toThrow(/37,?\d\d\d|most this one has/);
  });
});
