// The Durable Object that owns the plan of one fleet: directory-core.ts with storage, alarms, and RPC to shards and orchestrators.
// One more object of the class keeps the deployment's routing profiles (profile-store.ts).
// Owns the wiring. Refuses the token path and public routes (worker/): whoever cannot reach it goes on with the plan it has.

import { DurableObject } from "cloudflare:workers";
import { parseFleetPlan, type FleetPlan } from "../fleet/fleet-plan.ts";
import { SeededRandom, systemClock } from "./clock.ts";
import { loadBalance } from "./directory-balance.ts";
import { DirectoryCore, WishConflict } from "./directory-core.ts";
import { DirectoryPlanner, packOf } from "./directory-planner.ts";
import type { FleetStatus, LaneReport, Wish } from "./directory-record.ts";
import { ShardObjects } from "./directory-shards.ts";
import { DirectoryStore } from "./directory-store.ts";
import { autoReplicaBytes, type DurableEnv } from "./env.ts";
import { LIMITS, type Limits } from "./limits.ts";
import { placedEnv } from "./places.ts";
import { ProfileStore, type StoreReply } from "./profile-store.ts";
import { adoptAt } from "./stage-objects.ts";

export type DesireReply =
  | { readonly state: "begun"; readonly fleet: FleetStatus }
  /** `conflict`: not now, or nothing to do. `impossible`: not with these numbers. */
  | { readonly state: "refused"; readonly code: "conflict" | "impossible"; readonly message: string };

export class Directory extends DurableObject<DurableEnv> {
  readonly #core: DirectoryCore;
  readonly #profiles: ProfileStore;

  constructor(ctx: DurableObjectState, deployed: DurableEnv, limits: Limits = LIMITS) {
    const env = placedEnv(deployed, ctx.id.name);
    super(ctx, env);
    const budgetBytes = autoReplicaBytes(env);
    this.#profiles = new ProfileStore(ctx.storage, limits);
    this.#core = new DirectoryCore({
      storage: new DirectoryStore(ctx.storage), shards: new ShardObjects(env), clock: systemClock, limits,
      planner: new DirectoryPlanner(env, limits), random: new SeededRandom(crypto.getRandomValues(new Uint32Array(1))[0]!), balance: budgetBytes === 0 ? null : loadBalance({ budgetBytes, pack: (from) => packOf(env, from, limits) }),
      orchestrators: { adopt: (name, plan) => adoptAt(env, name, plan) },
    });
  }

  register(orchestrator: string, initial: FleetPlan, report?: LaneReport): FleetPlan {
    return this.#core.register(orchestrator, initial, report);
  }

  /** `plan` is checked here: it comes from outside. */
  async desire({ plan, ...counts }: Omit<Wish, "plan"> & { readonly plan?: unknown }): Promise<DesireReply> {
    try {
      return { state: "begun", fleet: await this.#core.desire({ ...counts, ...(plan === undefined ? {} : { plan: parseFleetPlan(structuredClone(plan)) }) }) };
    } catch (cause) {
      if (cause instanceof WishConflict) return { state: "refused", code: "conflict", message: cause.message };
      if (cause instanceof RangeError) return { state: "refused", code: "impossible", message: cause.message };
      throw cause;
    }
  }

  status(): FleetStatus {
    return this.#core.status();
  }

  /** The plan in force in full; null before the first orchestrator registered. */
  plan(): FleetPlan | null {
    return this.#core.plan;
  }

  /** Routing profiles, in the one object that keeps them (env.ts): documents as the Worker checked them, by name. */
  profiles(): { readonly texts: readonly string[] } { return { texts: this.#profiles.all() }; }
  profile(name: string): string | null { return this.#profiles.get(name); }
  putProfile(name: string, text: string): StoreReply { return this.#profiles.put(name, text); }
  deleteProfile(name: string): boolean { return this.#profiles.delete(name); }

  override async alarm(): Promise<void> {
    await this.#core.tick();
  }
}
