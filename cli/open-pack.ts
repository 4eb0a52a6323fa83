// A pack folder as a running in-process engine: what logits, eval, chat and trace stand on.
// Owns the choice of kernels and memory on this machine. Refuses the limits of an isolate: a laptop may hold what a Worker may not.

import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { loadModel } from "../formats/load-model.ts";
import { openPack as readPack, readTokenizerJson } from "../formats/pack-reader.ts";
import type { ByteSource } from "../formats/byte-source.ts";
import type { PackManifest } from "../formats/manifest.ts";
import { ModelError } from "../model/config.ts";
import { Engine } from "../model/engine.ts";
import { Heap } from "../model/heap.ts";
import { ExpertRunner, LocalExperts } from "../model/local-experts.ts";
import type { PrunedCalls } from "../model/online-pruning.ts";
import type { RequestRouting } from "../model/request-routing.ts";
import type { Tap } from "../model/taps.ts";
import { createTokenizer, type Tokenizer } from "../model/tokenizer.ts";
import { chooseKernels, RESERVED_BYTES, type KernelChoice, type KernelModules } from "../model/wasm-kernels.ts";
import { FolderSource } from "./file-source.ts";

/** A 32-bit WebAssembly memory ends here. */
const HEAP_LIMIT_BYTES = 4 * 1024 ** 3 - 2 * 65536;
const CHUNK_TOKENS = 64;

export interface LocalModel {
  readonly manifest: PackManifest;
  readonly packHash: string;
  /** null where the pack has no tokenizer. */
  readonly tokenizer: Tokenizer | null;
  readonly engine: Engine;
  readonly kernels: KernelChoice;
}

export interface OpenOptions {
  readonly onProgress?: (loadedBytes: number, totalBytes: number) => void;
  /** Overrides the compiled kernels; tests pass a chosen variant. */
  readonly modules?: KernelModules;
  readonly maxChunkTokens?: number;
}

/** The built kernels. Throws ModelError when they are not built. */
export function kernelModules(): KernelModules {
  const load = (variant: string): WebAssembly.Module => {
    const file = fileURLToPath(new URL(`../build/kernels-${variant}.wasm`, import.meta.url));
    if (!existsSync(file)) throw new ModelError(`${file} is missing. Run \`npm run build\` first.`);
    return new WebAssembly.Module(readFileSync(file));
  };
  return { simd128: load("simd128"), relaxedI32: load("relaxed-i32"), relaxedI16: load("relaxed-i16") };
}

/** Opens a pack folder. Throws SourceError, ModelError or CapacityError. */
export const openPack = (dir: string, options: OpenOptions = {}): Promise<LocalModel> => openPackFrom(new FolderSource(dir), options);

export async function openPackFrom(source: ByteSource, options: OpenOptions = {}): Promise<LocalModel> {
  const { manifest, packHash } = await readPack(source);
  const tokenizerJson = await readTokenizerJson(source, manifest);
  const memory = new WebAssembly.Memory({ initial: RESERVED_BYTES / 65536, maximum: 65536 });
  const choice = chooseKernels({ modules: options.modules ?? kernelModules(), memory });
  const heap = new Heap(memory, RESERVED_BYTES, HEAP_LIMIT_BYTES);
  const { trunk, lookup, segmentCounts, shared, maxSegmentWidth } = await loadModel(source, manifest, heap, options.onProgress);
  const { config, kvFormat, activations } = manifest;
  const maxChunkTokens = options.maxChunkTokens ?? CHUNK_TOKENS;
  const runner = new ExpertRunner(choice.kernels, heap, config, maxSegmentWidth, maxChunkTokens);
  const engine = new Engine({
    config, kernels: choice.kernels, heap, trunk, segmentCounts, shared, kvFormat, activations, maxChunkTokens,
    experts: new LocalExperts(runner, lookup),
  });
  return { manifest, packHash, tokenizer: tokenizerJson === null ? null : createTokenizer(tokenizerJson), engine, kernels: choice };
}

/** How a sequence is evaluated. */
export interface EvaluateOptions {
  /** What is asked of its tokens' routing. */
  readonly routing?: RequestRouting | undefined;
  readonly taps?: readonly Tap[];
}

/**
 * Evaluates `ids` as one sequence and hands out the logits of every position in order, f32 [vocab] each; the views are valid only during the call.
 * Returns the expert calls that online pruning left out. Throws ModelError when the sequence is longer than the pack's context.
 */
export async function evaluate(engine: Engine, ids: readonly number[], onLogits: (position: number, logits: Float32Array) => void, { routing, taps = [] }: EvaluateOptions = {}): Promise<PrunedCalls> {
  if (ids.length > engine.contextLength) throw new ModelError(`A sequence of ${ids.length} tokens was given; this pack serves up to ${engine.contextLength}.`);
  const timeline = engine.kv.open(ids.length);
  const calls = { leftOut: 0, of: 0 };
  try {
    for (let done = 0; done < ids.length; ) {
      const chunk = ids.slice(done, done + engine.maxChunkTokens);
      const { logits, pruned } = await engine.step([{ timeline, ids: chunk, logits: "all", routing }], taps);
      calls.leftOut += pruned?.[0]!.leftOut ?? 0;
      calls.of += pruned?.[0]!.of ?? 0;
      const vocab = engine.config.vocabSize;
      for (let i = 0; i < chunk.length; i++) onLogits(done + i, logits[0]!.subarray(i * vocab, (i + 1) * vocab));
      done += chunk.length;
    }
  } finally {
    engine.kv.close(timeline);
  }
  return calls;
}
