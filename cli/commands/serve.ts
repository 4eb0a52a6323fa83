// `workers-moe serve <pack>`: the whole system on this machine, in workerd under `wrangler dev`, with the page and the API on one port.
// Owns the temporary assets folder (links to page and pack), when processes run (../local-cluster.ts), and the word `ready`, printed once /health says so.
// With --processes N shards and stages live in N - 1 processes of their own; one that ends is started again, and only the first one's end ends all.
// With --isolate script each has a Worker script, and with it an isolate, of its own (../fleet-scripts.ts), in whichever process.
// Refuses packs that would not fit before anything is started (../serve-memory.ts).

import { InvalidArgumentError, Option, type Command } from "commander";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { openPack } from "../../formats/pack-reader.ts";
import { writeClusterState } from "../cluster-state.ts";
import { FolderSource } from "../file-source.ts";
import { ISOLATE_MODES, processOf, type IsolateMode } from "../fleet-scripts.ts";
import { startProcess, writeConfigs, type Deployment } from "../local-cluster.ts";
import { freePort, HOST, portNumber, requireFreePort } from "../local-ports.ts";
import { positiveInteger } from "../positive-integer.ts";
import { PLAN_FILE, readPlan } from "../read-plan.ts";
import { evenShards, requireLayout, scriptsOfLayout, type ServeLayout } from "../serve-layout.ts";
import { liftedNotice, MOST_ISOLATE_MIB, requireServeMemory } from "../serve-memory.ts";
import { assembleAssets, buildProgram, ROOT } from "../setup.mjs";
import { ShardProcess, type RunningProcess } from "../shard-process.ts";

/** wrangler needs 3 to 6 s to bundle and start, loading a large pack a minute; what takes longer has failed silently. */
const STARTUP_MS_MAX = 300_000;
const POLL_MS = 100;

interface ServeOptions {
  readonly port: number;
  readonly processes: number;
  readonly shards: number;
  readonly replicas: number;
  readonly isolate: IsolateMode;
  readonly scripts?: number;
  readonly isolates: string;
  readonly isolateMib?: number;
  readonly plan?: string;
  readonly stateFile?: string;
}

export function register(program: Command): void {
  program.command("serve")
    .description("serve a pack on this machine: OpenAI-compatible API and page")
    .argument("<pack>", "folder of a pack")
    .option("-p, --port <port>", "port to listen on", portNumber, 8787)
    .option("--shards <n>", "expert shards to spread the experts over", positiveInteger, 4)
    .addOption(new Option("--isolate <unit>", "what has an isolate of its own: the class (in each process), or a Worker script for every shard and stage").choices(ISOLATE_MODES).default("class"))
    .option("--scripts <n>", "with --isolate script: scripts for shards (default: one each); more leave room to grow", positiveInteger)
    .option("--isolates <mode>", "shared: several shards may share one isolate, as they do locally; strict: they refuse", isolatesMode, "shared")
    .option("--isolate-mib <n>", "memory of one isolate, on this machine only: production's 90 MiB hold small trunks", isolateMebibytes)
    .option("--processes <n>", "workerd processes: with more than one, shards and stages are spread over all but the first", positiveInteger, 1)
    .option("--replicas <n>", "shards that hold each expert: with 2, no answer waits for one that is down", positiveInteger, 1)
    .addOption(new Option("--plan <file>", "the first plan, as `workers-moe plan --out` writes it, in place of an even one").conflicts(["shards", "replicas"]))
    .option("--state-file <file>", "keep a JSON document there: which process holds which shards, its pid, whether it is up")
    .action(serve);
}

