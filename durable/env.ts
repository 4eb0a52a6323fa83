// What the Durable Objects are given by the deployment: bindings and variables.
// Owns reading the variables. Refuses defaults for what must be said: an error names the variable, what was found and expected.

import { slicedExperts, wholeExperts, type Assign } from "../fleet/plan.ts";
import { isLocationHint, type LocationHint } from "../fleet/regions.ts";
import type { PackEnv } from "./byte-sources.ts";
import type { Directory } from "./directory.ts";
import type { Orchestrator } from "./orchestrator.ts";
import { hintOf, hintsIn, jurisdictionOf, lanesAsked, withinJurisdiction } from "./places.ts";
import type { ExpertShard } from "./shard.ts";
import type { Stage } from "./stage.ts";

export interface DurableEnv extends PackEnv {
  readonly ORCHESTRATOR: DurableObjectNamespace<Orchestrator>;
  readonly SHARDS: DurableObjectNamespace<ExpertShard>;
  /** Needed where a plan has more than one stage, unless each has a script of its own. */
  readonly STAGES?: DurableObjectNamespace<Stage>;
  /** Scripts that hold stages, bound as STAGES_0, STAGES_1, ... (stage-objects.ts). Absent or "0": all in STAGES. */
  readonly STAGE_SCRIPTS?: string;
  /** Absent: the plan is the one these variables make, and never changes. */
  readonly DIRECTORY?: DurableObjectNamespace<Directory>;
  /** Names the fleet, whose objects live on from plan to plan. Absent or empty: a digest of the settings that make its first plan, so that other settings are another fleet. */
  readonly FLEET?: string;
  /** On how many different shards every segment lies in the first plan, as a decimal number. Absent: 1. */
  readonly REPLICAS?: string;
  /** Memory in MiB, of all shards together, for replicas of experts that are chosen often, made and ended as the load asks. Absent or "0": none are. */
  readonly AUTO_REPLICAS_MIB?: string;
  /** Whether the fleet keeps its memory while nobody asks: "off", "shards" or "all" (keep-warm.ts). Absent or empty: "off". */
  readonly KEEP_WARM?: string;
  /** Name of a file beside the pack with the first plan (given-plan.ts). Absent or empty: it is the one the variables below make. */
  readonly PLAN_FILE?: string;
  /** Shards the experts are spread over, as a decimal number. */
  readonly SHARDS_COUNT: string;
  /** Scripts that hold shards, bound as SHARDS_0, SHARDS_1, ...: shard n lives in script n modulo this. Absent or "0": all in SHARDS. */
  readonly SHARD_SCRIPTS?: string;
  /** Regions that have the whole deployment each, as a comma list of the platform's location hints (places.ts). Absent or empty: there is one, where the platform chooses. */
  readonly REGIONS?: string;
  /** A jurisdiction of the platform that no object may leave. Absent or empty: none. */
  readonly JURISDICTION?: string;
  /** Orchestrators of each region, which share its shards. Absent or empty: 1, or as many as the plan of PLAN_FILE has. */
  readonly LANES?: string;
  /** No variable: an object that is part of a region's deployment reads it in its own name (placedEnv). */
  readonly REGION?: LocationHint;
  /** Where shards should live, as a comma list of the platform's location hints: shard n gets hint n modulo their number. Absent or empty: in the deployment's region. */
  readonly SHARD_REGIONS?: string;
  /** What a shard holds as one piece: "expert" (the default) or "segment", which spreads wide experts over shards. */
  readonly PLAN_UNIT?: string;
  /** "trunk" (the default), or "experts": the orchestrator holds an equal share of the experts too, and computes them while the shards do theirs. */
  readonly ORCHESTRATOR_HOLDS?: string;
  /** Share of the generations whose routing is kept for GET /v1/traces, 0 to 1. Absent: none. */
  readonly TRACE_SHARE?: string;
  /** "shared": objects may live in one isolate, each with a budget of its own (local runs). "strict": shards refuse to. */
  readonly ISOLATES: string;
}

export function shardCount(env: DurableEnv): number {
  const count = Number(env.SHARDS_COUNT);
  if (!Number.isInteger(count) || count < 1 || count > 1024) throw new RangeError(`The variable SHARDS_COUNT is "${env.SHARDS_COUNT}"; expected a number from 1 to 1024.`);
  return count;
}

export function replicaCount(env: Pick<DurableEnv, "REPLICAS">): number {
  const count = Number(env.REPLICAS ?? "1");
  if (!Number.isInteger(count) || count < 1 || count > 16) throw new RangeError(`The variable REPLICAS is "${env.REPLICAS}"; expected a number from 1 to 16.`);
  return count;
}

export function autoReplicaBytes(env: Pick<DurableEnv, "AUTO_REPLICAS_MIB">): number {
  const mib = Number(env.AUTO_REPLICAS_MIB ?? "0");
  if (!Number.isInteger(mib) || mib < 0 || mib > 1024 * 1024) throw new RangeError(`The variable AUTO_REPLICAS_MIB is "${env.AUTO_REPLICAS_MIB}"; expected a number of MiB, 0 for no replicas of its own.`);
  return mib * 1024 * 1024;
}

type FleetSettings = Pick<DurableEnv, "FLEET" | "REPLICAS" | "SHARDS_COUNT" | "SHARD_SCRIPTS" | "SHARD_REGIONS" | "PLAN_UNIT" | "ORCHESTRATOR_HOLDS" | "JURISDICTION" | "LANES">;

