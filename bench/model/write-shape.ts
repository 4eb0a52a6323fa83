// Checkpoints of a release's shape as files on disk: config or metadata, tokenizer, and random weights in the form in which the release is published.
// Owns which tensors there are (by the architecture's own record), their types and deviations, and the files' layout. Writes in pieces of 4 MiB.
// Refuses learning: weights are scaled so that activations stay near 1, routers decide, and logits spread by about 3.
// Types of GGUF mixtures: llama.cpp, llama-quant.cpp. That names and layouts are right is proven elsewhere, on tiny files written out by hand.

import { mkdirSync, writeFileSync } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { join } from "node:path";
import { fill, requests } from "../../formats/checkpoint.ts";
import { fp8ScaleShape } from "../../formats/fp8.ts";
import { ARCHITECTURES } from "../../model/architectures/index.ts";
import { ConfigFields } from "../../model/architectures/config-fields.ts";
import type { ModelConfig } from "../../model/config.ts";
import { BlockPool, FP8_CODE_DEVIATION, type PooledType, holdsRows, pooledBytes } from "./block-pools.ts";
import { type Field, ggufHeader, padded } from "./gguf-header.ts";
import { RandomSource, seedOf } from "./random-source.ts";
import { RELEASED_SHAPES, type ReleasedShape, type ShapeName } from "./released-shapes.ts";
import { shapeMetadata } from "./shape-metadata.ts";
import { tokenizerJson, vocabularyWith } from "./vocabulary.ts";

const CHUNK_BYTES = 4 * 2 ** 20;
const SEED = 11;
const GGML_IDS: Readonly<Partial<Record<PooledType, number>>> = { F32: 0, Q5_0: 6, Q8_0: 8, Q4_K: 12, Q6_K: 14 };

/** Every token of a message and nothing else. */
export const SHAPE_TEMPLATE =
  "{% for m in messages %}<{{ m.role }}> {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";

/** A tensor of a file. */
export interface ShapeTensor {
  readonly name: string;
  readonly shape: readonly number[];
  readonly type: PooledType;
  readonly deviation: number;
  readonly mean: number;
  /** Rows of zeros: ids whose logits should never be the largest. */
  readonly zeroRows: readonly number[];
  /** Given instead of drawn. */
  readonly values?: Float32Array;
}

/** What a matrix does to activations near 1: deviation times the root of what it sums over. */
const GAINS: Readonly<Record<string, number>> = { router: 2, head: 3 };
/** Granite multiplies embeddings by 12 and what layers add by 0.22, and the head is the embedding: layers have to say much more than the token itself. */
const GRANITE_GAINS: Readonly<Record<string, number>> = { ...GAINS, q: 3, k: 3, o: 20, down: 80 };
const EMBEDDING_DEVIATION = 1;
const GRANITE_EMBEDDING_DEVIATION = 0.02;
const GRANITE_FINAL_NORM = 20;
/** Vectors that are no norms: deviations around 0. */
const VECTOR_DEVIATIONS: Readonly<Record<string, number>> = {
  attnNormBias: 0.1, ffnNormBias: 0.1, normBias: 0.1, qBias: 0.3, kBias: 0.3, vBias: 0.2, oBias: 0.1, headBias: 0.5, sinks: 1, routerBias: 0.5, selectionBias: 0.05,
  gateBias: 1, upBias: 1, downBias: 0.1,
};
const NORM_DEVIATION = 0.1;

export interface WrittenShape {
  /** What the commands take: a folder, or a .gguf file. */
  readonly path: string;
  readonly parameters: number;
  readonly bytes: number;
}

/** The record the loader would read from the shape's config.json. */
export function shapeConfig(name: ShapeName): ModelConfig {
  const architecture = ARCHITECTURES.find((a) => a.name === name)!;
  return architecture.fromHuggingFace(new ConfigFields("config.json", RELEASED_SHAPES[name].config), null);
}

