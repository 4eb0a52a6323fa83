// One view of a checkpoint, whatever stores it: config, tokenizer, and matrices by canonical name, read by ranges of rows.
// Owns the binding of canonical names to stored tensors: every tensor must be there with the right shape, and every stored
// tensor must be known. Refuses conversion (dequantize.ts) and whole tensors in memory.

import type { Architecture, ExpertLocation, TensorNames } from "../model/architectures/architecture.ts";
import { EXPERT_MATRICES, type ExpertMatrix, ModelError, type ModelConfig, expertShape, trunkTensors } from "../model/config.ts";
import { type ByteSource, SourceError } from "./byte-source.ts";
import { decodeRows } from "./dequantize.ts";
import { FORMAT_LIMITS } from "./limits.ts";
import { readBytes } from "./read-bytes.ts";
import type { StoredTensor } from "./stored-tensor.ts";
import { FILE_TYPES, type StoredType, storedRowBytes } from "./stored-types.ts";

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

/** Where one matrix lies: rows of `type`, one after the other. */
export interface MatrixPlace {
  /** Canonical name, such as "layers.0.q" or "layers.0.experts.3.down". */
  readonly name: string;
  readonly tensor: string;
  readonly file: string;
  readonly type: StoredType;
  readonly nRows: number;
  readonly nCols: number;
  /** Absolute offset of row 0 in the file, in bytes. */
  readonly offset: number;
  readonly rowBytes: number;
}

export interface RowBatch {
  readonly firstRow: number;
  readonly nRows: number;
  /** Row-major stored bytes. */
  readonly bytes: Uint8Array;
}

export interface CheckpointParts {
  readonly kind: "huggingface" | "gguf";
  /** Name of the folder or file, for the manifest. */
  readonly name: string;
  /** Words for errors, where the source's own do not name the file. */
  readonly description?: string;
  /** SHA-256 of config.json or of the GGUF header. */
  readonly sha256: string;
  readonly config: ModelConfig;
  readonly architecture: Architecture;
  readonly tokenizer: TokenizerFiles | null;
  readonly source: ByteSource;
  readonly tensors: ReadonlyMap<string, StoredTensor>;
  /** What a user should know but what stops nothing. */
  readonly warnings: readonly string[];
}

export const expertName = (layer: number, expert: number, matrix: ExpertMatrix): string => `layers.${layer}.experts.${expert}.${matrix}`;

export class Checkpoint {
  readonly kind: "huggingface" | "gguf";
  readonly name: string;
  readonly sha256: string;
  readonly config: ModelConfig;
  readonly tokenizer: TokenizerFiles | null;
  readonly warnings: readonly string[];
  readonly description: string;
  readonly #source: ByteSource;
  readonly #places: ReadonlyMap<string, MatrixPlace>;

  /** Binds every tensor. Throws ModelError or SourceError naming file, tensor, found and expected. */
  constructor(parts: CheckpointParts) {
    this.kind = parts.kind;
    this.name = parts.name;
    this.sha256 = parts.sha256;
    this.config = parts.config;
    this.tokenizer = parts.tokenizer;
    this.warnings = parts.warnings;
    this.description = parts.description ?? parts.source.description;
    this.#source = parts.source;
    this.#places = bind(parts);
  }

  /** Places of all matrices and vectors: the trunk in loading order, then experts by layer, expert, matrix. */
  places(): IterableIterator<MatrixPlace> {
    return this.#places.values();
  }

  place(name: string): MatrixPlace {
    const place = this.#places.get(name);
    if (!place) throw new ModelError(`${this.description} has no tensor that is called ${name} here.`);
    return place;
  }

