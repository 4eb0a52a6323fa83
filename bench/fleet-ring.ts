// `node bench/fleet-ring.ts [--json]`: a generated pack of OLMoE-1B-7B's width, too large for one isolate, over stages, lanes and shards in a local cluster with production's limit of 90 MiB an
// isolate, held by the ledger, against the same pack in one process without that limit: eighteen requests at once, twice, must be answered the same, to the last bit. Log-probabilities
// depend on all logits of their position together; each logit for itself is compared in this process, where the model is cut by the same plan, with those of `workers-moe logits`, and these
// with the served log-probabilities. Options: --cache DIR. Exits with 1 where anything differs or an isolate is over its limit. Speed is reported, not judged.

import { execFile } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { FolderSource } from "../cli/file-source.ts";
import { buildProgram, pinnedNode, ROOT } from "../cli/setup.mjs";
import type { FleetPlan } from "../fleet/fleet-plan.ts";
import type { PackManifest } from "../formats/manifest.ts";
import { openPack, readTokenizerJson } from "../formats/pack-reader.ts";
import { logprobs } from "../model/sampling.ts";
import { createTokenizer } from "../model/tokenizer.ts";
import { completionLogprobs, type ScoredToken } from "../worker/logprobs.ts";
import type { FleetReply, FleetWarmth } from "../worker/wire-types.ts";
import { evaluateCut, otherBits, RowFile } from "./cut-rows.ts";
import { askAll, askedRequests, differences, inOrder, LOGPROBS, LONGEST, LONGEST_SCORED, numbersIn, promptIds, type AskedRequest, type Logprobs, type RequestAnswer } from "./fleet-answers.ts";
import { refusalOf, startCluster, type ClusterOptions } from "./fleet-cluster.ts";
import { planInLanes } from "./fleet-lanes-plan.ts";
import { fleetMemory } from "./fleet-memory.ts";
import { cachedGguf, cachedPack, DEFAULT_CACHE } from "./model/cached-model.ts";
import { OLMOE_SHAPE, type ModelShape } from "./model/random-model.ts";
import { machineReport, option, present, tableText, target, type Report } from "./report.ts";
import { rounded } from "./statistics.ts";

/** OLMoE-1B-7B's, with three of its 16 layers: a trunk of two isolates' size and experts of eight. */
const SHAPE: ModelShape = { ...OLMOE_SHAPE, hidden: 2048, nExperts: 64, topK: 8, vocabulary: 50_304, nLayers: 3 };
const PACK_ID = "olmoe-3";
const CONTEXT_TOKENS = 2048;
/** What the plan is made for. */
const WISH = { lanes: 2, streams: 8, contextTokens: 1024 } as const;
const PROCESSES = 4;
/** Of the isolate without production's limit: the whole pack, and room. */
const LIFTED_MIB = 2000;
/** The second time prefix caches are filled, which must not matter. */
const ROUNDS = 2;
const WARM_MS_MAX = 120_000;
const MIB = 2 ** 20;
const FAILURES_SHOWN = 20;

interface FleetRingReport extends Report {
  readonly profiles: { readonly fleet: string; readonly alone: string };
  readonly mib: { readonly pack: number; readonly trunk: number; readonly experts: number };
  readonly plan: { readonly lanes: number; readonly stages: number; readonly shards: number; readonly processes: number };
  /** With which sentence `serve` refuses the pack in one isolate of production's size. */
  readonly refusal: string;
  readonly memory: { readonly limitMib: number; readonly isolates: readonly { readonly name: string; readonly reportedMib: number; readonly heldMib: number }[] };
  /** Requests that each lane answered. */
  readonly answered: readonly number[];
  /** Of all rounds together; numbers are all that was compared of answers. */
  readonly compared: { readonly requests: number; readonly positions: number; readonly numbers: number };
  /** In this process: positions whose whole rows were compared, and their logits. */
  readonly rows: { readonly positions: number; readonly logits: number };
  /** Of the first round, all requests at once: prompts and replies. */
  readonly tokensPerSecond: { readonly fleet: number; readonly alone: number };
  readonly failures: readonly string[];
}

interface Pack {
  readonly folder: string;
  readonly manifest: PackManifest;
  readonly packHash: string;
}

interface Served {
  readonly profile: string;
  readonly rounds: readonly (readonly RequestAnswer[])[];
  readonly tokensPerSecond: number;
  readonly fleet: FleetReply;
}

