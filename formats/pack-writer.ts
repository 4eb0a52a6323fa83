// Makes a pack out of a checkpoint: tensor by tensor, row block by row block, in bounded memory (one extent and two batches
// of rows). Owns the order of bytes and the manifest. Refuses to leave anything behind when it fails: the sink discards.
// Layouts: docs/arithmetic.md sections 3 and 6; file: docs/formats.md. The same checkpoint and options give the same bytes.

import { ModelError, trunkTensors } from "../model/config.ts";
import { type MatrixFormat, gateUpRows } from "../model/kernels.ts";
import { ropeTable } from "../model/rope.ts";
import type { KvFormat } from "../model/kernels.ts";
import { BlobWriter, type StoredBlob } from "./blob-writer.ts";
import { type Checkpoint, type MatrixPlace, expertName, rowsPerBatch } from "./checkpoint.ts";
import { decodeRows } from "./dequantize.ts";
import { FORMAT_LIMITS } from "./limits.ts";
import { PACK_ID, type PackBlob, type PackExpert, type PackManifest, formatManifest, validateManifest } from "./manifest.ts";
import { type Quant, type TensorClass, formatOf, packFormats, tensorClass } from "./pack-formats.ts";
import type { PackSink } from "./pack-sink.ts";
import { type QuantizationLoss, encodeRows, noLoss, refuseBrokenScales } from "./quantize.ts";
import { sha256Hex } from "./read-bytes.ts";
import { formatOfType, storedColumnOffset, storedRowBytes, typeOfFormat } from "./stored-types.ts";
import { BLOCK_ROWS, type RowRun, blankRowBlock, placeRows } from "./tiles.ts";

export interface PackOptions {
  readonly id: string;
  readonly quant?: Quant;
  /** Format of the KV cache the pack is served with; by default f32 where all weights are, else f16. */
  readonly kvFormat?: KvFormat;
  /** Positions in the rope table; default the checkpoint's, at most 4,096. */
  readonly contextLength?: number;
  /** Largest part: 4 MiB for static assets (default), 64 MiB for R2. */
  readonly parts?: "assets" | "r2";
  /** Widest expert segment, a multiple of 32; default 2,048. */
  readonly segmentWidth?: number;
}

export interface PackProgress {
  /** Checkpoint bytes converted and to convert. */
  readonly doneBytes: number;
  readonly totalBytes: number;
  /** Tensor at hand. */
  readonly tensor: string;
}

export interface PackSummary {
  readonly manifest: PackManifest;
  readonly packHash: string;
  /** Bytes of the checkpoint's tensors, and of the pack's parts. */
  readonly sourceBytes: number;
  readonly packBytes: number;
  /** Bytes of blobs by format. */
  readonly formatBytes: Readonly<Record<string, number>>;
  /** What quantising cost, by kind of tensor; empty where nothing was quantised. */
  readonly losses: ReadonlyMap<TensorClass, QuantizationLoss>;
  readonly warnings: readonly string[];
}

/** Writes the pack. On failure the sink is told to discard, and the error is passed on. */
export async function writePack(
  checkpoint: Checkpoint, sink: PackSink, options: PackOptions, onProgress: (p: PackProgress) => void = () => {},
): Promise<PackSummary> {
  try {
    const summary = await new Packer(checkpoint, sink, options, onProgress).run();
    await sink.commit();
    return summary;
  } catch (error) {
    await sink.discard();
    throw error;
  }
}

class Packer {
  readonly #checkpoint: Checkpoint;
  readonly #sink: PackSink;
  readonly #options: PackOptions;
  readonly #quant: Quant;
  readonly #kvFormat: KvFormat | undefined;
  readonly #segmentWidth: number;
  readonly #writer: BlobWriter;
  readonly #onProgress: (p: PackProgress) => void;
  readonly #losses = new Map<TensorClass, QuantizationLoss>();
  readonly #formatBytes: Record<string, number> = {};
  readonly #formatTensors: Record<string, number> = {};
  readonly #totalBytes: number;
  #doneBytes = 0;

  constructor(checkpoint: Checkpoint, sink: PackSink, options: PackOptions, onProgress: (p: PackProgress) => void) {
    this.#checkpoint = checkpoint;
    this.#sink = sink;
    this.#options = options;
    this.#quant = options.quant ?? "source";
    this.#kvFormat = options.kvFormat;
    this.#segmentWidth = options.segmentWidth ?? FORMAT_LIMITS.segmentWidth;
    this.#writer = new BlobWriter(sink, options.parts === "r2" ? FORMAT_LIMITS.bucketPartBytes : FORMAT_LIMITS.assetPartBytes);
    this.#onProgress = onProgress;
    this.#totalBytes = [...checkpoint.places()].reduce((n, p) => n + p.nRows * p.rowBytes, 0);
  }

