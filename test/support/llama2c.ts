// A reader of llama2.c checkpoints (export version 0) and its tokenizer.bin, for one purpose: a trained model with a known greedy text.
// The dense FFN becomes experts that are all selected with weight 1, so that the text also proves routing, fan-out and combination.
// Format: run.c of llama2.c (MIT). The file itself is not committed; tests skip where the data folder is absent.

import { existsSync, readFileSync } from "node:fs";
import { resolve } from "node:path";
import type { ModelConfig } from "../../model/config.ts";
import type { DefinitionMatrix } from "../../model/definition.ts";
import { plainInverseFrequencies } from "../../model/rope.ts";
import { BOS } from "./llama2c-text.ts";

/** The data folder of tests that need real files. */
export const dataFolder = resolve(process.env["WORKERS_MOE_DATA"] ?? "../shared/data");
export const hasStories = existsSync(resolve(dataFolder, "models/llama2c/stories260K.bin"));
export const STORIES_SKIP_REASON = "needs models/llama2c/stories260K.bin under WORKERS_MOE_DATA (default ../shared/data)";

export interface Stories {
  readonly config: ModelConfig;
  readonly weights: (name: string) => DefinitionMatrix;
  /** Piece of each id; llama2c-text.ts turns ids into text with them. */
  readonly pieces: readonly string[];
}

/** Reads stories260K with its FFN (width 172) split into `nExperts` experts of equal width. */
export function readStories(nExperts: number): Stories {
  const file = readFileSync(resolve(dataFolder, "models/llama2c/stories260K.bin"));
  const bytes = file.buffer.slice(file.byteOffset, file.byteOffset + file.byteLength);
  const [dim, ffnWidth, nLayers, nHeads, nKvHeads, vocabSize, maxPositions] = new Int32Array(bytes, 0, 7) as unknown as [number, number, number, number, number, number, number];
  if (vocabSize < 0 || ffnWidth % nExperts !== 0) throw new Error(`stories260K: vocabulary ${vocabSize} and width ${ffnWidth} over ${nExperts} experts were not expected.`);
  const headDim = dim / nHeads;
  const kvDim = headDim * nKvHeads;
  const width = ffnWidth / nExperts;
  let offset = 28;
  const take = (rows: number, cols: number): DefinitionMatrix & { readonly values: Float32Array } => {
    const values = new Float32Array(bytes, offset, rows * cols);
    offset += rows * cols * 4;
    return { rows, cols, values };
  };
  const perLayer = (rows: number, cols: number) => Array.from({ length: nLayers }, () => take(rows, cols));
  const embed = take(vocabSize, dim);
  const tensors = {
    attnNorm: perLayer(1, dim), q: perLayer(dim, dim), k: perLayer(kvDim, dim), v: perLayer(kvDim, dim), o: perLayer(dim, dim),
    ffnNorm: perLayer(1, dim), gate: perLayer(ffnWidth, dim), down: perLayer(dim, ffnWidth), up: perLayer(ffnWidth, dim),
  };
  const norm = take(1, dim);

  const config: ModelConfig = {
    architecture: "llama2c", vocabSize, hiddenSize: dim, nLayers, nHeads, nKvHeads, headDim, mla: null, maxPositions, norm: "rms", normEps: 1e-5,
    rope: { style: "interleaved", dim: headDim, theta: 10000, inverseFrequencies: plainInverseFrequencies(headDim, 10000), magnitude: 1, long: null },
    qkNorm: "none", qkvBias: false, oBias: false, attentionSinks: false, clipQkv: null, attentionScale: headDim ** -0.5, slidingWindows: new Array<number>(nLayers).fill(0),
    layerFfns: new Array<"moe">(nLayers).fill("moe"), denseIntermediateSize: 0, nExperts, expertKind: "swiglu", swigluLimit: 0, expertIntermediateSize: width, sharedIntermediateSize: 0, sharedGate: false,
    router: { score: "one", select: "top-k", sparsemixerEpsilon: 0, weigh: "score", scale: 1, topK: nExperts, logitBias: false, selectionBias: false, nGroups: 1, topKGroups: 1, groupScore: "max" },
    tieWordEmbeddings: true, headBias: false, embeddingMultiplier: 1, residualMultiplier: 1, logitsScaling: 1, eosTokenIds: [], bosTokenId: BOS,
  };

  const weights = (name: string): DefinitionMatrix => {
    if (name === "embed") return embed;
    if (name === "norm") return norm;
    const [, layer, tensor, expert, matrix] = /^layers\.(\d+)\.(\w+)(?:\.(\d+)\.(\w+))?$/.exec(name) ?? [];
    if (tensor !== "experts") return tensors[tensor as "q"][Number(layer)]!;
    const whole = tensors[matrix as "gate"][Number(layer)]!;
    const start = Number(expert) * width;
    if (matrix !== "down") return { rows: width, cols: dim, values: whole.values.slice(start * dim, (start + width) * dim) };
    const values = Float32Array.from({ length: dim * width }, (_, i) => whole.values[Math.floor(i / width) * ffnWidth + start + (i % width)]!);
    return { rows: dim, cols: width, values };
  };

  return { config, weights, pieces: storiesPieces() };
}

/** stories260K as it was trained, without experts. */
export function readDenseStories(): Stories {
  const { config, weights, pieces } = readStories(1);
  const dense = { ...config, layerFfns: config.layerFfns.map(() => "dense" as const), denseIntermediateSize: config.expertIntermediateSize, nExperts: 0, expertIntermediateSize: 0, router: { ...config.router, topK: 0 } };
  return { config: dense, weights: (name) => weights(name.replace(".shared.", ".experts.0.")), pieces };
}

/** tok512.bin: u32 longest piece, then per id f32 score, u32 length, bytes. Pieces as latin1 strings, one character a byte. */
function storiesPieces(): string[] {
  const data = readFileSync(resolve(dataFolder, "models/llama2c/tok512.bin"));
  const pieces: string[] = [];
  for (let at = 4; at < data.length; ) {
    const length = data.readUInt32LE(at + 4);
    pieces.push(data.toString("latin1", at + 8, at + 8 + length));
    at += 8 + length;
  }
  return pieces;
}
