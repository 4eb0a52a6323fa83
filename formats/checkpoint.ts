// One view of a checkpoint, whatever stores it: config, tokenizer, and matrices by canonical name, read by ranges of rows.
// Owns the binding of canonical names to stored tensors: every tensor must be there with the right shape, and every stored
// tensor must be known. Refuses conversion (dequantize.ts) and whole tensors in memory (row-views.ts says what is held).

import type { FfnLocations, TensorNames } from "../model/architectures/architecture.ts";
import { type Location, ownTensor, type Region, type Wanted } from "../model/architectures/locations.ts";
import {
  EXPERT_MATRICES, type ExpertBias, type ExpertMatrix, ModelError, type ModelConfig, expertLayer, expertShape, ffnShape, sharedWidth, trunkTensors,
} from "../model/config.ts";
import { biasLength, expertBiases, expertMatrices } from "../model/expert-kinds.ts";
import { type ByteSource, SourceError } from "./byte-source.ts";
import type { CanonicalDocument } from "./canonical-model.ts";
import { decodeRows } from "./dequantize.ts";
import { fp8ScaleShape } from "./fp8.ts";
import { FORMAT_LIMITS } from "./limits.ts";
import type { SourceKind } from "./manifest.ts";
import { sha256Hex } from "./read-bytes.ts";
import { RowReader, type RowView, type StoredEncoding, storedBytesOf, typeOfView } from "./row-views.ts";
import type { StoredTensor } from "./stored-tensor.ts";
import { FILE_TYPES, STORED_TYPES, type StoredType, storedRowBytes } from "./stored-types.ts";

/** What a pack takes over of a tokenizer. */
export interface TokenizerFiles {
  /** tokenizer.json, byte for byte as it goes into the pack. */
  readonly json: Uint8Array<ArrayBuffer>;
  /** Words for people: "BPE (tokenizer.json)". */
  readonly kind: string;
  readonly chatTemplate: string | null;
  readonly bosToken: string | null;
  readonly eosToken: string | null;
  readonly addBos: boolean;
}

/** One matrix or vector as it is read: rows of `type`, one after the other, wherever the file keeps them (row-views.ts). */
export interface MatrixPlace {
  /** Canonical name, such as "layers.0.q", "layers.0.kB.3", "layers.0.shared.gate" or "layers.0.experts.3.down". */
  readonly name: string;
  /** Stored tensor that holds it, and the file's own word for its type: another than `type` where stored values cannot be handed over as they are. */
  readonly tensor: string;
  readonly storedType: string;
  /** Bytes that its values take in the file. */
  readonly storedBytes: number;
  readonly type: StoredType;
  readonly nRows: number;
  readonly nCols: number;
  /** Of a row of `type`. */
  readonly rowBytes: number;
  readonly view: RowView;
}

export interface RowBatch {
  readonly firstRow: number;
  readonly nRows: number;
  /** Row-major stored bytes. */
  readonly bytes: Uint8Array;
}

export type Lineage = Pick<CanonicalDocument, "source" | "passes">;

export interface CheckpointParts {
  readonly kind: SourceKind;
  /** Name of the folder or file, for the manifest. */
  readonly name: string;
  /** Words for errors, where the source's own do not name the file. */
  readonly description?: string;
  /** SHA-256 of config.json or of the GGUF header. */
  readonly sha256: string;
  readonly config: ModelConfig;
  /** Where the architecture's checkpoints of this form keep things; null: each under its canonical name. */
  readonly names: TensorNames | null;
  readonly tokenizer: TokenizerFiles | null;
  readonly source: ByteSource;
  readonly tensors: ReadonlyMap<string, StoredTensor>;
  /** What a user should know but what stops nothing. */
  readonly warnings: readonly string[];
  /** Of a canonical model: the model it comes from, and the passes it went through. */
  readonly lineage?: Lineage;
}

export const expertName = (layer: number, expert: number, part: ExpertMatrix | ExpertBias): string => `layers.${layer}.experts.${expert}.${part}`;
/** Of a dense layer or shared expert. */
export const sharedName = (layer: number, matrix: ExpertMatrix): string => `layers.${layer}.shared.${matrix}`;

