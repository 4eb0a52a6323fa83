// The weights of a pack and of a checkpoint, asked for one tensor at a time, for models larger than memory (layered-model.ts runs them). A checkpoint
// gives every matrix at full precision, in f32, f16 or bf16, for activations and KV cache in f32: what `verify` measures a pack against.
// Owns the two ways to the same questions. Refuses to hold anything: bytes go where the caller says.

import { segmentCounts } from "../formats/load-model.ts";
import type { ByteSource } from "../formats/byte-source.ts";
import type { MatrixPlace, MatrixSource } from "../formats/checkpoint.ts";
import { decodeRows } from "../formats/dequantize.ts";
import { type PackBlob, type PackManifest, type PackSegment, segmentName, sharedSegmentName } from "../formats/manifest.ts";
import { MatrixWriter, segmentBiases } from "../formats/matrix-writer.ts";
import { type BlobTarget, loadBlobs } from "../formats/pack-reader.ts";
import { BLOCK_ROWS, rowBlockBytes } from "../formats/tiles.ts";
import { expertInputSize, sharedWidth, trunkTensors, type ExpertKind, type ModelConfig } from "../model/config.ts";
import { EXPERT_FORMS, isGated } from "../model/expert-kinds.ts";
import { formatCode, gateUpRows, matrixBytes, segmentBytes, type ActivationFormat, type Kernels, type KvFormat, type MatrixFormat } from "../model/kernels.ts";
import { ropeTable } from "../model/rope.ts";
import type { FetchedSegment } from "../model/streamed-experts.ts";
import { ropeTables, type LoadedTensor } from "../model/trunk.ts";
import type { Heap } from "../model/heap.ts";

/** A trunk tensor that is not in memory yet. */
export interface FetchedTensor extends Omit<LoadedTensor, "ptr"> {
  readonly bytes: number;
  /** Writes it at `ptr` of the heap. */
  load(heap: Heap, ptr: number): Promise<void>;
}

export interface WeightsByName {
  readonly config: ModelConfig;
  readonly contextLength: number;
  readonly kvFormat: KvFormat;
  readonly activations: ActivationFormat;
  /** Segments of each expert of a layer. */
  readonly segmentCounts: readonly (readonly number[])[];
  /** Widest segment of an expert, at least 32. */
  readonly widestSegment: number;
  /** Rows of the embedding: f32 [ids.length, hidden]. */
  embedding(ids: readonly number[], heap: Heap, kernels: Kernels): Promise<Float32Array>;
  /** A trunk tensor by canonical name, or "rope". */
  tensor(name: string): FetchedTensor;
  /** A layer's dense part or shared expert; empty where there is none. */
  shared(heap: Heap, layer: number): readonly FetchedSegment[];
  expert(heap: Heap, layer: number, expert: number, segment: number): FetchedSegment;
}

const rowsOfIds = (ids: readonly number[], hidden: number, row: (id: number) => Float32Array): Float32Array => {
  const out = new Float32Array(ids.length * hidden);
  ids.forEach((id, i) => out.set(row(id), i * hidden));
  return out;
};

/** A pack's weights. Every extent is checked against its hash as it is read; errors are SourceErrors. */
export function packWeights(source: ByteSource, manifest: PackManifest): WeightsByName {
  const { config, kvFormat, activations, contextLength } = manifest;
  const table = new Map(manifest.experts.map((entry) => [entry.layer * 65536 + entry.expert, entry]));
  const load = (name: string, blob: BlobTarget["blob"], heap: Heap, ptr: number): Promise<void> =>
    loadBlobs(source, manifest, [{ name, blob, write: (bytes, offset) => heap.u8.set(bytes, ptr + offset) }]);
  const segment = (heap: Heap, name: string, of: { gateUp: MatrixFormat; down: MatrixFormat }, blob: PackSegment): FetchedSegment =>
    ({ width: blob.end - blob.start, gateUp: formatCode(of.gateUp), down: formatCode(of.down), bytes: blob.bytes, load: (ptr) => load(name, blob, heap, ptr) });
  const blobOf = (name: string): PackBlob => manifest.blobs[name]!;
  return {
    config, kvFormat, activations, contextLength, segmentCounts: segmentCounts(manifest),
    widestSegment: manifest.experts.flatMap(({ segments }) => segments).reduce((most, { start, end }) => Math.max(most, end - start), 32),
    async embedding(ids, heap, kernels) {
      const blob = blobOf("embed");
      const format = blob.format as MatrixFormat;
      const blockBytes = rowBlockBytes(format, blob.cols);
      const at = new Map([...new Set(ids.map((id) => Math.floor(id / BLOCK_ROWS)))].map((block) => [block, heap.alloc(blockBytes, "weights")]));
      const row = heap.alloc(blob.cols * 4, "weights");
      // The whole matrix passes by, extent by extent; the row blocks asked for stay.
      await loadBlobs(source, manifest, [{
        name: "embed", blob,
        write(bytes, offset) {
          for (let block = Math.floor(offset / blockBytes); block * blockBytes < offset + bytes.length; block++) {
            const ptr = at.get(block);
            if (ptr === undefined) continue;
            const from = Math.max(offset, block * blockBytes);
            const end = Math.min(offset + bytes.length, (block + 1) * blockBytes);
            heap.u8.set(bytes.subarray(from - offset, end - offset), ptr + from - block * blockBytes);
          }
        },
      }]);
      const rows = rowsOfIds(ids, blob.cols, (id) => {
        kernels.readRow(formatCode(format), at.get(Math.floor(id / BLOCK_ROWS))!, blob.cols, id % BLOCK_ROWS, row);
        return heap.f32.subarray(row / 4, row / 4 + blob.cols);
      });
      for (const ptr of [row, ...at.values()]) heap.free(ptr);
      return rows;
    },
    tensor(name) {
      const blob = blobOf(name);
      return { format: blob.format, nRows: blob.rows, nCols: blob.cols, bytes: blob.bytes, load: (heap, ptr) => load(name, blob, heap, ptr) };
    },
    shared(heap, layer) {
      const of = manifest.shared.find((entry) => entry.layer === layer);
      return of === undefined ? [] : of.segments.map((blob, i) => segment(heap, sharedSegmentName(layer, i), of, blob));
    },
    expert(heap, layer, expert, number) {
      const of = table.get(layer * 65536 + expert)!;
      return segment(heap, segmentName(layer, expert, number), of, of.segments[number]!);
    },
  };
}

