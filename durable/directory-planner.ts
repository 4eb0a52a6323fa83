// From a wish to the plans that lead there: the pack's expert table, the room on a shard, and fleet/min-move.ts.
// Owns what a wish means beside the plan in force. Refuses to decide that there is to be a change (directory-core.ts) and the algorithm (fleet/).

import type { FleetPlan } from "../fleet/fleet-plan.ts";
import { movesOf, planChange, type Wish as MoveWish } from "../fleet/min-move.ts";
import { expertTable, type PlannedExpert } from "../fleet/plan.ts";
import type { PackManifest } from "../formats/manifest.ts";
import { allocatedBytes } from "../model/heap.ts";
import type { NextPlans, Planner } from "./directory-ports.ts";
import { heldBy, type Wish } from "./directory-record.ts";
import { shardRegion, type DurableEnv } from "./env.ts";
import { tenantBytes } from "./isolate.ts";
import type { Limits } from "./limits.ts";
import { shardMemory } from "./memory-plan.ts";
import { currentPack, knownPack } from "./opened-packs.ts";
import { requireWithin } from "./places.ts";

async function manifestOf(env: DurableEnv, packHash: string): Promise<PackManifest> {
  const pack = knownPack(packHash) ?? await currentPack(env);
  if (pack.packHash !== packHash) throw new RangeError(`The source of pack ${env.PACK_ID} holds revision ${pack.packHash}; the plan in force is of ${packHash}. Another revision has a plan of its own.`);
  return pack.manifest;
}

/** What plans need to know of a pack's experts. */
export const packTable = async (env: DurableEnv, packHash: string): Promise<PlannedExpert[]> => expertTable(await manifestOf(env, packHash));

/** Weight bytes that fit a shard beside its scratch and frames, whichever experts it holds. */
export function shardRoomBytes(manifest: PackManifest, limits: Limits): number {
  const all = manifest.experts.map(({ layer, expert, segments }) => ({ layer, expert, segments: [0, segments.length] as const }));
  const { scratchBytes, frameBytes } = shardMemory(manifest, all, limits);
  const most = manifest.experts.flatMap(({ segments }) => segments).reduce((sum, { bytes }) => sum + allocatedBytes(bytes) - bytes, 0);
  return tenantBytes(limits) - scratchBytes - frameBytes - most;
}

/** A pack's expert table, and the room on a shard for it. */
export async function packOf(env: DurableEnv, { packHash }: FleetPlan, limits: Limits): Promise<{ readonly table: PlannedExpert[]; readonly roomBytes: number }> {
  const manifest = await manifestOf(env, packHash);
  return { table: expertTable(manifest), roomBytes: shardRoomBytes(manifest, limits) };
}

/** Copies of each expert in a plan: of its segments the fewest. */
export function copiesIn({ shards }: FleetPlan): (layer: number, expert: number) => number {
  const copies = new Map<string, number>();
  for (const { slots } of shards) for (const { layer, expert, segments: [first, end] } of slots) for (let segment = first; segment < end; segment++) {
    copies.set(`${layer} ${expert} ${segment}`, (copies.get(`${layer} ${expert} ${segment}`) ?? 0) + 1);
  }
  const least = new Map<string, number>();
  for (const [key, count] of copies) {
    const name = key.slice(0, key.lastIndexOf(" "));
    least.set(name, Math.min(least.get(name) ?? Infinity, count));
  }
  return (layer, expert) => least.get(`${layer} ${expert}`) ?? 1;
}

export class DirectoryPlanner implements Planner {
  readonly #env: DurableEnv;
  readonly #limits: Limits;

  constructor(env: DurableEnv, limits: Limits) {
    this.#env = env;
    this.#limits = limits;
  }

  async next(from: FleetPlan, wish: Wish): Promise<NextPlans> {
    const { table, roomBytes } = await packOf(this.#env, from, this.#limits);
    const shards = wish.shards ?? heldBy(from).length;
    const { wished, reason } = wish.plan === undefined
      ? { wished: { shards, replicas: wish.replicas ?? copiesIn(from), roomBytes, region: shardRegion(this.#env, 0) }, reason: [`${shards} shards`, ...(wish.replicas === undefined ? [] : [`${wish.replicas} of each expert`])].join(", ") }
      : { wished: placementOf(from, wish, roomBytes), reason: "a given plan" };
    return stepsOf(from, wished, table, reason);
  }
}

function placementOf(from: FleetPlan, { plan, shards, replicas }: Wish, roomBytes: number): MoveWish {
  if (shards !== undefined || replicas !== undefined) throw new RangeError("A plan was given beside a number of shards or replicas; expected one or the other.");
  for (const field of ["packId", "packHash", "fleet", "lanes", "jurisdiction", "stages"] as const) {
    if (JSON.stringify(plan![field]) !== JSON.stringify(from[field])) throw new RangeError(`The plan given has another ${field} than the one in force; only shards change while a fleet runs.`);
  }
  requireWithin(plan!);
  return { parts: plan!.shards.filter(({ slots }) => slots.length > 0), roomBytes };
}

function stepsOf(from: FleetPlan, wished: MoveWish, table: readonly PlannedExpert[], reason: string): NextPlans {
  const { plans } = planChange(from, wished, table);
  return { reason, steps: plans.map((plan, i) => ({ plan, bytes: movesOf(plans[i - 1] ?? from, plan, table).bytes })) };
}
