// Replicas by load: from what orchestrators report to the next plan, by fleet/replica-policy.ts (how many) and fleet/replicas.ts (where).
// Owns the policy's numbers, and its memory between looks: a new object takes every expert for changed when the fleet last was, so that it never flaps sooner.
// Refuses to put a plan in force (directory-core.ts) and to fade counts: orchestrators report what is left of theirs.

import type { FleetPlan, PlannedShard } from "../fleet/fleet-plan.ts";
import { movesOf, planChange } from "../fleet/min-move.ts";
import type { PlannedExpert } from "../fleet/plan.ts";
import { decideReplicas, type ReplicaPolicy, type ReplicaState } from "../fleet/replica-policy.ts";
import { packCopies, partsOf, replicaSlots } from "../fleet/replicas.ts";
import type { Balance, NextPlans } from "./directory-ports.ts";
import { heldBy, type LaneReport } from "./directory-record.ts";

const MINUTE_MS = 60_000;

/** Copies are added from twice the mean load on, and ended where the rest would stay below 1.2 times: between them lies what a busy minute may add to an expert. */
const BAND = { enter: 2, leave: 1.2 } as const;
/** An expert that changed rests for ten minutes, all for two: a change takes seconds to a minute, and loads follow prompts. */
const RESTS = { coolDownMs: 10 * MINUTE_MS, settleMs: 2 * MINUTE_MS } as const;
/** Choices of a layer before they tell anything: about a hundred for each of 64 experts. */
const LEAST_CHOICES = 6_400;

/** What the balance needs of the pack and its deployment. */
export interface BalanceSources {
  readonly budgetBytes: number;
  readonly pack: (from: FleetPlan) => Promise<{ readonly table: readonly PlannedExpert[]; readonly roomBytes: number }>;
}

export function loadBalance({ budgetBytes, pack }: BalanceSources): Balance {
  /** When each slot last changed, as long as this object has seen the plan that came of it. */
  let known: { readonly epoch: number; readonly changedAtMs: ReplicaState["changedAtMs"] } | null = null;
  return async (from, counts, nowMs, lastChangeMs) => {
    const { table, roomBytes } = await pack(from);
    const shards = heldBy(from).map((number) => from.shards[number]!);
    const { slots, held } = replicaSlots(shards, table, summed(counts));
    const copies = held.map(({ length }) => length);
    const before: ReplicaState = { copies, changedAtMs: known?.epoch === from.epoch && known.changedAtMs.length === copies.length ? known.changedAtMs : copies.map(() => lastChangeMs), lastChangeMs };
    const policy: ReplicaPolicy = {
      ...BAND, ...RESTS, budgetBytes, changeBytes: budgetBytes, leastChoices: LEAST_CHOICES,
      // What every expert has is a wish, and not for the load to take back.
      leastCopies: Math.min(...copies), mostCopies: shards.length,
    };
    const state = decideReplicas(slots, slots.map(({ load }) => load), before, nowMs, policy);
    if (state === before) return null;
    const next = nextPlans(from, partsOf(slots, packCopies(slots, state.copies, { nShards: shards.length, roomBytes, held }), shards.map(({ region }) => region)), { table, roomBytes });
    if (next !== null) known = { epoch: from.epoch + next.steps.length, changedAtMs: state.changedAtMs };
    return next;
  };
}

function nextPlans(from: FleetPlan, parts: readonly PlannedShard[], { table, roomBytes }: { readonly table: readonly PlannedExpert[]; readonly roomBytes: number }): NextPlans | null {
  try {
    const { plans } = planChange(from, { parts, roomBytes }, table);
    return plans.length === 0 ? null : { reason: "replicas by load", steps: plans.map((plan, i) => ({ plan, bytes: movesOf(plans[i - 1] ?? from, plan, table).bytes })) };
  } catch (cause) {
    // No way there with the room there is: the load is served as it was.
    if (cause instanceof RangeError) return null;
    throw cause;
  }
}

const summed = (counts: readonly LaneReport["expertCounts"][]) => (layer: number, expert: number): number => counts.reduce((sum, of) => sum + (of[layer]?.[expert] ?? 0), 0);
