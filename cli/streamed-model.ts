// A model of any size as an in-process engine: the trunk in memory, experts brought in when a step needs them. From a pack as it is, or from a
// checkpoint at full precision: every matrix in f32, f16 or bf16, activations and KV cache in f32, which is what `verify` measures a pack against.
// Owns the two ways to the same parts. Refuses to serve: it is slow wherever experts do not fit.

import { bindPackTrunk, bindShared, segmentCounts } from "../formats/load-model.ts";
import type { ByteSource } from "../formats/byte-source.ts";
import type { Checkpoint, MatrixPlace } from "../formats/checkpoint.ts";
import { trunkBlobsOf, segmentName, type PackManifest } from "../formats/manifest.ts";
import { MatrixWriter, segmentBiases } from "../formats/matrix-writer.ts";
import { loadBlobs } from "../formats/pack-reader.ts";
import { EXPERT_BIASES, hasExpertBiases, sharedWidth, trunkTensors, type ExpertKind, type ModelConfig } from "../model/config.ts";
import { Engine } from "../model/engine.ts";
import { Heap } from "../model/heap.ts";
import { formatCode, gateUpRows, matrixBytes, segmentBytes, type MatrixFormat } from "../model/kernels.ts";
import { ExpertRunner, type SegmentWeights } from "../model/local-experts.ts";
import { ropeTable } from "../model/rope.ts";
import { StreamedExperts, type FetchedSegment } from "../model/streamed-experts.ts";
import { bindTrunk, ropeTables, type LoadedTensor } from "../model/trunk.ts";
import { chooseKernels, RESERVED_BYTES } from "../model/wasm-kernels.ts";
import { kernelModules } from "./open-pack.ts";

const HEAP_LIMIT_BYTES = 4 * 1024 ** 3 - 2 * 65536;
/** Of the memory, for experts. */
const EXPERT_BYTES = 1024 ** 3;
const CHUNK_TOKENS = 32;

const newHeap = () => {
  const memory = new WebAssembly.Memory({ initial: RESERVED_BYTES / 65536, maximum: 65536 });
  return { heap: new Heap(memory, RESERVED_BYTES, HEAP_LIMIT_BYTES), kernels: chooseKernels({ modules: kernelModules(), memory }).kernels };
};

/** A pack's engine. Throws SourceError, ModelError or CapacityError. */
export async function streamPack(source: ByteSource, manifest: PackManifest): Promise<Engine> {
  const { heap, kernels } = newHeap();
  const { config, kvFormat, activations } = manifest;
  const at = new Map<string, number>();
  const targets = [];
  for (const { name, blob } of trunkBlobsOf(manifest)) {
    if (at.has(blob.hash)) continue;
    const ptr = heap.alloc(blob.bytes, "weights");
    at.set(blob.hash, ptr);
    targets.push({ name, blob, write: (bytes: Uint8Array, offset: number) => heap.u8.set(bytes, ptr + offset) });
  }
  await loadBlobs(source, manifest, targets);
  const table = new Map(manifest.experts.map((entry) => [entry.layer * 65536 + entry.expert, entry]));
  const widest = manifest.experts.flatMap(({ segments }) => segments).reduce((most, { start, end }) => Math.max(most, end - start), 32);
  const fetch = (layer: number, expert: number, segment: number): FetchedSegment => {
    const { gateUp, down, segments } = table.get(layer * 65536 + expert)!;
    const blob = segments[segment]!;
    return {
      width: blob.end - blob.start, gateUp: formatCode(gateUp), down: formatCode(down), bytes: blob.bytes,
      load: (ptr) => loadBlobs(source, manifest, [{ name: segmentName(layer, expert, segment), blob, write: (bytes, offset) => heap.u8.set(bytes, ptr + offset) }]),
    };
  };
  return new Engine({
    config, kernels, heap, kvFormat, activations, maxChunkTokens: CHUNK_TOKENS, segmentCounts: segmentCounts(manifest), shared: bindShared(manifest, (hash) => at.get(hash)!),
    experts: new StreamedExperts(new ExpertRunner(kernels, heap, config, widest, CHUNK_TOKENS), heap, config.hiddenSize, EXPERT_BYTES, fetch),
    trunk: bindPackTrunk(manifest, (hash) => at.get(hash)!),
  });
}

/** The format that holds a stored type exactly and is multiplied with f32 activations. */
const exactFormat = ({ type }: MatrixPlace): MatrixFormat => (type === "F16" ? "f16" : type === "BF16" ? "bf16" : "f32");

