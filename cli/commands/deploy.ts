// `workers-moe deploy <pack>`: writes the wrangler configuration of every script of a deployment, says what goes up and what it counts, and runs `wrangler deploy` for
// each in order. Owns the folder of configurations and assets. Refuses what would not fit before anything is written (../deploy-plan.ts), and secrets: keys are set
// with wrangler. --dry-run ends before anything goes up; it needs no account.

import { spawn } from "node:child_process";
import { InvalidArgumentError, Option, type Command } from "commander";
import { cpSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join, relative, resolve } from "node:path";
import { openPack } from "../../formats/pack-reader.ts";
import { readBaseConfig } from "../base-config.ts";
import { deploySteps, mib, planDeploy, type DeployPlan, type DeployStep } from "../deploy-plan.ts";
import { FolderSource } from "../file-source.ts";
import { ISOLATE_MODES, MOST_SCRIPTS, scriptsOf, type IsolateMode } from "../fleet-scripts.ts";
import { positiveInteger } from "../positive-integer.ts";
import { PLAN_FILE, readPlan } from "../read-plan.ts";
import { scriptVars, type ConfigWishes } from "../script-configs.ts";
import { evenShards } from "../serve-layout.ts";
import { assembleAssets, buildProgram, linkOrCopy, ROOT } from "../setup.mjs";

/** What a script may use of the platform, said rather than left to its defaults (2026-11): CPU time of a message or request, and reads and calls of an invocation. */
const CPU_MS = 30_000;
const SUBREQUESTS = 10_000;
/** Objects that are in use go on with the old code until they rest, at most so long (2026-11: best effort); they lose their weights then. */
const STRATEGY = { mode: "deferred", max_delay: 300 } as const;
/** A subdomain is made of it. */
const NAME = /^[a-z0-9]([a-z0-9-]{0,40}[a-z0-9])?$/;

interface DeployOptions {
  readonly isolate: IsolateMode;
  readonly plan?: string;
  readonly shards?: number;
  readonly replicas: number;
  readonly scripts?: number;
  readonly r2?: string;
  readonly name?: string;
  readonly first?: boolean;
  readonly out: string;
  readonly dryRun?: boolean;
}

export function register(program: Command): void {
  program.command("deploy")
    .description("put a pack on Cloudflare: one Worker, or one for each shard and stage")
    .argument("<pack>", "folder of a pack")
    .addOption(new Option("--isolate <unit>", "class: everything in one script, whose objects may share isolates; script: one for each shard and stage, which never do").choices(ISOLATE_MODES).default("class"))
    .addOption(new Option("--plan <file>", "the first plan, as `workers-moe plan --out` writes it, in place of an even one").conflicts(["shards", "replicas"]))
    .option("--shards <n>", "expert shards (default: the fewest that fit)", positiveInteger)
    .option("--replicas <n>", "shards that hold each expert", positiveInteger, 1)
    .option("--scripts <n>", "with --isolate script: scripts for shards (default: one each); more leave room to grow", positiveInteger)
    .option("--r2 <bucket>", "the pack is in this bucket, below packs/<id>/ (default: it goes up with the scripts, as static assets)")
    .option("--name <name>", "of the edge's script, and the beginning of the others' (default: wrangler.toml's)", scriptName)
    .option("--first", "these scripts do not exist yet: those that others are bound to go up once without bindings before")
    .option("--out <folder>", "for the configurations and assets", join(ROOT, "build", "deploy"))
    .option("--dry-run", "write the configurations and say what would go up")
    .action(deploy);
}

