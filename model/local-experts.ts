// Experts in this isolate: the inner loop of a shard, the in-process implementation of the Experts seam, and the one that has some
// experts here and the others elsewhere. Owns the walk over groups: one kernel call per (expert, segment), nothing allocated on the way.
// Refuses to fetch weights; it is handed their addresses.

import { expertInputSize, expertOutputSize, type ModelConfig } from "./config.ts";
import { NO_FRAMES, ONE_PART, type ExpertBatch, type ExpertRunInfo, type Experts, type Placement } from "./experts.ts";
import type { Heap } from "./heap.ts";
import { EXPERT_KINDS, expertScratchBytes, type Kernels } from "./kernels.ts";

/** One expert segment in memory. */
export interface SegmentWeights {
  readonly ptr: number;
  readonly width: number;
  /** Codes of the matrices' formats (formatCode). */
  readonly gateUp: number;
  readonly down: number;
}

/** Finds a resident segment; undefined when this isolate does not hold it. */
export type SegmentLookup = (layer: number, expert: number, segment: number) => SegmentWeights | undefined;

/** Bytes an ExpertRunner allocates for rows of `input` numbers: addresses of activation rows, and the kernel's scratch. */
export const runnerRegions = (input: number, maxWidth: number, maxTokens: number): { readonly rowAddresses: number; readonly scratch: number } =>
  ({ rowAddresses: maxTokens * 4, scratch: expertScratchBytes(input, maxWidth) });

/** What a model's routed experts have in common. */
export type ExpertShape = Pick<ModelConfig, "hiddenSize" | "router" | "latentExperts" | "expertKind" | "swigluLimit">;

export class ExpertRunner {
  readonly #kernels: Kernels;
  readonly #heap: Heap;
  readonly #input: number;
  readonly #hidden: number;
  readonly #kind: number;
  readonly #limit: number;
  readonly #acts: number; // u32 [maxTokens] addresses of activation rows
  readonly #scratch: number;
  #leftOut = 0;

  /** `maxWidth`: widest segment; `maxTokens`: most tokens of one group. */
  constructor(kernels: Kernels, heap: Heap, shape: ExpertShape, maxWidth: number, maxTokens: number) {
    this.#input = expertInputSize(shape);
    const regions = runnerRegions(this.#input, maxWidth, maxTokens);
    this.#kernels = kernels;
    this.#heap = heap;
    this.#hidden = expertOutputSize(shape);
    this.#kind = EXPERT_KINDS.indexOf(shape.expertKind);
    this.#limit = shape.swigluLimit;
    this.#acts = heap.alloc(regions.rowAddresses, "expert scratch");
    this.#scratch = heap.alloc(regions.scratch, "expert scratch");
  }

  /** Numbers of h that down products left out so far because they are zero (kernels.ts expertFfn). */
  get leftOut(): number { return this.#leftOut; }

  /** Gives the scratch back; the runner must not be used afterwards. */
  close(): void {
    this.#heap.free(this.#acts);
    this.#heap.free(this.#scratch);
  }

  /** Rows of one group of a batch through its segment, to their place. */
  runBatchGroup(weights: SegmentWeights, batch: ExpertBatch, group: number): void {
    const { activations, activationStride, rowsPerToken } = batch;
    this.runGroup(weights, batch.groupTokens, batch.groupStart[group]!, batch.groupStart[group + 1]!,
      activations + batch.groupInput[group]! * activationStride, activationStride * rowsPerToken, batch.rows + batch.groupRow[group]! * this.#hidden * 4);
  }

  /** The same of a list: tokens[from..to) through one segment, written from address `rows` on, hidden * 4 bytes apart. */
  runGroup(weights: SegmentWeights, tokens: ArrayLike<number>, from: number, to: number,
    activations: number, activationStride: number, rows: number): void {
    const acts = this.#heap.u32;
    const base = this.#acts / 4 - from;
    for (let i = from; i < to; i++) acts[base + i] = activations + tokens[i]! * activationStride;
    this.#leftOut += this.#kernels.expertFfn(this.#kind, this.#limit, weights.gateUp, weights.down, weights.ptr, this.#input, this.#hidden, weights.width,
      this.#acts, to - from, rows, this.#hidden * 4, this.#scratch);
  }
}

/** All experts in this isolate, without any wire. */
export class LocalExperts implements Experts {
  readonly placement = ONE_PART;
  readonly overlapTokens = Infinity;
  readonly #runner: ExpertRunner;
  readonly #lookup: SegmentLookup;

  constructor(runner: ExpertRunner, lookup: SegmentLookup) {
    this.#runner = runner;
    this.#lookup = lookup;
  }

  run(layer: number, batch: ExpertBatch): ExpertRunInfo {
    this.runPart(layer, batch, 0);
    return NO_FRAMES;
  }

  depart(): undefined {}

  /** The rows of one part of a batch. Throws when a slot of it is not here. */
  runPart(layer: number, batch: ExpertBatch, part: number): void {
    for (let group = batch.partStart[part]!; group < batch.partStart[part + 1]!; group++) {
      const weights = this.#lookup(layer, batch.groupExpert[group]!, batch.groupSegment[group]!);
      if (weights === undefined) {
        throw new Error(`Expert ${batch.groupExpert[group]} segment ${batch.groupSegment[group]} of layer ${layer} is not in this isolate.`);
      }
      this.#runner.runBatchGroup(weights, batch, group);
    }
  }
}

/** One part of every layer in this isolate, the others elsewhere: the part that is here runs while the others are out. */
export class MixedExperts implements Experts {
  readonly #elsewhere: Experts;
  readonly #here: LocalExperts;
  readonly #part: number;

  /** `elsewhere` leaves `part` alone. */
  constructor(elsewhere: Experts, here: LocalExperts, part: number) {
    this.#elsewhere = elsewhere;
    this.#here = here;
    this.#part = part;
  }

  get placement(): Placement { return this.#elsewhere.placement; }
  get overlapTokens(): number { return this.#elsewhere.overlapTokens; }

  async run(layer: number, batch: ExpertBatch): Promise<ExpertRunInfo> {
    const running = Promise.resolve(this.#elsewhere.run(layer, batch));
    // Its failure is met below, after the work here.
    running.catch(() => undefined);
    const departing = this.#elsewhere.depart();
    if (departing !== undefined) await departing;
    try {
      this.#here.runPart(layer, batch, this.#part);
    } catch (error) {
      // Nothing may be written after the round has failed, so it fails when the others have ended.
      await running.catch(() => undefined);
      throw error;
    }
    return running;
  }

  depart(): Promise<void> | undefined { return this.#elsewhere.depart(); }
}
