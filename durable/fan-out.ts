// What lines and their first plan are made of in a deployment: variables, shard objects, the platform's clock.
// Owns the plan that the variables make, with its replicas. Refuses lines themselves (epoch-lines.ts) and any other plan (plan-in-force.ts).

import { recordOf, type FleetPlan } from "../fleet/fleet-plan.ts";
import { expertTable, makePlan, type Plan, type PlannedRange } from "../fleet/plan.ts";
import type { PackManifest } from "../formats/manifest.ts";
import { systemClock } from "./clock.ts";
import { fleetName, orchestratorHoldsExperts, planUnit, replicaCount, shardCount, shardNamespace, shardRegion, strictIsolates, type DurableEnv } from "./env.ts";
import { fanOutOf, type FanOut, type LineParts } from "./epoch-lines.ts";
import type { Isolate } from "./isolate.ts";
import type { Limits } from "./limits.ts";
import { jurisdictionOf, lanesAsked, withinJurisdiction } from "./places.ts";
import { ObjectTransport, shardName } from "./shard-transport.ts";

/** Lines to shard objects. */
export const objectLines = (env: DurableEnv, manifest: PackManifest, limits: Limits, isolate: Pick<Isolate, "name" | "inFlight">, stage = 0): LineParts => ({
  stage, manifest, limits, isolate, clock: systemClock, strictIsolates: strictIsolates(env),
  transport: (plan, shard, nameAttempt) => {
    const { region } = plan.shards[shard]!;
    const namespace = shardNamespace(env, shard);
    return new ObjectTransport(withinJurisdiction(namespace, plan.jurisdiction),
      shardName(plan, shard, region, nameAttempt), region as DurableObjectLocationHint | null);
  },
});

/** `isolate` is what the lines share with their neighbours: its name and its bytes in flight. */
export const openFanOut = (env: DurableEnv, manifest: PackManifest, packHash: string, limits: Limits, isolate: Pick<Isolate, "name" | "inFlight">): FanOut =>
  fanOutOf(objectLines(env, manifest, limits, isolate), defaultPlan(env, manifest, packHash));

/** The plan that the deployment's variables make: epoch 1 of their fleet. Throws RangeError naming the variable. */
export function defaultPlan(env: DurableEnv, manifest: PackManifest, packHash: string): FleetPlan {
  const { config } = manifest;
  const [nShards, nReplicas, holdsExperts] = [shardCount(env), replicaCount(env), orchestratorHoldsExperts(env)];
  if (nReplicas > nShards) throw new RangeError(`The variable REPLICAS asks for every segment on ${nReplicas} shards, and SHARDS_COUNT gives ${nShards}.`);
  // The orchestrator's own share, if it has one, is the last part.
  const table = expertTable(manifest);
  const plan = makePlan(table, nShards + (holdsExperts ? 1 : 0), planUnit(env));
  const record = recordOf(replicated(plan, nShards, nReplicas), {
    packId: manifest.id, packHash, fleet: fleetName(env), nLayers: config.nLayers, vocabSize: config.vocabSize,
    ownShard: holdsExperts ? nShards : null, regionOf: (shard) => shardRegion(env, shard),
  });
  return { ...record, lanes: lanesAsked(env) ?? 1, jurisdiction: jurisdictionOf(env) };
}

/** Each shard also holds what the shards before it do, round in a ring: two that fail together share as little as can be. */
function replicated(plan: Plan, nShards: number, nReplicas: number): Plan {
  const order = (a: PlannedRange, b: PlannedRange): number => a.layer - b.layer || a.expert - b.expert || a.segments[0] - b.segments[0];
  const slots = plan.slots.map((own, part) => (part >= nShards ? own
    : Array.from({ length: nReplicas }, (_, back) => plan.slots[(part - back + nShards) % nShards]!).flat().sort(order)));
  return { ...plan, slots };
}
