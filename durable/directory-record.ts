// What a directory knows of its fleet: the plan in force, a change under way and those that ended, the orchestrators, recent faults.
// Owns the record's types and its summary for those who look at it. Refuses transitions (directory-core.ts) and how it is stored (directory-store.ts).

import type { FleetPlan } from "../fleet/fleet-plan.ts";

/**
 * States of a change, in the order they come. `planned`: accepted. `warming`: shards load what the new plan gives them. `committed`: the new plan is in force
 * and nobody was told yet. `flipping`: orchestrators adopt it. `draining`: all have. `retired`: shards let go of what only older plans needed. After that nothing is
 * under way. `abandoned`, from `planned` or `warming`: shards let go of what the new plan would have needed; the old one stays.
 */
export const CHANGE_STATES = ["planned", "warming", "committed", "flipping", "draining", "retired", "abandoned"] as const;
export type ChangeState = (typeof CHANGE_STATES)[number];

/** What the fleet should become; what is left out stays as it is. */
export interface Wish {
  readonly shards?: number;
  readonly replicas?: number;
  /** Its epoch is the directory's to give. */
  readonly plan?: FleetPlan;
}

export interface PlannedStep {
  readonly plan: FleetPlan;
  /** Weight bytes that shards must fetch for it. */
  readonly bytes: number;
}

export interface Change {
  readonly from: FleetPlan;
  readonly to: FleetPlan;
  /** What follows when this has ended well: where room is short, the way to what was wished has several plans. */
  readonly rest: readonly PlannedStep[];
  /** In words: what it was asked for. */
  readonly reason: string;
  /** Weight bytes that shards must fetch. */
  readonly plannedBytes: number;
  readonly state: ChangeState;
  /** When each state began, milliseconds since 1970. */
  readonly sinceMs: Readonly<Partial<Record<ChangeState, number>>>;
  /** Shards that have done what the state asks of them. */
  readonly done: readonly number[];
  /** What each shard had fetched before it was asked to warm. */
  readonly fetchedBefore: Readonly<Record<number, number>>;
  /** Bytes each shard has fetched since, as it reports them. */
  readonly movedBytes: Readonly<Record<number, number>>;
  /** Calls that failed and were made again. */
  readonly retries: number;
  /** Why it waits, or was given up; null where it goes on. */
  readonly message: string | null;
}

/** A change that ended. */
export interface PastChange {
  readonly epoch: number;
  readonly outcome: "steady" | "abandoned";
  readonly reason: string;
  /** Shards that hold something, before and after. */
  readonly shards: readonly [before: number, after: number];
  readonly plannedBytes: number;
  readonly movedBytes: number;
  readonly retries: number;
  readonly sinceMs: Change["sinceMs"];
  readonly endedMs: number;
  readonly message: string | null;
}

/** An orchestrator, and the newest plan it is known to go by. */
export interface Lane {
  readonly name: string;
  readonly epoch: number;
}

export interface ShardFault {
  readonly atMs: number;
  readonly shard: number;
  readonly cause: string;
}

/** Everything that outlives the object. */
export interface DirectoryRecord {
  readonly plan: FleetPlan | null;
  /** The highest epoch ever given: none is given twice, though the change it was for came to nothing. */
  readonly lastEpoch: number;
  readonly change: Change | null;
  readonly lanes: readonly Lane[];
  readonly history: readonly PastChange[];
  readonly faults: readonly ShardFault[];
  /** Shards that could not be told to let go of old epochs; the next change tells them too. */
  readonly untold: readonly number[];
}

export const EMPTY_RECORD: DirectoryRecord = { plan: null, lastEpoch: 0, change: null, lanes: [], history: [], faults: [], untold: [] };

/** What an orchestrator may say of itself when it registers. */
export interface LaneReport {
  readonly freeKvPositions: number;
  /** How often each expert was lately chosen, decayed: [layer][expert]. */
  readonly expertCounts: readonly (readonly number[])[];
  readonly faults: readonly ShardFault[];
}

export interface PlanSummary {
  readonly epoch: number;
  readonly packHash: string;
  readonly fleet: string;
  readonly lanes: number;
  readonly stages: number;
  readonly jurisdiction: string | null;
  /** On how many shards a segment lies: the fewest and the most. */
  readonly copies: readonly [fewest: number, most: number];
  /** Of each shard: segments it holds (0: at rest), how many of them another one holds too, and where it was asked to live. */
  readonly shards: readonly { readonly segments: number; readonly shared: number; readonly region: string | null }[];
}

export type ChangeStatus = Omit<PastChange, "outcome" | "endedMs"> & { readonly fromEpoch: number; readonly state: ChangeState; /** Changes that follow. */ readonly stepsLeft: number };

/** What orchestrators lately asked of a layer, fading. */
export interface LayerLoad {
  readonly layer: number;
  readonly choices: number;
  /** The expert chosen most, and how often over the mean of the layer's. */
  readonly busiest: number;
  readonly timesMean: number;
}

/** What `status` tells. */
export interface FleetStatus {
  readonly plan: PlanSummary | null;
  readonly change: ChangeStatus | null;
  /** Latest first. */
  readonly history: readonly PastChange[];
  readonly lanes: readonly (Lane & { readonly seenMs: number; readonly reportedMs: number | null; readonly freeKvPositions: number | null })[];
  /** Of each layer with experts that was asked lately. */
  readonly load: readonly LayerLoad[];
  /** Latest first. */
  readonly faults: readonly ShardFault[];
}

/** Numbers of the shards that hold something. */
export const heldBy = (plan: FleetPlan): number[] => plan.shards.flatMap(({ slots }, shard) => (slots.length > 0 ? [shard] : []));

const total = (bytes: Readonly<Record<number, number>>): number => Object.values(bytes).reduce((sum, of) => sum + of, 0);

const segmentsIn = ({ slots }: FleetPlan["shards"][number]): string[] =>
  slots.flatMap(({ layer, expert, segments: [first, end] }) => Array.from({ length: end - first }, (_, i) => `${layer} ${expert} ${first + i}`));

export function summaryOf(plan: FleetPlan): PlanSummary {
  const held = plan.shards.map(segmentsIn);
  const copies = new Map<string, number>();
  for (const segment of held.flat()) copies.set(segment, (copies.get(segment) ?? 0) + 1);
  let [fewest, most] = [copies.size === 0 ? 0 : Infinity, 0];
  for (const of of copies.values()) [fewest, most] = [Math.min(fewest, of), Math.max(most, of)];
  return {
    epoch: plan.epoch, packHash: plan.packHash, fleet: plan.fleet, lanes: plan.lanes, stages: plan.stages.length, jurisdiction: plan.jurisdiction, copies: [fewest, most],
    shards: plan.shards.map(({ region }, i) => ({ segments: held[i]!.length, shared: held[i]!.filter((segment) => copies.get(segment)! > 1).length, region })),
  };
}

export const changeStatus = ({ from, to, rest, reason, plannedBytes, movedBytes, retries, sinceMs, state, message }: Change): ChangeStatus => ({
  epoch: to.epoch, fromEpoch: from.epoch, stepsLeft: rest.length, state, reason, shards: [heldBy(from).length, heldBy(to).length], plannedBytes, movedBytes: total(movedBytes), retries, sinceMs, message,
});

export const ended = (change: Change, endedMs: number): PastChange => {
  const { fromEpoch: _, stepsLeft: __, state, ...rest } = changeStatus(change);
  return { ...rest, outcome: state === "abandoned" ? "abandoned" : "steady", endedMs };
};