/** llama-quant.cpp, use_more_bits. */
const takesMoreBits = (layer: number, nLayers: number): boolean =>
  layer < Math.floor(nLayers / 8) || layer >= Math.floor((7 * nLayers) / 8) || (layer - Math.floor(nLayers / 8)) % 3 === 2;

/** Type of a matrix in a GGUF file; where rows are no multiple of 256 llama-quantize falls back to types of 32. */
function ggufType(mixture: "Q4_K_M" | "Q6_K" | "Q8_0", part: string, layer: number, nLayers: number, nCols: number): PooledType {
  if (part === "router" || part === "sharedGate") return "F32";
  const better = part === "head" || ((part === "v" || part === "vB" || part === "down") && takesMoreBits(layer, nLayers));
  const wanted = mixture === "Q4_K_M" ? (better ? "Q6_K" : "Q4_K") : mixture;
  return holdsRows(wanted, nCols) ? wanted : wanted === "Q4_K" ? "Q5_0" : "Q8_0";
}

/** Tensors of the shape's files, in the order of the record. */
export function shapeTensors(name: ShapeName): ShapeTensor[] {
  const { form }: ReleasedShape = RELEASED_SHAPES[name];
  const config = shapeConfig(name);
  const architecture = ARCHITECTURES.find((a) => a.name === name)!;
  const isGranite = name.startsWith("granite");
  const gains = isGranite ? GRANITE_GAINS : GAINS;
  const tensors = new Map<string, ShapeTensor>();
  for (const r of requests({ config, names: form.kind === "gguf" ? architecture.gguf : architecture.huggingFace })) {
    // gpt-oss alone calls the feed-forward norm by the second name.
    const location = name === "gpt_oss" && form.kind === "gguf" ? r.locations.at(-1)! : r.locations[0]!;
    const stored = fill(location.tensor, r);
    if (tensors.has(stored)) continue;
    const part = /(?:^|\.)([A-Za-z]+)(?:\.\d+)?$/.exec(r.name)![1]!;
    const shape = location.region(r).shapes[0]!;
    const isNorm = r.isVector && VECTOR_DEVIATIONS[part] === undefined;
    const fanIn = part === "kB" ? config.mla!.kvLoraRank : r.nCols;
    const embedding = isGranite ? GRANITE_EMBEDDING_DEVIATION : EMBEDDING_DEVIATION;
    const of = {
      name: stored, shape, mean: !isNorm ? 0 : isGranite && part === "norm" ? GRANITE_FINAL_NORM : 1,
      deviation: r.isVector ? VECTOR_DEVIATIONS[part] ?? NORM_DEVIATION : part === "embed" ? embedding : (gains[part] ?? 1) * fanIn ** -0.5,
      zeroRows: part === "head" || (part === "embed" && config.tieWordEmbeddings) ? Object.keys(RELEASED_SHAPES[name].controls).map(Number) : [],
    };
    if (form.kind === "gguf") tensors.set(stored, { ...of, type: r.isVector ? "F32" : ggufType(form.mixture, part, r.layer, config.nLayers, shape.at(-1)!) });
    else if (location.scales !== null) {
      tensors.set(stored, { ...of, type: "MXFP4_BLOCKS" });
      const scales = fill(location.scales, r);
      tensors.set(scales, { ...of, name: scales, shape: shape.slice(0, -1), type: "MXFP4_SCALES" });
    } else if (form.dtype === "F8_E4M3" && !r.isVector && !["embed", "head", "router"].includes(part)) {
      tensors.set(stored, { ...of, type: "F8_E4M3" });
      const scales = `${stored}_scale_inv`;
      const factor = of.deviation / FP8_CODE_DEVIATION;
      tensors.set(scales, { ...of, name: scales, shape: fp8ScaleShape(shape[0]!, shape[1]!), type: "F32", mean: factor, deviation: factor / 8 });
    } else tensors.set(stored, { ...of, type: part === "selectionBias" ? "F32" : "BF16" });
  }
  if (form.kind === "gguf") for (const [factors, values] of ropeFactors(name, config)) tensors.set(factors, { name: factors, shape: [values.length], type: "F32", deviation: 0, mean: 0, zeroRows: [], values });
  return [...tensors.values()];
}

