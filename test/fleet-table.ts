// `node test/fleet-table.ts`: the seconds that planning each release takes, for docs/models.md. Owns the fleet's table of that page, which test/models-table.ts puts
// there: what `workers-moe plan --quant q4 --streams 4` says. Refuses measured figures in the table: a test compares it.

import type { PlanDocument } from "../cli/plan-document.ts";
import { planUntraced } from "../cli/plan-fleet.ts";
import { plannedConfig } from "../cli/plan-model.ts";
import { LIMITS } from "../durable/limits.ts";
import { type Release, RELEASES, releaseConfig } from "./support/release-configs.ts";

export const planOf = (release: Release): PlanDocument => planUntraced(plannedConfig(release, releaseConfig(release), { quant: "q4" }), {
  isolateBytes: LIMITS.isolateBytes, streams: 4, nShards: null, replicas: 1, spareBytes: 0, regions: [], regionHolds: "deployment", placement: null, expertsIn: null,
}).document;

const billions = (n: number): string => (n / 1e9).toFixed(2);

export const fleetTable = (): string => [
  ["model", "parameters, of a token (1e9)", "lanes x stages (set by)", "shards", "isolates", "frames, hops per token", "resident tokens per lane"], new Array<string>(7).fill("---"),
  ...RELEASES.map((release) => {
    const { model, lanes, experts, shards, isolates, traffic: { token } } = planOf(release);
    return [
      release, `${billions(model.parameters)}, ${billions(model.activeParameters)}`, `${lanes.lanes} x ${lanes.stages.length} (${lanes.stagesSetBy === "kv" ? "KV cache" : "weights"})`,
      experts.in === "stages" ? "none, experts in the stages" : `${shards.shards}${shards.isSliced ? ", experts cut" : ""}`, isolates.all, `${(token.expertFrames + token.ringFrames).toFixed(0)}, ${token.hops}`, lanes.residentTokensPerLane,
    ];
  }),
].map((row) => `| ${row.join(" | ")} |\n`).join("");

if (import.meta.main) {
  for (const release of RELEASES) {
    const begin = performance.now();
    const plan = planOf(release);
    process.stdout.write(`${release}: ${plan.isolates.all} isolates, ${((performance.now() - begin) / 1000).toFixed(1)} s\n`);
  }
}
