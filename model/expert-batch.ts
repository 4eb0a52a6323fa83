// From routing decisions to a layer's expert work: tokens grouped by (part, expert, segment), and the order in which rows fold.
// Owns the order that makes placement invisible (records by ascending expert, tokens ascending within a group) and the one that makes
// it cheap (what one part computes lies together). Refuses allocation per step: everything is sized for the largest round, what counts
// parts again when their number changes, which it does only with the placement.

import type { ExpertBatch, Experts, Placement } from "./experts.ts";
import type { Heap } from "./heap.ts";

/** In place of an expert's id: the token does without (online-pruning.ts, intervention-taps.ts). Nobody is asked for it, and nothing is added up for it. */
export const NO_EXPERT = 0xffffffff;

/** Bytes of one record of the combine kernel: {token, rowPtr, segmentStride, nSegments, weight}. */
export const PAIR_BYTES = 20;

export interface ExpertBatchShape {
  readonly maxTokens: number;
  readonly topK: number;
  readonly nExperts: number;
  readonly maxSegments: number;
  readonly hidden: number;
  /** Activation rows of a token, and how many experts read each (config.ts). */
  readonly rowsPerToken: number;
  readonly expertsPerRow: number;
}

export class ExpertBatchBuilder {
  readonly #heap: Heap;
  readonly #shape: ExpertBatchShape;
  readonly #experts: Pick<Experts, "placement">;
  /** That of the round under way. */
  #placement: Placement;
  readonly #groupExpert: Uint32Array;
  readonly #groupSegment: Uint32Array;
  readonly #groupInput: Uint32Array;
  readonly #groupStart: Uint32Array;
  readonly #groupTokens: Uint32Array;
  readonly #groupRow: Uint32Array;
  #partStart!: Uint32Array; // [nParts + 1]
  #partTokens!: Uint32Array; // [nParts] counts, then cursors into groupTokens
  #partRows!: Uint32Array; // [nParts] counts, then cursors into the rows
  #partGroups!: Uint32Array; // [nParts] counts, then cursors into the groups
  readonly #counts: Uint32Array; // [nExperts] tokens of each expert
  readonly #lists: Uint32Array; // [nExperts, maxTokens] token numbers
  readonly #listWeights: Float32Array;

  /** `experts`: whoever will compute the batches; its placement is read at each build. */
  constructor(heap: Heap, shape: ExpertBatchShape, experts: Pick<Experts, "placement">) {
    this.#heap = heap;
    this.#shape = shape;
    this.#experts = experts;
    this.#placement = experts.placement;
    const maxPairs = shape.maxTokens * shape.topK;
    const maxGroups = Math.min(shape.nExperts, maxPairs) * shape.maxSegments;
    this.#groupExpert = new Uint32Array(maxGroups);
    this.#groupSegment = new Uint32Array(maxGroups);
    this.#groupInput = new Uint32Array(maxGroups);
    this.#groupStart = new Uint32Array(maxGroups + 1);
    this.#groupTokens = new Uint32Array(maxPairs * shape.maxSegments);
    this.#groupRow = new Uint32Array(maxGroups);
    this.#sizeParts();
    this.#counts = new Uint32Array(shape.nExperts);
    this.#lists = new Uint32Array(shape.nExperts * shape.maxTokens);
    this.#listWeights = new Float32Array(shape.nExperts * shape.maxTokens);
  }