/** What the fleets of all regions are called. Throws RangeError where it is no name. */
export function fleetBaseName(env: FleetSettings): string {
  const given = env.FLEET ?? "";
  if (given !== "") {
    if (!/^[\w.-]{1,64}$/.test(given)) throw new RangeError(`The variable FLEET is "${given}"; expected 1 to 64 letters, digits, points, hyphens or underscores.`);
    return given;
  }
  const settings = JSON.stringify([
    env.SHARDS_COUNT, env.REPLICAS ?? "1", env.SHARD_SCRIPTS ?? "0", env.SHARD_REGIONS ?? "", env.PLAN_UNIT ?? "expert", env.ORCHESTRATOR_HOLDS ?? "trunk",
    ...(jurisdictionOf(env) === null ? [] : [env.JURISDICTION]), ...((lanesAsked(env) ?? 1) === 1 ? [] : [`${lanesAsked(env)} lanes`]),
  ]);
  // FNV-1a, twice from different seeds: it tells a handful of settings apart, and needs no wait as SHA-256 would.
  const digest = [0x811c9dc5, 0x9747b28c].map((seed) => Array.from(settings).reduce((h, c) => Math.imul(h ^ c.charCodeAt(0), 0x01000193), seed) >>> 0);
  return digest.map((word) => word.toString(16).padStart(8, "0")).join("");
}

/** Name of a region's fleet: a region shares nothing with another. Throws RangeError where it is no name. */
export function fleetName(env: FleetSettings & Pick<DurableEnv, "REGION">): string {
  const base = fleetBaseName(env);
  if (env.REGION === undefined) return base;
  const name = `${base}.${env.REGION}`;
  if (name.length > 64) throw new RangeError(`The variable FLEET is "${base}", which makes "${name}" of it in that region; expected a name that is short enough for 64 letters in all.`);
  return name;
}

/** The directory of a fleet; null where the deployment has none. Its name holds the pack's hash: another revision is served by other shards under a plan of its own. */
export function fleetDirectory(env: DurableEnv, packHash: string): DurableObjectStub<Directory> | null {
  if (env.DIRECTORY === undefined) return null;
  const { REGION: region = null } = env;
  const name = `${env.PACK_ID}/${packHash.slice(0, 12)}/${fleetBaseName(env)}${region === null ? "" : `@${region}`}`;
  return withinJurisdiction(env.DIRECTORY, jurisdictionOf(env)).getByName(name, hintOf(region));
}

/** The object of the same class that keeps the deployment's routing profiles (profile-store.ts), whatever its plan and revision; null where there is none. */
export function profileDirectory(env: DurableEnv): DurableObjectStub<Directory> | null {
  return env.DIRECTORY === undefined ? null : withinJurisdiction(env.DIRECTORY, jurisdictionOf(env)).getByName(`${env.PACK_ID}/profiles`);
}

/** Where shard number `shard` lives. Throws RangeError when the scripts' bindings are not there. */
export function shardNamespace(env: DurableEnv, shard: number): DurableObjectNamespace<ExpertShard> {
  const scripts = Number(env.SHARD_SCRIPTS ?? "0");
  if (!Number.isInteger(scripts) || scripts < 0) throw new RangeError(`The variable SHARD_SCRIPTS is "${env.SHARD_SCRIPTS}"; expected a number of scripts.`);
  if (scripts === 0) return env.SHARDS;
  const binding = `SHARDS_${shard % scripts}`;
  const namespace = (env as unknown as Readonly<Record<string, DurableObjectNamespace<ExpertShard> | undefined>>)[binding];
  if (namespace === undefined) throw new RangeError(`The variable SHARD_SCRIPTS is "${scripts}", but there is no binding ${binding}.`);
  return namespace;
}

/** Our list against the platform's own (2026-11): a hint that it gains or loses is a type error here. */
const isRegion: [DurableObjectLocationHint] extends [LocationHint] ? (hint: string) => hint is DurableObjectLocationHint : never = isLocationHint;

/** Where shard number `shard` is asked to live; null where the platform chooses. */
export function shardRegion(env: Pick<DurableEnv, "SHARD_REGIONS" | "JURISDICTION" | "REGION">, shard: number): DurableObjectLocationHint | null {
  const hints = hintsIn("SHARD_REGIONS", env.SHARD_REGIONS ?? "", jurisdictionOf(env)).filter(isRegion);
  return hints.length === 0 ? env.REGION ?? null : hints[shard % hints.length]!;
}

export function planUnit(env: Pick<DurableEnv, "PLAN_UNIT">): Assign {
  switch (env.PLAN_UNIT ?? "expert") {
    case "expert": return wholeExperts;
    case "segment": return slicedExperts;
    default: throw new RangeError(`The variable PLAN_UNIT is "${env.PLAN_UNIT}"; expected "expert" or "segment".`);
  }
}

export function orchestratorHoldsExperts(env: Pick<DurableEnv, "ORCHESTRATOR_HOLDS">): boolean {
  const holds = env.ORCHESTRATOR_HOLDS ?? "trunk";
  if (holds !== "trunk" && holds !== "experts") throw new RangeError(`The variable ORCHESTRATOR_HOLDS is "${holds}"; expected "trunk" or "experts".`);
  return holds === "experts";
}

export function strictIsolates(env: Pick<DurableEnv, "ISOLATES">): boolean {
  if (env.ISOLATES !== "shared" && env.ISOLATES !== "strict") throw new RangeError(`The variable ISOLATES is "${env.ISOLATES}"; expected "shared" or "strict".`);
  return env.ISOLATES === "strict";
}