/** Matrices by canonical name, whoever has them: a checkpoint, or one with some of its matrices changed (patched-matrices.ts). */
export interface MatrixSource {
  readonly config: ModelConfig;
  /** Words for errors. */
  readonly description: string;
  /** Throws ModelError where there is none of that name. */
  place(name: string): MatrixPlace;
  /** Rows [firstRow, firstRow + nRows) of a matrix: row-major bytes of place.type. */
  readRows(place: MatrixPlace, firstRow: number, nRows: number): Promise<Uint8Array<ArrayBuffer>>;
  /** A vector, or a small matrix, in f32 [rows * cols]. Throws ModelError where a value is NaN or infinite. */
  readF32(name: string): Promise<Float32Array>;
}

export class Checkpoint implements MatrixSource {
  readonly kind: SourceKind;
  readonly name: string;
  readonly sha256: string;
  readonly config: ModelConfig;
  readonly tokenizer: TokenizerFiles | null;
  readonly warnings: readonly string[];
  readonly lineage: Lineage | null;
  readonly description: string;
  readonly #source: ByteSource;
  readonly #reader: RowReader;
  readonly #places: ReadonlyMap<string, MatrixPlace>;

  /** Binds every tensor. Throws ModelError or SourceError naming file, tensor, found and expected. */
  constructor(parts: CheckpointParts) {
    this.kind = parts.kind;
    this.name = parts.name;
    this.sha256 = parts.sha256;
    this.config = parts.config;
    this.tokenizer = parts.tokenizer;
    this.lineage = parts.lineage ?? null;
    this.description = parts.description ?? parts.source.description;
    this.#source = parts.source;
    this.#reader = new RowReader(parts.source);
    const { places, warnings } = bind(parts);
    this.#places = places;
    this.warnings = [...parts.warnings, ...warnings];
  }

  /** Places of all matrices and vectors: the trunk in loading order, dense layers and shared experts by layer, then experts by layer, expert, matrix, bias. */
  places(): IterableIterator<MatrixPlace> {
    return this.#places.values();
  }

  place(name: string): MatrixPlace {
    const place = this.#places.get(this.#owned(name));
    if (!place) throw new ModelError(`${this.description} has no tensor that is called ${name} here.`);
    return place;
  }

