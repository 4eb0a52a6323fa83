// What `workers-moe deploy` does, in order: every script's configuration and the rounds in which they go up. Owns the order, what a deployment counts in scripts, and the
// refusals: a pack that no isolate here could hold, more scripts than an account has, parts larger than a static asset. Refuses to run anything (commands/deploy.ts).
// Platform facts, 2026-11: 500 scripts an account; assets up to 25 MiB; a Durable Object binding needs the script it names to exist already.

import { tenantBytes } from "../durable/isolate.ts";
import { LIMITS } from "../durable/limits.ts";
import type { PlannedPack } from "../durable/memory-plan.ts";
import type { FleetPlan } from "../fleet/fleet-plan.ts";
import type { PackManifest } from "../formats/manifest.ts";
import { MOST_SCRIPTS, type FleetScript, type IsolateMode } from "./fleet-scripts.ts";
import { boundScripts, edgeConfig, heldConfig, unboundConfig, type ConfigWishes, type WranglerConfig } from "./script-configs.ts";
import { scriptsOfLayout, type ServeLayout } from "./serve-layout.ts";
import { serveMemory } from "./serve-memory.ts";

const MIB = 1024 * 1024;
const MOST_ASSET_BYTES = 25 * MIB;
/** As many as the pack of the largest plan could need, and no more than the platform takes for SHARDS_COUNT (durable/env.ts). */
const MOST_SHARDS = 1024;

export type DeployedPack = PlannedPack & Pick<PackManifest, "contextLength" | "parts">;

export interface DeployWish {
  readonly isolate: IsolateMode;
  /** null: the fewest that fit. */
  readonly shards: number | null;
  readonly replicas: number;
  /** For shards, with --isolate script; null: one each. */
  readonly scripts: number | null;
  readonly plan: FleetPlan | null;
  readonly bucket: string | null;
}

export interface DeployStep {
  readonly name: string;
  readonly config: WranglerConfig;
  /** Before the round of all: once, without bindings to scripts that do not exist yet. */
  readonly isFirstRound: boolean;
}

export interface DeployPlan {
  readonly layout: ServeLayout;
  readonly scripts: readonly FleetScript[];
  /** The largest shard, and the orchestrator or largest stage. */
  readonly memory: { readonly shardBytes: number; readonly trunkBytes: number };
}

/** What is deployed where. Throws a sentence with the numbers where it cannot be. */
export function planDeploy(manifest: DeployedPack, edge: string, wish: DeployWish): DeployPlan {
  const { isolate, replicas, plan, bucket } = wish;
  const room = tenantBytes(LIMITS);
  const layoutOf = (shards: number): ServeLayout => ({
    isolate, shards, replicas, processes: 1, ...(wish.scripts === null ? {} : { scripts: wish.scripts }),
    ...(plan === null ? {} : { slots: plan.shards.map(({ slots }) => slots), stages: plan.stages, lanes: plan.lanes }),
  });
  const layout = layoutOf(plan?.shards.length ?? wish.shards ?? fewestShards(manifest, layoutOf));
  if (wish.scripts !== null && (isolate !== "script" || wish.scripts < layout.shards)) throw new Error(`--scripts ${wish.scripts} goes with --isolate script and at most as many shards; these are ${layout.shards} shards with --isolate ${isolate}.`);
  if (replicas > Math.max(1, layout.shards)) throw new Error(`--replicas ${replicas} asks for each expert on ${replicas} shards, and there are ${layout.shards}; ask for more --shards.`);
  const { trunkBytes, shardBytes } = serveMemory(manifest, layout);
  const largest = Math.max(0, ...shardBytes);
  const has = `an isolate has ${mib(room)} for an object: ${mib(LIMITS.isolateBytes)} of the 128 MB that Cloudflare gives it, less ${mib(LIMITS.inFlightBytes)} for frames in flight`;
  if (trunkBytes > room) {
    throw new Error(`${plan === null ? "The trunk" : "The largest stage"} of pack ${manifest.id} takes ${mib(trunkBytes)} with the KV cache of one request, but ${has}. `
      + "Cut it into stages: `workers-moe plan <pack> --out plan.json`, then --plan plan.json.");
  }
  if (largest > room) throw new Error(`The largest of ${layout.shards} shards of pack ${manifest.id} takes ${mib(largest)}, but ${has}. More --shards make each smaller, and without the option as many are taken as are needed.`);
  const scripts = scriptsOfLayout(layout, edge);
  if (scripts.length + 1 > MOST_SCRIPTS) throw new Error(`This would be ${scripts.length + 1} scripts, and an account has ${MOST_SCRIPTS} (2026-11); --isolate class puts every object into one.`);
  const widest = Math.max(0, ...manifest.parts.map(({ bytes }) => bytes));
  if (bucket === null && widest > MOST_ASSET_BYTES) throw new Error(`Pack ${manifest.id} has parts of ${mib(widest)}, and a static asset has at most ${mib(MOST_ASSET_BYTES)} (2026-11); put it into a bucket with --r2 <bucket>, or pack it with --parts assets.`);
  return { layout, scripts, memory: { trunkBytes, shardBytes: largest } };
}

/** One more at a time: not more bytes need more shards, but whole experts come in steps. */
function fewestShards(manifest: DeployedPack, layoutOf: (shards: number) => ServeLayout): number {
  const room = tenantBytes(LIMITS);
  for (let shards = layoutOf(1).replicas ?? 1; shards < MOST_SHARDS; shards++) {
    if (Math.max(0, ...serveMemory(manifest, layoutOf(shards)).shardBytes) <= room) return shards;
  }
  return MOST_SHARDS;
}

/**
 * The scripts in the order in which they go up: shards and stages, the edge last, so that nothing is asked of what is not there. With `isFirst`, every script that one before it
 * is bound to goes up once without bindings of its own: the platform refuses a binding to a script that does not exist.
 */
export function deploySteps(base: WranglerConfig, scripts: readonly FleetScript[], wishes: ConfigWishes, isFirst: boolean): DeployStep[] {
  const configs = [...scripts.map((script) => heldConfig(base, script, scripts, wishes)), edgeConfig(base, scripts, wishes)];
  const all = configs.map((config): DeployStep => ({ name: config.name, config, isFirstRound: false }));
  if (!isFirst) return all;
  const early = configs.filter(({ name }, at) => configs.slice(0, at).some((before) => boundScripts(before).includes(name)));
  return [...early.map((config): DeployStep => ({ name: config.name, config: unboundConfig(config), isFirstRound: true })), ...all];
}

export const mib = (bytes: number): string => `${(bytes / MIB).toFixed(1)} MiB`;
