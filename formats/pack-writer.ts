// Makes a pack out of a checkpoint: tensor by tensor, row block by row block, in bounded memory (one extent and two batches
// of rows). Owns the order of bytes and the manifest. What is left when it fails is nothing, or finished parts that the same job goes on from.
// Layouts: docs/arithmetic.md sections 3 and 6; file: docs/formats.md. The same checkpoint and options give the same bytes.

import { type ExpertKind, ModelError, sharedWidth, trunkTensors } from "../model/config.ts";
import { EXPERT_FORMS, isGated } from "../model/expert-kinds.ts";
import { ropeTable } from "../model/rope.ts";
import { ropeTables } from "../model/trunk.ts";
import type { KvFormat } from "../model/kernels.ts";
import { BlobWriter, type StoredBlob } from "./blob-writer.ts";
import type { Checkpoint, MatrixPlace } from "./checkpoint.ts";
import { FORMAT_LIMITS } from "./limits.ts";
import type { TensorLoss } from "./loss-ledger.ts";
import { MatrixWriter, segmentBiases } from "./matrix-writer.ts";
import { PACK_ID, PACK_VERSION, type PackBlob, type PackExpert, type PackManifest, type PackShared, formatManifest, validateManifest } from "./manifest.ts";
import { type PackFormats, type Quant, type TensorClass, type TypePlan, formatOf, packFormats, quantText } from "./pack-formats.ts";
import { PackJournal } from "./pack-journal.ts";
import type { PackSink } from "./pack-sink.ts";
import type { QuantizationLoss } from "./quantize.ts";
import { sha256Hex } from "./read-bytes.ts";

export interface PackOptions {
  readonly id: string;
  /** A format for all, or a plan of types by matrix, which are rounded as the formats define it. */
  readonly quant?: Quant | TypePlan;
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
  /** With quant "source": the same of every stored tensor whose type no kernel format holds. */
  readonly requantized: readonly TensorLoss[];
  readonly warnings: readonly string[];
}

/** Packing stopped, but what is finished is kept: the same call goes on from there. The cause is what stopped it. */
export class PackInterrupted extends Error {
  override readonly name = "PackInterrupted";
  readonly finishedParts: number;

  constructor(finishedParts: number, cause: unknown) {
    super(cause instanceof Error ? cause.message : String(cause), { cause });
    this.finishedParts = finishedParts;
  }
}

/**
 * Writes the pack, behind the parts that an earlier call of the same job finished, where the sink still has them. On failure the sink is told to
 * discard, and the error is passed on; but where finished parts can be kept and the model itself is not at fault, PackInterrupted is thrown.
 */
export async function writePack(
  checkpoint: Checkpoint, sink: PackSink, options: PackOptions, onProgress: (p: PackProgress) => void = () => {},
): Promise<PackSummary> {
  const packer = await Packer.open(checkpoint, sink, options, onProgress);
  try {
    const summary = await packer.run();
    await sink.commit();
    return summary;
  } catch (error) {
    const { nFinishedParts } = packer;
    if (sink.unfinished !== undefined && nFinishedParts > 0 && !(error instanceof ModelError)) throw new PackInterrupted(nFinishedParts, error);
    await sink.discard();
    throw error;
  }
}

type ResolvedOptions = Required<PackOptions> & PackFormats;

const totalBytesOf = (checkpoint: Checkpoint): number => [...checkpoint.places()].reduce((n, p) => n + p.storedBytes, 0);

/** SHA-256 (hex) of all that decides a pack's bytes. */
async function jobOf(checkpoint: Checkpoint, options: ResolvedOptions): Promise<string> {
  const { id, quant, kvFormat, contextLength, parts, segmentWidth, activations } = options;
  const text = JSON.stringify([PACK_VERSION, await checkpoint.fingerprint(), id, quantText(quant), kvFormat, contextLength, parts, segmentWidth, activations]);
  return sha256Hex(new TextEncoder().encode(text).slice());
}

class Packer {
  readonly #checkpoint: Checkpoint;
  readonly #sink: PackSink;
  readonly #options: ResolvedOptions;
  readonly #quant: Quant | TypePlan;
  readonly #segmentWidth: number;
  readonly #writer: BlobWriter;
  readonly #onProgress: (p: PackProgress) => void;
  readonly #matrices: MatrixWriter;
  readonly #formatBytes: Record<string, number> = {};
  readonly #formatTensors: Record<string, number> = {};
  readonly #totalBytes: number;
  #doneBytes = 0;

