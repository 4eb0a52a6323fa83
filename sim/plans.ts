// The plans simulated fleets go by: how many shards, whole experts or segments, one holder of each or two. Made once each: they depend on the pack alone.
// Owns nothing but their variety. Refuses to judge them: any placement gives the same answers.

import { recordOf, type FleetPlan } from "../fleet/fleet-plan.ts";
import { movesOf } from "../fleet/min-move.ts";
import { makePlan, type PlannedExpert, slicedExperts, wholeExperts } from "../fleet/plan.ts";
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

  /** What shards must load to get from one plan to another, and who has it. Found once for each pair of placements. */
  moves(from: FleetPlan, to: FleetPlan): ReturnType<typeof movesOf> {
    let of = this.#moves.get(from.shards);
    if (of === undefined) this.#moves.set(from.shards, (of = new WeakMap()));
    let moves = of.get(to.shards);
    if (moves === undefined) of.set(to.shards, (moves = movesOf(from, to, this.#table())));
    return moves;
  }

  #table(): PlannedExpert[] {
    return this.#pack.manifest.experts.map(({ layer, expert, segments }) => ({ layer, expert, segmentBytes: segments.map(({ bytes }) => bytes) }));
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
