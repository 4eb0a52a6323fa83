// Rows of a matrix as they come out of stored bytes, whatever order the file keeps them in: in sequence, taking turns with another matrix's, transposed,
// as MXFP4 blocks and exponents in two tensors, as FP8 with a factor per block. Owns reading by ranges; a batch of rows is held, and where a matrix is
// transposed that one matrix (one expert's at most, with what is fused to it). Refuses conversion to other types: what cannot stay as it is
// (FP8, quantised values across their blocks) comes out as F32.
// Formats: gpt-oss' nibbles (openai/gpt-oss, torch/weights.py) to GGUF's block_mxfp4 (ggml-common.h); DeepSeek-V3's factors: fp8.ts.

import type { ByteSource } from "./byte-source.ts";
import { decodeRows } from "./dequantize.ts";
import { decodeFp8Rows, fp8ScaleShape } from "./fp8.ts";
import { FORMAT_LIMITS } from "./limits.ts";
import { readBytes } from "./read-bytes.ts";
import { type StoredType, storedBlock, storedRowBytes } from "./stored-types.ts";

/** How values lie in the file: rows of a stored type; nibbles with exponents elsewhere; FP8 codes with factors elsewhere. */
export type StoredEncoding =
  | { readonly kind: "rows"; readonly type: StoredType }
  | { readonly kind: "mxfp4-blocks"; readonly scalesFile: string; readonly scalesOffset: number }
  | { readonly kind: "fp8"; readonly tensor: string; readonly scalesFile: string; readonly scalesOffset: number; readonly scalesType: "F32" | "BF16" };

export interface RowView {
  readonly file: string;
  /** Absolute offset of the tensor, in bytes. */
  readonly offset: number;
  readonly encoding: StoredEncoding;
  /** Values of a stored row. */
  readonly rowLength: number;
  /** Stored rows firstRow, firstRow + rowStep, ... */
  readonly firstRow: number;
  readonly rowStep: number;
  readonly nStoredRows: number;
  /** True: row i of the matrix is the stored column firstCol + i * colStep of those rows. */
  readonly transposed: boolean;
  readonly firstCol: number;
  readonly colStep: number;
}

/** Type of the rows that a view gives. Only single values can change places without being decoded. */
export function typeOfView({ encoding, transposed }: Pick<RowView, "encoding" | "transposed">): StoredType {
  if (encoding.kind === "fp8") return "F32";
  const type = encoding.kind === "rows" ? encoding.type : "MXFP4";
  return !transposed || type === "F16" || type === "BF16" ? type : "F32";
}

/** Bytes that `nValues` of the view take in the file, FP8's factors apart. */
export function storedBytesOf(encoding: StoredEncoding, nValues: number): number {
  if (encoding.kind === "fp8") return nValues;
  const { elements, bytes } = storedBlock(encoding.kind === "rows" ? encoding.type : "MXFP4");
  return Math.ceil((nValues * bytes) / elements);
}

/** Reads rows of views of one source. Holds the transposed matrix last asked for: its rows are asked for batch by batch, two fused ones in turns. */
export class RowReader {
  readonly #source: ByteSource;
  #transposed: { readonly key: string; readonly bytes: Promise<Uint8Array<ArrayBuffer>> } | null = null;

  constructor(source: ByteSource) {
    this.#source = source;
  }

