// A ring of engines in one process: each stage with a memory of its own and nothing in it but what its span says, rows handed from one to the next as bare
// arrays. Owns the walk: residual rows along embedding and layers, final rows along the head, answers back to the first. Refuses wires and lost stages.

import { kernelModules } from "../../cli/open-pack.ts";
import type { ByteSource } from "../../formats/byte-source.ts";
import { loadModel, type LoadedModel } from "../../formats/load-model.ts";
import type { PackManifest } from "../../formats/manifest.ts";
import { Engine } from "../../model/engine.ts";
import type { StepEntry } from "../../model/step.ts";
import type { Experts } from "../../model/experts.ts";
import { Heap } from "../../model/heap.ts";
import type { Timeline } from "../../model/kv-cache.ts";
import { ExpertRunner, LocalExperts } from "../../model/local-experts.ts";
import type { EntryLogits, LogitsRequest } from "../../model/logits.ts";
import type { HeadPart } from "../../model/ring-logits.ts";
import { isEmpty, type StageSpan } from "../../model/stage-span.ts";
import { RESERVED_BYTES, chooseKernels } from "../../model/wasm-kernels.ts";

export interface StageEngine {
  readonly engine: Engine;
  readonly heap: Heap;
  readonly model: LoadedModel;
  readonly runner: ExpertRunner;
  /** What lies at the beginning of memory: the kernels' constants, before their small buffers. */
  reserved(): Uint8Array;
}

/** `around`: whoever stands between the engine and its experts. */
export async function openStage(source: ByteSource, manifest: PackManifest, span: StageSpan, maxChunkTokens = 64, around: (experts: Experts, heap: Heap) => Experts = (experts) => experts): Promise<StageEngine> {
  const memory = new WebAssembly.Memory({ initial: RESERVED_BYTES / 65536, maximum: 65536 });
  const { kernels } = chooseKernels({ modules: kernelModules(), memory });
  const heap = new Heap(memory, RESERVED_BYTES, 1 << 28);
  const model = await loadModel(source, manifest, heap, undefined, span);
  const { config, kvFormat, activations } = manifest;
  const runner = new ExpertRunner(kernels, heap, config, model.maxSegmentWidth, maxChunkTokens);
  const engine = new Engine({
    config, kernels, heap, kvFormat, activations, maxChunkTokens, trunk: model.trunk, segmentCounts: model.segmentCounts, shared: model.shared,
    experts: around(new LocalExperts(runner, model.lookup), heap),
  });
  return { engine, heap, model, runner, reserved: () => new Uint8Array(memory.buffer, 0, 8192).slice() };
}

/** An entry by the number of its sequence. */
export interface RingEntry { readonly sequence: number; readonly ids: readonly number[]; readonly logits: LogitsRequest }

export interface Ring {
  open(maxTokens: number): number;
  step(entries: readonly RingEntry[]): Promise<readonly EntryLogits[]>;
  /** Takes the last tokens of a sequence back, in every stage. */
  rewind(sequence: number, length: number): void;
}

/** `alter`: what happens to rows and parts on their way, for tests that see a test fail. */
export function ringOf(stages: readonly StageEngine[], alter: { readonly rows?: (rows: Float32Array) => Float32Array; readonly parts?: (parts: HeadPart[]) => HeadPart[] } = {}): Ring {
  const sequences: Timeline[][] = [];
  return {
    open: (maxTokens) => sequences.push(stages.map(({ engine }) => engine.kv.open(maxTokens))) - 1,
    rewind: (sequence, length) => sequences[sequence]!.forEach((timeline) => { timeline.length = length; }),
    async step(entries) {
      const entriesOf = (stage: number): StepEntry[] => entries.map(({ sequence, ids, logits }) => ({ timeline: sequences[sequence]![stage]!, ids, logits }));
      const first = stages[0]!.engine;
      const plan = first.plan(entriesOf(0));
      const asks = plan.rows.map(({ ask }) => ask);
      let rows: Float32Array | null = null;
      for (const [i, { engine }] of stages.entries()) {
        if (isEmpty(engine.span.layers) && isEmpty(engine.span.embeddingRows)) continue;
        rows = (await engine.pass({ entries: entriesOf(i), rows: rows === null ? null : alter.rows?.(rows) ?? rows, asked: asks.map(({ token }) => token) })).rows;
      }
      const parts: HeadPart[] = [];
      for (const { engine } of stages) if (!isEmpty(engine.span.headRows)) parts.push({ headRows: engine.span.headRows, answers: engine.answers(asks, rows!) });
      return first.conclude(plan, rows!, alter.parts?.(parts) ?? parts);
    },
  };
}

/** The whole engine behind the same interface. */
export function soleOf({ engine }: StageEngine): Ring {
  const timelines: Timeline[] = [];
  return {
    open: (maxTokens) => timelines.push(engine.kv.open(maxTokens)) - 1,
    rewind: (sequence, length) => { timelines[sequence]!.length = length; },
    async step(entries) {
      const { logits, tops } = await engine.step(entries.map(({ sequence, ids, logits: asked }) => ({ timeline: timelines[sequence]!, ids, logits: asked })));
      return logits.map((row, i) => ({ logits: row, top: tops[i]! }));
    },
  };
}
