// Experts in this isolate: the inner loop of a shard, and the in-process implementation of the Experts seam.
// Owns the walk over groups: one kernel call per (expert, segment). Refuses to fetch weights; it is handed their addresses.

import type { ExpertBatch, ExpertRunInfo, Experts } from "./experts.ts";
import type { Heap } from "./heap.ts";
import { expertScratchBytes, formatCode, type Kernels, type MatrixFormat } from "./kernels.ts";

/** One expert segment in memory. */
export interface SegmentWeights {
  readonly ptr: number;
  readonly width: number;
  readonly gateUp: MatrixFormat;
  readonly down: MatrixFormat;
}

/** Finds a resident segment; undefined when this isolate does not hold it. */
export type SegmentLookup = (layer: number, expert: number, segment: number) => SegmentWeights | undefined;

export class ExpertRunner {
  readonly #kernels: Kernels;
  readonly #heap: Heap;
  readonly #hidden: number;
  readonly #acts: number; // u32 [maxTokens] addresses of activation rows
  readonly #scratch: number;

  constructor(kernels: Kernels, heap: Heap, hidden: number, maxWidth: number, maxTokens: number) {
    this.#kernels = kernels;
    this.#heap = heap;
    this.#hidden = hidden;
    this.#acts = heap.alloc(maxTokens * 4, "expert scratch");
    this.#scratch = heap.alloc(expertScratchBytes(hidden, maxWidth), "expert scratch");
  }

  /** Gives the scratch back; the runner must not be used afterwards. */
  close(): void {
    this.#heap.free(this.#acts);
    this.#heap.free(this.#scratch);
  }

  /** Rows of one group: tokens[from..to) through one segment, written from address `rows` on, hidden * 4 bytes apart. */
  runGroup(weights: SegmentWeights, tokens: ArrayLike<number>, from: number, to: number,
    activations: number, activationStride: number, rows: number): void {
    const acts = this.#heap.u32;
    for (let i = from; i < to; i++) acts[this.#acts / 4 + i - from] = activations + tokens[i]! * activationStride;
    this.#kernels.expertFfn(formatCode(weights.gateUp), formatCode(weights.down), weights.ptr, this.#hidden, weights.width,
      this.#acts, to - from, rows, this.#hidden * 4, this.#scratch);
  }
}

/** All experts in this isolate, without any wire. */
export class LocalExperts implements Experts {
  readonly #runner: ExpertRunner;
  readonly #lookup: SegmentLookup;
  readonly #hidden: number;

  constructor(runner: ExpertRunner, lookup: SegmentLookup, hidden: number) {
    this.#runner = runner;
    this.#lookup = lookup;
    this.#hidden = hidden;
  }

  run(layer: number, batch: ExpertBatch): ExpertRunInfo {
    for (let group = 0; group < batch.nGroups; group++) {
      const [expert, segment] = [batch.groupExpert[group]!, batch.groupSegment[group]!];
      const weights = this.#lookup(layer, expert, segment);
      if (weights === undefined) throw new Error(`Expert ${expert} segment ${segment} of layer ${layer} is not in this isolate.`);
      const from = batch.groupStart[group]!;
      this.#runner.runGroup(weights, batch.groupTokens, from, batch.groupStart[group + 1]!,
        batch.activations, batch.activationStride, batch.rows + from * this.#hidden * 4);
    }
    return { frames: 0, bytes: 0, retries: 0 };
  }
}