/** The format that holds a stored type exactly and is multiplied with f32 activations. */
const exactFormat = ({ type }: MatrixPlace): MatrixFormat => (type === "F16" ? "f16" : type === "BF16" ? "bf16" : "f32");

/** A checkpoint's weights, or a patched one's, at full precision, with the context a pack of it has. */
export function checkpointWeights(checkpoint: MatrixSource, contextLength: number): WeightsByName {
  const { config } = checkpoint;
  const trunk = new Map(trunkTensors(config).map((t) => [t.name, t]));
  const write = (heap: Heap, ptr: number, run: (writer: MatrixWriter) => Promise<void>): Promise<void> => {
    let to = ptr;
    return run(new MatrixWriter(checkpoint, async (bytes) => {
      heap.u8.set(bytes, to);
      to += bytes.length;
    }));
  };
  const vector = (nRows: number, nCols: number, values: () => Promise<Float32Array>): FetchedTensor =>
    ({ format: "f32-vector", nRows, nCols, bytes: nRows * nCols * 4, load: async (heap, ptr) => heap.f32.set(await values(), ptr / 4) });
  const segment = (heap: Heap, name: string, kind: ExpertKind, input: number, width: number): FetchedSegment => {
    const [gate, up, down] = [isGated(kind) ? checkpoint.place(`${name}gate`) : null, checkpoint.place(`${name}up`), checkpoint.place(`${name}down`)];
    const formats = { gateUp: exactFormat(up), down: exactFormat(down) };
    return {
      width, gateUp: formatCode(formats.gateUp), down: formatCode(formats.down), bytes: segmentBytes(kind, formats.gateUp, formats.down, input, down.nRows, width),
      load: (ptr) => write(heap, ptr, async (writer) => {
        if (gate === null) await writer.rows(up, formats.gateUp, 0, width);
        else await writer.gateUp(gate, up, formats.gateUp, 0, width);
        await writer.columns(down, formats.down, 0, width);
        if (EXPERT_FORMS[kind].biases.length === 0) return;
        const biases = await Promise.all(EXPERT_FORMS[kind].biases.map((bias) => checkpoint.readF32(name + bias)));
        const at = ptr + matrixBytes(formats.gateUp, gateUpRows(kind, formats.gateUp, width), input) + matrixBytes(formats.down, down.nRows, width);
        heap.u8.set(segmentBiases(kind, biases, formats.gateUp, 0, width), at);
      }),
    };
  };
  return {
    config, contextLength, kvFormat: "f32", activations: "f32",
    segmentCounts: config.layerFfns.map((ffn) => (ffn === "moe" ? new Array<number>(config.nExperts).fill(1) : [])),
    widestSegment: Math.max(32, config.expertIntermediateSize),
    async embedding(ids) {
      const place = checkpoint.place("embed");
      const rows = new Map<number, Float32Array>();
      for (const id of new Set(ids)) rows.set(id, decodeRows(place.type, await checkpoint.readRows(place, id, 1), 1, place.nCols));
      return rowsOfIds(ids, place.nCols, (id) => rows.get(id)!);
    },
    tensor(name) {
      if (name === "rope") return vector(ropeTables(config) * contextLength, config.rope.dim, async () => ropeTable(config.rope, contextLength));
      const t = trunk.get(name)!;
      if (t.kind === "vector") return vector(1, t.length, () => checkpoint.readF32(t.name));
      const places = t.kind === "matrix" ? [checkpoint.place(t.name)] : Array.from({ length: t.count }, (_, i) => checkpoint.place(`${t.name}.${i}`));
      const format = exactFormat(places[0]!);
      return {
        format, nRows: t.nRows, nCols: t.nCols, bytes: places.length * matrixBytes(format, t.nRows, t.nCols),
        load: (heap, ptr) => write(heap, ptr, async (writer) => { for (const place of places) await writer.columns(place, format, 0, place.nCols); }),
      };
    },
    shared(heap, layer) {
      const width = sharedWidth(config, layer);
      return width === 0 ? [] : [segment(heap, `layers.${layer}.shared.`, "swiglu", config.hiddenSize, width)];
    },
    expert: (heap, layer, expert) => segment(heap, `layers.${layer}.experts.${expert}.`, config.expertKind, expertInputSize(config), config.expertIntermediateSize),
  };
}
