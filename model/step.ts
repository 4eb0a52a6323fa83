// What goes into a step of the engine and comes out of it: of a whole model, and of one stage of a ring.
// Owns the forms alone. Refuses to do anything: engine.ts does.

import type { Timeline } from "./kv-cache.ts";
import type { LogitsRequest } from "./logits.ts";
import type { PrunedCalls } from "./online-pruning.ts";
import type { RequestRouting } from "./request-routing.ts";
import type { TopLogits } from "./sampling.ts";

/** Tokens of one timeline in a step, continuing at timeline.length. */
export interface StepEntry {
  readonly timeline: Timeline;
  readonly ids: ArrayLike<number>;
  readonly logits: LogitsRequest;
  /** What it asks of routing; absent or null: nothing. */
  readonly routing?: RequestRouting | null | undefined;
}

export interface StepResult {
  /** Per entry: f32 [nRows, vocab] with 0, 1 or ids.length rows; fresh memory, as all here. */
  readonly logits: Float32Array[];
  /** Per entry: the largest logits, where the entry asked for no more than those. */
  readonly tops: (TopLogits | null)[];
  readonly frames: number;
  readonly bytes: number;
  readonly retries: number;
  readonly hedges: number;
  /** Expert calls per entry; absent where no entry has a rule for them. */
  readonly pruned?: readonly PrunedCalls[];
}

/** Tokens of one timeline in a stage's pass, continuing at timeline.length; ids count only where a stage has embedding rows. */
export type PassEntry = Pick<StepEntry, "timeline" | "ids" | "routing">;

/** What a stage gets for a pass. */
export interface StagePass {
  readonly entries: readonly PassEntry[];
  /** Residual rows f32 [tokens, cutRowLength] from the stage before; null at the first. */
  readonly rows: Float32Array | null;
  /** Tokens of the step whose final rows are wanted, ascending: HeadPlan says which. */
  readonly asked: readonly number[];
}

export interface PassResult {
  /** Residual rows f32 [tokens, cutRowLength] for the next stage; of the stage with the last layer final rows f32 [asked, hidden]. Fresh memory. */
  readonly rows: Float32Array;
  readonly frames: number;
  readonly bytes: number;
  readonly retries: number;
  readonly hedges: number;
  readonly pruned?: readonly PrunedCalls[];
}
