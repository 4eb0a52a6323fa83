// The deployed Worker with one difference: the weight memory of its isolate may be larger than a production isolate's (`workers-moe serve --isolate-mib`).
// Never deployed: wrangler.toml names index.ts. Whoever starts it says in its output that the limit was lifted.

import { Directory as DeployedDirectory } from "../durable/directory.ts";
import { lifted, liftedLimits, type LocalEnv } from "../durable/lifted-isolate.ts";
import { Orchestrator as DeployedOrchestrator } from "../durable/orchestrator.ts";
import { ExpertShard as DeployedShard } from "../durable/shard.ts";
import { Stage as DeployedStage } from "../durable/stage.ts";

export { TokenBudget } from "../durable/budget.ts";
export { default } from "./index.ts";

export class Orchestrator extends DeployedOrchestrator {
  constructor(ctx: DurableObjectState, env: LocalEnv) { super(ctx, lifted(env)); }
}

export class ExpertShard extends DeployedShard {
  constructor(ctx: DurableObjectState, env: LocalEnv) { super(ctx, lifted(env)); }
}

export class Stage extends DeployedStage {
  constructor(ctx: DurableObjectState, env: LocalEnv) { super(ctx, lifted(env)); }
}

export class Directory extends DeployedDirectory {
  constructor(ctx: DurableObjectState, env: LocalEnv) { super(ctx, env, liftedLimits(env)); }
}
