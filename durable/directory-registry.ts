// The directory as those who go by its plan see it. Owns the one call. Refuses patience: whoever asks limits it (plan-in-force.ts).

import type { PlanRegistry } from "./adoption.ts";
import { fleetDirectory, type DurableEnv } from "./env.ts";
import { plain } from "./rpc-result.ts";

/** Null where the deployment has none. */
export function directoryRegistry(env: DurableEnv, packHash: string): PlanRegistry | null {
  const directory = fleetDirectory(env, packHash);
  return directory === null ? null : {
    register: async (orchestrator, initial, report) => plain(await directory.register(orchestrator, initial, report)),
  };
}