async function serve(packFolder: string, options: ServeOptions): Promise<void> {
  const pack = resolve(packFolder);
  const id = readPackId(pack);
  const { manifest, packHash } = await openPack(new FolderSource(pack));
  const plan = options.plan === undefined ? null : readPlan(options.plan, manifest, packHash);
  const layout: ServeLayout = plan === null ? options : {
    processes: options.processes, isolate: options.isolate, shards: plan.shards.length, slots: plan.shards.map(({ slots }) => slots), stages: plan.stages, lanes: plan.lanes,
    ...(options.scripts === undefined ? {} : { scripts: options.scripts }),
  };
  if (options.scripts !== undefined && options.isolate !== "script") throw new Error("--scripts counts the scripts of --isolate script; add that, or leave --scripts away.");
  requireLayout(layout);
  requireServeMemory(manifest, layout, options.isolateMib ?? null);
  await requireFreePort(options.port);
  await buildProgram();

  mkdirSync(join(ROOT, "build"), { recursive: true });
  const work = mkdtempSync(join(ROOT, "build", "serve-"));
  const cleanUp = (): void => rmSync(work, { recursive: true, force: true });
  process.on("exit", cleanUp);
  const assets = join(work, "assets");
  assembleAssets(assets, { [id]: pack });
  if (plan !== null) writeFileSync(join(assets, "packs", id, PLAN_FILE), JSON.stringify(plan));

  const keySets = ["API_KEYS", "ADMIN_KEYS"].filter((name) => (process.env[name] ?? "") !== "");
  const envFile = join(work, "vars");
  // A line for every request is for whoever runs a server, not for a first look: LOG=on asks for it.
  const logLine = `LOG='${process.env["LOG"] === "on" ? "on" : "off"}'\n`;
  writeFileSync(envFile, logLine + [...keySets, "KEY_SETTINGS", "CORS_ORIGINS", "TRACE_SHARE"].map(settingLine).join("") + (keySets.length === 0 ? 'OPEN_ACCESS="true"\n' : ""), { mode: 0o600 });
  process.stderr.write(keySets.length === 0
    ? `Open access: no API_KEYS are set, so every program on this machine may use the API (it listens on ${HOST} only).\n`
    : `${keySets.join(" and ")} are set: requests need one of them.\n`);
  // An entry is a key, or `<name>:<key>` (worker/auth.ts).
  const ownKey = (process.env[keySets[0] ?? ""] ?? "").split(",")[0]!.trim().replace(/^[\w.-]{1,64}:/, "");

  if (options.isolateMib !== undefined) process.stderr.write(`${liftedNotice(manifest, layout, options.isolateMib)}\n`);

  const at: Deployment = {
    id, assets, envFile, work, scripts: scriptsOfLayout(layout, "workers-moe"), isLifted: options.isolateMib !== undefined,
    vars: {
      SHARDS_COUNT: evenShards(layout), REPLICAS: String(layout.replicas ?? 1), ISOLATES: options.isolates,
      ...(plan === null ? {} : { PLAN_FILE, FLEET: plan.fleet }),
      ...(options.isolateMib === undefined ? {} : { ISOLATE_MIB: String(options.isolateMib) }),
    },
  };
  await writeConfigs(at);
  await run(at, options, layout, ownKey);
}

