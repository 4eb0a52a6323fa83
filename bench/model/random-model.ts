// A random-weight OLMoE-shaped model as a GGUF file, the same weights whatever the quantisation.
// Owns the shape, the tensors and their types (for Q4_K_M llama.cpp's own mixture, llama-quant.cpp), and the streaming of rows. Refuses
// quality: nothing was trained; weights are scaled so that every activation stays near 1.

import { GGML_TYPES } from "../../formats/gguf-types.ts";
import { encodeRows, noLoss } from "../../formats/quantize.ts";
import { ggufHeader, padded, type Field } from "./gguf-header.ts";
import { encodeQ4K, encodeQ6K } from "./k-quants.ts";
import { RandomSource, seedOf } from "./random-source.ts";
import { asciiVocabulary, END_OF_TEXT_ID } from "./vocabulary.ts";

export interface ModelShape {
  readonly hidden: number;
  readonly nLayers: number;
  readonly nHeads: number;
  readonly nKvHeads: number;
  readonly nExperts: number;
  readonly topK: number;
  readonly expertWidth: number;
  readonly vocabulary: number;
  readonly contextLength: number;
}

/** The model of the comparison with other engines: 393M parameters, 96M of them active per token. */
export const OLMOE_SHAPE: ModelShape = Object.freeze({
  hidden: 1024, nLayers: 6, nHeads: 16, nKvHeads: 16, nExperts: 16, topK: 2, expertWidth: 1024, vocabulary: 32_000, contextLength: 4096,
});

type ElementType = "F32" | "Q4_0" | "Q8_0" | "Q4_K" | "Q6_K";
const TYPE_IDS: Readonly<Record<ElementType, number>> = { F32: 0, Q4_0: 2, Q8_0: 8, Q4_K: 12, Q6_K: 14 };

/** Types of a file: of most matrices, of those llama.cpp gives more bits (some values and down projections), of the head. */
interface Mixture {
  readonly base: ElementType;
  readonly better: ElementType;
  readonly head: ElementType;
  /** llama.cpp's number of the whole file's mixture (enum llama_ftype). */
  readonly fileType: number;
}

/** llama-quantize's mixtures: its Q4_0 keeps the head at Q6_K. */
const MIXTURES = {
  "Q4_0": { base: "Q4_0", better: "Q4_0", head: "Q6_K", fileType: 2 },
  "Q8_0": { base: "Q8_0", better: "Q8_0", head: "Q8_0", fileType: 7 },
  "Q4_K_M": { base: "Q4_K", better: "Q6_K", head: "Q6_K", fileType: 15 },
} as const satisfies Readonly<Record<string, Mixture>>;
export type ModelQuant = keyof typeof MIXTURES;

interface RandomTensor {
  readonly name: string;
  readonly type: ElementType;
  readonly shape: readonly number[];
  /** Standard deviation of its values; 0 for all ones. */
  readonly deviation: number;
}

export function tensorsOf(shape: ModelShape, quant: ModelQuant): RandomTensor[] {
  const { hidden: h, nLayers, nHeads, nKvHeads, nExperts, expertWidth, vocabulary } = shape;
  const kvWidth = (h / nHeads) * nKvHeads;
  const { base, better, head } = MIXTURES[quant];
  // llama-quant.cpp, use_more_bits: the last eighth of the layers, and every third.
  const moreBits = (layer: number): boolean => layer < Math.floor(nLayers / 8) || layer >= Math.floor((7 * nLayers) / 8) || (layer - Math.floor(nLayers / 8)) % 3 === 2;
  const tensors: RandomTensor[] = [];
  const matrix = (name: string, type: ElementType, shape: readonly number[]): void => void tensors.push({ name, type, shape, deviation: shape.at(-1)! ** -0.5 });
  const ones = (name: string, n: number): void => void tensors.push({ name, type: "F32", shape: [n], deviation: 0 });
  tensors.push({ name: "token_embd.weight", type: base, shape: [vocabulary, h], deviation: 1 });
  for (let layer = 0; layer < nLayers; layer++) {
    const at = (name: string): string => `blk.${layer}.${name}.weight`;
    const v: ElementType = moreBits(layer) ? better : base;
    ones(at("attn_norm"), h);
    matrix(at("attn_q"), base, [h, h]);
    matrix(at("attn_k"), base, [kvWidth, h]);
    matrix(at("attn_v"), v, [kvWidth, h]);
    matrix(at("attn_output"), base, [h, h]);
    ones(at("attn_q_norm"), h);
    ones(at("attn_k_norm"), kvWidth);
    ones(at("ffn_norm"), h);
    matrix(at("ffn_gate_inp"), "F32", [nExperts, h]);
    matrix(at("ffn_gate_exps"), base, [nExperts, expertWidth, h]);
    matrix(at("ffn_up_exps"), base, [nExperts, expertWidth, h]);
    matrix(at("ffn_down_exps"), v, [nExperts, h, expertWidth]);
  }
  ones("output_norm.weight", h);
  matrix("output.weight", head, [vocabulary, h]);
  return tensors;
}

const count = (shape: readonly number[]): number => shape.reduce((product, n) => product * n, 1);

export const parametersOf = (shape: ModelShape): number => tensorsOf(shape, "Q8_0").reduce((sum, tensor) => sum + count(tensor.shape), 0);