/** Factors of rotary frequencies, which GGUF keeps in tensors: LongRoPE's two, or those of Llama 3. */
function ropeFactors(name: ShapeName, config: ModelConfig): Map<string, Float32Array> {
  const plain = (i: number): number => config.rope.theta ** ((-2 * i) / config.rope.dim);
  const of = (inverse: readonly number[]): Float32Array => Float32Array.from(inverse, (f, i) => plain(i) / f);
  const { rope } = config;
  if (rope.long !== null) return new Map([["rope_factors_short.weight", of(rope.inverseFrequencies)], ["rope_factors_long.weight", of(rope.long.inverseFrequencies)]]);
  return name === "llama" ? new Map([["rope_freqs.weight", of(rope.inverseFrequencies)]]) : new Map();
}

const nValues = ({ shape, type }: ShapeTensor): number => shape.reduce((n, d) => n * d, 1) * (type === "MXFP4_BLOCKS" ? 2 : type === "MXFP4_SCALES" ? 32 : 1);
const tensorBytes = (t: ShapeTensor): number => pooledBytes(t.type, nValues(t));

/** Weights: what is no scale of other tensors. */
export const shapeParameters = (tensors: readonly ShapeTensor[]): number =>
  tensors.reduce((n, t) => n + (t.type === "MXFP4_SCALES" || t.name.endsWith("_scale_inv") || t.values !== undefined ? 0 : nValues(t)), 0);

