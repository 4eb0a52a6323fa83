// What GET /status says of an orchestrator: how far it has come, its memory, its generations, every shard its lines lead to, in a ring those of the other stages too, as far as stage 0 has
// heard of them. Owns the words and sums. Refuses to ask anybody: it is read off what is known, so that asking costs nothing (ring-figures.ts asks).

import type { OrchestratorStatus, ShardStatus } from "./generate.ts";
import { tenantBytes, type Tenant } from "./isolate.ts";
import { lineFiguresOf, together } from "./line-figures.ts";
import type { RingFigures } from "./ring-figures.ts";
import type { Scheduler } from "./scheduler.ts";
import type { Progress } from "./served-model.ts";
import { warmthOf } from "./warmth.ts";
import type { TrunkReads } from "./weight-reads.ts";

export interface StatusView {
  readonly tenant: Tenant;
  readonly progress: Progress | null;
  /** Null while no model is up. */
  readonly serving: { readonly scheduler: Pick<Scheduler, "activeCount" | "queuedCount" | "cancelled" | "drafts">; readonly figures: RingFigures | null } | null;
  readonly isLoading: boolean;
  /** Why the model could not be brought up, the last time. */
  readonly failure: string | null;
  readonly reads: TrunkReads;
}

export function statusOf({ tenant, progress, serving, isLoading, failure, reads }: StatusView): OrchestratorStatus {
  const { isolate } = tenant;
  const { scheduler } = serving ?? {};
  const isWorking = (scheduler?.activeCount ?? 0) > 0;
  const shards = progress === null ? [] : shardsOf(progress, serving?.figures ?? null, isWorking);
  const stages = progress?.stages ?? [];
  const loadedBytes = [...shards.map((shard) => (shard.state === "open" ? shard.weightBytes : shard.loadedBytes)), ...stages.map((stage) => stage.loadedBytes)].reduce((sum, bytes) => sum + bytes, progress?.trunkBytes ?? 0);
  const totalBytes = [...shards.map((shard) => shard.weightBytes), ...stages.map((stage) => stage.totalBytes)].reduce((sum, bytes) => sum + bytes, progress?.trunkTotalBytes ?? 0);
  const lost = isWorking && shards.some((shard) => shard.state === "connecting");
  return {
    status: serving !== null ? (lost ? "degraded" : "ready") : isLoading ? "warming" : failure !== null ? "failed" : "cold",
    loaded: serving !== null ? 1 : totalBytes === 0 ? 0 : Math.min(1, loadedBytes / totalBytes),
    message: failure,
    pack: progress?.pack ?? null,
    epoch: progress?.epoch ?? null,
    isolate: {
      limitBytes: tenantBytes(isolate.limits), usedBytes: tenant.usedBytes, account: isolate.heap.account(),
      objects: isolate.tenants.map(({ name }) => name), kernels: isolate.kernels.name,
    },
    generations: { active: scheduler?.activeCount ?? 0, queued: scheduler?.queuedCount ?? 0, cancelled: scheduler?.cancelled ?? 0 },
    drafts: { tokens: scheduler?.drafts.tokens ?? 0, held: scheduler?.drafts.held ?? 0 },
    shards, read: reads.figures,
    stages: stages.map((stage) => ({ ...stage })),
  };
}

/** By their number in the plan. */
function shardsOf({ clients, shares }: Progress, figures: RingFigures | null, isWorking: boolean): ShardStatus[] {
  const elsewhere = figures?.lines ?? [];
  return clients.map((client, shard) => {
    const line = together([lineFiguresOf(client), ...elsewhere.flatMap((lines) => lines[shard] ?? [])]);
    const { name, state, read, loadedBytes, totalBytes, frames, bytes, retries, hedges, faults } = line;
    return { name, state, warmth: warmthOf(line, isWorking), read, ...shares[shard]!, loadedBytes, totalBytes, frames, bytes, retries, hedges, lastFault: faults.at(-1)?.cause ?? null };
  });
}