/** Weight bytes that one token's forward pass reads: every matrix once, of the experts the chosen ones, of the embedding nothing. */
export function activeBytes(shape: ModelShape, quant: ModelQuant): number {
  return tensorsOf(shape, quant).reduce((sum, tensor) => {
    if (tensor.name === "token_embd.weight") return sum;
    return sum + bytesOf(tensor) * (tensor.name.includes("_exps.") ? shape.topK / shape.nExperts : 1);
  }, 0);
}

/** Operations (a multiply and an add are two) of the matrices for one token: read in a prompt, decoded (with the head), and the head alone. */
export function operationsPerToken(shape: ModelShape): { readonly prompt: number; readonly decode: number; readonly head: number } {
  const head = 2 * shape.vocabulary * shape.hidden;
  const prompt = tensorsOf(shape, "Q8_0").reduce((sum, { name, shape: dims }) => {
    if (dims.length < 2 || name === "token_embd.weight" || name === "output.weight") return sum;
    return sum + 2 * count(dims) * (name.includes("_exps.") ? shape.topK / shape.nExperts : 1);
  }, 0);
  return { prompt, decode: prompt + head, head };
}

function bytesOf({ type, shape }: RandomTensor): number {
  const { elements, bytes } = GGML_TYPES.get(TYPE_IDS[type])!;
  return (count(shape) / elements) * bytes;
}

function metadataOf(shape: ModelShape, quant: ModelQuant): Record<string, Field> {
  const vocabulary = asciiVocabulary(shape.vocabulary);
  const u32 = (value: number): Field => ({ type: "u32", value });
  const f32 = (value: number): Field => ({ type: "f32", value });
  const string = (value: string): Field => ({ type: "string", value });
  return {
    "general.architecture": string("olmoe"),
    "general.name": string("random OLMoE"),
    "general.file_type": u32(MIXTURES[quant].fileType),
    "general.quantization_version": u32(2),
    "olmoe.block_count": u32(shape.nLayers),
    "olmoe.context_length": u32(shape.contextLength),
    "olmoe.embedding_length": u32(shape.hidden),
    "olmoe.feed_forward_length": u32(shape.expertWidth),
    "olmoe.attention.head_count": u32(shape.nHeads),
    "olmoe.attention.head_count_kv": u32(shape.nKvHeads),
    "olmoe.attention.layer_norm_rms_epsilon": f32(1e-5),
    "olmoe.rope.freq_base": f32(10000),
    "olmoe.expert_count": u32(shape.nExperts),
    "olmoe.expert_used_count": u32(shape.topK),
    "tokenizer.ggml.model": string("gpt2"),
    "tokenizer.ggml.pre": string("gpt-2"),
    "tokenizer.ggml.tokens": { type: "strings", value: vocabulary.tokens },
    "tokenizer.ggml.token_type": { type: "i32s", value: vocabulary.types },
    "tokenizer.ggml.merges": { type: "strings", value: vocabulary.merges },
    "tokenizer.ggml.bos_token_id": u32(END_OF_TEXT_ID),
    "tokenizer.ggml.eos_token_id": u32(END_OF_TEXT_ID),
    "tokenizer.ggml.add_bos_token": { type: "bool", value: false },
  };
}

const ENCODERS: Readonly<Record<ElementType, (name: string, values: Float32Array, nCols: number) => Uint8Array>> = {
  F32: (_, values) => new Uint8Array(values.buffer.slice(values.byteOffset, values.byteOffset + values.byteLength)),
  Q4_0: (name, values, nCols) => encodeRows("Q4_0", name, values, values.length / nCols, nCols, noLoss()),
  Q8_0: (name, values, nCols) => encodeRows("Q8_0", name, values, values.length / nCols, nCols, noLoss()),
  Q4_K: (_, values, nCols) => encodeQ4K(values, nCols),
  Q6_K: (_, values, nCols) => encodeQ6K(values, nCols),
};

const CHUNK_VALUES = 1 << 20;

/** The file's bytes in order, in pieces of at most a few MiB. `onProgress` gets the values made so far out of all. */
export function* randomModel(shape: ModelShape, quant: ModelQuant, seed: number, onProgress?: (done: number, of: number) => void): Generator<Uint8Array> {
  const tensors = tensorsOf(shape, quant);
  yield ggufHeader(metadataOf(shape, quant), tensors.map((tensor) => ({ ...tensor, typeId: TYPE_IDS[tensor.type], bytes: bytesOf(tensor) })));
  const total = tensors.reduce((sum, tensor) => sum + count(tensor.shape), 0);
  let done = 0;
  for (const tensor of tensors) {
    const nCols = tensor.shape.at(-1)!;
    const nRows = count(tensor.shape) / nCols;
    const random = new RandomSource(seedOf(tensor.name, seed));
    const rowsAtOnce = Math.max(1, Math.floor(CHUNK_VALUES / nCols));
    for (let row = 0; row < nRows; row += rowsAtOnce) {
      const values = new Float32Array(Math.min(rowsAtOnce, nRows - row) * nCols);
      if (tensor.deviation === 0) values.fill(1);
      else random.fillNormal(values, tensor.deviation);
      // The end token's logit is 0, which is never the largest of a vocabulary: generations end by length only, in every engine.
      if (tensor.name === "output.weight" && row === 0) values.fill(0, END_OF_TEXT_ID * nCols, (END_OF_TEXT_ID + 1) * nCols);
      yield ENCODERS[tensor.type](tensor.name, values, nCols);
      done += values.length;
      onProgress?.(done, total);
    }
    const bytes = bytesOf(tensor);
    yield new Uint8Array(padded(bytes) - bytes);
  }
}
