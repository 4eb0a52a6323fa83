// What the calculators of a deployment read of a pack, and its counts: bytes of trunk and experts, parameters, KV per token.
// Owns the view (a manifest of docs/formats.md fits it, and so does a pack planned from a config alone) and the sums over it.
// Refuses limits and placement: capacity-stages.ts and capacity-shards.ts.

import { EXPERT_MATRICES, type ExpertMatrix, expertShape, ffnShape, type ModelConfig, sharedWidth, trunkTensors } from "../model/config.ts";
import { biasLength, expertBiases, expertMatrices } from "../model/expert-kinds.ts";
import { type ActivationFormat, type KvFormat, KV_BLOCK, matrixBytes, type MatrixFormat } from "../model/kernels.ts";
import { pageBytesOf } from "../model/kv-page.ts";

export interface CapacityBlob {
  readonly hash: string;
  readonly bytes: number;
}

export interface CapacityFfn {
  readonly layer: number;
  readonly segments: readonly (CapacityBlob & { readonly start: number; readonly end: number })[];
}

export interface CapacityPack {
  readonly id: string;
  readonly config: ModelConfig;
  readonly kvFormat: KvFormat;
  readonly activations: ActivationFormat;
  readonly contextLength: number;
  readonly blobs: Readonly<Record<string, CapacityBlob & { readonly format: MatrixFormat | "f32-vector" }>>;
  readonly shared: readonly CapacityFfn[];
  readonly experts: readonly (CapacityFfn & { readonly expert: number })[];
}

/** What an isolate may use, and the sizes of what passes through it. */
export interface CapacityLimits {
  readonly isolateBytes: number;
  /** Of those, kept for frames in flight. */
  readonly inFlightBytes: number;
  readonly frameBytes: number;
  /** Most tokens of a step: what fits one frame. */
  readonly roundTokens: number;
  /** Most requests of a step. */
  readonly entries: number;
}

/** A deployment that cannot be: what was asked for, what it takes, what there is. */
export class CapacityPlanError extends Error {
  override readonly name = "CapacityPlanError";
}

export const mib = (bytes: number): string => `${(bytes / 1048576).toFixed(1)} MiB`;

/** Bytes an object may fill: the isolate's, less frames in flight. */
export const roomBytes = (limits: CapacityLimits): number => limits.isolateBytes - limits.inFlightBytes;

const sumBytes = (blobs: readonly CapacityBlob[]): number => blobs.reduce((sum, { bytes }) => sum + bytes, 0);

/** Of one expert, all its segments. */
export const ffnBytes = (ffn: CapacityFfn): number => sumBytes(ffn.segments);

export interface PackBytes {
  readonly embeddingBytes: number;
  /** Of each layer: attention, norms, router, dense and shared feed-forward parts. */
  readonly layerBytes: readonly number[];
  /** Head, its bias and the last norm; a tied head is the embedding and counts nothing. */
  readonly headBytes: number;
  readonly ropeBytes: number;
  readonly trunkBytes: number;
  readonly expertBytes: number;
  readonly totalBytes: number;
}

/** Everything the pack holds, as stored: equal blobs count each time they are named. */
export function packBytes(pack: CapacityPack): PackBytes {
  const layerBytes = new Array<number>(pack.config.nLayers).fill(0);
  let headBytes = 0;
  for (const [name, { bytes }] of Object.entries(pack.blobs)) {
    const layer = layerOf(name);
    if (layer !== null) layerBytes[layer]! += bytes;
    else if (name !== "embed" && name !== "rope") headBytes += bytes;
  }
  for (const ffn of pack.shared) layerBytes[ffn.layer]! += ffnBytes(ffn);
  const [embeddingBytes, ropeBytes] = [pack.blobs["embed"]!.bytes, pack.blobs["rope"]!.bytes];
  const trunkBytes = embeddingBytes + ropeBytes + headBytes + layerBytes.reduce((a, b) => a + b, 0);
  const expertBytes = pack.experts.reduce((sum, expert) => sum + ffnBytes(expert), 0);
  return { embeddingBytes, layerBytes, headBytes, ropeBytes, trunkBytes, expertBytes, totalBytes: trunkBytes + expertBytes };
}

/** Layer of a trunk tensor by its name (trunkTensors); null of those outside the layers. */
export function layerOf(name: string): number | null {
  const found = /^layers\.(\d+)\./.exec(name);
  return found === null ? null : Number(found[1]);
}

/** KV cache of one token in `nLayers` layers. Pages hold 32 tokens, so this divides evenly but in the page's alignment. */
export const kvBytesPerToken = ({ config, kvFormat }: Pick<CapacityPack, "config" | "kvFormat">, nLayers: number = config.nLayers): number =>
  pageBytesOf(config, kvFormat, nLayers) / KV_BLOCK;

/** Bytes of rows [from, to) of a matrix; `from` is a multiple of 32, the rows of a tile. */
export const rowBytes = (format: MatrixFormat, from: number, to: number, nCols: number): number => (to > from ? matrixBytes(format, to - from, nCols) : 0);

export interface ParameterCounts {
  readonly total: number;
  /** That take part in one token: all but the experts not chosen; of product experts the keys, and the halves of as many as the heads keep together, about, at most. */
  readonly active: number;
  readonly ofOneExpert: number;
  /** The trunk without its embedding: what multiplies every token. */
  readonly trunkProducts: number;
}

export function parameterCounts(c: ModelConfig): ParameterCounts {
  const sizes = trunkTensors(c).map((t) => ({ name: t.name, n: t.kind === "vector" ? t.length : (t.kind === "matrices" ? t.count : 1) * t.nRows * t.nCols }));
  const weights = (matrices: readonly ExpertMatrix[], shape: (matrix: ExpertMatrix) => { nRows: number; nCols: number }): number => matrices.reduce((n, matrix) => n + shape(matrix).nRows * shape(matrix).nCols, 0);
  const shared = c.layerFfns.reduce((n, _, layer) => n + weights(EXPERT_MATRICES, (matrix) => ffnShape(c.hiddenSize, c.hiddenSize, sharedWidth(c, layer), matrix)), 0);
  const trunk = sizes.reduce((sum, { n }) => sum + n, 0) + shared;
  const ofOneExpert = weights(expertMatrices(c), (matrix) => expertShape(c, matrix)) + expertBiases(c).reduce((n, bias) => n + biasLength(c, bias), 0);
  const nMoeLayers = c.layerFfns.filter((kind) => kind === "moe").length;
  const embedding = c.vocabSize * c.hiddenSize;
  const halves = sizes.reduce((sum, { name, n }) => sum + (/\.product\.(u|b|v(?!ariance))/.test(name) ? n : 0), 0);
  const kept = c.productExperts === undefined ? 1 : Math.min(1, c.productExperts.nHeads * c.productExperts.topK / c.productExperts.nKeys);
  return {
    total: trunk + (nMoeLayers / (c.expertPool?.layers ?? 1)) * c.nExperts * ofOneExpert, active: trunk - Math.round((1 - kept) * halves) + nMoeLayers * c.router.topK * ofOneExpert, ofOneExpert,
    // A tied embedding is the head's matrix, which every token is multiplied with.
    trunkProducts: c.tieWordEmbeddings ? trunk : trunk - embedding,
  };
}

/** Most segments any expert has. */
export const mostSegments = (pack: CapacityPack): number => pack.experts.reduce((most, { segments }) => Math.max(most, segments.length), 1);