  /** An expert's tensor under the name of the first layer of its pool. */
  #owned(name: string): string {
    if (this.config.expertPool === undefined) return name;
    return name.replace(/^layers\.(\d+)\.experts\./, (_, layer: string) => `layers.${expertLayer(this.config, Number(layer))}.experts.`);
  }

  /** SHA-256 (hex) of config, places and, where the source can tell, versions of the files: what work begun on this checkpoint can go on with. */
  async fingerprint(): Promise<string> {
    const files = [...new Set([...this.#places.values()].map((p) => p.view.file))];
    const versions = await Promise.all(files.map((file) => this.#source.version?.(file) ?? ""));
    const text = JSON.stringify([this.kind, this.name, this.sha256, this.config, [...this.#places.values()], files, versions]);
    return sha256Hex(new TextEncoder().encode(text).slice());
  }

  async readRows(place: MatrixPlace, firstRow: number, nRows: number): Promise<Uint8Array<ArrayBuffer>> {
    try {
      return await this.#reader.read(place.view, firstRow, nRows);
    } catch (error) {
      if (!(error instanceof SourceError)) throw error;
      throw new SourceError(`Tensor ${place.tensor} (${place.name}), rows ${firstRow} to ${firstRow + nRows - 1}: ${error.message}`, { cause: error });
    }
  }

  /** All rows of a matrix in batches of a multiple of `multipleRows` rows, about 1 MiB each. */
  async *readMatrix(name: string, multipleRows = 32): AsyncIterable<RowBatch> {
    const place = this.place(name);
    const rows = rowsPerBatch(place.rowBytes, multipleRows);
    for (let firstRow = 0; firstRow < place.nRows; firstRow += rows) {
      const nRows = Math.min(rows, place.nRows - firstRow);
      yield { firstRow, nRows, bytes: await this.readRows(place, firstRow, nRows) };
    }
  }

  readF32(name: string): Promise<Float32Array> {
    return decodedF32(this, name);
  }
}

/** All rows of a small matrix of `from` in f32. Throws ModelError where a value is NaN or infinite. */
export async function decodedF32(from: Pick<MatrixSource, "description" | "place" | "readRows">, name: string): Promise<Float32Array> {
  const place = from.place(name);
  const values = decodeRows(place.type, await from.readRows(place, 0, place.nRows), place.nRows, place.nCols);
  // A sink of minus infinity is none; nothing else may be infinite.
  const broken = values.findIndex((x) => Number.isNaN(x) || x === Infinity);
  if (broken >= 0) throw new ModelError(`Tensor ${place.tensor} of ${from.description} (${name}): value ${broken} is ${values[broken]}, expected a number.`);
  return values;
}

/** The largest multiple of `multiple` rows within the batch limit, at least one multiple. */
export const rowsPerBatch = (rowBytes: number, multiple: number): number =>
  Math.max(1, Math.floor(FORMAT_LIMITS.rowBatchBytes / (rowBytes * multiple))) * multiple;

/** What is wanted of one canonical tensor, and where it may be. */
export interface Request extends Wanted {
  readonly name: string;
  readonly locations: readonly Location[];
  readonly layer: number;
}

/** Every canonical tensor in the order of places(). Throws ModelError where an architecture has no name for one. */
export function* requests({ config, names }: Pick<CheckpointParts, "config" | "names">): Iterable<Request> {
  const want = (
    name: string, named: readonly Location[] | undefined, layer: number, { nRows, nCols }: Pick<Wanted, "nRows" | "nCols">, more: Partial<Wanted> = {},
  ): Request => {
    const locations = names === null ? [ownTensor(name)] : named;
    if (locations === undefined) throw new ModelError(`No source name is known for tensor ${name} of architecture ${config.architecture}.`);
    return { name, locations, layer, config, nRows, nCols, isVector: false, expert: 0, head: 0, ...more };
  };
  for (const t of trunkTensors(config)) {
    const [, number, inLayer] = /^layers\.(\d+)\.(.+)$/.exec(t.name) ?? [];
    const layer = Number(number ?? 0);
    const locations = names?.trunk[inLayer ?? t.name];
    if (t.kind === "vector") yield want(t.name, locations, layer, { nRows: 1, nCols: t.length }, { isVector: true });
    else if (t.kind === "matrix") yield want(t.name, locations, layer, t);
    else for (let head = 0; head < t.count; head++) yield want(`${t.name}.${head}`, locations, layer, t, { head });
  }
  const layers = Array.from({ length: config.nLayers }, (_, layer) => layer);
  for (const layer of layers) {
    const width = sharedWidth(config, layer);
    if (width === 0) continue;
    const locations: FfnLocations | undefined = config.layerFfns[layer] === "dense" ? names?.dense : names?.shared;
    for (const matrix of EXPERT_MATRICES) yield want(sharedName(layer, matrix), locations?.[matrix], layer, ffnShape(config.hiddenSize, config.hiddenSize, width, matrix));
  }
  for (const layer of layers) {
    if (config.layerFfns[layer] !== "moe" || expertLayer(config, layer) !== layer) continue;
    for (let expert = 0; expert < config.nExperts; expert++) {
      for (const matrix of expertMatrices(config)) yield want(expertName(layer, expert, matrix), names?.experts[matrix], layer, expertShape(config, matrix), { expert });
      for (const bias of expertBiases(config)) yield want(expertName(layer, expert, bias), names?.experts[bias], layer, { nRows: 1, nCols: biasLength(config, bias) }, { expert, isVector: true });
    }
  }
}

function bind(parts: CheckpointParts): { places: Map<string, MatrixPlace>; warnings: string[] } {
  const { kind, source, description = source.description, config, names, tensors } = parts;
  const used = new Set<string>();
  const places = new Map<string, MatrixPlace>();
  const fail = (message: string): never => { throw new ModelError(`${description}: ${message}.`); };
  const shapeOf = (shape: readonly number[]): string => `[${shape.join(", ")}]`;
  const isShape = (a: readonly number[], b: readonly number[]): boolean => a.length === b.length && a.every((d, i) => d === b[i]);

  /** The tensor of scales that belongs to another one. */
  const scalesOf = <T extends string>(
    tensor: StoredTensor, name: string, types: readonly T[], shape: readonly number[],
  ): { scalesFile: string; scalesOffset: number; scalesType: T } => {
    const scales = tensors.get(name) ?? fail(`tensor ${name}, the scales of ${tensor.name}, is missing`);
    const scalesType = types.find((type) => type === scales.type);
    if (scalesType === undefined || !isShape(scales.shape, shape)) {
      return fail(`tensor ${name} in ${scales.file}, the scales of ${tensor.name}, is ${scales.type} ${shapeOf(scales.shape)}, expected ${types.join(" or ")} ${shapeOf(shape)}`);
    }
    used.add(name);
    return { scalesFile: scales.file, scalesOffset: scales.offset, scalesType };
  };

  const encodingOf = (r: Request, tensor: StoredTensor, location: Location, region: Region): StoredEncoding => {
    if (location.scales !== null) {
      if (tensor.type !== "U8") fail(`tensor ${tensor.name} in ${tensor.file} (${r.name}) has type ${tensor.type}, expected U8, the nibbles of MXFP4`);
      const { scalesFile, scalesOffset } = scalesOf(tensor, fill(location.scales, r), ["U8"], tensor.shape.slice(0, -1));
      return { kind: "mxfp4-blocks", scalesFile, scalesOffset };
    }
    if (tensor.type === "F8_E4M3") {
      if (tensor.shape.length !== 2) {
        fail(`tensor ${tensor.name} in ${tensor.file} (${r.name}) is F8_E4M3 ${shapeOf(tensor.shape)}, expected a matrix, whose blocks of 128 x 128 have a factor each`);
      }
      // F32 in DeepSeek's releases, BF16 in Qwen's.
      return { kind: "fp8", tensor: tensor.name, ...scalesOf(tensor, `${tensor.name}_scale_inv`, ["F32", "BF16"], fp8ScaleShape(tensor.shape[0]!, region.rowLength)) };
    }
    const types: readonly StoredType[] = kind === "canonical" ? STORED_TYPES : FILE_TYPES;
    const type = types.find((t) => t === tensor.type) ??
      fail(`tensor ${tensor.name} in ${tensor.file} (${r.name}) has type ${tensor.type}, which this version does not read; expected one of ${types.join(", ")}`);
    return { kind: "rows", type };
  };

  for (const r of requests(parts)) {
    const location = r.locations.find((l) => tensors.has(fill(l.tensor, r)))
      ?? fail(r.locations.length === 1 ? `tensor ${fill(r.locations[0]!.tensor, r)} (${r.name}) is missing`
        : `the tensor of ${r.name} is missing; looked for ${r.locations.map((l) => fill(l.tensor, r)).join(" and ")}`);
    const tensor = tensors.get(fill(location.tensor, r))!;
    const region = location.region(r);
    if (!region.shapes.some((shape) => isShape(shape, tensor.shape))) {
      fail(`tensor ${tensor.name} in ${tensor.file} (${r.name}) has shape ${shapeOf(tensor.shape)}, expected ${shapeOf(region.shapes[0]!)}`);
    }
    const { shapes: _, nRows: nStoredRows, ...where } = region;
    const view: RowView = { file: tensor.file, offset: tensor.offset, encoding: encodingOf(r, tensor, location, region), nStoredRows, ...where };
    const type = typeOfView(view);
    used.add(tensor.name);
    places.set(r.name, {
      name: r.name, tensor: tensor.name, storedType: location.scales === null ? tensor.type : "MXFP4", storedBytes: storedBytesOf(view.encoding, r.nRows * r.nCols),
      type, nRows: r.nRows, nCols: r.nCols, rowBytes: storedRowBytes(type, r.nCols), view,
    });
  }

  const warnings: string[] = [];
  const tiedHeads = config.tieWordEmbeddings ? (names?.trunk["head"] ?? []).map((l) => l.tensor) : [];
  const extra = new Set<string>();
  // What joins a hidden state with the next token's embedding, or heads of its own, tell such a layer from one that the config does not count.
  const predicting = new Set([...tensors.keys()].filter((n) => /[.](eh_proj|enorm|hnorm|embed_tokens|shared_head[._]\w+)[.]weight$/.test(n)).map((n) => names?.extraLayers?.exec(n)?.[1]));
  const isExtra = (tensor: string): boolean => {
    const layer = names?.extraLayers?.exec(tensor)?.[1];
    if (layer === undefined || Number(layer) < config.nLayers || !predicting.has(layer)) return false;
    extra.add(layer);
    return true;
  };
  const unknown = [...tensors.keys()].filter((n) => !used.has(n) && !tiedHeads.includes(n) && !(names?.ignorable ?? []).some((r) => r.test(n)) && !isExtra(n));
  if (unknown.length > 0) {
    const some = unknown.slice(0, 5).join(", ") + (unknown.length > 5 ? ", ..." : "");
    fail(`${unknown.length} tensors have no place in a model of architecture ${config.architecture} as its config describes it: ${some}`);
  }
  if (extra.size > 0) warnings.push(`Layer ${[...extra].join(", ")} lies behind the last of ${config.nLayers} (multi-token prediction): it is left out.`);
  return { places, warnings };
}

/** A stored tensor's name: {layer} and {expert} filled in. */
export const fill = (template: string, { layer, expert }: Pick<Request, "layer" | "expert">): string =>
  template.replace("{layer}", String(layer)).replace("{expert}", String(expert));
