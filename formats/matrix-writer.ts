// Matrices of a checkpoint as the bytes that kernels read: converted row block by row block, in bounded memory (two batches of rows), and handed on
// as they are made. Owns the conversion and what it cost. Refuses to know where the bytes go: a pack (pack-writer.ts), or memory.
// Layouts: docs/arithmetic.md sections 3 and 6.

import { type ExpertKind, ModelError } from "../model/config.ts";
import { type MatrixFormat, gateUpRows, segmentBiasBytes } from "../model/kernels.ts";
import { type MatrixPlace, type MatrixSource, rowsPerBatch } from "./checkpoint.ts";
import { decodeRows } from "./dequantize.ts";
import { LossLedger } from "./loss-ledger.ts";
import { encodeRows, noLoss, refuseBrokenValues } from "./quantize.ts";
import { repackRows } from "./requantize.ts";
import { formatOfType, storedColumnOffset, storedRowBytes, typeOfFormat } from "./stored-types.ts";
import { BLOCK_ROWS, type RowRun, blankRowBlock, placeRows } from "./tiles.ts";

/** Biases of a segment: of the gate-up rows in their order, then of down, whose bias stands in the first segment alone. `biases`: the kind's, in its order. */
export function segmentBiases(kind: ExpertKind, biases: readonly Float32Array[], format: MatrixFormat, start: number, end: number): Uint8Array {
  const [down, up, gate] = biases.toReversed() as [Float32Array, Float32Array, Float32Array | undefined];
  const rows = gateUpRows(kind, format, end - start);
  const floats = new Float32Array(segmentBiasBytes(kind, format, down.length, end - start) / 4);
  if (gate === undefined) floats.set(up.subarray(start, end));
  else for (let row = 0; row < rows; row++) {
    const at = start + 16 * (row >> 5) + (row & 15);
    if (at < end) floats[row] = (row & 16 ? up : gate)[at]!;
  }
  if (start === 0) floats.set(down, Math.ceil(rows / 4) * 4);
  return new Uint8Array(floats.buffer);
}

export class MatrixWriter {
  readonly #checkpoint: MatrixSource;
  readonly #write: (bytes: Uint8Array) => Promise<void>;
  readonly #progress: (place: MatrixPlace, fraction: number) => void;
  /** What quantising cost. */
  readonly losses = new LossLedger();

  /** `write` gets bytes in order; `progress` the share of a tensor that was converted. */
  constructor(checkpoint: MatrixSource, write: (bytes: Uint8Array) => Promise<void>, progress: (place: MatrixPlace, fraction: number) => void = () => {}) {
    this.#checkpoint = checkpoint;
    this.#write = write;
    this.#progress = progress;
  }

  /** Gate and up rows [start, end), 16 and 16 to a row block; missing rows are zero rows. */
  async gateUp(gate: MatrixPlace, up: MatrixPlace, format: MatrixFormat, start: number, end: number): Promise<void> {
    const batch = rowsPerBatch(gate.rowBytes, 16);
    const stride = storedRowBytes(typeOfFormat(format), gate.nCols);
    for (let first = start; first < end; first += batch) {
      const nRows = Math.min(batch, end - first);
      const [gateRows, upRows] = await Promise.all([gate, up].map((p) => this.#converted(p, format, first, nRows, 0, p.nCols)));
      for (let at = 0; at < nRows; at += 16) {
        const block = blankRowBlock(format, gate.nCols);
        const run = (bytes: Uint8Array): RowRun => ({ bytes, start: at * stride, stride, nRows: Math.min(16, nRows - at) });
        placeRows(format, block, 0, run(gateRows!), gate.nCols);
        placeRows(format, block, 16, run(upRows!), gate.nCols);
        await this.#write(block);
      }
      this.#progress(gate, nRows / gate.nRows);
      this.#progress(up, nRows / up.nRows);
    }
    const written = Math.ceil((end - start) / 16);
    for (let b = written; b < gateUpRows("swiglu", format, end - start) / BLOCK_ROWS; b++) await this.#write(blankRowBlock(format, gate.nCols));
  }

  /** Columns [from, to) of all rows as a matrix of its own. */
  columns(place: MatrixPlace, format: MatrixFormat, from: number, to: number): Promise<void> {
    return this.#part(place, format, [0, place.nRows], [from, to]);
  }

  /** Rows [start, end) as a matrix of its own. */
  rows(place: MatrixPlace, format: MatrixFormat, start: number, end: number): Promise<void> {
    return this.#part(place, format, [start, end], [0, place.nCols]);
  }

  async #part(place: MatrixPlace, format: MatrixFormat, [start, end]: readonly [number, number], [from, to]: readonly [number, number]): Promise<void> {
    const batch = rowsPerBatch(place.rowBytes, BLOCK_ROWS);
    const nCols = to - from;
    const stride = storedRowBytes(typeOfFormat(format), nCols);
    for (let first = start; first < end; first += batch) {
      const nRows = Math.min(batch, end - first);
      const rows = await this.#converted(place, format, first, nRows, from, to);
      for (let at = 0; at < nRows; at += BLOCK_ROWS) {
        const block = blankRowBlock(format, nCols);
        placeRows(format, block, 0, { bytes: rows, start: at * stride, stride, nRows: Math.min(BLOCK_ROWS, nRows - at) }, nCols);
        await this.#write(block);
      }
      this.#progress(place, (nRows / place.nRows) * (nCols / place.nCols));
    }
  }

  /** Rows as row-major stored bytes of the format's type, columns [from, to) only. Re-coded only where that type does not hold every value. */
  async #converted(place: MatrixPlace, format: MatrixFormat, firstRow: number, nRows: number, from: number, to: number): Promise<Uint8Array> {
    const stored = await this.#checkpoint.readRows(place, firstRow, nRows);
    const nCols = to - from;
    const type = typeOfFormat(format);
    const name = `Tensor ${place.tensor} of ${this.#checkpoint.description}`;
    refuseBrokenValues(place.type, name, stored, firstRow, nRows, place.nCols);
    const bytes = formatOfType(place.type) === format ? stored : repackRows(place.type, format, stored, nRows, place.nCols);
    if (bytes !== null) {
      if (nCols === place.nCols) return bytes;
      const rowBytes = storedRowBytes(type, place.nCols);
      const sliceBytes = storedRowBytes(type, nCols);
      const out = new Uint8Array(nRows * sliceBytes);
      const first = storedColumnOffset(type, from);
      for (let r = 0; r < nRows; r++) out.set(bytes.subarray(r * rowBytes + first, r * rowBytes + first + sliceBytes), r * sliceBytes);
      return out;
    }
    let values = decodeRows(place.type, stored, nRows, place.nCols);
    if (nCols !== place.nCols) {
      const slice = new Float32Array(nRows * nCols);
      for (let r = 0; r < nRows; r++) slice.set(values.subarray(r * place.nCols + from, r * place.nCols + to), r * nCols);
      values = slice;
    }
    if (type === "F16" || type === "BF16") throw new ModelError(`Tensor ${place.tensor} has type ${place.type}; no pack re-codes to ${type}.`);
    const loss = noLoss();
    const out = encodeRows(type, name, values, nRows, nCols, loss, firstRow);
    if (loss.nValues > 0) this.losses.record(place, format, loss);
    return out;
  }
}