  /** Checks the options, and what an earlier run left in the sink. Throws ModelError or SourceError, and writes nothing then. */
  static async open(checkpoint: Checkpoint, sink: PackSink, options: PackOptions, onProgress: (p: PackProgress) => void): Promise<Packer> {
    const { maxPositions } = checkpoint.config;
    const { id, contextLength = Math.min(maxPositions, FORMAT_LIMITS.defaultContext), segmentWidth = FORMAT_LIMITS.segmentWidth, quant = "source", parts = "assets" } = options;
    if (!PACK_ID.test(id)) throw new ModelError(`The pack id "${id}" may hold lower-case letters, digits, '-', '.', '_' only.`);
    if (contextLength < 1 || contextLength > maxPositions) {
      throw new ModelError(`A context of ${contextLength} was asked for, but the model was made for 1 to ${maxPositions} positions.`);
    }
    if (segmentWidth < 32 || segmentWidth % 32 !== 0) throw new ModelError(`A segment width of ${segmentWidth} was asked for, expected a multiple of 32.`);
    const resolved = { id, contextLength, segmentWidth, quant, parts, ...packFormats(checkpoint, quant, options.kvFormat) };
    const totalBytes = totalBytesOf(checkpoint);
    const journal = await PackJournal.open(sink, await jobOf(checkpoint, resolved), (tensor) => onProgress({ doneBytes: 0, totalBytes, tensor }));
    return new Packer(checkpoint, sink, resolved, journal, onProgress);
  }

  private constructor(checkpoint: Checkpoint, sink: PackSink, options: ResolvedOptions, journal: PackJournal, onProgress: (p: PackProgress) => void) {
    this.#checkpoint = checkpoint;
    this.#sink = sink;
    this.#options = options;
    this.#quant = options.quant;
    this.#segmentWidth = options.segmentWidth;
    this.#writer = new BlobWriter(sink, options.parts === "r2" ? FORMAT_LIMITS.bucketPartBytes : FORMAT_LIMITS.assetPartBytes, journal);
    this.#onProgress = onProgress;
    this.#matrices = new MatrixWriter(checkpoint, (bytes) => this.#writer.write(bytes), (place, fraction) => this.#progress(place, fraction));
    this.#totalBytes = totalBytesOf(checkpoint);
  }

  /** Parts that are kept if packing stops now. */
  get nFinishedParts(): number {
    return this.#writer.nFinishedParts;
  }

