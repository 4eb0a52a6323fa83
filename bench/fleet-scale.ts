// `node bench/fleet-scale.ts [--json]`: a real cluster under 16 streams grows from 4 shards to 6 and shrinks to 3, asked for through POST /v1/fleet. Must reach: no stream failed, no
// token altered, and no byte moved that need not be. Reported: how long shards took to warm, orchestrators to go over to the new plan, and tokens meanwhile.
// Options: --streams N, --isolate class or script. Owns the changes. Tokens are timed from 5 s before each change is asked for to 5 s after it, and to the end of the streams. The least bytes are computed here, from the plan that was in force; what moved is what the shards say they fetched.

import { join } from "node:path";
import { FolderSource } from "../cli/file-source.ts";
import { buildProgram, ROOT } from "../cli/setup.mjs";
import type { PastChange } from "../durable/directory-record.ts";
import { tenantBytes } from "../durable/isolate.ts";
import { LIMITS } from "../durable/limits.ts";
import type { FleetPlan } from "../fleet/fleet-plan.ts";
import { leastBytes } from "../fleet/min-move.ts";
import { expertTable, type PlannedExpert } from "../fleet/plan.ts";
import { openPack } from "../formats/pack-reader.ts";
import type { FleetReply } from "../worker/wire-types.ts";
import { isolateOption, startCluster, type Cluster } from "./fleet-cluster.ts";
import { gapReport, gapText, runStreams, undisturbed, type GapReport, type Undisturbed } from "./fleet-streams.ts";
import { machineReport, option, present, tableText, target, type Report } from "./report.ts";
import { rounded } from "./statistics.ts";

const PROCESSES = 4;
const [FIRST_SHARDS, ...THEN_SHARDS] = [4, 6, 3] as const;
const MODEL = "demo";
/** Streams run so long before a change is asked for and after it has ended; before the first it is also what tokens take undisturbed. */
const AROUND_MS = 5000;
const CHANGE_MS_MAX = 300_000;

interface ChangeReport {
  readonly shards: readonly [before: number, after: number];
  /** Plans on the way; more than one where room is short. */
  readonly plans: number;
  readonly failed: readonly string[];
  readonly altered: number;
  readonly streams: number;
  readonly leastBytes: number;
  readonly movedBytes: number;
  /** From the wish to the plan's being in force; from there until every orchestrator goes by it; and to the end, old epochs retired. Seconds, of all plans together. */
  readonly seconds: { readonly warm: number; readonly flip: number; readonly all: number };
  readonly gapsMs: GapReport;
  readonly firstMs: GapReport;
}

interface FleetScaleReport extends Report {
  readonly profile: string;
  readonly expertBytes: number;
  readonly quietGapsMs: GapReport;
  readonly quietFailed: readonly string[];
  readonly quietAltered: number;
  readonly changes: readonly ChangeReport[];
}

const pause = (ms: number): Promise<void> => new Promise((done) => setTimeout(done, ms));

/** Asks for so many shards and waits until nothing is under way; the changes that were made, oldest first. */
async function change(cluster: Cluster, shards: number, afterEpoch: number): Promise<PastChange[]> {
  await cluster.ask("/v1/fleet", { shards });
  for (const started = performance.now(); ; await pause(100)) {
    const { directory } = await cluster.ask<FleetReply>("/v1/fleet");
    if (directory !== null && directory.change === null) {
      const made = directory.history.filter(({ epoch }) => epoch > afterEpoch).reverse();
      const abandoned = made.find(({ outcome }) => outcome === "abandoned");
      if (abandoned !== undefined) throw new Error(`The change to ${shards} shards was given up: ${abandoned.message}`);
      if (made.length > 0 && directory.plan!.shards.filter(({ segments }) => segments > 0).length === shards) return made;
    }
    if (performance.now() - started > CHANGE_MS_MAX) throw new Error(`The change to ${shards} shards was still under way after ${CHANGE_MS_MAX / 1000} s: ${JSON.stringify(directory?.change)}`);
  }
}

/** Seconds from one state to another, summed over changes. */
const secondsOf = (made: readonly PastChange[], from: (of: PastChange) => number, to: (of: PastChange) => number): number =>
  rounded(made.reduce((sum, of) => sum + to(of) - from(of), 0) / 1000);

