// The benchmarks' server: the deployed Worker in an isolate whose memory limit may be lifted, as `workers-moe serve --isolate-mib` runs it.
// Of use on a local machine only; whoever starts it says in its output that the limit was lifted.

export { default, ExpertShard, Orchestrator } from "../worker/local-worker.ts";
export { lifted, type LocalEnv } from "../durable/lifted-isolate.ts";
