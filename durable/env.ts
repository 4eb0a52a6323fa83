// What the Durable Objects are given by the deployment: bindings, variables, and the isolate they share.
// Owns reading the variables. Refuses defaults for what must be said: an error names the variable, what was found and expected.

import { slicedExperts, wholeExperts, type Assign } from "../fleet/plan.ts";
import type { PackEnv } from "./byte-sources.ts";
import { thisIsolate, type Isolate } from "./isolate.ts";
import { kernelModules } from "./kernel-modules.ts";
import { LIMITS } from "./limits.ts";
import type { Orchestrator } from "./orchestrator.ts";
import type { ExpertShard } from "./shard.ts";

export interface DurableEnv extends PackEnv {
  readonly ORCHESTRATOR: DurableObjectNamespace<Orchestrator>;
  readonly SHARDS: DurableObjectNamespace<ExpertShard>;
  /** Shards the experts are spread over, as a decimal number. */
  readonly SHARDS_COUNT: string;
  /** Scripts that hold shards, bound as SHARDS_0, SHARDS_1, ...: shard n lives in script n modulo this. Absent or "0": all in SHARDS. */
  readonly SHARD_SCRIPTS?: string;
  /** Where shards should live, as a comma list of the platform's location hints: shard n gets hint n modulo their number. Absent or empty: the platform chooses. */
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

/** The platform's location hints (2026-11). A record, so that a hint the platform gains or loses is a type error here. */
const REGIONS: Readonly<Record<DurableObjectLocationHint, true>> = {
  wnam: true, enam: true, sam: true, weur: true, eeur: true, apac: true, "apac-ne": true, "apac-se": true, oc: true, afr: true, me: true,
};
const isRegion = (hint: string): hint is DurableObjectLocationHint => Object.hasOwn(REGIONS, hint);

/** Where shard number `shard` is asked to live; null where the platform chooses. */
export function shardRegion(env: Pick<DurableEnv, "SHARD_REGIONS">, shard: number): DurableObjectLocationHint | null {
  const list = env.SHARD_REGIONS ?? "";
  if (list.trim() === "") return null;
  const hints = list.split(",").map((hint) => hint.trim());
  for (const hint of hints) {
    if (!isRegion(hint)) throw new RangeError(`The variable SHARD_REGIONS is "${list}", and "${hint}" is no region; expected a comma list of ${Object.keys(REGIONS).join(", ")}.`);
  }
  return hints.filter(isRegion)[shard % hints.length]!;
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

export const hostIsolate = (): Isolate => thisIsolate(kernelModules, LIMITS);