async function changeUnderLoad(cluster: Cluster, expected: Undisturbed, shards: number, streams: number, table: readonly PlannedExpert[]): Promise<ChangeReport> {
  const before = await cluster.ask<FleetPlan>("/v1/fleet/plan");
  let isOver = false;
  const running = runStreams(cluster.url, MODEL, expected, { streams, isOver: () => isOver });
  let made: PastChange[];
  try {
    await pause(AROUND_MS);
    made = await change(cluster, shards, before.epoch);
    await pause(AROUND_MS);
  } finally {
    isOver = true;
  }
  const outcome = await running;
  return {
    shards: [before.shards.filter(({ slots }) => slots.length > 0).length, shards], plans: made.length,
    failed: outcome.failed, altered: outcome.altered, streams: outcome.whole + outcome.failed.length,
    leastBytes: leastBytes(before, { shards, replicas: 1, roomBytes: tenantBytes(LIMITS) }, table), movedBytes: made.reduce((sum, { movedBytes }) => sum + movedBytes, 0),
    seconds: {
      warm: secondsOf(made, ({ sinceMs }) => sinceMs.planned!, ({ sinceMs }) => sinceMs.committed!),
      flip: secondsOf(made, ({ sinceMs }) => sinceMs.committed!, ({ sinceMs }) => sinceMs.draining!),
      all: secondsOf(made, ({ sinceMs }) => sinceMs.planned!, ({ endedMs }) => endedMs),
    },
    gapsMs: gapReport(outcome.gapsMs), firstMs: gapReport(outcome.firstMs),
  };
}

async function run(): Promise<FleetScaleReport> {
  await buildProgram();
  const machine = machineReport();
  const streams = Number(option("streams") ?? 16);
  const isolate = isolateOption(option("isolate"));
  const pack = join(ROOT, "demo", "pack");
  const { manifest } = await openPack(new FolderSource(pack));
  const table = expertTable(manifest);
  const cluster = await startCluster(pack, { processes: PROCESSES, shards: FIRST_SHARDS, replicas: 1, isolate, ...(isolate === "script" ? { scripts: Math.max(FIRST_SHARDS, ...THEN_SHARDS) } : {}) });
  try {
    const expected = await undisturbed(cluster.url, MODEL);
    const quietEndMs = performance.now() + AROUND_MS;
    const quiet = await runStreams(cluster.url, MODEL, expected, { streams, isOver: () => performance.now() >= quietEndMs });
    const changes: ChangeReport[] = [];
    for (const shards of THEN_SHARDS) {
      process.stderr.write(`to ${shards} shards under ${streams} streams\n`);
      changes.push(await changeUnderLoad(cluster, expected, shards, streams, table));
    }
    return {
      machine, profile: cluster.profile, changes, quietGapsMs: gapReport(quiet.gapsMs), quietFailed: quiet.failed, quietAltered: quiet.altered,
      expertBytes: table.reduce((sum, { segmentBytes }) => sum + segmentBytes.reduce((all, bytes) => all + bytes, 0), 0),
      targets: Object.fromEntries(changes.flatMap(({ shards: [from, to], failed, altered, movedBytes, leastBytes: least }) => [
        [`${from} to ${to} shards: failed streams`, target(failed.length, 0, 0, "at most")], [`${from} to ${to} shards: altered tokens`, target(altered, 0, 0, "at most")],
        [`${from} to ${to} shards: bytes moved over the least`, target(movedBytes / least, 1, 1, "at most")],
      ])),
    };
  } finally {
    await cluster.stop();
  }
}

if (import.meta.main) {
  await present("fleet-scale", run, ({ profile, expertBytes, quietGapsMs, quietFailed, quietAltered, changes }) => [
    `${profile}; ${expertBytes} bytes of experts; before any change ${gapText(quietGapsMs)} ms between tokens, ${quietFailed.length} streams failed, ${quietAltered} tokens altered`,
    tableText([
      ["shards", ...changes.map(({ shards }) => shards.join(" to "))],
      ["plans on the way", ...changes.map(({ plans }) => plans)],
      ["streams", ...changes.map(({ streams }) => streams)],
      ["of these failed", ...changes.map(({ failed }) => failed.length)],
      ["tokens altered", ...changes.map(({ altered }) => altered)],
      ["bytes moved", ...changes.map(({ movedBytes }) => movedBytes)],
      ["the least", ...changes.map(({ leastBytes: least }) => least)],
      ["seconds: warm / flip / all", ...changes.map(({ seconds: { warm, flip, all } }) => `${warm} / ${flip} / ${all}`)],
      ["between tokens, ms: p50 / p99 / longest", ...changes.map(({ gapsMs }) => gapText(gapsMs))],
      ["to the first token, ms: p50 / p99 / longest", ...changes.map(({ firstMs }) => gapText(firstMs))],
    ]),
    ...changes.flatMap(({ failed }) => failed.slice(0, 5)),
  ].join("\n"));
}
