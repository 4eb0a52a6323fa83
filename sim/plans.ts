// The plans simulated fleets go by: how many shards, whole experts or segments, one holder of each, two or three. Made once each: they depend on the pack alone.
// Owns nothing but their variety. Refuses to judge them: any placement gives the same answers.

import { recordOf, type FleetPlan } from "../fleet/fleet-plan.ts";
import { movesOf, planChange } from "../fleet/min-move.ts";
import type { PlannedStep, Wish } from "../durable/directory-record.ts";
import { expertTable, makePlan, type PlannedExpert, slicedExperts, wholeExperts } from "../fleet/plan.ts";
import type { OpenPack } from "../formats/pack-reader.ts";

export interface PlanShape {
  readonly nShards: number;
  readonly sliced: boolean;
  /** Holders of each segment. */
  readonly replicas: number;
  readonly epoch: number;
}

export class Plans {
  readonly #pack: OpenPack;
  readonly #known = new Map<string, FleetPlan>();
  readonly #steps = new WeakMap<FleetPlan["shards"], Map<string, readonly PlannedStep[]>>();
  readonly #moves = new WeakMap<FleetPlan["shards"], WeakMap<FleetPlan["shards"], ReturnType<typeof movesOf>>>();

  constructor(pack: OpenPack) {
    this.#pack = pack;
  }

  plan(shape: PlanShape): FleetPlan {
    const key = JSON.stringify(shape);
    let plan = this.#known.get(key);
    if (plan === undefined) this.#known.set(key, (plan = this.#made(shape)));
    return plan;
  }

  /**
   * The way from one plan to what is wished: a plan of the catalogue, or counts, for which the fleet's own planner finds the fewest moves. Every third pair of counts
   * has little room, so that it may take several plans. Found once for each placement and wish; no step where that is impossible, or nothing would change.
   */
  steps(from: FleetPlan, { plan, shards, replicas }: Wish): readonly PlannedStep[] {
    if (plan !== undefined) return [{ plan, bytes: this.moves(from, plan).bytes }];
    let of = this.#steps.get(from.shards);
    if (of === undefined) this.#steps.set(from.shards, (of = new Map()));
    const wished = { shards: shards!, replicas: replicas! };
    const key = `${wished.shards} ${wished.replicas}`;
    let steps = of.get(key);
    if (steps === undefined) of.set(key, (steps = this.#stepsOf(from, wished)));
    return steps;
  }

  #stepsOf(from: FleetPlan, wished: { readonly shards: number; readonly replicas: number }): readonly PlannedStep[] {
    const table = this.#table();
    const allBytes = table.reduce((sum, { segmentBytes }) => sum + segmentBytes.reduce((bytes, of) => bytes + of, 0), 0);
    const evenBytes = Math.ceil((allBytes * wished.replicas) / wished.shards);
    const rooms = (wished.shards + wished.replicas + from.shards.length) % 3 === 0 ? [Math.ceil(1.3 * evenBytes), 2 * allBytes] : [2 * allBytes];
    for (const roomBytes of rooms) {
      try {
        const { plans } = planChange(from, { ...wished, roomBytes }, table);
        return plans.map((plan, i) => ({ plan, bytes: this.moves(plans[i - 1] ?? from, plan).bytes }));
      } catch (error) {
        if (!(error instanceof RangeError)) throw error;
      }
    }
    return [];
  }

  /** What shards must load to get from one plan to another, and who has it. Found once for each pair of placements. */
  moves(from: FleetPlan, to: FleetPlan): ReturnType<typeof movesOf> {
    let of = this.#moves.get(from.shards);
    if (of === undefined) this.#moves.set(from.shards, (of = new WeakMap()));
    let moves = of.get(to.shards);
    if (moves === undefined) of.set(to.shards, (moves = movesOf(from, to, this.#table())));
    return moves;
  }

  #table(): PlannedExpert[] {
    return expertTable(this.#pack.manifest);
  }

  #made({ nShards, sliced, replicas, epoch }: PlanShape): FleetPlan {
    const { manifest: { id, config }, packHash } = this.#pack;
    const plan = makePlan(this.#table(), nShards, sliced ? slicedExperts : wholeExperts, epoch);
    // Each shard also holds what the one before it does.
    const slots = plan.slots.map((_, shard) => Array.from({ length: replicas }, (_, back) => plan.slots[(shard - back + nShards) % nShards]!).flat()
      .sort((a, b) => a.layer - b.layer || a.expert - b.expert || a.segments[0] - b.segments[0]));
    return recordOf({ ...plan, slots }, { packId: id, packHash, fleet: "sim", nLayers: config.nLayers, vocabSize: config.vocabSize, ownShard: null, regionOf: () => null });
  }
}
