// The directory as those who go by its plan see it. Owns the one call and its result's disposal. Refuses patience: whoever asks limits it (plan-in-force.ts).

import type { PlanRegistry } from "./adoption.ts";
import { fleetDirectory, type DurableEnv } from "./env.ts";

/** Null where the deployment has none. What it answers is copied, since the runtime keeps a call open until its result is disposed of (2026-11). */
export function directoryRegistry(env: DurableEnv, packHash: string): PlanRegistry | null {
  const directory = fleetDirectory(env, packHash);
  return directory === null ? null : {
    register: async (orchestrator, initial, report) => {
      const answer = await directory.register(orchestrator, initial, report);
      const plan = structuredClone({ ...answer });
      (answer as Partial<Disposable>)[Symbol.dispose]?.();
      return plan;
    },
  };
}