  async run(): Promise<PackSummary> {
    const { config } = this.#checkpoint;
    const { id, contextLength = Math.min(config.maxPositions, FORMAT_LIMITS.defaultContext) } = this.#options;
    if (!PACK_ID.test(id)) throw new ModelError(`The pack id "${id}" may hold lower-case letters, digits, '-', '.', '_' only.`);
    if (contextLength < 1 || contextLength > config.maxPositions) {
      throw new ModelError(`A context of ${contextLength} was asked for, but the model was made for 1 to ${config.maxPositions} positions.`);
    }
    if (this.#segmentWidth < 32 || this.#segmentWidth % 32 !== 0) {
      throw new ModelError(`A segment width of ${this.#segmentWidth} was asked for, expected a multiple of 32.`);
    }
    const { activations, kvFormat } = packFormats(this.#checkpoint, this.#quant, this.#kvFormat);

    const blobs: Record<string, PackBlob> = {};
    for (const t of trunkTensors(config)) {
      blobs[t.name] = t.kind === "vector" ? await this.#vector(t.name) : await this.#matrix(t.name);
    }
    const table = ropeTable(config.rope, contextLength);
    await this.#writer.write(new Uint8Array(table.buffer));
    blobs.rope = this.#counted("f32-vector", contextLength, config.rope.dim, await this.#writer.finish());

    const experts: PackExpert[] = [];
    for (let layer = 0; layer < config.nLayers; layer++) {
      if (config.layerFfns[layer] !== "moe") continue;
      for (let expert = 0; expert < config.nExperts; expert++) experts.push(await this.#expert(layer, expert));
    }

    const tokenizer = this.#checkpoint.tokenizer;
    if (tokenizer !== null) await this.#sink.append("tokenizer.json", tokenizer.json);
    const manifest = validateManifest(`New pack ${id}`, {
      format: "workers-moe-pack", version: 1, id,
      source: { kind: this.#checkpoint.kind, name: this.#checkpoint.name, sha256: this.#checkpoint.sha256 },
      config, kvFormat, contextLength, activations,
      parts: this.#writer.parts, blobs, experts,
      tokenizer: tokenizer === null ? null : {
        file: "tokenizer.json", sha256: await sha256Hex(tokenizer.json),
        chatTemplate: tokenizer.chatTemplate, bosToken: tokenizer.bosToken, eosToken: tokenizer.eosToken, addBos: tokenizer.addBos,
      },
      quantization: { requested: this.#quant, tensors: this.#formatTensors },
    });
    const manifestBytes = new TextEncoder().encode(formatManifest(manifest)).slice();
    await this.#sink.append("manifest.json", manifestBytes);
    return {
      manifest, packHash: await sha256Hex(manifestBytes), sourceBytes: this.#totalBytes,
      packBytes: this.#writer.parts.reduce((n, p) => n + p.bytes, 0),
      formatBytes: this.#formatBytes, losses: this.#losses, warnings: [...this.#checkpoint.warnings, ...this.#lossWarnings()],
    };
  }

  async #vector(name: string): Promise<PackBlob> {
    const values = await this.#checkpoint.readF32(name);
    await this.#writer.write(new Uint8Array(values.buffer));
    this.#progress(this.#checkpoint.place(name), 1);
    return this.#counted("f32-vector", 1, values.length, await this.#writer.finish());
  }

  async #matrix(name: string): Promise<PackBlob> {
    const place = this.#checkpoint.place(name);
    const format = formatOf(place, this.#quant);
    await this.#writeColumns(place, format, 0, place.nCols);
    return this.#counted(format, place.nRows, place.nCols, await this.#writer.finish());
  }

  async #expert(layer: number, expert: number): Promise<PackExpert> {
    const { config } = this.#checkpoint;
    const gate = this.#checkpoint.place(expertName(layer, expert, "gate"));
    const up = this.#checkpoint.place(expertName(layer, expert, "up"));
    const down = this.#checkpoint.place(expertName(layer, expert, "down"));
    const formats = { gateUp: formatOf(gate, this.#quant), down: formatOf(down, this.#quant) };
    const segments = [];
    for (let start = 0; start < config.expertIntermediateSize; start += this.#segmentWidth) {
      const end = Math.min(config.expertIntermediateSize, start + this.#segmentWidth);
      await this.#writeGateUp(gate, up, formats.gateUp, start, end);
      await this.#writeColumns(down, formats.down, start, end);
      const blob = await this.#writer.finish();
      this.#count(formats.gateUp === formats.down ? formats.gateUp : `${formats.gateUp}+${formats.down}`, blob);
      segments.push({ start, end, ...blob });
    }
    this.#formatTensors[formats.gateUp] = (this.#formatTensors[formats.gateUp] ?? 0) + 2;
    this.#formatTensors[formats.down] = (this.#formatTensors[formats.down] ?? 0) + 1;
    return { layer, expert, ...formats, segments };
  }

  /** Gate and up rows [start, end), 16 and 16 to a row block; missing rows are zero rows. */
  async #writeGateUp(gate: MatrixPlace, up: MatrixPlace, format: MatrixFormat, start: number, end: number): Promise<void> {
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
        await this.#writer.write(block);
      }
      this.#progress(gate, nRows / gate.nRows);
      this.#progress(up, nRows / up.nRows);
    }
    const written = Math.ceil((end - start) / 16);
    for (let b = written; b < gateUpRows(format, end - start) / BLOCK_ROWS; b++) await this.#writer.write(blankRowBlock(format, gate.nCols));
  }

  /** Columns [from, to) of all rows as a matrix of its own. */
  async #writeColumns(place: MatrixPlace, format: MatrixFormat, from: number, to: number): Promise<void> {
    const batch = rowsPerBatch(place.rowBytes, BLOCK_ROWS);
    const nCols = to - from;
    const stride = storedRowBytes(typeOfFormat(format), nCols);
    for (let first = 0; first < place.nRows; first += batch) {
      const nRows = Math.min(batch, place.nRows - first);
      const rows = await this.#converted(place, format, first, nRows, from, to);
      for (let at = 0; at < nRows; at += BLOCK_ROWS) {
        const block = blankRowBlock(format, nCols);
        placeRows(format, block, 0, { bytes: rows, start: at * stride, stride, nRows: Math.min(BLOCK_ROWS, nRows - at) }, nCols);
        await this.#writer.write(block);
      }
      this.#progress(place, (nRows / place.nRows) * (nCols / place.nCols));
    }
  }

  /** Rows as row-major stored bytes of the format's type, columns [from, to) only. Re-coded only where the types differ. */
  async #converted(place: MatrixPlace, format: MatrixFormat, firstRow: number, nRows: number, from: number, to: number): Promise<Uint8Array> {
    const bytes = await this.#checkpoint.readRows(place, firstRow, nRows);
    const nCols = to - from;
    const name = `Tensor ${place.tensor} of ${this.#checkpoint.description}`;
    if (formatOfType(place.type) === format) {
      refuseBrokenScales(place.type, name, bytes, firstRow, nRows, place.nCols);
      if (nCols === place.nCols) return bytes;
      const sliceBytes = storedRowBytes(place.type, nCols);
      const out = new Uint8Array(nRows * sliceBytes);
      const first = storedColumnOffset(place.type, from);
      for (let r = 0; r < nRows; r++) {
        out.set(bytes.subarray(r * place.rowBytes + first, r * place.rowBytes + first + sliceBytes), r * sliceBytes);
      }
      return out;
    }
    let values = decodeRows(place.type, bytes, nRows, place.nCols);
    if (nCols !== place.nCols) {
      const slice = new Float32Array(nRows * nCols);
      for (let r = 0; r < nRows; r++) slice.set(values.subarray(r * place.nCols + from, r * place.nCols + to), r * nCols);
      values = slice;
    }
    const type = typeOfFormat(format);
    if (type === "F16" || type === "BF16") throw new ModelError(`Tensor ${place.tensor} has type ${place.type}; no pack re-codes to ${type}.`);
    const kind = tensorClass(place.name);
    const loss = this.#losses.get(kind) ?? noLoss();
    const out = encodeRows(type, name, values, nRows, nCols, loss);
    if (loss.nValues > 0) this.#losses.set(kind, loss);
    return out;
  }

  #counted(format: PackBlob["format"], rows: number, cols: number, blob: StoredBlob): PackBlob {
    this.#count(format, blob);
    const name = format === "f32-vector" ? "f32" : format;
    this.#formatTensors[name] = (this.#formatTensors[name] ?? 0) + 1;
    return { format, rows, cols, ...blob };
  }

  #count(format: string, blob: StoredBlob): void {
    this.#formatBytes[format] = (this.#formatBytes[format] ?? 0) + blob.bytes;
  }

  #progress(place: MatrixPlace, fraction: number): void {
    this.#doneBytes += place.nRows * place.rowBytes * fraction;
    this.#onProgress({ doneBytes: Math.round(this.#doneBytes), totalBytes: this.#totalBytes, tensor: place.name });
  }

  *#lossWarnings(): Iterable<string> {
    for (const [kind, loss] of this.#losses) {
      if (loss.zeroScales > 0) yield `${loss.zeroScales} groups of ${kind} are so small that their f16 scale is zero: their values became zero.`;
      if (loss.subnormalScales > 0) yield `${loss.subnormalScales} groups of ${kind} have a subnormal f16 scale and lost precision.`;
    }
  }
}
