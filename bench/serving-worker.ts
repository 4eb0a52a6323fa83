// The deployed Worker with one difference: the weight memory of its isolate may be larger than a production isolate's.
// Owns that difference, made before the first object enters the isolate. Of use on a local machine only, where workerd enforces no memory
// limit (2026-11); whoever starts it says in its output that the limit was lifted.

import type { DurableEnv } from "../durable/env.ts";
import { thisIsolate } from "../durable/isolate.ts";
import { kernelModules } from "../durable/kernel-modules.ts";
import { LIMITS } from "../durable/limits.ts";
import { Orchestrator as DeployedOrchestrator } from "../durable/orchestrator.ts";
import { ExpertShard as DeployedShard } from "../durable/shard.ts";

export { default } from "../worker/index.ts";

export interface LocalEnv extends DurableEnv {
  readonly ISOLATE_MIB: string;
}

/** Makes the isolate with the local limit unless it is there; gives the environment back. */
export function lifted<Env extends LocalEnv>(env: Env): Env {
  const mebibytes = Number(env.ISOLATE_MIB);
  if (!Number.isInteger(mebibytes) || mebibytes < 1 || mebibytes > 4000) throw new RangeError(`The variable ISOLATE_MIB is "${env.ISOLATE_MIB}"; expected a whole number from 1 to 4000.`);
  thisIsolate(kernelModules, Object.freeze({ ...LIMITS, isolateBytes: mebibytes * 1024 * 1024 }));
  return env;
}

export class Orchestrator extends DeployedOrchestrator {
  constructor(ctx: DurableObjectState, env: LocalEnv) { super(ctx, lifted(env)); }
}

export class ExpertShard extends DeployedShard {
  constructor(ctx: DurableObjectState, env: LocalEnv) { super(ctx, lifted(env)); }
}