/** The bytes of a tensor in order, in pieces of about CHUNK_BYTES. Pieces are reused: each must be written before the next is asked for. */
function* tensorPieces(t: ShapeTensor, pools: Map<string, BlockPool>): Generator<Uint8Array> {
  const bytes = tensorBytes(t);
  const random = new RandomSource(seedOf(t.name, SEED));
  const asStored = (values: Float32Array): Uint8Array =>
    t.type === "F32" ? new Uint8Array(values.buffer) : new Uint8Array(Uint16Array.from(new Uint32Array(values.buffer), (bits) => (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16).buffer);
  if (t.values !== undefined) return yield asStored(t.values);
  if (t.mean !== 0 || t.shape.length === 1) {
    const values = new Float32Array(nValues(t));
    random.fillNormal(values, t.deviation);
    return yield asStored(values.map((x) => x + t.mean));
  }
  const key = `${t.type} ${t.deviation}`;
  if (!pools.has(key)) pools.set(key, new BlockPool(t.type, t.deviation));
  const pool = pools.get(key)!;
  // Whole units, so that pieces of a tensor join without a seam.
  const piece = new Uint8Array(Math.max(1, Math.floor(CHUNK_BYTES / pool.unitBytes)) * pool.unitBytes);
  const rowBytes = bytes / t.shape[0]!;
  for (let at = 0; at < bytes; at += piece.length) {
    const out = piece.subarray(0, Math.min(piece.length, bytes - at));
    pool.fill(out, random);
    for (const row of t.zeroRows) out.fill(0, clamp(row * rowBytes - at, out.length), clamp((row + 1) * rowBytes - at, out.length));
    yield out;
  }
}

const clamp = (n: number, most: number): number => Math.max(0, Math.min(most, n));

async function writeAll(handle: FileHandle, bytes: Uint8Array): Promise<void> {
  for (let at = 0; at < bytes.length; ) at += (await handle.write(bytes, at)).bytesWritten;
}

/** Writes the shape's files into `folder`, which is made. */
export async function writeShape(name: ShapeName, folder: string, onProgress: (bytes: number) => void = () => {}): Promise<WrittenShape> {
  const shape: ReleasedShape = RELEASED_SHAPES[name];
  const tensors = shapeTensors(name);
  const vocabulary = vocabularyWith(shape.config["vocab_size"] as number, shape.controls);
  const pools = new Map<string, BlockPool>();
  mkdirSync(folder, { recursive: true });
  let written = 0;
  const write = async (handle: FileHandle, bytes: Uint8Array): Promise<void> => {
    await writeAll(handle, bytes);
    onProgress((written += bytes.length));
  };
  let path = folder;
  if (shape.form.kind === "gguf") {
    path = join(folder, `${shape.release}-${shape.form.mixture}.gguf`);
    const handle = await open(path, "w");
    try {
      const fields: Record<string, Field> = shapeMetadata(name, shapeConfig(name), vocabulary, SHAPE_TEMPLATE);
      await write(handle, ggufHeader(fields, tensors.map((t) => ({ ...t, typeId: GGML_IDS[t.type]!, bytes: tensorBytes(t) }))));
      for (const t of tensors) {
        for (const piece of tensorPieces(t, pools)) await write(handle, piece);
        await write(handle, new Uint8Array(padded(tensorBytes(t)) - tensorBytes(t)));
      }
    } finally {
      await handle.close();
    }
  } else {
    const json = (file: string, value: unknown): void => writeFileSync(join(folder, file), JSON.stringify(value));
    json("config.json", shape.config);
    json("generation_config.json", { eos_token_id: shape.config["eos_token_id"] });
    json("tokenizer.json", tokenizerJson(vocabulary));
    json("tokenizer_config.json", { tokenizer_class: "PreTrainedTokenizerFast", add_bos_token: false, eos_token: shape.controls[shape.config["eos_token_id"] as number], chat_template: SHAPE_TEMPLATE });
    await writeShards(folder, tensors, shape.form.shards, json, async (handle, t) => { for (const piece of tensorPieces(t, pools)) await write(handle, piece); });
  }
  return { path, parameters: shapeParameters(tensors), bytes: written };
}

const DTYPES: Readonly<Partial<Record<PooledType, string>>> = { F32: "F32", BF16: "BF16", F8_E4M3: "F8_E4M3", MXFP4_BLOCKS: "U8", MXFP4_SCALES: "U8" };

/** model-0000N-of-0000M.safetensors of about equal size, and their index. */
async function writeShards(
  folder: string, tensors: readonly ShapeTensor[], nShards: number, json: (file: string, value: unknown) => void, write: (handle: FileHandle, t: ShapeTensor) => Promise<void>,
): Promise<void> {
  const total = tensors.reduce((n, t) => n + tensorBytes(t), 0);
  const shards: ShapeTensor[][] = Array.from({ length: nShards }, () => []);
  let before = 0;
  for (const t of tensors) {
    shards[Math.min(nShards - 1, Math.floor((before / total) * nShards))]!.push(t);
    before += tensorBytes(t);
  }
  const five = (n: number): string => String(n).padStart(5, "0");
  const weightMap: Record<string, string> = {};
  for (const [i, shard] of shards.entries()) {
    const file = `model-${five(i + 1)}-of-${five(nShards)}.safetensors`;
    let offset = 0;
    const header: Record<string, unknown> = { __metadata__: { format: "pt" } };
    for (const t of shard) {
      weightMap[t.name] = file;
      header[t.name] = { dtype: DTYPES[t.type]!, shape: t.shape, data_offsets: [offset, (offset += tensorBytes(t))] };
    }
    const text = new TextEncoder().encode(JSON.stringify(header));
    const length = Math.ceil(text.length / 8) * 8;
    const head = new Uint8Array(8 + length).fill(32);
    new DataView(head.buffer).setBigUint64(0, BigInt(length), true);
    head.set(text, 8);
    const handle = await open(join(folder, file), "w");
    try {
      await writeAll(handle, head);
      for (const t of shard) await write(handle, t);
    } finally {
      await handle.close();
    }
  }
  json("model.safetensors.index.json", { metadata: { total_size: total }, weight_map: weightMap });
}
