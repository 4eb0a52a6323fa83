// An engine over weights given as plain numbers, without pack or file: what the engine tests stand on.
// Owns placing f32 matrices in tile layout (docs/arithmetic.md section 3) and slicing experts into segments.
// Refuses quantised formats: those come through formats/.

import { expertInputSize, expertLayer, expertOutputSize, sharedWidth, trunkTensors, type ExpertKind, type ModelConfig } from "../../model/config.ts";
import { Engine } from "../../model/engine.ts";
import type { StepEntry } from "../../model/step.ts";
import type { Experts } from "../../model/experts.ts";
import { Heap } from "../../model/heap.ts";
import { formatCode, gateUpRows, matrixBytes, segmentBiasBytes, segmentBytes, type Kernels, type KvFormat } from "../../model/kernels.ts";
import { ExpertRunner, LocalExperts, type SegmentLookup, type SegmentWeights } from "../../model/local-experts.ts";
import { ropeTable } from "../../model/rope.ts";
import { bindTrunk, ropeTables, type LoadedTensor } from "../../model/trunk.ts";
import type { DefinitionMatrix } from "../../model/definition.ts";

export type PlainWeights = (name: string) => DefinitionMatrix;

/** Writes rows [from, to) x all columns of `m` as f32 tiles. */
function placeMatrix(heap: Heap, ptr: number, m: DefinitionMatrix, rowOf: (row: number) => number, nRows: number, columns: [number, number]): void {
  const nCols = columns[1] - columns[0];
  heap.f32.fill(0, ptr / 4, (ptr + matrixBytes("f32", nRows, nCols)) / 4);
  for (let row = 0; row < nRows; row++) {
    const source = rowOf(row);
    if (source < 0) continue;
    for (let k = 0; k < nCols; k++)
      heap.f32[ptr / 4 + (Math.floor(row / 32) * nCols + k) * 32 + (row % 32)] = m.values[source * m.cols + columns[0] + k]!;
  }
}

export interface DirectOptions {
  readonly kernels: Kernels;
  readonly contextLength: number;
  readonly kvFormat?: KvFormat;
  readonly maxChunkTokens?: number;
  /** Width of a segment; the default is the whole expert. */
  readonly segmentWidth?: number;
  /** Most tokens of one round of experts; the default is the whole step. */
  readonly maxRoundTokens?: number;
  /** Who computes the experts; the default is the given ones, in this process. */
  readonly experts?: (local: LocalExperts, heap: Heap) => Experts;
}