  async run(): Promise<PackSummary> {
    const { config } = this.#checkpoint;
    const { id, contextLength, activations, kvFormat } = this.#options;

    const blobs: Record<string, PackBlob> = {};
    for (const t of trunkTensors(config)) {
      blobs[t.name] = t.kind === "vector" ? await this.#vector(t.name) : t.kind === "matrix" ? await this.#matrix(t.name) : await this.#stack(t.name, t.count);
    }
    const table = ropeTable(config.rope, contextLength);
    const rope = await this.#blob([], () => this.#writer.write(new Uint8Array(table.buffer)));
    blobs.rope = this.#counted("f32-vector", ropeTables(config) * contextLength, config.rope.dim, rope);

    const shared: PackShared[] = [];
    for (let layer = 0; layer < config.nLayers; layer++) {
      const width = sharedWidth(config, layer);
      if (width > 0) shared.push({ layer, ...await this.#ffn(`layers.${layer}.shared.`, width, "swiglu") });
    }
    const experts: PackExpert[] = [];
    for (let layer = 0; layer < config.nLayers; layer++) {
      if (config.layerFfns[layer] !== "moe") continue;
      for (let expert = 0; expert < config.nExperts; expert++) {
        experts.push({ layer, expert, ...await this.#ffn(`layers.${layer}.experts.${expert}.`, config.expertIntermediateSize, config.expertKind) });
      }
    }

    const tokenizer = this.#checkpoint.tokenizer;
    if (tokenizer !== null) await this.#sink.append("tokenizer.json", tokenizer.json);
    const manifest = validateManifest(`New pack ${id}`, {
      format: "workers-moe-pack", version: PACK_VERSION, id,
      source: { kind: this.#checkpoint.kind, name: this.#checkpoint.name, sha256: this.#checkpoint.sha256 },
      config, kvFormat, contextLength, activations,
      parts: this.#writer.parts, blobs, shared, experts,
      tokenizer: tokenizer === null ? null : {
        file: "tokenizer.json", sha256: await sha256Hex(tokenizer.json),
        chatTemplate: tokenizer.chatTemplate, bosToken: tokenizer.bosToken, eosToken: tokenizer.eosToken, addBos: tokenizer.addBos,
      },
      quantization: { requested: quantText(this.#quant), tensors: this.#formatTensors },
    });
    const manifestBytes = new TextEncoder().encode(formatManifest(manifest)).slice();
    await this.#sink.append("manifest.json", manifestBytes);
    return {
      manifest, packHash: await sha256Hex(manifestBytes), sourceBytes: this.#totalBytes,
      packBytes: this.#writer.parts.reduce((n, p) => n + p.bytes, 0),
      formatBytes: this.#formatBytes, losses: this.#matrices.losses.byKind,
      requantized: this.#quant === "source" ? [...this.#matrices.losses.byTensor.values()] : [], warnings: [...this.#checkpoint.warnings, ...this.#lossWarnings()],
    };
  }

  async #vector(name: string): Promise<PackBlob> {
    const place = this.#checkpoint.place(name);
    const blob = await this.#blob([[place, 1]], async () => {
      const values = await this.#checkpoint.readF32(name);
      await this.#writer.write(new Uint8Array(values.buffer));
      this.#progress(place, 1);
    });
    return this.#counted("f32-vector", 1, place.nRows * place.nCols, blob);
  }

  async #matrix(name: string): Promise<PackBlob> {
    const place = this.#checkpoint.place(name);
    const format = formatOf(place, this.#quant);
    const blob = await this.#blob([[place, 1]], () => this.#matrices.columns(place, format, 0, place.nCols));
    return this.#counted(format, place.nRows, place.nCols, blob);
  }

  /** Matrices of one shape and format, one after the other: places <name>.0, <name>.1 ... */
  async #stack(name: string, count: number): Promise<PackBlob> {
    const places = Array.from({ length: count }, (_, i) => this.#checkpoint.place(`${name}.${i}`));
    const [first] = places as [MatrixPlace];
    const format = formatOf(first, this.#quant);
    const blob = await this.#blob(places.map((place) => [place, 1]), async () => {
      for (const place of places) await this.#matrices.columns(place, format, 0, place.nCols);
    });
    return { ...this.#counted(format, first.nRows, first.nCols, blob), count };
  }

  /** A feed-forward part in segments: an expert, a shared expert or a dense layer. */
  async #ffn(at: string, width: number, kind: ExpertKind): Promise<Pick<PackShared, "gateUp" | "down" | "segments">> {
    const [gate, up, down] = [isGated(kind) ? this.#checkpoint.place(`${at}gate`) : null, this.#checkpoint.place(`${at}up`), this.#checkpoint.place(`${at}down`)];
    const formats = { gateUp: formatOf(up, this.#quant), down: formatOf(down, this.#quant) };
    const places = gate === null ? [up, down] : [gate, up, down];
    const biases = await Promise.all(EXPERT_FORMS[kind].biases.map((bias) => this.#checkpoint.readF32(at + bias)));
    const segments = [];
    for (let start = 0; start < width; start += this.#segmentWidth) {
      const end = Math.min(width, start + this.#segmentWidth);
      const share = (end - start) / width;
      const blob = await this.#blob(places.map((place) => [place, share]), async () => {
        if (gate === null) await this.#matrices.rows(up, formats.gateUp, start, end);
        else await this.#matrices.gateUp(gate, up, formats.gateUp, start, end);
        await this.#matrices.columns(down, formats.down, start, end);
        if (biases.length > 0) await this.#writer.write(segmentBiases(kind, biases, formats.gateUp, start, end));
      });
      this.#count(formats.gateUp === formats.down ? formats.gateUp : `${formats.gateUp}+${formats.down}`, blob);
      segments.push({ start, end, ...blob });
    }
    this.#formatTensors[formats.gateUp] = (this.#formatTensors[formats.gateUp] ?? 0) + places.length - 1;
    this.#formatTensors[formats.down] = (this.#formatTensors[formats.down] ?? 0) + 1;
    return { ...formats, segments };
  }

  /** The next blob: as an earlier run left it, or written now. `shares` are the tensors it is made of, and how much of each. */
  async #blob(shares: readonly (readonly [place: MatrixPlace, fraction: number])[], write: () => Promise<void>): Promise<StoredBlob> {
    const kept = this.#writer.takeKept();
    if (kept === null) {
      await write();
      return this.#writer.finish(this.#matrices.losses.takeBlob());
    }
    this.#matrices.losses.replay(kept.losses);
    for (const [place, fraction] of shares) this.#progress(place, fraction);
    return { hash: kept.hash, bytes: kept.bytes, extents: kept.extents };
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
    this.#doneBytes += place.storedBytes * fraction;
    this.#onProgress({ doneBytes: Math.round(this.#doneBytes), totalBytes: this.#totalBytes, tensor: place.name });
  }

  *#lossWarnings(): Iterable<string> {
    for (const [kind, loss] of this.#matrices.losses.byKind) {
      if (loss.zeroScales > 0) yield `${loss.zeroScales} groups of ${kind} are so small that their f16 scale is zero: their values became zero.`;
      if (loss.subnormalScales > 0) yield `${loss.subnormalScales} groups of ${kind} have a subnormal f16 scale and lost precision.`;
    }
  }
}
