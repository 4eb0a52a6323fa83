// From routing decisions to a layer's expert work: tokens grouped by (expert, segment), and the order in which rows fold.
// Owns the ascending orders that make placement invisible: groups by (expert, segment), tokens within a group, pairs by expert.
// Refuses allocation per step: everything is sized once for the largest chunk.

import type { ExpertBatch } from "./experts.ts";
import type { Heap } from "./heap.ts";

/** Bytes of one record of the combine kernel: {token, rowPtr, segmentStride, nSegments, weight}. */
export const PAIR_BYTES = 20;

export interface ExpertBatchShape {
  readonly maxTokens: number;
  readonly topK: number;
  readonly nExperts: number;
  readonly maxSegments: number;
  readonly hidden: number;
}

export class ExpertBatchBuilder {
  readonly #heap: Heap;
  readonly #shape: ExpertBatchShape;
  readonly #groupExpert: Uint32Array;
  readonly #groupSegment: Uint32Array;
  readonly #groupStart: Uint32Array;
  readonly #groupTokens: Uint32Array;
  readonly #counts: Uint32Array; // [nExperts] tokens of each expert
  readonly #lists: Uint32Array; // [nExperts, maxTokens] token numbers
  readonly #listWeights: Float32Array;

  constructor(heap: Heap, shape: ExpertBatchShape) {
    this.#heap = heap;
    this.#shape = shape;
    const maxPairs = shape.maxTokens * shape.topK;
    const maxGroups = Math.min(shape.nExperts, maxPairs) * shape.maxSegments;
    this.#groupExpert = new Uint32Array(maxGroups);
    this.#groupSegment = new Uint32Array(maxGroups);
    this.#groupStart = new Uint32Array(maxGroups + 1);
    this.#groupTokens = new Uint32Array(maxPairs * shape.maxSegments);
    this.#counts = new Uint32Array(shape.nExperts);
    this.#lists = new Uint32Array(shape.nExperts * shape.maxTokens);
    this.#listWeights = new Float32Array(shape.nExperts * shape.maxTokens);
  }

  /**
   * Groups nTokens x topK choices (ids, weights: addresses of [nTokens, topK]) and writes the fold records to `pairs`.
   * `segmentCounts[e]` is the number of segments of expert e in this layer. Returns the batch and the number of records.
   * An expert chosen twice by one token is not possible: top-k picks distinct experts.
   */
  build(layer: number, nTokens: number, ids: number, weights: number, segmentCounts: ArrayLike<number>,
    activations: number, activationStride: number, rows: number, pairs: number): { batch: ExpertBatch; nPairs: number } {
    const { topK, maxTokens, nExperts, hidden } = this.#shape;
    const [u32, f32] = [this.#heap.u32, this.#heap.f32];
    this.#counts.fill(0);
    for (let t = 0; t < nTokens; t++) {
      for (let rank = 0; rank < topK; rank++) {
        const expert = u32[ids / 4 + t * topK + rank]!;
        const at = expert * maxTokens + this.#counts[expert]!++;
        this.#lists[at] = t;
        this.#listWeights[at] = f32[weights / 4 + t * topK + rank]!;
      }
    }
    let group = 0;
    let row = 0;
    let nPairs = 0;
    for (let expert = 0; expert < nExperts; expert++) {
      const count = this.#counts[expert]!;
      if (count === 0) continue;
      const nSegments = segmentCounts[expert]!;
      for (let i = 0; i < count; i++) {
        const record = (pairs + nPairs++ * PAIR_BYTES) / 4;
        u32[record] = this.#lists[expert * maxTokens + i]!;
        u32[record + 1] = rows + (row + i) * hidden * 4;
        u32[record + 2] = count * hidden * 4;
        u32[record + 3] = nSegments;
        f32[record + 4] = this.#listWeights[expert * maxTokens + i]!;
      }
      for (let segment = 0; segment < nSegments; segment++) {
        this.#groupExpert[group] = expert;
        this.#groupSegment[group] = segment;
        this.#groupStart[group++] = row;
        for (let i = 0; i < count; i++) this.#groupTokens[row++] = this.#lists[expert * maxTokens + i]!;
      }
    }
    this.#groupStart[group] = row;
    const batch: ExpertBatch = {
      layer, nTokens, activations, activationStride, nGroups: group,
      groupExpert: this.#groupExpert, groupSegment: this.#groupSegment, groupStart: this.#groupStart, groupTokens: this.#groupTokens, rows,
    };
    return { batch, nPairs };
  }
}
