// The seam between a layer and whoever computes its experts: in-process, WebSocket shards, both at once, or a faulty double in tests.
// Owns the shape of a layer's expert work and the rules of a round. Refuses weights (they belong to the implementation) and
// weighting (combine does it). A round is one call of `run`, until it settles.

/** Rounds an engine may have in flight at once: the two halves of a long step (docs/architecture.md). */
export const MAX_ROUNDS = 2;

/** Who computes what: every (layer, expert, segment) of a round belongs to one part. A part is a shard, or the isolate of the caller. */
export interface Placement {
  readonly nParts: number;
  /**
   * Where slots have several holders: chooses among them for the round about to be put together, of `tokens[e]` tokens for expert e in
   * `segmentCounts[e]` segments. What `partOf` says of the layer stays the same until the next call. Absent where there is nothing to choose.
   */
  readonly startRound?: (layer: number, tokens: Uint32Array, segmentCounts: ArrayLike<number>) => void;
  /** 0 to nParts - 1. Throws on a slot that nobody holds. */
  partOf(layer: number, expert: number, segment: number): number;
}

/** Everything in one part. */
export const ONE_PART: Placement = Object.freeze({ nParts: 1, partOf: () => 0 });

/** Some tokens of a step through one layer's experts. One group = one (expert, segment) and the tokens that chose it. */
export interface ExpertBatch {
  readonly layer: number;
  /** Number of the engine's step, for logs and traces. */
  readonly step: number;
  /** Tokens of the round; activation rows are for all of them, in order. */
  readonly nTokens: number;
  /**
   * Address in the heap of the activation rows, quantised once (docs/arithmetic.md section 4). A token has `rowsPerToken` of them, one after the other: one, or one for
   * each latent group; group g reads row `groupInput[g]` of each of its tokens.
   */
  readonly activations: number;
  readonly activationStride: number;
  readonly rowsPerToken: number;
  /** Groups in ascending (part, expert, segment). Groups of one expert list the same tokens. */
  readonly nGroups: number;
  /** Groups of part p: partStart[p] to partStart[p + 1]. */
  readonly partStart: Uint32Array; // [nParts + 1]
  readonly groupExpert: Uint32Array; // [nGroups]
  readonly groupSegment: Uint32Array; // [nGroups]
  readonly groupInput: Uint32Array; // [nGroups], below rowsPerToken
  readonly groupStart: Uint32Array; // [nGroups + 1] into groupTokens
  readonly groupTokens: Uint32Array; // [groupStart[nGroups]] token numbers, ascending within a group
  /** Row number where a group's output begins. Groups of a part that follow each other here mostly do so in the output too: one copy moves them. */
  readonly groupRow: Uint32Array; // [nGroups]
  /** Address in the heap where row i (f32[hidden], unweighted) of the output belongs; rows are contiguous. */
  readonly rows: number;
}

/** What took one part's work there and back, whoever of those that hold it answered in the end. */
export interface PartRun {
  readonly part: number;
  /** From handing it over to taking its last row, retries and all. */
  readonly ms: number;
  /** Of its frame, both ways. */
  readonly bytes: number;
}

export interface ExpertRunInfo {
  /** Frames sent and payload bytes both ways; zero for in-process experts. */
  readonly frames: number;
  readonly bytes: number;
  readonly retries: number;
  /** Frames that were late and went to another holder as well; counted nowhere else. */
  readonly hedges: number;
  /** One for each part that took a frame, ascending. */
  readonly parts: readonly PartRun[];
  /** Groups whose rows nobody computed; what stands in them is anything. Absent: none, as always unless the caller's terms allow it. */
  readonly missing?: readonly number[];
}

/** What a round without any wire reports. */
export const NO_FRAMES: ExpertRunInfo = Object.freeze({ frames: 0, bytes: 0, retries: 0, hedges: 0, parts: [] });

export interface Experts {
  /** Read anew for every round: it may change from one step to the next. */
  readonly placement: Placement;
  /**
   * Fewest tokens of a step for which two rounds that overlap beat one: Infinity where whoever computes the experts shares the
   * caller's thread, so that nothing could overlap. Read once per step.
   */
  readonly overlapTokens: number;
  /**
   * Computes every row of the batch into `batch.rows`. What goes elsewhere has been handed to the runtime when the call returns: after
   * `depart` the caller may do other work before it awaits the rest. Resolves when all rows are written; rejects only when every retry
   * failed, and then has stopped writing.
   * The batch and its heap regions belong to the callee until it settles. At most MAX_ROUNDS rounds run at once, with batches and
   * regions of their own, in any order of layers; they may settle in any order, and one that fails does not touch the other.
   */
  run(layer: number, batch: ExpertBatch): Promise<ExpertRunInfo> | ExpertRunInfo;
  /**
   * To be awaited between `run` and work that is done meanwhile: a runtime of one thread sends only between turns of its event loop, so
   * without it nothing would leave before that work is over. Undefined where nothing leaves, or where nobody elsewhere could use the time.
   */
  depart(): Promise<void> | undefined;
}
