// A pack in this process behind an engine whose kernels may be wrapped: what the breakdown and the sweeps stand on.
// Owns the assembly and the loop of one generation, greedy. Refuses limits: a benchmark may hold what a Worker may not.

import { FolderSource } from "../cli/file-source.ts";
import { kernelModules } from "../cli/open-pack.ts";
import type { ByteSource } from "../formats/byte-source.ts";
import { loadModel } from "../formats/load-model.ts";
import { openPack } from "../formats/pack-reader.ts";
import { Engine } from "../model/engine.ts";
import { Heap } from "../model/heap.ts";
import type { Kernels } from "../model/kernels.ts";
import { ExpertRunner, LocalExperts } from "../model/local-experts.ts";
import { argmax } from "../model/sampling.ts";
import { chooseKernels, RESERVED_BYTES } from "../model/wasm-kernels.ts";

const HEAP_LIMIT_BYTES = 4 * 1024 ** 3 - 2 * 65536;

export interface LocalEngineOptions {
  readonly maxChunkTokens: number;
  readonly wrap?: (kernels: Kernels) => Kernels;
}

/** The whole pack in one memory. Throws what reading a pack throws. */
export async function localEngine(pack: string | ByteSource, { maxChunkTokens, wrap = (kernels) => kernels }: LocalEngineOptions): Promise<Engine> {
  const source = typeof pack === "string" ? new FolderSource(pack) : pack;
  const { manifest } = await openPack(source);
  const memory = new WebAssembly.Memory({ initial: RESERVED_BYTES / 65536, maximum: 65536 });
  const kernels = wrap(chooseKernels({ modules: kernelModules(), memory }).kernels);
  const heap = new Heap(memory, RESERVED_BYTES, HEAP_LIMIT_BYTES);
  const { trunk, lookup, segmentCounts, shared, maxSegmentWidth } = await loadModel(source, manifest, heap);
  const { config, kvFormat, activations } = manifest;
  const runner = new ExpertRunner(kernels, heap, config, maxSegmentWidth, maxChunkTokens);
  return new Engine({
    config, kernels, heap, trunk, segmentCounts, shared, kvFormat, activations, maxChunkTokens, experts: new LocalExperts(runner, lookup),
  });
}

export interface LocalRun {
  readonly promptMs: number;
  readonly generateMs: number;
  readonly ids: readonly number[];
}

/** Reads `prompt` in chunks, then generates `nGenerate` tokens, the first of which falls out of the prompt. */
export async function generateLocally(engine: Engine, prompt: readonly number[], nGenerate: number, onPrompt: () => void = () => {}): Promise<LocalRun> {
  const timeline = engine.kv.open(prompt.length + nGenerate);
  try {
    const ids: number[] = [];
    const start = performance.now();
    for (let done = 0; done < prompt.length; done += engine.maxChunkTokens) {
      const chunk = prompt.slice(done, done + engine.maxChunkTokens);
      const { logits } = await engine.step([{ timeline, ids: chunk, logits: done + chunk.length === prompt.length ? "last" : "none" }]);
      if (logits[0]!.length > 0) ids.push(argmax(logits[0]!));
    }
    const promptMs = performance.now() - start;
    onPrompt();
    while (ids.length < nGenerate) {
      const { logits } = await engine.step([{ timeline, ids: [ids.at(-1)!], logits: "last" }]);
      ids.push(argmax(logits[0]!));
    }
    return { promptMs, generateMs: performance.now() - start - promptMs, ids };
  } finally {
    engine.kv.close(timeline);
  }
}
