// The script of a process, or a Worker, that holds nothing but expert shards, or stages of a ring: their classes, and no route to them. Objects reach it through a
// binding with `script_name` (docs/deploy.md). Refuses every request from outside.

export { ExpertShard } from "../durable/shard.ts";
export { Stage } from "../durable/stage.ts";

export default {
  fetch(): Response {
    return new Response("Shards and stages have no public route.\n", { status: 404 });
  },
};
