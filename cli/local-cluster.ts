// The processes of a deployment on this machine: a wrangler configuration for each, and `wrangler dev` started over it. Owns those files, the registry
// over which the processes find each other, and what is left behind when one is killed. Refuses to decide when a process runs (commands/serve.ts, shard-process.ts).
// What wrangler's registry does when a process dies was measured: docs/fleet.md, "Local cluster" (2026-11, wrangler 4.164.0).

import { spawn, type ChildProcess } from "node:child_process";
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { HOST } from "./local-ports.ts";
import { ROOT } from "./setup.mjs";
import type { RunningProcess } from "./shard-process.ts";

/** wrangler needs 3 to 6 s to bundle and start, several times that on a busy machine; what takes longer has failed silently. */
const SHARD_START_MS_MAX = 120_000;
const POLL_MS = 50;

export interface Deployment {
  /** Of the pack. */
  readonly id: string;
  readonly assets: string;
  readonly envFile: string;
  /** Folder of this run. */
  readonly work: string;
  /** Processes that hold nothing but shards. */
  readonly nScripts: number;
  /** Isolates are larger than production's. */
  readonly isLifted: boolean;
  /** Variables of every process, beside those that follow from the above. */
  readonly vars: Readonly<Record<string, string>>;
}

const shardScript = (script: number): string => `workers-moe-shards-${script}`;
const registryOf = ({ work }: Deployment): string => join(work, "registry");

/** Starts the first process: API, page and orchestrator, and the shards where no other process has them. */
export function startFirst(at: Deployment, port: number): ChildProcess {
  const config = at.nScripts === 0 && !at.isLifted ? join(ROOT, "wrangler.toml") : writeFirstConfig(at);
  return startWrangler(config, port, at, false);
}

/** Starts a process with shards, after ending what an earlier one of this number has left. */
export function startShards(at: Deployment, script: number, port: number): RunningProcess {
  const entry = join(registryOf(at), shardScript(script));
  // A process that was killed leaves its entry, and another one of its name waits 90 s for it to grow old (2026-11, wrangler 4.164.0).
  rmSync(entry, { force: true });
  const child = startWrangler(writeShardConfig(at, script), port, at, true);
  let isOver = false;
  const ended = new Promise<string>((done) => {
    child.on("error", (cause) => done(cause.message));
    child.on("exit", (code, signal) => {
      endGroup(child, "SIGKILL"); // of wrangler's own processes the runtime outlives it, and with it the port
      done(signal === null ? `exit code ${code ?? 1}` : `killed by ${signal}`);
    });
  });
  void ended.then(() => (isOver = true));
  return {
    pid: child.pid ?? 0, ended,
    end: (signal) => (signal === "SIGKILL" ? endGroup(child, signal) : void child.kill(signal)),
    // Bindings find it as soon as it is in the registry, which is when it answers, or a second later (2026-11).
    isUp: async () => {
      for (const started = performance.now(); !isOver && performance.now() - started < SHARD_START_MS_MAX;) {
        if (existsSync(entry) && await answers(`http://${HOST}:${port}/`)) return true;
        await new Promise((done) => setTimeout(done, POLL_MS));
      }
      return false;
    },
  };
}

async function answers(url: string): Promise<boolean> {
  try {
    await (await fetch(url)).arrayBuffer();
    return true;
  } catch {
    return false;
  }
}

/** Windows has no process groups: there it is the process alone. */
function endGroup(child: ChildProcess, signal: NodeJS.Signals): void {
  try {
    if (child.pid !== undefined && process.platform !== "win32") process.kill(-child.pid, signal);
    else child.kill(signal);
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== "ESRCH") throw cause;
  }
}

/** wrangler.toml of the first process: the repository's, with the shards' scripts bound, and the entry that lifts the isolate's limit. */
function writeFirstConfig({ work, nScripts, isLifted }: Deployment): string {
  const text = readFileSync(join(ROOT, "wrangler.toml"), "utf8").replace(/^main = "(.*)"$/m, (_, main: string) => `main = ${JSON.stringify(join(ROOT, isLifted ? "worker/local-worker.ts" : main))}`);
  const bindings = Array.from({ length: nScripts }, (_, script) =>
    `\n[[durable_objects.bindings]]\nname = "SHARDS_${script}"\nclass_name = "ExpertShard"\nscript_name = "${shardScript(script)}"\n`);
  return writeConfig(work, "main", text + bindings.join(""));
}

/** wrangler.toml of a process with shards. */
function writeShardConfig({ work, isLifted }: Deployment, script: number): string {
  const date = /^compatibility_date = .*$/m.exec(readFileSync(join(ROOT, "wrangler.toml"), "utf8"))![0];
  return writeConfig(work, shardScript(script), [
    `name = "${shardScript(script)}"`, `main = ${JSON.stringify(join(ROOT, isLifted ? "worker/local-shards.ts" : "worker/shard-script.ts"))}`, date,
    '[exports.ExpertShard]', 'type = "durable-object"', 'storage = "sqlite"',
    '[assets]', 'directory = "assets"', 'binding = "ASSETS"', "run_worker_first = true", "",
  ].join("\n"));
}

function writeConfig(work: string, name: string, text: string): string {
  const folder = join(work, name);
  mkdirSync(folder, { recursive: true });
  // The bundler looks for it beside the configuration.
  cpSync(join(ROOT, "tsconfig.json"), join(folder, "tsconfig.json"));
  const path = join(folder, "wrangler.toml");
  writeFileSync(path, text);
  return path;
}

function startWrangler(config: string, port: number, at: Deployment, isGroup: boolean): ChildProcess {
  const vars = Object.entries({ PACK_ID: at.id, PACK_SOURCE: "assets", SHARD_SCRIPTS: String(at.nScripts), ...at.vars });
  const args = [
    join(ROOT, "node_modules", "wrangler", "bin", "wrangler.js"), "dev",
    "--config", config, "--local", "--ip", HOST, "--port", String(port), "--inspector-port", "0",
    // By port: a process that is started again has the objects, and their storage, of the one before.
    "--assets", at.assets, "--persist-to", join(at.work, `state-${port}`), "--env-file", at.envFile,
    "--log-level", "warn", "--show-interactive-dev-session=false", ...vars.flatMap(([name, value]) => ["--var", `${name}:${value}`]),
  ];
  const env = {
    ...process.env, WRANGLER_SEND_METRICS: "false",
    // Local observability makes every WebSocket event four times slower (measured 2026-11 with wrangler 4.164).
    X_LOCAL_OBSERVABILITY: "false",
    // A registry of its own: other programs' shards must not be taken for ours. The second name goes before the first.
    WRANGLER_REGISTRY_PATH: registryOf(at), CLOUDFLARE_DEV_REGISTRY_PATH: registryOf(at),
  };
  return spawn(process.execPath, args, { cwd: ROOT, env, stdio: ["ignore", "ignore", "inherit"], detached: isGroup && process.platform !== "win32" });
}
