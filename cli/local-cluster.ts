// The processes of a deployment on this machine: a wrangler configuration for each script, and `wrangler dev` started over those of one process. Owns those files, the
// registry over which processes find each other, and what is left behind when one is killed. Refuses to decide when a process runs (commands/serve.ts, shard-process.ts),
// and what lives where (fleet-scripts.ts). What wrangler's registry does when a process dies was measured: docs/fleet.md, "Local cluster" (2026-11, wrangler 4.164.0).

import { spawn, type ChildProcess } from "node:child_process";
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join, relative } from "node:path";
import { readBaseConfig } from "./base-config.ts";
import type { FleetScript } from "./fleet-scripts.ts";
import { HOST } from "./local-ports.ts";
import { edgeConfig, heldConfig, scriptVars, type ConfigWishes } from "./script-configs.ts";
import { ROOT } from "./setup.mjs";
import type { RunningProcess } from "./shard-process.ts";

/** wrangler needs 3 to 6 s to bundle and start, several times that on a busy machine; what takes longer has failed silently. */
const START_MS_MAX = 120_000;
const POLL_MS = 50;

export interface Deployment {
  /** Of the pack. */
  readonly id: string;
  readonly assets: string;
  readonly envFile: string;
  /** Folder of this run. */
  readonly work: string;
  /** Those beside the edge's, each in the process that it names. */
  readonly scripts: readonly FleetScript[];
  /** Isolates are larger than production's. */
  readonly isLifted: boolean;
  /** Variables of every script, beside those that follow from the above. */
  readonly vars: Readonly<Record<string, string>>;
}

const EDGE = "main";
const registryOf = ({ work }: Deployment): string => join(work, "registry");
const scriptsIn = ({ scripts }: Deployment, number: number): FleetScript[] => scripts.filter(({ process: of }) => of === number);

/** Writes the configurations of all scripts. */
export async function writeConfigs(at: Deployment): Promise<void> {
  const write = (name: string, file: string, text: string): void => {
    mkdirSync(join(at.work, name), { recursive: true });
    cpSync(join(ROOT, "tsconfig.json"), join(at.work, name, "tsconfig.json")); // the bundler looks for it beside the configuration
    writeFileSync(join(at.work, name, file), text);
  };
  if (isPlain(at)) {
    // The repository's as it is: reading it takes wrangler a second, and there is nothing to add that is no option.
    const text = readFileSync(join(ROOT, "wrangler.toml"), "utf8").replace(/^main = "(.*)"$/m, (_, main: string) => `main = ${JSON.stringify(join(ROOT, main))}`);
    return write(EDGE, "wrangler.toml", text);
  }
  const base = await readBaseConfig();
  const pathTo = (target: string): string => relative(join(at.work, EDGE), target); // every configuration is in a folder beside it
  const wishes: ConfigWishes = {
    vars: varsOf(at), bucket: null, assets: { edge: pathTo(at.assets), held: pathTo(at.assets) },
    mains: { edge: pathTo(join(ROOT, at.isLifted ? "worker/local-worker.ts" : base.main)), held: pathTo(join(ROOT, at.isLifted ? "worker/local-shards.ts" : "worker/shard-script.ts")) },
  };
  for (const [name, config] of [[EDGE, edgeConfig(base, at.scripts, wishes)] as const, ...at.scripts.map((script) => [script.name, heldConfig(base, script, at.scripts, wishes)] as const)]) {
    write(name, "wrangler.json", JSON.stringify(config));
  }
}

const isPlain = ({ scripts, isLifted }: Deployment): boolean => scripts.length === 0 && !isLifted;
const varsOf = ({ id, vars }: Deployment): Record<string, string> => ({ PACK_ID: id, PACK_SOURCE: "assets", ...vars });
const configPath = (at: Deployment, name: string): string => join(at.work, name, isPlain(at) ? "wrangler.toml" : "wrangler.json");

/** Starts process `number`: 0 is the one with API, page and orchestrators. What an earlier one of the number has left is ended first. */
export function startProcess(at: Deployment, number: number, port: number): RunningProcess {
  const scripts = scriptsIn(at, number);
  const entries = scripts.map(({ name }) => join(registryOf(at), name));
  // A process that was killed leaves its entries, and another one of their names waits 90 s for them to grow old (2026-11, wrangler 4.164.0).
  for (const entry of entries) rmSync(entry, { force: true });
  const configs = [...(number > 0 ? [] : [configPath(at, EDGE)]), ...scripts.map(({ name }) => configPath(at, name))];
  const child = startWrangler(configs, port, at);
  let isOver = false;
  const ended = new Promise<string>((done) => {
    child.on("error", (cause) => done(cause.message));
    child.on("exit", (code, signal) => {
      endGroup(child); // of wrangler's own processes the runtime outlives it, and with it the port
      done(signal === null ? `exit code ${code ?? 1}` : `killed by ${signal}`);
    });
  });
  void ended.then(() => (isOver = true));
  return {
    pid: child.pid ?? 0, ended,
    // All of it at once: a bundler that outlives wrangler in the middle of a build (at the start, or when a source file has changed) waits for answers that never come,
    // and prints a dump of its stacks (2026-11, esbuild 0.28.2). There is nothing to put in order: whatever a process writes is in this run's folder.
    end: () => endGroup(child),
    // Bindings find its scripts as soon as they are in the registry, which is when it answers, or a second later (2026-11).
    isUp: async () => {
      for (const started = performance.now(); !isOver && performance.now() - started < START_MS_MAX;) {
        if (entries.every((entry) => existsSync(entry)) && await answers(`http://${HOST}:${port}/`)) return true;
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
function endGroup(child: ChildProcess): void {
  try {
    if (child.pid !== undefined && process.platform !== "win32") process.kill(-child.pid, "SIGKILL");
    else child.kill("SIGKILL");
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== "ESRCH") throw cause;
  }
}

function startWrangler(configs: readonly string[], port: number, at: Deployment): ChildProcess {
  // Of several configurations the first is the process' own, and these options are its alone; the others have all they need in theirs.
  const vars = isPlain(at) ? Object.entries({ ...varsOf(at), ...scriptVars([]) }) : [];
  const args = [
    join(ROOT, "node_modules", "wrangler", "bin", "wrangler.js"), "dev",
    ...configs.flatMap((config) => ["--config", config]), "--local", "--ip", HOST, "--port", String(port), "--inspector-port", "0",
    // By port: a process that is started again has the objects, and their storage, of the one before.
    "--assets", at.assets, "--persist-to", join(at.work, `state-${port}`), "--env-file", at.envFile,
    "--log-level", "warn", "--show-interactive-dev-session=false", ...vars.flatMap(([name, value]) => ["--var", `${name}:${value}`]),
  ];
  const temporary = join(at.work, "tmp");
  mkdirSync(temporary, { recursive: true });
  const env = {
    ...process.env, WRANGLER_SEND_METRICS: "false",
    // Local observability makes every WebSocket event four times slower (measured 2026-11 with wrangler 4.164).
    X_LOCAL_OBSERVABILITY: "false",
    // A registry of its own: other programs' shards must not be taken for ours. The second name goes before the first.
    WRANGLER_REGISTRY_PATH: registryOf(at), CLOUDFLARE_DEV_REGISTRY_PATH: registryOf(at),
    // What a process that is killed leaves behind goes with the run's folder.
    TMPDIR: temporary,
  };
  return spawn(process.execPath, args, { cwd: ROOT, env, stdio: ["ignore", "ignore", "inherit"], detached: process.platform !== "win32" });
}
