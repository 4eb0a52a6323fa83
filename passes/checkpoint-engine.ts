// A checkpoint as a running engine, at full precision: what passes generate with before there is a pack. The trunk lies in memory, experts come in when a step
// asks for them and leave when room is needed. Owns addresses and their order. Refuses a trunk larger than one WebAssembly memory (CapacityError): a text that
// is there already needs no more than a layer at a time (layered-model.ts), but one that is still to be written needs all of them for every token.

import { trunkTensors } from "../model/config.ts";
import { Engine } from "../model/engine.ts";
import { Heap } from "../model/heap.ts";
import { ExpertRunner, type SegmentWeights } from "../model/local-experts.ts";
import { StreamedExperts } from "../model/streamed-experts.ts";
import { bindTrunk, type LoadedTensor } from "../model/trunk.ts";
import { chooseKernels, type KernelModules, RESERVED_BYTES } from "../model/wasm-kernels.ts";
import type { WeightsByName } from "./streamed-model.ts";

/** A 32-bit WebAssembly memory ends here. */
const HEAP_LIMIT_BYTES = 4 * 1024 ** 3 - 2 * 65536;
const EXPERT_BYTES = 2 * 1024 ** 3;

export interface CheckpointEngineOptions {
  /** Most tokens of one step. */
  readonly maxChunkTokens: number;
  /** Of the memory, for experts; one segment is always held. */
  readonly expertBytes?: number;
}

/** Loads the trunk and makes the engine. Throws CapacityError where it does not fit, SourceError or ModelError where the files are at fault. */
export async function openCheckpointEngine(weights: WeightsByName, modules: KernelModules, { maxChunkTokens, expertBytes = EXPERT_BYTES }: CheckpointEngineOptions): Promise<Engine> {
  const { config, kvFormat, activations, segmentCounts, widestSegment } = weights;
  const memory = new WebAssembly.Memory({ initial: RESERVED_BYTES / 65536, maximum: 65536 });
  const heap = new Heap(memory, RESERVED_BYTES, HEAP_LIMIT_BYTES);
  const { kernels } = chooseKernels({ modules, memory });
  const loaded = new Map<string, LoadedTensor>();
  for (const name of ["rope", ...trunkTensors(config).map((tensor) => tensor.name)]) {
    const { load, bytes, ...tensor } = weights.tensor(name);
    const ptr = heap.alloc(bytes, "weights");
    await load(heap, ptr);
    loaded.set(name, { ...tensor, ptr });
  }
  const shared: SegmentWeights[][] = [];
  for (let layer = 0; layer < config.nLayers; layer++) {
    const segments: SegmentWeights[] = [];
    for (const { load, bytes, ...segment } of weights.shared(heap, layer)) {
      const ptr = heap.alloc(bytes, "weights");
      await load(ptr);
      segments.push({ ...segment, ptr });
    }
    shared.push(segments);
  }
  const runner = new ExpertRunner(kernels, heap, config, widestSegment, maxChunkTokens);
  const experts = new StreamedExperts(runner, heap, expertBytes, (layer, expert, segment) => weights.expert(heap, layer, expert, segment));
  return new Engine({ config, kernels, heap, kvFormat, activations, maxChunkTokens, segmentCounts, shared, experts, trunk: bindTrunk(config, (name) => loaded.get(name)) });
}