async function deploy(packFolder: string, options: DeployOptions): Promise<void> {
  const pack = resolve(packFolder);
  const { manifest, packHash } = await openPack(new FolderSource(pack));
  const plan = options.plan === undefined ? null : readPlan(options.plan, manifest, packHash);
  const fromToml = await readBaseConfig();
  const base = { ...fromToml, name: options.name ?? fromToml.name };
  const bucket = options.r2 ?? null;
  const made = planDeploy(manifest, base.name, { isolate: options.isolate, shards: options.shards ?? null, replicas: options.replicas, scripts: options.scripts ?? null, plan, bucket });
  await buildProgram();

  const out = resolve(options.out);
  const assets = { edge: join(out, "assets"), held: join(out, "pack-assets") };
  const packFolders = bucket === null ? [join(assets.edge, "packs", manifest.id), ...(made.scripts.length === 0 ? [] : [join(assets.held, "packs", manifest.id)])] : [];
  rmSync(assets.held, { recursive: true, force: true });
  assembleAssets(assets.edge, bucket === null ? { [manifest.id]: pack } : {});
  for (const name of ["manifest.json", "tokenizer.json", ...manifest.parts.map(({ name }) => name)]) for (const folder of packFolders.slice(1)) linkOrCopy(join(pack, name), join(folder, name));
  if (plan !== null) for (const folder of [out, ...packFolders]) writeFileSync(join(folder, PLAN_FILE), JSON.stringify(plan));

  const pathTo = (target: string): string => relative(join(out, base.name), target); // every configuration is in a folder beside it
  const wishes: ConfigWishes = {
    bucket, strategy: STRATEGY, limits: { subrequests: SUBREQUESTS, ...base.limits, cpu_ms: base.limits?.cpu_ms ?? CPU_MS },
    mains: { edge: pathTo(join(ROOT, base.main)), held: pathTo(join(ROOT, "worker", "shard-script.ts")) }, assets: { edge: pathTo(assets.edge), held: pathTo(assets.held) },
    vars: {
      PACK_ID: manifest.id, PACK_SOURCE: bucket === null ? "assets" : "r2", SHARDS_COUNT: evenShards(made.layout), REPLICAS: String(options.replicas),
      // Scripts never share an isolate, so the ledger need not put up with it.
      ...(options.isolate === "script" ? { ISOLATES: "strict" } : {}), ...(plan === null ? {} : { PLAN_FILE, FLEET: plan.fleet }),
    },
  };
  const steps = deploySteps(base, made.scripts, wishes, options.first === true).map((step) => ({ ...step, path: join(out, step.name, step.isFirstRound ? "first.json" : "wrangler.json") }));
  for (const { path, name, config } of steps) {
    mkdirSync(join(out, name), { recursive: true });
    cpSync(join(ROOT, "tsconfig.json"), join(out, name, "tsconfig.json")); // the bundler looks for it beside the configuration
    writeFileSync(path, `${JSON.stringify(config, null, 2)}\n`);
  }
  process.stdout.write(said(made, steps, { id: manifest.id, name: base.name, bucket, out, hasPlan: plan !== null, isDry: options.dryRun === true }));
  if (options.dryRun === true) return;
  for (const [n, { name, path }] of steps.entries()) {
    process.stderr.write(`${n + 1} of ${steps.length}: ${name}\n`);
    const code = await wrangler(["deploy", "--config", path]);
    if (code === 0) continue;
    const hint = options.first === true || made.scripts.length === 0 ? "" : " Where the scripts do not exist yet, deploy with --first.";
    throw new Error(`wrangler deploy of ${name} ended with exit code ${code}; what it said is above. ${n} of ${steps.length} steps went up before, and the same command can be run again.${hint}`);
  }
}

/** What goes up, in words. */
function said({ layout, scripts, memory }: DeployPlan, steps: readonly (DeployStep & { readonly path: string })[], of: {
  readonly id: string; readonly name: string; readonly bucket: string | null; readonly out: string; readonly hasPlan: boolean; readonly isDry: boolean;
}): string {
  const { SHARD_SCRIPTS: nShards, STAGE_SCRIPTS: nStages } = scriptVars(scripts);
  const stages = layout.stages?.length ?? 1;
  const edge = steps.findLast(({ name }) => name === of.name)!;
  return [
    `Pack ${of.id}: ${layout.shards} shards of at most ${mib(memory.shardBytes)}; ${layout.lanes ?? 1} ${(layout.lanes ?? 1) === 1 ? "lane" : "lanes"} of ${stages} ${stages === 1 ? "stage" : "stages"} of at most ${mib(memory.trunkBytes)}, with the KV cache of one request.`,
    scriptsOf(scripts, "ExpertShard").length === 0
      ? `One script, ${of.name}: 1 of the ${MOST_SCRIPTS} of an account. Its objects may share isolates; --isolate script gives each one of its own.`
      : `${scripts.length + 1} of the ${MOST_SCRIPTS} scripts of an account: ${nShards} for shards, ${nStages} for stages, ${of.name} with the API. Scripts cost nothing by themselves; only ${of.name} has a route.`,
    of.bucket === null ? "The pack goes up as static assets of every script." : `The pack is read from the bucket ${of.bucket}, below packs/${of.id}/.${of.hasPlan ? ` Put the plan there, too: npx wrangler r2 object put ${of.bucket}/packs/${of.id}/${PLAN_FILE} --file ${join(of.out, PLAN_FILE)} --remote` : ""}`,
    `Keys are set once: npx wrangler secret put API_KEYS --config ${edge.path}`,
    `${of.isDry ? "Would go" : "Goes"} up, in this order:`,
    ...steps.map(({ name, path, isFirstRound }) => `  ${name}${isFirstRound ? " (without bindings)" : ""}: ${path}`), "",
  ].join("\n");
}

function wrangler(args: readonly string[]): Promise<number> {
  const child = spawn(process.execPath, [join(ROOT, "node_modules", "wrangler", "bin", "wrangler.js"), ...args], { cwd: ROOT, stdio: "inherit", env: { ...process.env, WRANGLER_SEND_METRICS: "false" } });
  return new Promise((done, failed) => child.on("error", failed).on("exit", (code) => done(code ?? 1)));
}

function scriptName(text: string): string {
  if (!NAME.test(text)) throw new InvalidArgumentError("Expected up to 42 lower-case letters, digits and hyphens, as a script's name has them.");
  return text;
}
