// `node bench/fleet-kill.ts [--json]`: a real cluster of five processes under 16 streams while a random one of its four shard processes is killed with SIGKILL every few
// seconds for a minute, never while another is down: with every expert on two shards, and with one holder each. Must reach: no stream failed, no token altered.
// Options: --seconds N, --streams N, --replicas 2 or 2,1, --isolate class or script. Owns the kills. Its first run in each cluster is undisturbed: what streams say and how long
// tokens take then. Nothing is left out: streams of both runs count, also those under way when the kills end, which are read to their end. One cluster each, so no spread is known.

import { join } from "node:path";
import { buildProgram, ROOT } from "../cli/setup.mjs";
import { SeededRandom } from "../durable/clock.ts";
import type { FleetReply } from "../worker/wire-types.ts";
import type { IsolateMode } from "../cli/fleet-scripts.ts";
import { isolateOption, startCluster, type Cluster } from "./fleet-cluster.ts";
import { gapReport, gapText, runStreams, undisturbed, type GapReport, type StreamsOutcome } from "./fleet-streams.ts";
import { machineReport, option, present, tableText, target, type Report } from "./report.ts";
import { median, rounded } from "./statistics.ts";

const PROCESSES = 5;
/** One in each process that has shards, so that two holders of an expert are never in one. */
const SHARDS = 4;
const QUIET_SECONDS = 10;
/** Between a process' return and the next kill. */
const PAUSE_MS = [1000, 3000] as const;
const MODEL = "demo";

interface KillReport {
  readonly replicas: number;
  readonly profile: string;
  readonly kills: number;
  readonly streams: number;
  readonly failed: readonly string[];
  readonly altered: number;
  readonly tokens: number;
  /** Milliseconds between tokens of a stream, before the kills and during them. */
  readonly quietGapsMs: GapReport;
  readonly gapsMs: GapReport;
  /** From a request to its first token. */
  readonly quietFirstMs: GapReport;
  readonly firstMs: GapReport;
  /** Seconds from a kill to when the process' shards could be reached again. */
  readonly restartSeconds: { readonly median: number; readonly longest: number } | null;
  /** Frames sent again, and sent to another holder as well, as the orchestrator counts them. */
  readonly retries: number;
  readonly hedges: number;
}

interface FleetKillReport extends Report {
  readonly runs: readonly KillReport[];
}

async function countsOf(cluster: Cluster): Promise<{ retries: number; hedges: number }> {
  const { shards } = await cluster.ask<FleetReply>("/v1/fleet");
  return { retries: shards.reduce((sum, shard) => sum + shard.retries, 0), hedges: shards.reduce((sum, shard) => sum + (shard.hedges), 0) };
}

/** Kills until the time is over; seconds that each process was gone. */
async function killFor(cluster: Cluster, seconds: number, random: SeededRandom): Promise<number[]> {
  const outages: number[] = [];
  for (const endMs = performance.now() + seconds * 1000; performance.now() < endMs;) {
    const victim = Math.floor(random.next() * cluster.state().shardProcesses.length);
    const before = cluster.state().shardProcesses[victim]!.restarts;
    cluster.kill(victim);
    // The state file says so only when the server has seen it.
    while (cluster.state().shardProcesses[victim]!.restarts === before) {
      await new Promise((done) => setTimeout(done, 50));
      if (cluster.state().shardProcesses[victim]!.state === "given up") break;
    }
    await cluster.allUp();
    outages.push(cluster.state().shardProcesses[victim]!.lastOutageMs! / 1000);
    await new Promise((done) => setTimeout(done, PAUSE_MS[0] + random.next() * (PAUSE_MS[1] - PAUSE_MS[0])));
  }
  return outages;
}

