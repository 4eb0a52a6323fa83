// shard-script.ts with the larger isolate of local-worker.ts: a process of `workers-moe serve --processes N --isolate-mib M` that holds shards only.

export { ExpertShard, Stage } from "./local-worker.ts";
export { default } from "./shard-script.ts";
