// Taps: reads (traces) and writes (interventions) between the stages of a layer.
// Owns the five points and what a tap sees there. Refuses to exist on the path when none is registered: no tap, same bits.
// A write changes the numbers in place; docs/architecture.md says which points are writable and what follows in the layer.
// A step may come in two halves: a tap sees whichever tokens are together, and the order of rows of `expertOutput` depends on placement.

import type { ExpertBatch, ExpertRunInfo } from "./experts.ts";

/** Where a tap sits: residual entering the FFN, router logits, chosen experts, unweighted expert rows, layer output. */
export type TapPoint = "input" | "logits" | "selection" | "expertOutput" | "layerOutput";

export interface TapEvent {
  readonly layer: number;
  readonly nTokens: number;
  /** Timeline number and absolute position of each token: methods with a wider scope act at fixed positions, never at chunk borders. */
  readonly timelines: Uint32Array; // [nTokens]
  readonly positions: Uint32Array; // [nTokens]
  /** The values at this point, row by row; valid only during the call. input, layerOutput: [nTokens, hidden]; logits: [nTokens, nExperts]; expertOutput: rows of the batch. */
  readonly values: Float32Array;
  readonly rowLength: number;
  /** At `selection`: ids and weights in rank order, [nTokens, topK]; empty elsewhere. An id may be NO_EXPERT, and be made it (expert-batch.ts). */
  readonly ids: Uint32Array;
  readonly weights: Float32Array;
  /** At `expertOutput`: which expert, segment and token each row belongs to (groupExpert, groupTokens, groupRow). */
  readonly batch?: ExpertBatch | null;
  /** At `expertOutput`: what computing these rows took. */
  readonly round?: ExpertRunInfo | null;
}

export interface Tap {
  readonly at: TapPoint;
  /** Layers it acts on; absent = all. */
  readonly layers?: readonly number[];
  run(event: TapEvent): void;
}
