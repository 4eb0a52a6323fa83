// What each isolate of a planned fleet holds, as GET /v1/fleet tells it, beside what the ledger admits it with. Owns reading that report: the edge's isolate tells all it holds, stages
// and shards their weights; what running them takes is added as durable/memory-plan.ts counts it, by which a stage or shard that does not fit refuses to load.
// Refuses to judge speed, and isolates that are not a fleet's of one script each: there objects share a memory.

import { tenantBytes } from "../durable/isolate.ts";
import { LIMITS } from "../durable/limits.ts";
import { maxSegmentsOf, orchestratorMemory, pageBytes, plannedBytes, shardMemory } from "../durable/memory-plan.ts";
import { maxChunkTokens } from "../durable/protocol.ts";
import type { FleetPlan } from "../fleet/fleet-plan.ts";
import type { PackManifest } from "../formats/manifest.ts";
import type { FleetReply } from "../worker/wire-types.ts";

export interface IsolateMemory {
  /** "edge", "lane 1, stage 2", "shard 0". */
  readonly name: string;
  /** As the fleet tells it: all of the edge's memory, the weights of others. */
  readonly reportedBytes: number;
  /** With working memory, frames and a page of KV cache; of the edge what it reports. */
  readonly heldBytes: number;
}

export interface FleetMemory {
  /** Of an isolate, for what it holds: 90 MiB less those for frames in flight. */
  readonly limitBytes: number;
  readonly isolates: readonly IsolateMemory[];
  /** A sentence for each isolate that is over its limit, or whose object is not loaded as planned. */
  readonly failures: readonly string[];
}

const mib = (bytes: number): string => `${(bytes / 2 ** 20).toFixed(1)} MiB`;

export function fleetMemory(reply: Pick<FleetReply, "regions">, plan: FleetPlan, manifest: PackManifest): FleetMemory {
  const limitBytes = tenantBytes(LIMITS);
  const roundTokens = maxChunkTokens(manifest.config, maxSegmentsOf(manifest), manifest.activations);
  const lanes = reply.regions.flatMap(({ lanes: of }) => of);
  const isolates: IsolateMemory[] = [];
  const failures: string[] = lanes.length === plan.lanes ? [] : [`The fleet tells of ${lanes.length} lanes; ${plan.lanes} were expected.`];
  const shardBytes = plan.shards.map(() => 0);
  for (const { lane, status } of lanes) {
    if (status === null || status.isolate === null) {
      failures.push(`Lane ${lane} could not be reached.`);
      continue;
    }
    const { isolate, stages, shards } = status;
    // All lanes' orchestrators are in it, so each lane tells the same.
    const reportedBytes = Object.values(isolate.account).reduce((sum, bytes) => sum + bytes, 0);
    if (isolate.limitBytes !== limitBytes) failures.push(`The edge's isolate goes by a limit of ${mib(isolate.limitBytes)}; ${mib(limitBytes)} were expected.`);
    if (!isolates.some(({ name }) => name === "edge")) isolates.push({ name: "edge", reportedBytes, heldBytes: reportedBytes });
    plan.stages.forEach(({ slots: ranges, ...span }, stage) => {
      if (stage === 0) return;
      const told = stages[stage - 1];
      const planned = orchestratorMemory(manifest, { stepTokens: roundTokens, roundTokens, ranges, span }, LIMITS);
      if (told === undefined || !told.isReady) failures.push(`Lane ${lane}, stage ${stage} is not ready.`);
      isolates.push({ name: `lane ${lane}, stage ${stage}`, reportedBytes: told?.loadedBytes ?? 0, heldBytes: plannedBytes(planned) + pageBytes(manifest, span.layers[1] - span.layers[0]) });
    });
    shards.forEach(({ weightBytes, read }, shard) => { if (read !== null) shardBytes[shard] = Math.max(shardBytes[shard] ?? 0, weightBytes); });
  }
  plan.shards.forEach(({ slots }, shard) => {
    if (slots.length > 0) isolates.push({ name: `shard ${shard}`, reportedBytes: shardBytes[shard]!, heldBytes: plannedBytes(shardMemory(manifest, slots, LIMITS)) });
  });
  for (const { name, reportedBytes, heldBytes } of isolates) {
    if (reportedBytes === 0) failures.push(`The isolate of ${name} tells of no bytes.`);
    if (Math.max(reportedBytes, heldBytes) > limitBytes) failures.push(`The isolate of ${name} holds ${mib(Math.max(reportedBytes, heldBytes))}; ${mib(limitBytes)} is the most.`);
  }
  return { limitBytes, isolates, failures };
}