/** Loads everything in f32 into a fresh heap at `base` of the kernels' memory. */
export function directEngine(config: ModelConfig, weights: PlainWeights, base: number, options: DirectOptions): { engine: Engine; heap: Heap; lookup: SegmentLookup } {
  const { kernels, contextLength, kvFormat = "f32", maxChunkTokens = 16, segmentWidth = config.expertIntermediateSize || config.denseIntermediateSize } = options;
  const heap = new Heap(kernels.memory, base, 256 << 20);
  const loaded = new Map<string, LoadedTensor>();
  for (const tensor of trunkTensors(config)) {
    if (tensor.kind !== "vector") {
      const { name, nRows, nCols } = tensor;
      const eachBytes = matrixBytes("f32", nRows, nCols);
      const names = tensor.kind === "matrix" ? [name] : Array.from({ length: tensor.count }, (_, i) => `${name}.${i}`);
      const ptr = heap.alloc(names.length * eachBytes, "weights");
      names.forEach((of, i) => placeMatrix(heap, ptr + i * eachBytes, weights(of), (row) => row, nRows, [0, nCols]));
      loaded.set(name, { ptr, format: "f32", nRows, nCols });
    } else {
      const ptr = heap.alloc(tensor.length * 4, "weights");
      heap.f32.set(Float32Array.from(weights(tensor.name).values), ptr / 4);
      loaded.set(tensor.name, { ptr, format: "f32-vector", nRows: 1, nCols: tensor.length });
    }
  }
  const rope = ropeTable(config.rope, contextLength);
  const ropePtr = heap.alloc(rope.byteLength, "weights");
  heap.f32.set(rope, ropePtr / 4);
  loaded.set("rope", { ptr: ropePtr, format: "f32-vector", nRows: ropeTables(config) * contextLength, nCols: config.rope.dim });

  const placeFfn = (at: string, kind: ExpertKind, input: number, ffnWidth: number, slice: number, output = config.hiddenSize): SegmentWeights[] => Array.from({ length: Math.ceil(ffnWidth / slice) }, (_, segment) => {
    const [start, end] = [segment * slice, Math.min((segment + 1) * slice, ffnWidth)];
    const width = end - start;
    const bytes = segmentBytes(kind, "f32", "f32", input, output, width);
    const ptr = heap.alloc(bytes, "weights");
    const rows = gateUpRows(kind, "f32", width);
    const isGated = kind === "swiglu" || kind === "clamped-swiglu";
    const inner = (row: number): number => {
      const i = isGated ? Math.floor(row / 32) * 16 + (row % 16) : row;
      return i < width ? start + i : -1;
    };
    const up = weights(at + "up");
    if (isGated) {
      const gate = weights(at + "gate");
      const both = { rows: gate.rows + up.rows, cols: gate.cols, values: [...Array.from(gate.values), ...Array.from(up.values)] };
      placeMatrix(heap, ptr, both, (row) => (row % 32 < 16 || inner(row) < 0 ? inner(row) : gate.rows + inner(row)), rows, [0, input]);
    } else placeMatrix(heap, ptr, up, inner, rows, [0, input]);
    placeMatrix(heap, ptr + matrixBytes("f32", rows, input), weights(at + "down"), (row) => row, output, [start, end]);
    const biasBytes = segmentBiasBytes(kind, "f32", output, width);
    if (biasBytes > 0) {
      const biases = heap.f32.subarray((ptr + bytes - biasBytes) / 4, (ptr + bytes) / 4).fill(0);
      for (let row = 0; row < rows; row++) if (inner(row) >= 0) biases[row] = weights(at + (isGated && row % 32 < 16 ? "gateBias" : "upBias")).values[inner(row)]!;
      if (start === 0) biases.set(Float32Array.from(weights(at + "downBias").values), Math.ceil(rows / 4) * 4);
    }
    return { ptr, width, gateUp: formatCode("f32"), down: formatCode("f32") };
  });
  const segments = new Map<string, SegmentWeights>();
  const nSegments = Math.ceil(config.expertIntermediateSize / segmentWidth);
  const shared: SegmentWeights[][] = [];
  for (let layer = 0; layer < config.nLayers; layer++) {
    shared.push(sharedWidth(config, layer) > 0 ? placeFfn(`layers.${layer}.shared.`, "swiglu", config.hiddenSize, sharedWidth(config, layer), segmentWidth) : []);
    for (let expert = 0; expert < config.nExperts && config.layerFfns[layer] === "moe"; expert++) {
      placeFfn(`layers.${expertLayer(config, layer)}.experts.${expert}.`, config.expertKind, expertInputSize(config), config.expertIntermediateSize, segmentWidth, expertOutputSize(config))
        .forEach((weightsOf, segment) => segments.set(`${layer}.${expert}.${segment}`, weightsOf));
    }
  }
  const lookup: SegmentLookup = (layer, expert, segment) => segments.get(`${layer}.${expert}.${segment}`);
  const runner = new ExpertRunner(kernels, heap, config, segmentWidth, maxChunkTokens);
  const engine = new Engine({
    config, kernels, heap, trunk: bindTrunk(config, (name) => loaded.get(name)), kvFormat, activations: "f32", maxChunkTokens,
    ...(options.maxRoundTokens === undefined ? {} : { maxRoundTokens: options.maxRoundTokens }),
    experts: (options.experts ?? ((experts) => experts))(new LocalExperts(runner, lookup), heap),
    segmentCounts: config.layerFfns.map((ffn) => (ffn === "moe" ? new Array<number>(config.nExperts).fill(nSegments) : [])), shared,
  });
  return { engine, heap, lookup };
}

/** Logits of every position, evaluated in chunks of the given sizes (the last one repeats). */
export async function logitsOf(engine: Engine, ids: readonly number[], chunks: readonly number[], settings: Pick<StepEntry, "routing"> = {}): Promise<Float32Array> {
  const timeline = engine.kv.open(ids.length);
  const parts: Float32Array[] = [];
  try {
    for (let done = 0, i = 0; done < ids.length; i++) {
      const chunk = ids.slice(done, done + chunks[Math.min(i, chunks.length - 1)]!);
      parts.push((await engine.step([{ timeline, ids: chunk, logits: "all", ...settings }])).logits[0]!);
      done += chunk.length;
    }
  } finally {
    engine.kv.close(timeline);
  }
  const out = new Float32Array(parts.reduce((n, part) => n + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}
