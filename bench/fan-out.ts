// What spreading experts over shards costs and gains: steps of whole engines over 1, 2, 4 and 8 shards and with the experts in process, all
// in one workerd process; the experts' wall time over shards in one other process and in two; and prompts in rounds that overlap with
// each other against prompts round by round. Owns the processes and the ratios.
// Part of `node bench/serve.ts`. Refuses more than three processes: it is meant for machines with few cores.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { target, type Target } from "./report.ts";
import { median, rounded } from "./statistics.ts";
import { memoryProfile, startHost, type Host } from "./serving.ts";

const SHARDS = [1, 2, 4, 8] as const;
const BATCHES = [1, 16] as const;
const REPEATS = 9;
const ROUND_REPEATS = 41;
/** Two rounds of 120, which the engine overlaps by itself when their experts are in another process. */
const PROMPT_TOKENS = 240;
const PROMPT_REPEATS = 9;

/** Milliseconds of each repeat, by name of what was measured: the answer of fan-out-worker.ts. */
type Samples = Record<string, number[]>;

interface SpeedUp { readonly name: string; readonly ms: number; readonly speedUp: number }

export interface FanOutReport {
  readonly harness: string;
  readonly batches: readonly number[];
  /** Wall ms per step by engine, one figure per batch, and what it adds to the in-process step (0.1 = 10 %). */
  readonly inOneProcess: readonly { readonly name: string; readonly ms: readonly number[]; readonly added: readonly number[] }[];
  readonly processes: { readonly harness: string; readonly rows: readonly SpeedUp[]; readonly promptTokens: number; readonly prompts: readonly SpeedUp[] };
  readonly targets: Readonly<Record<string, Target>>;
}

/** Repeat by repeat, since the machine's pace drifts between them. */
const medianRatio = (a: readonly number[], b: readonly number[]): number => median(a.map((value, i) => value / b[i]!));

async function ask(host: Host, query: Readonly<Record<string, string>>): Promise<Samples> {
  const response = await fetch(`${host.url}/?${new URLSearchParams(query)}`);
  if (!response.ok) throw new Error(`The fan-out benchmark's Worker answered ${response.status}: ${await response.text()}`);
  return await response.json() as Samples;
}

async function inOneProcess(pack: string, packId: string, isolateMiB: number): Promise<FanOutReport["inOneProcess"]> {
  const host = await startHost(pack, {
    name: "fan-out", entry: "fan-out-worker.ts", packId, shards: 1, isolateMiB,
    objects: { BENCH: { className: "FanOutBench" }, ORCHESTRATOR: { className: "Orchestrator" }, SHARDS: { className: "ExpertShard" } },
  });
  try {
    const samples = await ask(host, { measure: "steps", shards: SHARDS.join(), batches: BATCHES.join(), repeats: String(REPEATS) });
    return ["in-process", ...SHARDS.map((n) => `${n} ${n === 1 ? "shard" : "shards"}`)].map((name) => ({
      name,
      ms: BATCHES.map((batch) => rounded(median(samples[`${name}, batch ${batch}`]!))),
      added: BATCHES.map((batch) => rounded(medianRatio(samples[`${name}, batch ${batch}`]!, samples[`in-process, batch ${batch}`]!) - 1)),
    }));
  } finally {
    await host.close();
  }
}

async function overProcesses(pack: string, packId: string, isolateMiB: number): Promise<FanOutReport["processes"]> {
  const registry = mkdtempSync(join(tmpdir(), "workers-moe-registry-"));
  const hosts: Host[] = [];
  const common = { packId, shards: 2, isolateMiB, registry };
  const own = { ORCHESTRATOR: { className: "Orchestrator" }, SHARDS: { className: "ExpertShard" } };
  try {
    for (const name of ["shards-a", "shards-b"]) hosts.push(await startHost(pack, { ...common, name, entry: "serving-worker.ts", objects: own }));
    const asking = await startHost(pack, {
      ...common, name: "asking", entry: "fan-out-worker.ts",
      objects: {
        BENCH: { className: "FanOutBench" }, ...own,
        SHARDS_A: { className: "ExpertShard", scriptName: "shards-a" }, SHARDS_B: { className: "ExpertShard", scriptName: "shards-b" },
      },
    });
    hosts.push(asking);
    const samples = await ask(asking, { measure: "rounds", shards: "2", batches: "16", repeats: String(ROUND_REPEATS) });
    const prompts = await ask(asking, { measure: "prompts", shards: "1", batches: String(PROMPT_TOKENS), repeats: String(PROMPT_REPEATS) });
    const against = (first: string, name: string, from: Samples): SpeedUp => ({ name, ms: rounded(median(from[name]!)), speedUp: rounded(medianRatio(from[first]!, from[name]!)) });
    return {
      harness: "bare Miniflare, three workerd processes joined by the dev registry: an asking one, idle while shards compute, and two with shards",
      rows: ["one process", "two processes"].map((name) => against("one process", name, samples)),
      promptTokens: PROMPT_TOKENS,
      prompts: ["one at a time", "two at once"].map((name) => against("one at a time", name, prompts)),
    };
  } finally {
    for (const host of hosts.reverse()) await host.close();
    rmSync(registry, { recursive: true, force: true });
  }
}

export async function measureFanOut(pack: string, packId: string, isolateMiB: number): Promise<FanOutReport> {
  const rows = await inOneProcess(pack, packId, isolateMiB);
  const processes = await overProcesses(pack, packId, isolateMiB);
  const four = rows.find(({ name }) => name === "4 shards")!;
  return {
    harness: `bare Miniflare, one workerd process; ${memoryProfile(isolateMiB)}`, batches: BATCHES, inOneProcess: rows, processes,
    targets: {
      "fan-out to 4 shards over in-process, batch 1": target(1 + four.added[0]!, 1.2, 1.1),
      "fan-out to 4 shards over in-process, batch 16": target(1 + four.added[1]!, 1.08, 1.04),
      "two shard processes over one, experts at batch 16": target(processes.rows[1]!.speedUp, 1.35, 1.6),
    },
  };
}
