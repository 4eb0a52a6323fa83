// The script of a process, or a Worker, that holds nothing but expert shards: their class, and no route to it. Objects reach it through a
// binding with `script_name` (docs/deploy.md). Refuses every request from outside.

export { ExpertShard } from "../durable/shard.ts";

export default {
  fetch(): Response {
    return new Response("Expert shards have no public route.\n", { status: 404 });
  },
};