  /** Rows [firstRow, firstRow + nRows) of a matrix, as stored. */
  async readRows(place: MatrixPlace, firstRow: number, nRows: number): Promise<Uint8Array<ArrayBuffer>> {
    try {
      return await readBytes(this.#source, place.file, place.offset + firstRow * place.rowBytes, nRows * place.rowBytes);
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

  /** A vector, or a small matrix, in f32 [rows * cols]. */
  async readF32(name: string): Promise<Float32Array> {
    const place = this.place(name);
    return decodeRows(place.type, await this.readRows(place, 0, place.nRows), place.nRows, place.nCols);
  }
}

/** The largest multiple of `multiple` rows within the batch limit, at least one multiple. */
export const rowsPerBatch = (rowBytes: number, multiple: number): number =>
  Math.max(1, Math.floor(FORMAT_LIMITS.rowBatchBytes / (rowBytes * multiple))) * multiple;

function bind({ kind, source, description = source.description, config, architecture, tensors }: CheckpointParts): Map<string, MatrixPlace> {
  const names = kind === "gguf" ? architecture.gguf : architecture.huggingFace;
  const used = new Set<string>();
  const places = new Map<string, MatrixPlace>();
  const fail = (message: string): never => { throw new ModelError(`${description}: ${message}.`); };

  const add = (name: string, tensor: StoredTensor, shape: readonly number[], firstRow: number, nRows: number, nCols: number): void => {
    // A vector may be stored as [n], [1, n] or [n, 1]; a matrix has one shape.
    const found = nRows === 1 && shape.length === 1 ? tensor.shape.filter((d) => d !== 1 || tensor.shape.length === 1) : tensor.shape;
    if (found.length !== shape.length || found.some((d, i) => d !== shape[i])) {
      fail(`tensor ${tensor.name} in ${tensor.file} (${name}) has shape [${tensor.shape.join(", ")}], expected [${shape.join(", ")}]`);
    }
    const type = FILE_TYPES.find((t) => t === tensor.type) ??
      fail(`tensor ${tensor.name} in ${tensor.file} (${name}) has type ${tensor.type}, which this version does not read; `
        + `expected one of ${FILE_TYPES.join(", ")}`);
    const rowBytes = storedRowBytes(type, nCols);
    places.set(name, { name, tensor: tensor.name, file: tensor.file, type, nRows, nCols, rowBytes, offset: tensor.offset + firstRow * rowBytes });
    used.add(tensor.name);
  };

  for (const t of trunkTensors(config)) {
    const stored = trunkSourceName(names, t.name);
    const tensor = tensors.get(stored) ?? fail(`tensor ${stored} (${t.name}) is missing`);
    if (t.kind === "vector") add(t.name, tensor, [t.length], 0, 1, t.length);
    else add(t.name, tensor, [t.nRows, t.nCols], 0, t.nRows, t.nCols);
  }
  for (let layer = 0; layer < config.nLayers; layer++) {
    if (config.layerFfns[layer] !== "moe") continue;
    for (let expert = 0; expert < config.nExperts; expert++) {
      for (const matrix of EXPERT_MATRICES) {
        const { nRows, nCols } = expertShape(config, matrix);
        const name = expertName(layer, expert, matrix);
        const { location, tensor } = findExpert(names.experts[matrix], layer, expert, tensors)
          ?? fail(`the tensor of ${name} is missing; looked for ${names.experts[matrix].map((l) => fill(l.tensor, layer, expert)).join(" and ")}`);
        if (!location.stacked) {
          add(name, tensor, [nRows, nCols], 0, nRows, nCols);
          continue;
        }
        const rowsOfExpert = nRows * location.parts;
        add(name, tensor, [config.nExperts, rowsOfExpert, nCols], expert * rowsOfExpert + location.part * nRows, nRows, nCols);
      }
    }
  }
  const tiedHead = config.tieWordEmbeddings ? names.trunk.head : null;
  const unknown = [...tensors.keys()].filter((n) => !used.has(n) && n !== tiedHead && !names.ignorable.some((r) => r.test(n)));
  if (unknown.length > 0) {
    const some = unknown.slice(0, 5).join(", ") + (unknown.length > 5 ? ", ..." : "");
    fail(`${unknown.length} tensors have no place in a model of architecture ${config.architecture} as its config describes it: ${some}`);
  }
  return places;
}

function trunkSourceName(names: TensorNames, canonical: string): string {
  const inLayer = /^layers\.(\d+)\.(.+)$/.exec(canonical);
  const template = names.trunk[inLayer === null ? canonical : inLayer[2]!];
  if (template === undefined) throw new ModelError(`No source name is known for tensor ${canonical}.`);
  return inLayer === null ? template : template.replace("{layer}", inLayer[1]!);
}

const fill = (template: string, layer: number, expert: number): string =>
  template.replace("{layer}", String(layer)).replace("{expert}", String(expert));

function findExpert(
  locations: readonly ExpertLocation[], layer: number, expert: number, tensors: ReadonlyMap<string, StoredTensor>,
): { location: ExpertLocation; tensor: StoredTensor } | null {
  for (const location of locations) {
    const tensor = tensors.get(fill(location.tensor, layer, expert));
    if (tensor) return { location, tensor };
  }
  return null;
}