/** A checkpoint's engine at full precision, with the context a pack of it has. */
export async function streamCheckpoint(checkpoint: Checkpoint, contextLength: number): Promise<Engine> {
  const { heap, kernels } = newHeap();
  const { config } = checkpoint;
  const write = (ptr: number, run: (writer: MatrixWriter) => Promise<void>): Promise<void> => {
    let to = ptr;
    return run(new MatrixWriter(checkpoint, async (bytes) => {
      heap.u8.set(bytes, to);
      to += bytes.length;
    }));
  };
  const loaded = new Map<string, LoadedTensor>();
  const vector = (name: string, nRows: number, nCols: number, values: Float32Array): void => {
    const ptr = heap.alloc(values.byteLength, "weights");
    heap.f32.set(values, ptr / 4);
    loaded.set(name, { ptr, format: "f32-vector", nRows, nCols });
  };
  for (const t of trunkTensors(config)) {
    if (t.kind === "vector") {
      vector(t.name, 1, t.length, await checkpoint.readF32(t.name));
      continue;
    }
    const places = t.kind === "matrix" ? [checkpoint.place(t.name)] : Array.from({ length: t.count }, (_, i) => checkpoint.place(`${t.name}.${i}`));
    const format = exactFormat(places[0]!);
    const ptr = heap.alloc(places.length * matrixBytes(format, t.nRows, t.nCols), "weights");
    await write(ptr, async (writer) => { for (const place of places) await writer.columns(place, format, 0, place.nCols); });
    loaded.set(t.name, { ptr, format, nRows: t.nRows, nCols: t.nCols });
  }
  vector("rope", ropeTables(config) * contextLength, config.rope.dim, ropeTable(config.rope, contextLength));

  const segment = (name: string, kind: ExpertKind, width: number): FetchedSegment => {
    const [gate, up, down] = ["gate", "up", "down"].map((matrix) => checkpoint.place(name + matrix)) as [MatrixPlace, MatrixPlace, MatrixPlace];
    const formats = { gateUp: exactFormat(gate), down: exactFormat(down) };
    return {
      width, gateUp: formatCode(formats.gateUp), down: formatCode(formats.down), bytes: segmentBytes(kind, formats.gateUp, formats.down, config.hiddenSize, width),
      load: (ptr) => write(ptr, async (writer) => {
        await writer.gateUp(gate, up, formats.gateUp, 0, width);
        await writer.columns(down, formats.down, 0, width);
        if (kind === "swiglu") return;
        const biases = await Promise.all(EXPERT_BIASES.map((bias) => checkpoint.readF32(name + bias))) as [Float32Array, Float32Array, Float32Array];
        const at = ptr + matrixBytes(formats.gateUp, gateUpRows(formats.gateUp, width), config.hiddenSize) + matrixBytes(formats.down, config.hiddenSize, width);
        heap.u8.set(segmentBiases(biases, formats.gateUp, 0, width), at);
      }),
    };
  };
  const shared: SegmentWeights[][] = [];
  for (let layer = 0; layer < config.nLayers; layer++) {
    const width = sharedWidth(config, layer);
    shared.push([]);
    if (width === 0) continue;
    const { load, bytes, ...weights } = segment(`layers.${layer}.shared.`, "swiglu", width);
    const ptr = heap.alloc(bytes, "weights");
    await load(ptr);
    shared[layer]!.push({ ...weights, ptr });
  }
  const kind: ExpertKind = hasExpertBiases(config) ? config.expertKind : "swiglu";
  const fetch = (layer: number, expert: number): FetchedSegment => segment(`layers.${layer}.experts.${expert}.`, kind, config.expertIntermediateSize);
  return new Engine({
    config, kernels, heap, kvFormat: "f32", activations: "f32", maxChunkTokens: CHUNK_TOKENS, segmentCounts: oneSegmentEach(config), shared,
    experts: new StreamedExperts(new ExpertRunner(kernels, heap, config, Math.max(32, config.expertIntermediateSize), CHUNK_TOKENS), heap, config.hiddenSize, EXPERT_BYTES, fetch),
    trunk: bindTrunk(config, (name) => loaded.get(name)),
  });
}

const oneSegmentEach = (config: ModelConfig): number[][] =>
  config.layerFfns.map((ffn) => (ffn === "moe" ? new Array<number>(config.nExperts).fill(1) : []));
