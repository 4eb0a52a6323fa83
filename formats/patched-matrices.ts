// A checkpoint some of whose matrices are others: what a pass has made so far, in the type it will be written in, or what it tries. Owns those bytes and
// their places. Refuses new names: a patch stands for a matrix that is there, of the same shape.

import type { ModelConfig } from "../model/config.ts";
import { type MatrixPlace, type MatrixSource, decodedF32 } from "./checkpoint.ts";
import { type StoredType, storedRowBytes } from "./stored-types.ts";

/** Rows of a stored type in memory. */
export interface StoredRows {
  readonly type: StoredType;
  /** Row-major. */
  readonly bytes: Uint8Array<ArrayBuffer>;
}

export class PatchedMatrices implements MatrixSource {
  readonly config: ModelConfig;
  readonly #of: MatrixSource;
  readonly #patches = new Map<string, StoredRows & { readonly place: MatrixPlace }>();

  /** `config`: what the matrices are taken for, where that is not what they are for `of`. */
  constructor(of: MatrixSource, config = of.config) {
    this.#of = of;
    this.config = config;
  }

  get description(): string { return this.#of.description; }

  /** From now on the matrix is this one. Throws RangeError where bytes and shape do not fit. */
  set(name: string, { type, bytes }: StoredRows): void {
    const of = this.#of.place(name);
    const rowBytes = storedRowBytes(type, of.nCols);
    if (bytes.length !== of.nRows * rowBytes) throw new RangeError(`${bytes.length} bytes were given for ${name}; ${of.nRows} rows of ${of.nCols} x ${type} take ${of.nRows * rowBytes}.`);
    this.#patches.set(name, { type, bytes, place: { ...of, type, storedType: type, storedBytes: bytes.length, rowBytes } });
  }

  /** The patch of a matrix, if it has one. */
  patch(name: string): StoredRows | undefined {
    return this.#patches.get(name);
  }

  /** The matrix is the checkpoint's own again. */
  delete(name: string): void {
    this.#patches.delete(name);
  }

  place(name: string): MatrixPlace {
    return this.#patches.get(name)?.place ?? this.#of.place(name);
  }

  async readRows(place: MatrixPlace, firstRow: number, nRows: number): Promise<Uint8Array<ArrayBuffer>> {
    const patch = this.#patches.get(place.name);
    if (patch === undefined) return this.#of.readRows(place, firstRow, nRows);
    return patch.bytes.slice(firstRow * patch.place.rowBytes, (firstRow + nRows) * patch.place.rowBytes);
  }

  readF32(name: string): Promise<Float32Array> {
    return decodedF32(this, name);
  }
}
