// Which plan an orchestrator goes by: the directory's, else the one it has kept, else the default one.
// Owns that order and the plan kept in the object's storage. Refuses to change plans (adopt, in epoch-switch.ts) and to wait for a directory for long: losing it
// freezes scaling only. docs/protocol.md section 3.

import { parseFleetPlan, type FleetPlan } from "../fleet/fleet-plan.ts";
import type { PlanRegistry } from "./adoption.ts";
import { within, type Clock } from "./clock.ts";
import type { LaneReport } from "./directory-record.ts";
import type { Limits } from "./limits.ts";

const KEY = "plan";

/** Where a plan is kept from start to start. */
export interface PlanStorage {
  get(key: string): Promise<unknown>;
  put(key: string, plan: FleetPlan): Promise<void>;
}

export interface PlanSources {
  readonly storage: PlanStorage;
  /** Null where the deployment has none. */
  readonly directory: (packHash: string) => PlanRegistry | null;
  /** Name of the orchestrator, by which the directory reaches it. */
  readonly name: string;
  readonly clock: Clock;
  readonly limits: Limits;
}

export class PlanInForce {
  readonly #p: PlanSources;

  constructor(sources: PlanSources) {
    this.#p = sources;
  }

  /** The plan to start with; `initial` where neither directory nor storage has one of its fleet. */
  async atStart(initial: FleetPlan): Promise<FleetPlan> {
    const kept = await this.kept();
    // Of another revision or fleet: what was kept for it is nothing to go by.
    const own = kept !== null && isOf(kept, initial) ? kept : initial;
    return (await this.asked(own)) ?? own;
  }

  /** What the directory says to one that would go by `initial`, and has this to report; null where it cannot be reached, or speaks of another pack. */
  async asked(initial: FleetPlan, report?: LaneReport): Promise<FleetPlan | null> {
    const { directory, name, clock, limits } = this.#p;
    try {
      const registry = directory(initial.packHash);
      if (registry === null) return null;
      // Parsed: an older or newer Worker may be at the other end for minutes (2026-11).
      const plan = parseFleetPlan(await within(clock, limits.directoryMs, registry.register(name, initial, report), `the directory did not answer in ${limits.directoryMs} ms`));
      return isOf(plan, initial) ? plan : null;
    } catch {
      return null;
    }
  }

  /** The plan last kept; null where there is none that can be read. */
  async kept(): Promise<FleetPlan | null> {
    try {
      const found = await this.#p.storage.get(KEY);
      return found === undefined ? null : parseFleetPlan(found);
    } catch {
      return null;
    }
  }

  keep(plan: FleetPlan): Promise<void> {
    return this.#p.storage.put(KEY, plan);
  }
}

export const isOf = (plan: FleetPlan, other: FleetPlan): boolean => plan.packId === other.packId && plan.packHash === other.packHash && plan.fleet === other.fleet;
