// Experts that are brought into memory when a step needs them, and leave again, the longest unused first: for models larger than the memory at
// hand. Owns residency within a budget. Refuses to read files: whoever has the weights hands in `fetch`.

import { NO_FRAMES, ONE_PART, type ExpertBatch, type ExpertRunInfo, type Experts } from "./experts.ts";
import type { Heap } from "./heap.ts";
import type { ExpertRunner, SegmentWeights } from "./local-experts.ts";

/** One segment as bytes for the kernels. */
export interface FetchedSegment extends Omit<SegmentWeights, "ptr"> {
  readonly bytes: number;
  /** Writes them at `ptr` of the heap. */
  load(ptr: number): Promise<void>;
}

export class StreamedExperts implements Experts {
  readonly placement = ONE_PART;
  readonly overlapTokens = Infinity;
  readonly #runner: ExpertRunner;
  readonly #heap: Heap;
  readonly #budgetBytes: number;
  readonly #fetch: (layer: number, expert: number, segment: number) => FetchedSegment;
  /** In order of last use. */
  readonly #resident = new Map<string, SegmentWeights & { readonly bytes: number }>();
  #usedBytes = 0;

  /** `fetch` names a segment's bytes without reading them. At least one segment is always held, whatever the budget. */
  constructor(runner: ExpertRunner, heap: Heap, budgetBytes: number, fetch: (layer: number, expert: number, segment: number) => FetchedSegment) {
    this.#runner = runner;
    this.#heap = heap;
    this.#budgetBytes = budgetBytes;
    this.#fetch = fetch;
  }

  async run(layer: number, batch: ExpertBatch): Promise<ExpertRunInfo> {
    for (let group = 0; group < batch.nGroups; group++) {
      const weights = await this.#weights(layer, batch.groupExpert[group]!, batch.groupSegment[group]!);
      this.#runner.runBatchGroup(weights, batch, group);
    }
    return NO_FRAMES;
  }

  depart(): undefined {}

  /** Gives every expert's memory back. */
  close(): void {
    for (const { ptr } of this.#resident.values()) this.#heap.free(ptr);
    this.#resident.clear();
    this.#usedBytes = 0;
  }

  async #weights(layer: number, expert: number, segment: number): Promise<SegmentWeights> {
    const key = `${layer}.${expert}.${segment}`;
    const known = this.#resident.get(key);
    if (known !== undefined) {
      this.#resident.delete(key);
      this.#resident.set(key, known);
      return known;
    }
    const { load, ...wanted } = this.#fetch(layer, expert, segment);
    for (const [oldest, held] of this.#resident) {
      if (this.#usedBytes + wanted.bytes <= this.#budgetBytes) break;
      this.#heap.free(held.ptr);
      this.#usedBytes -= held.bytes;
      this.#resident.delete(oldest);
    }
    const ptr = this.#heap.alloc(wanted.bytes, "weights");
    try {
      await load(ptr);
    } catch (error) {
      this.#heap.free(ptr);
      throw error;
    }
    const weights = { ...wanted, ptr };
    this.#resident.set(key, weights);
    this.#usedBytes += wanted.bytes;
    return weights;
  }
}
