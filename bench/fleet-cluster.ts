// A local cluster for benchmarks: the real command `serve --processes N`, with its state file, over an even plan or one that is given. Owns the process, killing those
// of its shards, and asking what the fleet says of itself. Refuses processes it did not start: pids come from the state file of its own server.

import { execFile, spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { readClusterState, type ClusterState } from "../cli/cluster-state.ts";
import type { IsolateMode } from "../cli/fleet-scripts.ts";
import { freePort } from "../cli/local-ports.ts";
import { pinnedNode, ROOT } from "../cli/setup.mjs";
import type { FleetPlan } from "../fleet/fleet-plan.ts";

const POLL_MS = 50;
/** A process that does not come back in this time is a finding, not something to wait for. */
const UP_MS_MAX = 120_000;

export interface EvenShards {
  readonly shards: number;
  readonly replicas: number;
  readonly plan?: never;
}

export type ClusterOptions = (EvenShards | { readonly plan: FleetPlan }) & {
  readonly processes: number;
  /** Absent: "class". */
  readonly isolate?: IsolateMode;
  /** With "script": for shards, where there is to be room for more than at first. */
  readonly scripts?: number;
  /** "strict": what would share an isolate's memory beyond its limit refuses. Absent: "shared". */
  readonly isolates?: "shared" | "strict";
  /** Memory of one isolate where production's limit is lifted. */
  readonly isolateMib?: number;
};

/** The option --isolate of a benchmark. */
export function isolateOption(text: string | null): IsolateMode {
  if (text !== null && text !== "class" && text !== "script") throw new Error(`--isolate is "${text}"; expected class or script.`);
  return text ?? "class";
}

export interface Cluster {
  readonly url: string;
  /** What is started and how, for the output. */
  readonly profile: string;
  state(): ClusterState;
  /** SIGKILL to all of a process with shards: wrangler, its runtimes, its bundler. */
  kill(process: number): void;
  /** Waits until every process is up; throws when one is not in time, or was given up. */
  allUp(): Promise<void>;
  /** The answer of a route that speaks JSON; throws when its status is not 2xx. */
  ask<T>(path: string, body?: object): Promise<T>;
  stop(): Promise<void>;
}

const pause = (ms: number): Promise<void> => new Promise((done) => setTimeout(done, ms));
const COMMAND = join(ROOT, "bin", "workers-moe.js");
const environment = (): NodeJS.ProcessEnv => ({ ...process.env, API_KEYS: "", ADMIN_KEYS: "" });

/** The sentence with which `serve` refuses a pack; null where it had not refused after as long as a process takes to come up, and was ended. */
export async function refusalOf(pack: string, { shards, processes, isolates = "shared" }: Pick<EvenShards, "shards"> & Pick<ClusterOptions, "processes" | "isolates">): Promise<string | null> {
  const args = [COMMAND, "serve", pack, "--port", String(await freePort()), "--shards", String(shards), "--processes", String(processes), "--isolates", isolates];
  return new Promise((done) => {
    execFile(pinnedNode, args, { cwd: ROOT, env: environment(), timeout: UP_MS_MAX, killSignal: "SIGTERM" }, (cause, _, errors) => done(cause === null || cause.killed === true ? null : errors.trim().replace(/^workers-moe: /, "")));
  });
}

export async function startCluster(pack: string, options: ClusterOptions): Promise<Cluster> {
  const { processes, isolate = "class", scripts, isolates = "shared", isolateMib } = options;
  const [port, folder] = [await freePort(), mkdtempSync(join(tmpdir(), "workers-moe-cluster-"))];
  const [stateFile, planFile] = [join(folder, "state.json"), join(folder, "plan.json")];
  if (options.plan !== undefined) writeFileSync(planFile, JSON.stringify(options.plan));
  const args = ["serve", pack, "--port", String(port), "--processes", String(processes), "--isolate", isolate, "--isolates", isolates,
    ...(options.plan === undefined ? ["--shards", String(options.shards), "--replicas", String(options.replicas)] : ["--plan", planFile]),
    ...(scripts === undefined ? [] : ["--scripts", String(scripts)]), ...(isolateMib === undefined ? [] : ["--isolate-mib", String(isolateMib)]), "--state-file", stateFile];
  const child = spawn(pinnedNode, [COMMAND, ...args], { cwd: ROOT, env: environment(), stdio: ["ignore", "pipe", "inherit"] });
  const exited = new Promise<number | null>((done) => child.on("exit", (code) => done(code)));
  const url = `http://127.0.0.1:${port}`;
  const stop = async (): Promise<void> => {
    child.kill("SIGTERM");
    await exited;
    rmSync(folder, { recursive: true, force: true });
  };
  // Its shard processes are in groups of their own, which a signal to this one does not reach.
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => void stop().then(() => process.exit(1)));
  let output = "";
  const isReady = await Promise.race([
    new Promise<true>((done) => child.stdout!.setEncoding("utf8").on("data", (text: string) => {
      output += text;
      if (/^ready /m.test(output)) done(true);
    })),
    exited.then(() => false as const),
  ]);
  if (!isReady) {
    await stop();
    throw new Error("The cluster did not come up. What it said is above.");
  }
  const state = (): ClusterState => readClusterState(stateFile);
  return {
    url, state, stop,
    profile: profileOf(options),
    kill: (number) => {
      const { pid } = state().shardProcesses[number]!;
      if (pid === null) throw new Error(`Shard process ${number + 1} was to be killed, but it is down.`);
      process.kill(process.platform === "win32" ? pid : -pid, "SIGKILL");
    },
    allUp: async () => {
      for (const started = performance.now(); ; await pause(POLL_MS)) {
        const processesNow = state().shardProcesses;
        if (processesNow.every((of) => of.state === "up")) return;
        if (processesNow.some((of) => of.state === "given up") || performance.now() - started > UP_MS_MAX) {
          throw new Error(`A shard process did not come back: ${processesNow.map((of) => of.state).join(", ")}.`);
        }
      }
    },
    ask: async <T>(path: string, body?: object) => {
      const response = await fetch(`${url}${path}`, body === undefined ? {} : { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
      const text = await response.text();
      if (!response.ok) throw new Error(`${body === undefined ? "GET" : "POST"} ${path} was answered ${response.status}: ${text.slice(0, 500)}`);
      return JSON.parse(text) as T;
    },
  };
}

function profileOf(options: ClusterOptions): string {
  const { processes, isolate = "class", scripts, isolates = "shared", isolateMib } = options;
  const limit = `${isolates === "strict" ? ", strict isolates" : ""}${isolateMib === undefined ? "" : `, isolates of ${isolateMib} MiB`}`;
  const where = processes === 1 ? "wrangler dev, one process" : `wrangler dev, ${processes} processes joined by the dev registry`;
  const others = processes === 1 ? "the same" : String(processes - 1);
  const scriptsOf = (n: number, what: string): string => `${isolate === "class" ? "one script a process" : `a script for each of ${n} ${what}`}${limit}`;
  if (options.plan !== undefined) {
    const { lanes, stages, shards } = options.plan;
    const nStages = lanes * (stages.length - 1);
    return `${where}: one with the API and ${lanes === 1 ? "the orchestrator" : `the orchestrators of ${lanes} lanes`}, ${others} with ${nStages} further stages and ${shards.length} shards; `
      + scriptsOf(nStages + shards.length, "stages and shards");
  }
  const { shards, replicas } = options;
  if (processes === 1) return `${where} with everything: the orchestrator and ${shards === 1 ? "one shard" : `${shards} shards`}${limit}`;
  return `${where}: one with the API and the orchestrator, ${others} with ${shards} shards, each expert on ${replicas === 1 ? "one of them" : `${replicas} of them`}; ${scriptsOf(scripts ?? shards, "shards")}`;
}
