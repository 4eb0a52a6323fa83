// The seam between a layer and whoever computes its experts: in-process, WebSocket shards, or a faulty double in tests.
// Owns the shape of a layer's expert work. Refuses weights (they belong to the implementation) and weighting (combine does it).

/** A slice of one expert applied to some tokens of the step. One group = one (expert, segment). */
export interface ExpertBatch {
  readonly layer: number;
  /** Tokens of the step; activation rows are for all of them, in order. */
  readonly nTokens: number;
  /** Address in the heap of the activation rows, quantised once (docs/arithmetic.md section 4). */
  readonly activations: number;
  readonly activationStride: number;
  /** Groups in ascending (expert, segment). Groups of one expert list the same tokens. */
  readonly nGroups: number;
  readonly groupExpert: Uint32Array; // [nGroups]
  readonly groupSegment: Uint32Array; // [nGroups]
  readonly groupStart: Uint32Array; // [nGroups + 1] into groupTokens, and the row numbers of the output
  readonly groupTokens: Uint32Array; // [groupStart[nGroups]] token numbers, ascending within a group
  /** Address in the heap where row i (f32[hidden], unweighted) of the output belongs; rows are contiguous. */
  readonly rows: number;
}

export interface ExpertRunInfo {
  /** Frames sent and payload bytes both ways; zero for in-process experts. */
  readonly frames: number;
  readonly bytes: number;
  readonly retries: number;
}

export interface Experts {
  /**
   * Computes every row of the batch into `batch.rows`. Resolves when all rows are written; rejects only when every retry
   * failed, and then has stopped writing. The batch and its heap regions belong to the callee until it settles.
   */
  run(layer: number, batch: ExpertBatch): Promise<ExpertRunInfo> | ExpertRunInfo;
}
