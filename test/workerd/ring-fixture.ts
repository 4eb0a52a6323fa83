// Deployments whose trunk is a ring of stages, inside workerd: a pack with a plan beside it in the bucket. Owns no assertion.

import { expertTable, makePlan, type PlannedRange } from "../../fleet/plan.ts";
import { recordOf, type FleetPlan, type PlannedStage } from "../../fleet/fleet-plan.ts";
import type { StageSpan } from "../../model/stage-span.ts";
import { openPack } from "../../formats/pack-reader.ts";
import { env } from "cloudflare:workers";
import type { Stage } from "../../durable/stage.ts";
import { stageName } from "../../durable/stage-objects.ts";
import type { MemoryPack } from "../support/pack-to-memory.ts";
import { deploy, fleetEnv } from "./fleet-fixture.ts";

/** Long enough to be cut at a multiple of 512 rows. */
export const RING_VOCAB = 1061;

/**
 * Puts a plan with these stages beside the pack and sets the variables that objects made from now on will read. Experts of all layers are on `nShards` shards, or those of each layer on a shard of
 * their own, or with their layer in its stage, and then there are no shards. Deployments of one pack need a `fleet` each: a fleet has one plan.
 */
export async function deployRing(pack: MemoryPack, packId: string, spans: readonly StageSpan[], { nShards = 2, lanes = 1, isolates = "shared" as const, isByLayer = false, holdsExperts = false, fleet = packId } = {}): Promise<FleetPlan> {
  const { manifest, packHash } = await openPack(pack.source);
  const { config } = manifest;
  const table = expertTable(manifest);
  const record = recordOf(makePlan(table, nShards), { packId, packHash, fleet, nLayers: config.nLayers, vocabSize: config.vocabSize, ownShard: null, regionOf: () => null });
  const byLayer = Array.from({ length: config.nLayers }, (_, of) => ({ region: null, slots: table.filter(({ layer }) => layer === of).map(({ layer, expert, segmentBytes }): PlannedRange => ({ layer, expert, segments: [0, segmentBytes.length] })) }));
  const stages = spans.map((span): PlannedStage => ({ ...span, slots: holdsExperts ? byLayer.slice(...span.layers).flatMap(({ slots }) => slots) : [] }));
  const plan: FleetPlan = { ...record, ...(holdsExperts ? { shards: [] } : isByLayer ? { shards: byLayer } : {}), lanes, stages };
  await fleetEnv.PACKS!.put(`packs/${packId}/plan.json`, JSON.stringify(plan));
  deploy({ packId, shards: nShards, isolates });
  Object.assign(env, { PLAN_FILE: "plan.json", FLEET: fleet });
  return plan;
}

/** Back to plans that the variables make. */
export const withoutRing = (): void => void Object.assign(env, { PLAN_FILE: "", FLEET: "" });

export const stageOf = (orchestrator: string, stage: number): DurableObjectStub<Stage> => fleetEnv.STAGES!.getByName(stageName(orchestrator, stage));