/** Starts a cluster, waits until every lane and shard is loaded, and asks all requests so many times. */
async function served(pack: Pack, options: ClusterOptions, requests: readonly AskedRequest[]): Promise<Served> {
  const cluster = await startCluster(pack.folder, options);
  try {
    for (const startMs = performance.now(); !(await cluster.ask<FleetWarmth>("/v1/fleet/warm", {})).ready; await new Promise((done) => setTimeout(done, 200))) {
      if (performance.now() - startMs > WARM_MS_MAX) throw new Error(`The cluster was not warm after ${WARM_MS_MAX / 1000} s.`);
    }
    const rounds: RequestAnswer[][] = [];
    let tokensPerSecond = 0;
    for (let round = 0; round < ROUNDS; round++) {
      const { answers, seconds } = await askAll(cluster.url, requests);
      if (round === 0) tokensPerSecond = rounded(answers.reduce((sum, { tokens }) => sum + tokens, 0) / seconds);
      rounds.push([...answers]);
    }
    return { profile: cluster.profile, rounds, tokensPerSecond, fleet: await cluster.ask<FleetReply>("/v1/fleet") };
  } finally {
    await cluster.stop();
  }
}

interface RowsReport extends Pick<FleetRingReport, "rows"> {
  readonly otherLogits: number;
  /** Of what both clusters said of the prompt. */
  readonly otherScores: number;
  readonly failures: readonly string[];
}