  #sizeParts(): void {
    const { nParts } = this.#placement;
    this.#partStart = new Uint32Array(nParts + 1);
    this.#partTokens = new Uint32Array(nParts);
    this.#partRows = new Uint32Array(nParts);
    this.#partGroups = new Uint32Array(nParts);
  }

  /**
   * Groups nTokens x topK choices (ids, weights: addresses of [nTokens, topK]) and writes the fold records to `pairs`.
   * `segmentCounts[e]` is the number of segments of expert e in this layer. Returns the batch and the number of records.
   * An expert chosen twice by one token is not possible: top-k picks distinct experts. Any of a token's choices may be NO_EXPERT, and all of them: then nothing is added up for it.
   */
  build(layer: number, step: number, nTokens: number, ids: number, weights: number, segmentCounts: ArrayLike<number>,
    activations: number, activationStride: number, rows: number, pairs: number): { batch: ExpertBatch; nPairs: number } {
    const { topK, maxTokens } = this.#shape;
    const [u32, f32] = [this.#heap.u32, this.#heap.f32];
    if (this.#placement !== this.#experts.placement) {
      this.#placement = this.#experts.placement;
      this.#sizeParts();
    }
    this.#counts.fill(0);
    for (let t = 0; t < nTokens; t++) {
      for (let rank = 0; rank < topK; rank++) {
        const expert = u32[ids / 4 + t * topK + rank]!;
        if (expert === NO_EXPERT) continue;
        const at = expert * maxTokens + this.#counts[expert]!++;
        this.#lists[at] = t;
        this.#listWeights[at] = f32[weights / 4 + t * topK + rank]!;
      }
    }
    this.#placement.startRound?.(layer, this.#counts, segmentCounts);
    const spanningRow = this.#countParts(layer, segmentCounts);
    const nPairs = this.#fill(layer, segmentCounts, spanningRow, rows, pairs);
    const nGroups = this.#partStart[this.#placement.nParts]!;
    const batch: ExpertBatch = {
      layer, step, nTokens, activations, activationStride, rowsPerToken: this.#shape.rowsPerToken, nGroups, partStart: this.#partStart, groupExpert: this.#groupExpert,
      groupSegment: this.#groupSegment, groupInput: this.#groupInput, groupStart: this.#groupStart, groupTokens: this.#groupTokens, groupRow: this.#groupRow, rows,
    };
    return { batch, nPairs };
  }

  /** Part of an expert that lies in one part, or -1 when its segments are spread. */
  #onePart(layer: number, expert: number, nSegments: number): number {
    const part = this.#placement.partOf(layer, expert, 0);
    for (let segment = 1; segment < nSegments; segment++) if (this.#placement.partOf(layer, expert, segment) !== part) return -1;
    return part;
  }

  /** Sets the cursors of every part; returns the first row of experts that are spread over parts. */
  #countParts(layer: number, segmentCounts: ArrayLike<number>): number {
    const [groups, tokens, rows] = [this.#partGroups, this.#partTokens, this.#partRows];
    groups.fill(0);
    tokens.fill(0);
    rows.fill(0);
    for (let expert = 0; expert < this.#shape.nExperts; expert++) {
      const count = this.#counts[expert]!;
      if (count === 0) continue;
      const nSegments = segmentCounts[expert]!;
      const whole = this.#onePart(layer, expert, nSegments);
      for (let segment = 0; segment < nSegments; segment++) {
        const part = whole >= 0 ? whole : this.#placement.partOf(layer, expert, segment);
        groups[part]!++;
        tokens[part]! += count;
      }
      if (whole >= 0) rows[whole]! += count * nSegments;
    }
    let [group, token, row] = [0, 0, 0];
    for (let part = 0; part < groups.length; part++) {
      this.#partStart[part] = group;
      group += groups[part]!;
      groups[part] = group - groups[part]!;
      token += tokens[part]!;
      tokens[part] = token - tokens[part]!;
      row += rows[part]!;
      rows[part] = row - rows[part]!;
    }
    this.#partStart[groups.length] = group;
    this.#groupStart[group] = token;
    return row;
  }

  /** Writes the groups to their parts' places and the fold records in ascending expert id; returns the number of records. */
  #fill(layer: number, segmentCounts: ArrayLike<number>, spanningRow: number, rows: number, pairs: number): number {
    const { maxTokens, hidden, expertsPerRow } = this.#shape;
    const [u32, f32] = [this.#heap.u32, this.#heap.f32];
    let nPairs = 0;
    for (let expert = 0; expert < this.#shape.nExperts; expert++) {
      const count = this.#counts[expert]!;
      if (count === 0) continue;
      const nSegments = segmentCounts[expert]!;
      const whole = this.#onePart(layer, expert, nSegments);
      // The fold steps from segment to segment by one stride, so the rows of an expert stay together even if its segments do not.
      let row = spanningRow;
      if (whole >= 0) {
        row = this.#partRows[whole]!;
        this.#partRows[whole] = row + count * nSegments;
      } else spanningRow += count * nSegments;
      const list = expert * maxTokens;
      for (let i = 0; i < count; i++) {
        const record = (pairs + nPairs++ * PAIR_BYTES) / 4;
        u32[record] = this.#lists[list + i]!;
        u32[record + 1] = rows + (row + i) * hidden * 4;
        u32[record + 2] = count * hidden * 4;
        u32[record + 3] = nSegments;
        f32[record + 4] = this.#listWeights[list + i]!;
      }
      for (let segment = 0; segment < nSegments; segment++) {
        const part = whole >= 0 ? whole : this.#placement.partOf(layer, expert, segment);
        const group = this.#partGroups[part]!++;
        const start = this.#partTokens[part]!;
        this.#partTokens[part] = start + count;
        this.#groupExpert[group] = expert;
        this.#groupSegment[group] = segment;
        this.#groupInput[group] = Math.floor(expert / expertsPerRow);
        this.#groupStart[group] = start;
        this.#groupRow[group] = row + segment * count;
        for (let i = 0; i < count; i++) this.#groupTokens[start + i] = this.#lists[list + i]!;
      }
    }
    return nPairs;
  }
}
