// What a fleet's orchestrators are told when its plan changes, and what they say to it: types of the RPC `adopt`.
// Owns both answers. Refuses to be asked on the token path: whoever owns the plan (directory.ts) calls, and steps go on meanwhile.

import type { FleetPlan } from "../fleet/fleet-plan.ts";
import type { LaneReport } from "./directory-record.ts";

export type AdoptReply =
  /** Steps go by the plan of this epoch: the one handed over, or a newer one that was in force already. */
  | { readonly state: "adopted"; readonly epoch: number }
  /** Nothing has changed; steps go by the plan of this epoch (0: no model is up yet). */
  | { readonly state: "refused"; readonly epoch: number; readonly message: string };

export interface Adopter {
  /**
   * Connects the plan's shards while the old ones serve, switches between two steps, closes the old lines and answers then.
   * A plan of the same epoch as the one in force, or of a lower one, changes nothing.
   */
  adopt(plan: FleetPlan): Promise<AdoptReply>;
}

/** What an orchestrator asks of the directory when it comes up, and as a sign of life: the plan in force, or its own where there is none yet. What comes is to be checked: it may be another version's. */
export interface PlanRegistry {
  register(orchestrator: string, initial: FleetPlan, report?: LaneReport): Promise<unknown>;
}
