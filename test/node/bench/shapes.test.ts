// The full-size shapes, without writing them: every tensor list binds to its architecture, GGUF metadata says what config.json says, sizes are the releases',
// control tokens are where they are there, and drawn blocks have the deviation asked for and full variety.

import { describe, expect, it } from "vitest";
import { BlockPool, FP8_CODE_DEVIATION, pooledBytes } from "../../../bench/model/block-pools.ts";
import { RandomSource } from "../../../bench/model/random-source.ts";
import { RELEASED_SHAPES, SHAPE_NAMES, type ReleasedShape } from "../../../bench/model/released-shapes.ts";
import { SHAPE_TEMPLATE, shapeConfig, shapeParameters, shapeTensors } from "../../../bench/model/write-shape.ts";
import { shapeMetadata } from "../../../bench/model/shape-metadata.ts";
import { tokenizerJson, vocabularyWith } from "../../../bench/model/vocabulary.ts";
import { Checkpoint } from "../../../formats/checkpoint.ts";
import { decodeRows } from "../../../formats/dequantize.ts";
import { decodeFp8Rows } from "../../../formats/fp8.ts";
import { MemorySource } from "../../../formats/memory-source.ts";
import type { StoredTensor } from "../../../formats/stored-tensor.ts";
import { ARCHITECTURES } from "../../../model/architectures/index.ts";
import { ConfigFields } from "../../../model/architectures/config-fields.ts";
import { createTokenizer } from "../../../model/tokenizer.ts";

const FILE_TYPES: Readonly<Record<string, string>> = { MXFP4_BLOCKS: "U8", MXFP4_SCALES: "U8" };

describe.each(SHAPE_NAMES)("%s", (name) => {
  const shape: ReleasedShape = RELEASED_SHAPES[name];
  const config = shapeConfig(name);

  it("has the tensors of its architecture, in its form", () => {
    const tensors = new Map<string, StoredTensor>(shapeTensors(name).map((t) => [t.name, { name: t.name, file: "f", type: FILE_TYPES[t.type] ?? t.type, shape: t.shape, offset: 0, bytes: 0 }]));
    const checkpoint = new Checkpoint({
      kind: shape.form.kind === "gguf" ? "gguf" : "huggingface", name, sha256: "", config, names: ARCHITECTURES.find((a) => a.name === name)![shape.form.kind === "gguf" ? "gguf" : "huggingFace"], tokenizer: null,
      source: new MemorySource(new Map()), tensors, warnings: [],
    });
    const held = [...checkpoint.places()].reduce((n, p) => n + p.nRows * p.nCols, 0);
    expect(held).toBe(shapeParameters(shapeTensors(name)));
  });

  it("has every control token where the release has it, and a word for a word", () => {
    const vocabulary = vocabularyWith(config.vocabSize, shape.controls);
    expect(vocabulary.tokens).toHaveLength(config.vocabSize);
    expect(new Set(vocabulary.tokens).size).toBe(config.vocabSize);
    for (const [id, text] of Object.entries(shape.controls)) expect([vocabulary.tokens[Number(id)], vocabulary.types[Number(id)]]).toEqual([text, 3]);
    for (const id of config.eosTokenIds) expect(shape.controls[id]).toBeDefined();
    if (name !== "granitemoe" && name !== "gpt_oss") return; // the tokenizer itself: the smallest but one and the largest
    const tokenizer = createTokenizer(tokenizerJson(vocabulary));
    const ids = tokenizer.encodeText("the quick brown fox");
    expect(tokenizer.decode(ids)).toBe("the quick brown fox");
    expect(ids.length).toBeLessThan(12);
  });

  it.runIf(shape.form.kind === "gguf")("says the same in GGUF metadata as in config.json", () => {
    const vocabulary = vocabularyWith(config.vocabSize, shape.controls);
    const fields = Object.fromEntries(Object.entries(shapeMetadata(name, config, vocabulary, SHAPE_TEMPLATE)).map(([key, { type, value }]) => [key, type === "f32" ? Math.fround(value as number) : value]));
    const given = new Map(shapeTensors(name).map((t) => [t.name, t]));
    const read = ARCHITECTURES.find((a) => a.name === name)!.fromGguf(new ConfigFields("gguf", fields), {
      has: (tensor) => given.has(tensor), vector: (tensor) => { const v = given.get(tensor)?.values; return v === undefined ? null : [...v]; },
    });
    // Permuted rows and a magnitude that GGUF cannot hold differ by design; end-of-text ids come from the tokenizer.
    const { rope, eosTokenIds: _, ...rest } = read;
    const { rope: expectedRope, eosTokenIds: __, ...expected } = config;
    expect({ ...rest, bosTokenId: null, denseIntermediateSize: config.denseIntermediateSize }).toEqual(expected);
    rope.inverseFrequencies.forEach((f, i) => expect(f / expectedRope.inverseFrequencies[i]!).toBeCloseTo(1, 6));
    expect([rope.dim, rope.theta, rope.long?.fromPositions]).toEqual([expectedRope.dim, expectedRope.theta, expectedRope.long?.fromPositions]);
  });
});

describe("the shapes' sizes", () => {
  // From docs of the releases: parameters of one expert, of embedding and head, of one layer's attention.
  it.each([
    ["olmoe", 2 * (64 * 3 * 2048 * 1024 + 64 * 2048 + 4 * 2048 * 2048 + 4 * 2048) + 2 * 50304 * 2048 + 2048],
    ["mixtral", 2 * (8 * 3 * 4096 * 14336 + 8 * 4096 + 2 * 4096 * 4096 + 2 * 1024 * 4096 + 2 * 4096) + 2 * 32000 * 4096 + 4096],
    ["qwen3_moe", 2 * (128 * 3 * 2048 * 768 + 128 * 2048 + 2 * 4096 * 2048 + 2 * 512 * 2048 + 2 * 2048 + 2 * 128) + 2 * 151936 * 2048 + 2048],
  ] as const)("%s", (name, parameters) => {
    expect(shapeParameters(shapeTensors(name))).toBe(parameters);
  });
});

describe("block pools", () => {
  it.each(["BF16", "Q8_0", "Q5_0", "Q4_K", "Q6_K", "F32"] as const)("%s has the deviation asked for, and rows that differ", (type) => {
    const [nRows, nCols] = [256, 512];
    const bytes = new Uint8Array(pooledBytes(type, nRows * nCols));
    new BlockPool(type, 0.03).fill(bytes, new RandomSource(5));
    const values = decodeRows(type, bytes, nRows, nCols);
    const square = values.reduce((sum, x) => sum + x * x, 0) / values.length;
    expect(Math.sqrt(square)).toBeGreaterThan(0.0285);
    expect(Math.sqrt(square)).toBeLessThan(0.0315);
    const rows = new Set(Array.from({ length: nRows }, (_, r) => values.subarray(r * nCols, (r + 1) * nCols).join()));
    expect(rows.size).toBe(nRows);
  });

  it("FP8 codes have theirs, without NaN", () => {
    const codes = new Uint8Array(64 * 512);
    new BlockPool("F8_E4M3", 1).fill(codes, new RandomSource(5));
    const values = decodeFp8Rows(codes, 64, 512, new Float32Array(4).fill(1), 0, "codes");
    const deviation = Math.sqrt(values.reduce((sum, x) => sum + x * x, 0) / values.length);
    expect(deviation / FP8_CODE_DEVIATION).toBeGreaterThan(0.95);
    expect(deviation / FP8_CODE_DEVIATION).toBeLessThan(1.05);
  });
});