/** Starts the processes, says `ready`, and returns when all have ended. Throws where it was none that was asked for. */
async function run(at: Deployment, options: Pick<ServeOptions, "port" | "stateFile">, { processes, shards: nShards }: ServeLayout, ownKey: string): Promise<void> {
  const nOthers = processes - 1;
  let first: RunningProcess | null = null;
  const others: { readonly port: number; readonly process: ShardProcess }[] = [];
  const changed = (): void => {
    if (options.stateFile === undefined) return;
    writeClusterState(options.stateFile, {
      url: `http://${HOST}:${options.port}`, firstPid: first?.pid ?? null,
      shardProcesses: others.map(({ port, process: { pid, state, restarts, lastOutageMs } }, other) => ({
        pid, port, shards: Array.from({ length: nShards }, (_, shard) => shard).filter((shard) => processOf(at.scripts, "ExpertShard", shard) === other + 1), state, restarts, lastOutageMs,
      })),
    });
  };
  const endOthers = (): void => { for (const { process } of others) process.stop(); };
  let asked = false; // somebody asked us to stop: how the children then end is no failure
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.on(signal, () => {
      asked = true;
      // The first process would complain of connections lost: it goes before the others, and they go when it is gone.
      if (first === null) endOthers();
      else first.end();
    });
  }
  // Whatever ends this process, groups of its own making do not outlive it.
  process.on("exit", () => {
    first?.end();
    endOthers();
  });
  const allKept = (): Promise<unknown> => Promise.all(others.map(({ process: other }) => other.kept));

  // One after another: processes that start together race for the port over which the registry joins them (2026-11).
  for (let number = 1; number <= nOthers && !asked; number++) {
    const port = await freePort();
    const label = `Shard process ${number} of ${nOthers}`;
    const other = new ShardProcess({
      label, start: () => startProcess(at, number, port), say: (line) => void process.stderr.write(`${line}\n`), changed,
      random: Math.random, sleep: (ms) => new Promise((done) => setTimeout(done, ms)), nowMs: () => performance.now(),
    });
    others.push({ port, process: other });
    if (!(await other.start()) && !asked) {
      endOthers();
      await allKept();
      throw new Error(`${label} did not start. What it said is above.`);
    }
  }
  // A signal that came meanwhile has not reached a process that did not exist.
  if (asked) return void await allKept();
  const edge = startProcess(at, 0, options.port);
  first = edge;
  changed();
  let stopped = false;
  const exited = edge.ended.then((how) => {
    stopped = true;
    endOthers();
    return how;
  });

  const ready = await waitUntilReady(`http://${HOST}:${options.port}/health`, ownKey, () => stopped);
  if (ready === null) process.stdout.write(`ready http://localhost:${options.port}\n`);
  else if (!stopped) {
    edge.end();
    await Promise.all([exited, allKept()]);
    throw new Error(ready);
  }
  const how = await exited;
  await allKept();
  if (!asked && how !== "exit code 0") throw new Error(`The local runtime ended (${how}). What it said is above.`);
}

/** A setting of the environment as a line of an env file, nothing where it is not set. Only single quotes leave what is in them as it is. */
function settingLine(name: string): string {
  const value = process.env[name] ?? "";
  if (value === "") return "";
  if (value.includes("'")) throw new Error(`${name} has a quote (') in it, which cannot be passed on; expected a value without one.`);
  return `${name}='${value}'\n`;
}

/** Asks /health until it is ready; null when it is, else a sentence. */
async function waitUntilReady(healthUrl: string, key: string, stopped: () => boolean): Promise<string | null> {
  const started = performance.now();
  let last = "no answer";
  while (!stopped()) {
    if (performance.now() - started > STARTUP_MS_MAX) return `The server was not ready after ${STARTUP_MS_MAX / 1000} s; its last answer was: ${last}.`;
    try {
      const response = await fetch(healthUrl, { headers: key === "" ? {} : { Authorization: `Bearer ${key}` } });
      last = await response.text();
      if (response.status === 200) return null;
      if (response.status !== 503) return `The server cannot load the pack: ${sentenceOf(last)}`;
    } catch {
      // Nothing listens yet.
    }
    await new Promise((done) => setTimeout(done, POLL_MS));
  }
  return "stopped";
}

function sentenceOf(body: string): string {
  try {
    return (JSON.parse(body) as { error?: { message?: string } }).error?.message ?? body;
  } catch {
    return body;
  }
}

function readPackId(pack: string): string {
  const manifest = join(pack, "manifest.json");
  if (!existsSync(manifest)) {
    throw new Error(`${pack} is not a pack: it holds no manifest.json. Make one with \`workers-moe pack <model> --out ${basename(pack)}\`.`);
  }
  const { id } = JSON.parse(readFileSync(manifest, "utf8")) as { id?: unknown };
  if (typeof id !== "string" || !/^[a-z0-9._-]+$/.test(id)) throw new Error(`${manifest}: \`id\` is ${JSON.stringify(id)}; lower-case letters, digits, '-', '.' and '_' were expected.`);
  return id;
}

function isolateMebibytes(text: string): number {
  const n = positiveInteger(text);
  if (n > MOST_ISOLATE_MIB) throw new InvalidArgumentError(`Expected at most ${MOST_ISOLATE_MIB}: a WebAssembly memory ends at 4 GiB.`);
  return n;
}

function isolatesMode(text: string): string {
  if (text !== "shared" && text !== "strict") throw new InvalidArgumentError('Expected "shared" or "strict".');
  return text;
}
