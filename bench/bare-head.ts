// The end of a step and nothing else: the engine's own Head (norm, product, ranks, probabilities) over random weights of any vocabulary. Owns the memory and
// one residual. Refuses the layers before it: whatever they take, a real step takes more.

import { kernelModules } from "../cli/open-pack.ts";
import type { ModelConfig } from "../model/config.ts";
import { engineRegions, type EngineRegions } from "../model/engine-regions.ts";
import { Heap } from "../model/heap.ts";
import { activationFormatOf, formatCode, matrixBytes, type MatrixFormat } from "../model/kernels.ts";
import { Head, type EntryLogits, type LogitsRequest } from "../model/logits.ts";
import { wholeModel } from "../model/stage-span.ts";
import { chooseKernels, RESERVED_BYTES } from "../model/wasm-kernels.ts";

const HEAP_LIMIT_BYTES = 2 * 1024 ** 3;
const PATTERN_BYTES = 1_048_573; // prime, so that no row is like another

export interface BareHead {
  readonly format: MatrixFormat;
  readonly vocabSize: number;
  /** Of the weights. */
  readonly bytes: number;
  run(request: LogitsRequest): EntryLogits;
  /** A row of logits. */
  logits(): Float32Array;
}

/** `like` is any model's config; of it only what a head asks for counts. */
export function openHead(like: ModelConfig, format: MatrixFormat, vocabSize: number, hiddenSize: number): BareHead {
  const memory = new WebAssembly.Memory({ initial: RESERVED_BYTES / 65536, maximum: 65536 });
  const { kernels } = chooseKernels({ modules: kernelModules(), memory });
  const heap = new Heap(memory, RESERVED_BYTES, HEAP_LIMIT_BYTES);
  const config: ModelConfig = { ...like, vocabSize, hiddenSize, logitsScaling: 1, norm: "rms" };
  const at = Object.fromEntries(Object.entries(engineRegions(config, { nTokens: 1, maxSegments: 1, sharedSegmentWidth: 0 }))
    .map(([region, bytes]) => [region, bytes === 0 ? 0 : heap.alloc(bytes, "head")])) as unknown as EngineRegions;
  const bytes = matrixBytes(format, vocabSize, hiddenSize);
  const ptr = heap.alloc(bytes, "head");
  const norm = heap.alloc(hiddenSize * 4, "head");
  // Pairs of these bytes are normal f16 scales wherever they stand.
  let state = 1;
  const pattern = Uint8Array.from({ length: Math.min(PATTERN_BYTES, bytes) }, () => {
    state = Math.imul(state, 1_664_525) + 1_013_904_223;
    return 0x20 | (state >>> 28);
  });
  for (let done = 0; done < bytes; done += pattern.length) heap.u8.set(pattern.subarray(0, Math.min(pattern.length, bytes - done)), ptr + done);
  heap.f32.fill(1, norm / 4, norm / 4 + hiddenSize);
  for (let i = 0; i < hiddenSize; i++) heap.f32[at.x / 4 + i] = Math.sin(i * 12.9898);
  const head = new Head(config, kernels, heap, { span: wholeModel(config), norm, normBias: 0, headBias: 0, head: { ptr, code: formatCode(format), takes: activationFormatOf(format), nRows: vocabSize, nCols: hiddenSize } }, at);
  const run = (request: LogitsRequest): EntryLogits => head.run([{ ids: [0], logits: request }])[0]!;
  return { format, vocabSize, bytes, run, logits: () => run("last").logits };
}
