// Experts of which some are on a shard that may be away, around experts that are there: what a line would do by the terms of the step under way (durable/step-terms.ts), without
// a wire. Rows that nobody computes are noise, so that one that is used shows. Owns no assertion.

import { AwayError } from "../../durable/shard-error.ts";
import type { StepTerms } from "../../durable/step-terms.ts";
import type { ExpertBatch, ExpertRunInfo, Experts } from "../../model/experts.ts";
import type { Heap } from "../../model/heap.ts";

const sleep = (ms: number): Promise<void> => new Promise((resolve) => void setTimeout(resolve, ms));

/** One shard, for all who ask it. */
export class ShardOutage {
  readonly shard: string;
  readonly holds: (layer: number, expert: number) => boolean;
  isDown = false;
  /** Rounds that were ended early, left rows out, and waited. */
  readonly met = { ended: 0, leftOut: 0, waited: 0 };

  constructor(shard: string, holds: (layer: number, expert: number) => boolean) {
    this.shard = shard;
    this.holds = holds;
  }
}

export class AwayExperts implements Experts {
  readonly #inner: Experts;
  readonly #heap: Heap;
  readonly #hidden: number;
  readonly #outage: ShardOutage;
  readonly #terms: StepTerms;

  constructor(inner: Experts, heap: Heap, hidden: number, outage: ShardOutage, terms: StepTerms) {
    this.#inner = inner;
    this.#heap = heap;
    this.#hidden = hidden;
    this.#outage = outage;
    this.#terms = terms;
  }

  get placement(): Experts["placement"] { return this.#inner.placement; }
  get overlapTokens(): number { return this.#inner.overlapTokens; }
  depart(): Promise<void> | undefined { return this.#inner.depart(); }

  async run(layer: number, batch: ExpertBatch): Promise<ExpertRunInfo> {
    const [outage, terms] = [this.#outage, this.#terms.current];
    const missing = Array.from({ length: batch.nGroups }, (_, group) => group).filter((group) => outage.holds(layer, batch.groupExpert[group]!));
    if (!outage.isDown || missing.length === 0) return this.#inner.run(layer, batch);
    if (terms === null) {
      outage.met.waited++;
      while (outage.isDown) await sleep(5);
      return this.#inner.run(layer, batch);
    }
    if (!terms.leavesOut) {
      await sleep(2);
      outage.met.ended++;
      throw new AwayError(outage.shard, true, `Shard ${outage.shard} is away.`);
    }
    outage.met.leftOut++;
    const info = await this.#inner.run(layer, batch);
    for (const group of missing) {
      const [row, n] = [batch.groupRow[group]!, batch.groupStart[group + 1]! - batch.groupStart[group]!];
      this.#heap.f32.fill(NaN, batch.rows / 4 + row * this.#hidden, batch.rows / 4 + (row + n) * this.#hidden);
    }
    return { ...info, missing };
  }
}