  /** Row-major bytes of typeOfView(view): rows [first, first + n). */
  async read(view: RowView, first: number, n: number): Promise<Uint8Array<ArrayBuffer>> {
    if (!view.transposed) return this.#stored(view, first, n);
    const key = `${view.file} ${view.offset} ${view.firstRow} ${view.rowStep} ${view.nStoredRows}`;
    if (this.#transposed?.key !== key) {
      const bytes = this.#transpose(view);
      this.#transposed = { key, bytes };
      // A failed read must not be remembered as the matrix.
      bytes.catch(() => { if (this.#transposed?.bytes === bytes) this.#transposed = null; });
    }
    const all = await this.#transposed.bytes;
    const rowBytes = view.nStoredRows * elementBytes(typeOfView(view));
    if (view.colStep === 1) return all.slice((view.firstCol + first) * rowBytes, (view.firstCol + first + n) * rowBytes);
    const out = new Uint8Array(n * rowBytes);
    for (let i = 0; i < n; i++) {
      const row = view.firstCol + (first + i) * view.colStep;
      out.set(all.subarray(row * rowBytes, (row + 1) * rowBytes), i * rowBytes);
    }
    return out;
  }

  /** The view's stored rows [first, first + n), in the type they have without being transposed. */
  async #stored(v: RowView, first: number, n: number): Promise<Uint8Array<ArrayBuffer>> {
    const start = v.firstRow + first * v.rowStep;
    const { encoding } = v;
    if (encoding.kind === "rows") return this.#rows(v.file, v.offset, storedRowBytes(encoding.type, v.rowLength), start, v.rowStep, n);
    if (encoding.kind === "mxfp4-blocks") {
      const groups = v.rowLength / 32;
      const blocks = await this.#rows(v.file, v.offset, groups * 16, start, v.rowStep, n);
      return joinMxfp4(blocks, await this.#rows(encoding.scalesFile, encoding.scalesOffset, groups, start, v.rowStep, n));
    }
    const codes = await this.#rows(v.file, v.offset, v.rowLength, start, v.rowStep, n);
    const [scaleRows, scaleCols] = fp8ScaleShape(start + n, v.rowLength);
    const { scalesFile, scalesOffset, scalesType } = encoding;
    const factors = await readBytes(this.#source, scalesFile, scalesOffset, scaleRows * storedRowBytes(scalesType, scaleCols));
    return new Uint8Array(decodeFp8Rows(codes, n, v.rowLength, decodeRows(scalesType, factors, scaleRows, scaleCols), start, `Tensor ${encoding.tensor}`).buffer);
  }

  /** `n` rows from `start`, every `step`-th, without those between. */
  async #rows(file: string, offset: number, rowBytes: number, start: number, step: number, n: number): Promise<Uint8Array<ArrayBuffer>> {
    const span = await readBytes(this.#source, file, offset + start * rowBytes, ((n - 1) * step + 1) * rowBytes);
    if (step === 1) return span;
    for (let i = 1; i < n; i++) span.copyWithin(i * rowBytes, i * step * rowBytes, (i * step + 1) * rowBytes);
    return span.slice(0, n * rowBytes);
  }

  /** All stored columns as rows: [rowLength, nStoredRows]. */
  async #transpose(v: RowView): Promise<Uint8Array<ArrayBuffer>> {
    const storedType = typeOfView({ ...v, transposed: false });
    const type = typeOfView(v);
    const [Words, bytesEach] = elementBytes(type) === 2 ? [Uint16Array, 2] as const : [Uint32Array, 4] as const;
    const out = new Words(v.rowLength * v.nStoredRows);
    const batch = Math.max(1, Math.floor(FORMAT_LIMITS.rowBatchBytes / storedRowBytes(storedType, v.rowLength)));
    for (let first = 0; first < v.nStoredRows; first += batch) {
      const n = Math.min(batch, v.nStoredRows - first);
      const stored = await this.#stored(v, first, n);
      const values = type === storedType ? new Words(stored.buffer, stored.byteOffset, stored.byteLength / bytesEach)
        : new Words(decodeRows(storedType, stored, n, v.rowLength).buffer);
      for (let col = 0; col < v.rowLength; col++) {
        for (let row = 0; row < n; row++) out[col * v.nStoredRows + first + row] = values[row * v.rowLength + col]!;
      }
    }
    return new Uint8Array(out.buffer);
  }
}

const elementBytes = (type: StoredType): 2 | 4 => (type === "F16" || type === "BF16" ? 2 : 4);

/**
 * gpt-oss' blocks of 16 bytes and their exponents as GGUF blocks of 17. There byte j holds elements 2 j (low nibble) and 2 j + 1; here element j is in
 * the low nibble of byte j, element j + 16 in its high one.
 */
export function joinMxfp4(blocks: Uint8Array, exponents: Uint8Array): Uint8Array<ArrayBuffer> {
  const out = new Uint8Array(exponents.length * 17);
  for (let b = 0; b < exponents.length; b++) {
    const to = b * 17;
    out[to] = exponents[b]!;
    for (let j = 0; j < 8; j++) {
      const low = blocks[b * 16 + j]!;
      const high = blocks[b * 16 + 8 + j]!;
      out[to + 1 + 2 * j] = (low & 15) | ((high & 15) << 4);
      out[to + 2 + 2 * j] = (low >> 4) | (high & 0xf0);
    }
  }
  return out;
}
