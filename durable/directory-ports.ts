// What the directory's state machine needs of the world: storage with an alarm, shards, orchestrators, a planner, the load. Objects and the simulation each bring their own.
// Owns the types alone. Refuses any order of calls (directory-core.ts).

import type { FleetPlan } from "../fleet/fleet-plan.ts";
import type { AdoptReply } from "./adoption.ts";
import type { Clock, Random } from "./clock.ts";
import type { DirectoryRecord, LaneReport, PlannedStep, Wish } from "./directory-record.ts";
import type { Limits } from "./limits.ts";

export interface DirectoryStorage {
  read(): DirectoryRecord;
  /** Writes all of it, and when to call `tick`, as one: either alone would leave a change to nobody. What is sent later leaves after it is written. */
  write(record: DirectoryRecord, wakeAtMs: number | null): void;
  wake(atMs: number | null): void;
}

export type Prepared =
  | { readonly state: "ready"; readonly fetchedBytes: number }
  | { readonly state: "loading" }
  /** Without `retryable` it will say the same for this plan whenever it is asked. */
  | { readonly state: "refused"; readonly message: string; readonly retryable: boolean };

export interface DirectoryShards {
  /** Weight bytes a shard has fetched since it came up, from wherever. */
  fetched(plan: FleetPlan, shard: number): Promise<number>;
  /** Warms a shard for `to` beside what it serves. */
  prepare(from: FleetPlan, to: FleetPlan, shard: number): Promise<Prepared>;
  /** Lets go of every epoch below `below`. */
  retire(plan: FleetPlan, shard: number, below: number): Promise<void>;
  /** Lets go of what `to` would have needed beyond `from`. */
  release(from: FleetPlan, to: FleetPlan, shard: number): Promise<void>;
}

export interface DirectoryOrchestrators {
  adopt(orchestrator: string, plan: FleetPlan): Promise<AdoptReply>;
}

/** What comes next and what it takes. */
export interface NextPlans {
  /** In words: what was asked for. */
  readonly reason: string;
  /** To be put in force one after the other, where room is short; their epochs do not matter. Empty where nothing needs to change. */
  readonly steps: readonly PlannedStep[];
}

export interface Planner {
  /** Throws RangeError with the numbers where the wish is impossible. */
  next(from: FleetPlan, wish: Wish): Promise<NextPlans>;
}

/** What the load asks for; null where nothing needs to change. Called every so often while nothing is under way; `lastChangeMs`: when a change last ended. */
export type Balance = (from: FleetPlan, expertCounts: readonly LaneReport["expertCounts"][], nowMs: number, lastChangeMs: number | null) => Promise<NextPlans | null>;

export interface DirectoryPorts {
  readonly storage: DirectoryStorage;
  readonly shards: DirectoryShards;
  readonly orchestrators: DirectoryOrchestrators;
  readonly planner: Planner;
  readonly clock: Clock;
  /** Jitter only. */
  readonly random: Random;
  readonly limits: Pick<Limits, "prepareDeadlineMs" | "directoryPauseMs" | "directoryPauseMostMs" | "planWarmMs" | "adoptDeadlineMs" | "laneLeaseMs" | "planDrainMs" | "planRetireMs" | "pastChanges" | "recentFaults" | "knownLanes" | "replicaTickMs" | "reportKeepMs">;
  /** Null: the load changes nothing. */
  readonly balance: Balance | null;
}