async function runWith(replicas: number, seconds: number, streams: number, isolate: IsolateMode): Promise<KillReport> {
  const cluster = await startCluster(join(ROOT, "demo", "pack"), { processes: PROCESSES, shards: SHARDS, replicas, isolate });
  try {
    const expected = await undisturbed(cluster.url, MODEL);
    const quietEndMs = performance.now() + Math.min(QUIET_SECONDS, seconds) * 1000;
    const quiet = await runStreams(cluster.url, MODEL, expected, { streams, isOver: () => performance.now() >= quietEndMs });
    const before = await countsOf(cluster);
    let isOver = false;
    const running = runStreams(cluster.url, MODEL, expected, { streams, isOver: () => isOver });
    let outages: number[];
    try {
      outages = await killFor(cluster, seconds, new SeededRandom(replicas));
    } finally {
      isOver = true;
    }
    const outcome: StreamsOutcome = await running;
    const after = await countsOf(cluster);
    return {
      replicas, profile: cluster.profile, kills: outages.length, streams: quiet.whole + quiet.failed.length + outcome.whole + outcome.failed.length, failed: [...quiet.failed, ...outcome.failed],
      altered: quiet.altered + outcome.altered, tokens: quiet.tokens + outcome.tokens, quietGapsMs: gapReport(quiet.gapsMs), gapsMs: gapReport(outcome.gapsMs),
      quietFirstMs: gapReport(quiet.firstMs), firstMs: gapReport(outcome.firstMs),
      restartSeconds: outages.length === 0 ? null : { median: rounded(median(outages)), longest: rounded(Math.max(...outages)) },
      retries: after.retries - before.retries, hedges: after.hedges - before.hedges,
    };
  } finally {
    await cluster.stop();
  }
}

async function run(): Promise<FleetKillReport> {
  await buildProgram();
  const machine = machineReport();
  const [seconds, streams] = [Number(option("seconds") ?? 60), Number(option("streams") ?? 16)];
  const isolate = isolateOption(option("isolate"));
  const runs: KillReport[] = [];
  for (const replicas of (option("replicas") ?? "2,1").split(",").map(Number)) {
    process.stderr.write(`${replicas === 1 ? "one holder" : `${replicas} holders`} of each expert: ${streams} streams, ${seconds} s of kills\n`);
    runs.push(await runWith(replicas, seconds, streams, isolate));
  }
  return {
    machine, runs,
    targets: Object.fromEntries(runs.flatMap(({ replicas, failed, altered }) => [
      [`failed streams, ${replicas} holders of each expert`, target(failed.length, 0, 0, "at most")], [`altered tokens, ${replicas} holders of each expert`, target(altered, 0, 0, "at most")],
    ])),
  };
}

if (import.meta.main) {
  await present("fleet-kill", run, ({ runs }) => [
    ...runs.map(({ profile }) => profile),
    tableText([
      ["holders of each expert", ...runs.map(({ replicas }) => replicas)],
      ["processes killed", ...runs.map(({ kills }) => kills)],
      ["streams, before and during", ...runs.map(({ streams }) => streams)],
      ["of these failed", ...runs.map(({ failed }) => failed.length)],
      ["tokens of whole streams", ...runs.map(({ tokens }) => tokens)],
      ["of these altered", ...runs.map(({ altered }) => altered)],
      ["between tokens before, ms: p50 / p99 / longest", ...runs.map(({ quietGapsMs }) => gapText(quietGapsMs))],
      ["between tokens during, ms: p50 / p99 / longest", ...runs.map(({ gapsMs }) => gapText(gapsMs))],
      ["to the first token before, ms: p50 / p99 / longest", ...runs.map(({ quietFirstMs }) => gapText(quietFirstMs))],
      ["to the first token during, ms: p50 / p99 / longest", ...runs.map(({ firstMs }) => gapText(firstMs))],
      ["a process' restart, s: median / longest", ...runs.map(({ restartSeconds }) => (restartSeconds === null ? "-" : `${restartSeconds.median} / ${restartSeconds.longest}`))],
      ["frames sent again / hedged", ...runs.map(({ retries, hedges }) => `${retries} / ${hedges}`)],
    ]),
    ...runs.flatMap(({ failed }) => failed.slice(0, 5)),
  ].join("\n"));
}