/** The longest prompt's rows of logits: by the command, by the model cut in this process, and as what both clusters said of it. */
async function compareRows(pack: Pack, plan: FleetPlan, scores: readonly (readonly [where: string, logprobs: unknown])[]): Promise<RowsReport> {
  const { manifest, folder } = pack;
  const { vocabSize } = manifest.config;
  const ids = promptIds(LONGEST, vocabSize);
  const tokenizer = createTokenizer((await readTokenizerJson(new FolderSource(folder), manifest))!);
  const work = mkdtempSync(join(tmpdir(), "workers-moe-rows-"));
  try {
    const [tokensFile, rowsFile] = [join(work, "ids.json"), join(work, "logits.f32")];
    writeFileSync(tokensFile, JSON.stringify(ids));
    await promisify(execFile)(pinnedNode, [join(ROOT, "bin", "workers-moe.js"), "logits", folder, "--tokens", tokensFile, "--out", rowsFile, "--json"], { cwd: ROOT });
    const file = new RowFile(rowsFile, ids.length, vocabSize);
    const failures: string[] = [];
    const scored: ScoredToken[] = [{ id: ids[0]!, logprob: null, top: [] }];
    let [otherLogits, positions] = [0, 0];
    try {
      await evaluateCut(new FolderSource(folder), manifest, plan.stages, ids, (position, logits) => {
        const row = file.row(position);
        const others = otherBits(row, logits);
        otherLogits += others.length;
        positions++;
        if (others.length > 0) failures.push(`Cut by the plan, position ${position} has ${others.length} logits with other bits than \`workers-moe logits\` writes, the first of token ${others[0]!}.`);
        const next = ids[position + 1];
        if (next !== undefined) scored.push({ id: next, ...logprobs(row, next, LOGPROBS) });
      });
    } finally {
      file.close();
    }
    if (positions !== ids.length) failures.push(`Cut by the plan, ${positions} positions gave logits; ${ids.length} were expected.`);
    const expected = inOrder(completionLogprobs(tokenizer, scored, 0) as Logprobs);
    const others = scores.flatMap(([where, found]) => differences(expected, found).map((sentence) => `${LONGEST_SCORED}, ${where}, against the rows of \`workers-moe logits\`: ${sentence}.`));
    return { rows: { positions, logits: positions * vocabSize }, otherLogits, otherScores: others.length, failures: [...failures, ...others] };
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

/** What differs between two servings of the same requests, a sentence each. */
export function compareServed(requests: readonly Pick<AskedRequest, "name">[], expected: readonly (readonly RequestAnswer[])[], found: readonly (readonly RequestAnswer[])[]): string[] {
  return expected.flatMap((answers, round) => answers.flatMap(({ facts }, i) => differences(facts, found[round]?.[i]?.facts).map((sentence) => `${requests[i]!.name}, round ${round + 1}: ${sentence}.`)));
}

const scoresIn = (answers: readonly RequestAnswer[], requests: readonly AskedRequest[]): unknown =>
  (answers[requests.findIndex(({ name }) => name === LONGEST_SCORED)]!.facts as { readonly choices: readonly { readonly logprobs: unknown }[] }).choices[0]!.logprobs;

async function run(): Promise<FleetRingReport> {
  await buildProgram();
  const machine = machineReport();
  const folder = await cachedPack(await cachedGguf(option("cache") ?? DEFAULT_CACHE, PACK_ID, SHAPE, "Q4_0"), PACK_ID, CONTEXT_TOKENS);
  const pack: Pack = { folder, ...(await openPack(new FolderSource(folder))) };
  const { manifest } = pack;
  const plan = await planInLanes(folder, pack, WISH);
  const requests = askedRequests(PACK_ID, manifest.config.vocabSize);

  const refusal = await refusalOf(folder, { shards: plan.shards.length, processes: 1, isolates: "strict" });
  process.stderr.write(`${plan.lanes} lanes of ${plan.stages.length} stages, ${plan.shards.length} shards\n`);
  const fleet = await served(pack, { plan, processes: PROCESSES, isolate: "script", isolates: "strict" }, requests);
  process.stderr.write("one process without the limit\n");
  const alone = await served(pack, { shards: 1, replicas: 1, processes: 1, isolateMib: LIFTED_MIB }, requests);
  process.stderr.write("whole rows of logits in this process\n");
  const rows = await compareRows(pack, plan, [["the fleet", scoresIn(fleet.rounds[0]!, requests)], ["one process", scoresIn(alone.rounds[0]!, requests)]]);

  const memory = fleetMemory(fleet.fleet, plan, manifest);
  const all = fleet.rounds.flat();
  const answered = Array.from({ length: plan.lanes }, (_, lane) => all.filter((of) => of.lane === lane).length);
  const differing = compareServed(requests, alone.rounds, fleet.rounds);
  const failures = [
    ...(refusal === null ? ["`serve` did not refuse the pack in one isolate of production's size: it is no proof of anything."] : []),
    ...memory.failures, ...answered.flatMap((n, lane) => (n === 0 ? [`Lane ${lane} answered no request.`] : [])), ...rows.failures, ...differing,
  ];
  const expertBytes = manifest.experts.reduce((sum, { segments }) => sum + segments.reduce((of, { bytes }) => of + bytes, 0), 0);
  const trunkBytes = [...Object.values(manifest.blobs), ...manifest.shared.flatMap(({ segments }) => segments)].reduce((sum, { bytes }) => sum + bytes, 0);
  return {
    machine, profiles: { fleet: fleet.profile, alone: alone.profile }, refusal: refusal ?? "", failures,
    mib: { pack: rounded(manifest.parts.reduce((sum, { bytes }) => sum + bytes, 0) / MIB), trunk: rounded(trunkBytes / MIB), experts: rounded(expertBytes / MIB) },
    plan: { lanes: plan.lanes, stages: plan.stages.length, shards: plan.shards.length, processes: PROCESSES },
    memory: { limitMib: memory.limitBytes / MIB, isolates: memory.isolates.map(({ name, reportedBytes, heldBytes }) => ({ name, reportedMib: rounded(reportedBytes / MIB), heldMib: rounded(heldBytes / MIB) })) },
    answered, compared: { requests: all.length, positions: all.reduce((sum, { positions }) => sum + positions, 0), numbers: all.reduce((sum, { facts }) => sum + numbersIn(facts), 0) },
    rows: rows.rows, tokensPerSecond: { fleet: fleet.tokensPerSecond, alone: alone.tokensPerSecond },
    targets: {
      "places of answers that differ from those of one process": target(differing.length, 0, 0, "at most"),
      "isolates over their limit, or not as planned": target(memory.failures.length, 0, 0, "at most"),
      "logits with other bits than those of `workers-moe logits`": target(rows.otherLogits, 0, 0, "at most"),
      "places of the longest prompt's scores that are not of those logits": target(rows.otherScores, 0, 0, "at most"),
      "lanes that answered": target(answered.filter((n) => n > 0).length, plan.lanes, plan.lanes, "at least"),
    },
  };
}

if (import.meta.main) {
  await present("fleet-ring", run, ({ profiles, mib, plan, refusal, memory: { limitMib, isolates }, answered, compared, rows, tokensPerSecond, failures }) => {
    if (failures.length > 0) process.exitCode = 1;
    const most = (kind: RegExp, of: "reportedMib" | "heldMib"): number => isolates.reduce((found, isolate) => (kind.test(isolate.name) ? Math.max(found, isolate[of]) : found), 0);
    const held = (kind: RegExp): (string | number)[] => [isolates.filter(({ name }) => kind.test(name)).length, most(kind, "reportedMib"), most(kind, "heldMib"), limitMib];
    return [
      `${profiles.fleet}\nagainst ${profiles.alone}`,
      `in one isolate of 90 MiB: ${refusal}`,
      tableText([
        ["isolates", "how many", "MiB told, at most", "with what running takes", "of"],
        ["edge, with the first stage of every lane", ...held(/^edge/)], ["further stages", ...held(/stage/)], ["shards", ...held(/^shard/)],
      ]), "",
      tableText([
        ["what", "how many"],
        ["pack / trunk / experts, MiB", `${mib.pack} / ${mib.trunk} / ${mib.experts}`],
        ["lanes / stages of each / shards / processes", `${plan.lanes} / ${plan.stages} / ${plan.shards} / ${plan.processes}`],
        ["requests compared, and how many each lane answered", `${compared.requests}: ${answered.join(" + ")}`],
        ["positions with log-probabilities compared", compared.positions], ["numbers compared", compared.numbers],
        ["positions with whole rows compared, and logits", `${rows.positions}: ${rows.logits}`],
        ["tokens/s of the fleet / of one process", `${tokensPerSecond.fleet} / ${tokensPerSecond.alone}`], ["failures", failures.length],
      ]),
      ...failures.slice(0, FAILURES_SHOWN),
    ].join("\n");
  });
}
