// The wrangler configuration of every script of a deployment, from the repository's wrangler.toml: the edge's as it is, with the fleet's bindings and variables, and one for
// each script that holds shards or stages. Owns which script is bound to which. Refuses to write files, and to know where they go: paths are made by `pathTo`.
// Fields are wrangler 4.164's (node_modules/wrangler/config-schema.json).

import { scriptsOf, type FleetScript, type HeldClass } from "./fleet-scripts.ts";

export interface DurableObjectBinding {
  readonly name: string;
  readonly class_name: string;
  /** Absent: the script itself. */
  readonly script_name?: string;
}

/** What is read or written of a configuration; what else wrangler.toml has goes into the edge's as it is. */
export interface WranglerConfig {
  readonly name: string;
  readonly main: string;
  readonly compatibility_date: string;
  readonly workers_dev?: boolean;
  readonly preview_urls?: boolean;
  readonly exports: Readonly<Record<string, { readonly type: string; readonly storage: string }>>;
  readonly durable_objects: { readonly bindings: readonly DurableObjectBinding[]; readonly code_update_strategy?: { readonly mode: string; readonly max_delay: number } };
  readonly assets?: { readonly directory: string; readonly binding: string; readonly run_worker_first: boolean };
  readonly r2_buckets?: readonly { readonly binding: string; readonly bucket_name: string }[];
  readonly vars: Readonly<Record<string, unknown>>;
  readonly limits?: { readonly cpu_ms: number; readonly subrequests: number };
}

export interface ConfigWishes {
  /** Added to wrangler.toml's; every script has the same, since each finds the others' objects by them. */
  readonly vars: Readonly<Record<string, string>>;
  readonly limits?: WranglerConfig["limits"];
  readonly strategy?: WranglerConfig["durable_objects"]["code_update_strategy"];
  /** Bucket with the pack; null: it is in the assets. */
  readonly bucket: string | null;
  readonly mains: { readonly edge: string; readonly held: string };
  /** Folders of assets: the page and the pack, and the pack. */
  readonly assets: { readonly edge: string; readonly held: string };
}

/** Variables about who may ask: a script without routes has no use for them. */
const EDGE_VARS: readonly string[] = ["KEY_SETTINGS", "CORS_ORIGINS"];
const BINDINGS: Readonly<Record<HeldClass, string>> = { ExpertShard: "SHARDS", Stage: "STAGES" };
const HELD: readonly HeldClass[] = ["ExpertShard", "Stage"];

/** The variables that say how many scripts hold what. */
export const scriptVars = (scripts: readonly FleetScript[]): Record<string, string> =>
  ({ SHARD_SCRIPTS: String(scriptsOf(scripts, "ExpertShard").length), STAGE_SCRIPTS: String(scriptsOf(scripts, "Stage").length) });

/** Bindings to every object that lives in a script beside the edge's, as script `own` has them. */
const heldBindings = (scripts: readonly FleetScript[], own: string): DurableObjectBinding[] =>
  HELD.flatMap((held) => scriptsOf(scripts, held).map(({ name }, n) => ({ name: `${BINDINGS[held]}_${n}`, class_name: held, ...(name === own ? {} : { script_name: name }) })));

export function edgeConfig(base: WranglerConfig, scripts: readonly FleetScript[], wishes: ConfigWishes): WranglerConfig {
  const { durable_objects: objects, assets = { directory: "", binding: "ASSETS", run_worker_first: true } } = base;
  return {
    ...base, ...common(base, wishes), main: wishes.mains.edge,
    durable_objects: { ...objects, ...strategyOf(wishes), bindings: [...objects.bindings, ...heldBindings(scripts, base.name)] },
    assets: { ...assets, directory: wishes.assets.edge },
    vars: { ...base.vars, ...wishes.vars, ...scriptVars(scripts) },
  };
}

/** The configuration of a script with shards or stages, which nobody reaches but through a binding. */
export function heldConfig(base: WranglerConfig, script: FleetScript, scripts: readonly FleetScript[], wishes: ConfigWishes): WranglerConfig {
  // The last stage of a ring goes back to the orchestrator, and every stage asks the directory for the plan.
  const ofEdge: DurableObjectBinding[] = !script.classes.includes("Stage") ? []
    : base.durable_objects.bindings.filter(({ name }) => name === "ORCHESTRATOR" || name === "DIRECTORY").map((binding) => ({ ...binding, script_name: base.name }));
  return {
    name: script.name, main: wishes.mains.held, compatibility_date: base.compatibility_date, workers_dev: false, preview_urls: false, ...common(base, wishes),
    exports: Object.fromEntries(script.classes.map((held) => [held, { type: "durable-object", storage: "sqlite" }])),
    durable_objects: { ...strategyOf(wishes), bindings: [...heldBindings(scripts, script.name), ...ofEdge] },
    ...(wishes.bucket === null ? { assets: { directory: wishes.assets.held, binding: "ASSETS", run_worker_first: true } } : {}),
    vars: { ...Object.fromEntries(Object.entries(base.vars).filter(([name]) => !EDGE_VARS.includes(name))), ...wishes.vars, ...scriptVars(scripts) },
  };
}

/** The same without bindings to other scripts: a script that does not exist yet cannot be bound to. */
export const unboundConfig = (config: WranglerConfig): WranglerConfig =>
  ({ ...config, durable_objects: { ...config.durable_objects, bindings: config.durable_objects.bindings.filter(({ script_name: other }) => other === undefined) } });

/** Names of the scripts that a configuration is bound to. */
export const boundScripts = (config: WranglerConfig): string[] => [...new Set(config.durable_objects.bindings.flatMap(({ script_name: other }) => (other === undefined ? [] : [other])))];

const common = ({ r2_buckets: buckets = [] }: WranglerConfig, { bucket, limits }: ConfigWishes): Pick<WranglerConfig, "limits" | "r2_buckets"> => ({
  ...(limits === undefined ? {} : { limits }),
  ...(bucket === null ? {} : { r2_buckets: [...buckets.filter(({ binding }) => binding !== "PACKS"), { binding: "PACKS", bucket_name: bucket }] }),
});

const strategyOf = ({ strategy }: ConfigWishes): Pick<WranglerConfig["durable_objects"], "code_update_strategy"> => (strategy === undefined ? {} : { code_update_strategy: strategy });
