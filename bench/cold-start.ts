// `node bench/cold-start.ts [--json]`: from a process that has just come up to the first token of its first request, by where the weights come from: the store, the objects'
// own SQLite, the isolate's memory after the objects were evicted; and shards that are filled by donors, from the wish until the plan is in force. The demo's pack,
// and a generated one of about 200 MiB over four shards. Medians. Options: --rounds N, --cache DIR. Owns the processes, and checks by what the shards report that
// the weights came from where it says. Reading assets from this machine's disk is not reading R2 over a network: only the order of the figures carries over.

import { mkdtempSync, readdirSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { FolderSource } from "../cli/file-source.ts";
import { buildProgram, ROOT } from "../cli/setup.mjs";
import type { MovedBytes } from "../durable/handshake.ts";
import { openPack } from "../formats/pack-reader.ts";
import type { FleetReply } from "../worker/wire-types.ts";
import { startCluster } from "./fleet-cluster.ts";
import { streamCompletion } from "./http-client.ts";
import { cachedGguf, cachedPack, DEFAULT_CACHE } from "./model/cached-model.ts";
import type { ModelShape } from "./model/random-model.ts";
import { machineReport, option, present, tableText, type Report } from "./report.ts";
import { startHost, type Host } from "./serving.ts";
import { median, rounded } from "./statistics.ts";

const SHARDS = 4;
/** A trunk that fits an isolate with its KV cache, and about 45 MiB of experts for each shard. */
const SHAPE: ModelShape = { hidden: 1024, nLayers: 6, nHeads: 16, nKvHeads: 4, nExperts: 18, topK: 2, expertWidth: 1024, vocabulary: 16_000, contextLength: 1024 };
const MIB = 2 ** 20;
/** workerd takes objects out of memory 10 s after their last request, here as in production (2026-11). */
const EVICTED_MS = 12_000;
const CACHED_MS_MAX = 120_000;
/** Of the cluster in which shards are filled by donors: there each has a script, and so an isolate, of its own, and a donor is another isolate's memory. */
const PROCESSES = 3;

interface Phase {
  /** Seconds to the first token. */
  readonly firstToken: number;
  /** What the slowest shard's loading took of that, and the trunk's, as they say. */
  readonly shardLoad: number;
  readonly trunkLoad: number;
}

interface PackReport {
  readonly pack: string;
  readonly weightMib: number;
  readonly store: Phase;
  readonly cache: Phase;
  readonly memory: Phase;
  readonly warm: Phase;
  /** Four shards grow to eight: seconds until all are loaded and the plan is in force, then to a first token; and MiB that came from donors. */
  readonly donors: { readonly inForce: number; readonly firstToken: number; readonly mib: number };
}

interface ColdStartReport extends Report {
  readonly profile: string;
  readonly rounds: number;
  readonly packs: readonly PackReport[];
}

const pause = (ms: number): Promise<void> => new Promise((done) => setTimeout(done, ms));
const fleetOf = async (url: string): Promise<FleetReply> => (await fetch(`${url}/v1/fleet`)).json() as Promise<FleetReply>;

async function firstToken(url: string, model: string): Promise<number> {
  const { tokenMs: [first] } = await streamCompletion(url, { model, prompt: "Once upon a time", maxTokens: 2 });
  return first! / 1000;
}

/** Asks for a token, and checks that the weights came from `origin` alone; with null they were there. */
async function phase(url: string, model: string, origin: keyof MovedBytes | null): Promise<Phase> {
  const seconds = await firstToken(url, model);
  const { shards, read } = await fleetOf(url);
  if (origin !== null) {
    for (const { moved } of [...shards.map((shard) => shard.read!), ...(origin === "memory" ? [] : [read])]) {
      const others = Object.entries(moved).filter(([of, bytes]) => of !== origin && bytes > 0);
      if (others.length > 0) throw new Error(`Weights were to come from ${origin}; ${others.map(([of, bytes]) => `${bytes} bytes came from ${of}`).join(", ")}.`);
    }
  }
  return { firstToken: seconds, shardLoad: Math.max(...shards.map((shard) => shard.read!.loadMs)) / 1000, trunkLoad: read.loadMs / 1000 };
}

const bytesIn = (folder: string): number => readdirSync(folder, { recursive: true, withFileTypes: true }).reduce((sum, entry) => (entry.isFile() ? sum + statSync(join(entry.parentPath, entry.name)).size : sum), 0);

/** Waits until the objects have written what they hold. */
async function untilCached(folder: string, weightBytes: number): Promise<void> {
  const until = performance.now() + CACHED_MS_MAX;
  for (let before = -1, now = 0; now < weightBytes || now !== before; before = now, now = bytesIn(folder)) {
    if (performance.now() > until) throw new Error(`The caches have ${now} bytes after ${CACHED_MS_MAX / 1000} s; ${weightBytes} were expected.`);
    await pause(1000);
  }
}

async function oneRound(pack: string, packId: string, weightBytes: number): Promise<Record<"store" | "cache" | "memory" | "warm", Phase>> {
  const persist = mkdtempSync(join(tmpdir(), "workers-moe-cold-start-"));
  const start = (): Promise<Host> => startHost(pack, {
    name: "cold-start", entry: "serving-worker.ts", packId, shards: SHARDS, isolateMiB: 90, persist, objects: { ORCHESTRATOR: { className: "Orchestrator" }, SHARDS: { className: "ExpertShard" } },
  });
  try {
    let host = await start();
    let store: Phase;
    try {
      store = await phase(host.url, packId, "store");
      await untilCached(persist, weightBytes);
    } finally {
      await host.close();
    }
    host = await start();
    try {
      const cache = await phase(host.url, packId, "cache");
      const warm = await phase(host.url, packId, null);
      await untilCached(persist, weightBytes);
      await pause(EVICTED_MS);
      return { store, cache, warm, memory: await phase(host.url, packId, null) };
    } finally {
      await host.close();
    }
  } finally {
    rmSync(persist, { recursive: true, force: true });
  }
}

async function donors(pack: string, packId: string, rounds: number): Promise<PackReport["donors"]> {
  const cluster = await startCluster(pack, { processes: PROCESSES, shards: SHARDS, replicas: 1, isolate: "script", scripts: 2 * SHARDS });
  try {
    await firstToken(cluster.url, packId);
    const found: PackReport["donors"][] = [];
    for (let round = 0; round < rounds; round++) {
      for (const shards of [2 * SHARDS, SHARDS]) {
        await cluster.ask("/v1/fleet", { shards });
        for (;; await pause(50)) {
          const { directory } = await cluster.ask<FleetReply>("/v1/fleet");
          if (directory === null || directory.change !== null) continue;
          const [last] = directory.history;
          if (last?.outcome !== "steady") throw new Error(`The change to ${shards} shards was given up: ${last?.message}`);
          if (shards === SHARDS) break;
          const grown = (await fleetOf(cluster.url)).shards.slice(SHARDS);
          if (grown.some(({ read }) => read === null || read.moved.donors === 0 || read.moved.store + read.moved.memory > 0)) throw new Error(`New shards were to be filled by donors; they say: ${JSON.stringify(grown.map(({ read }) => read))}.`);
          found.push({ inForce: (last.sinceMs.committed! - last.sinceMs.planned!) / 1000, firstToken: await firstToken(cluster.url, packId), mib: last.movedBytes / MIB });
          break;
        }
      }
    }
    return { inForce: rounded(median(found.map((of) => of.inForce))), firstToken: rounded(median(found.map((of) => of.firstToken))), mib: rounded(median(found.map((of) => of.mib))) };
  } finally {
    await cluster.stop();
  }
}

async function measure(name: string, pack: string, packId: string, rounds: number): Promise<PackReport> {
  const { manifest } = await openPack(new FolderSource(pack));
  const weightBytes = [...Object.values(manifest.blobs), ...manifest.shared.flatMap(({ segments }) => segments), ...manifest.experts.flatMap(({ segments }) => segments)].reduce((sum, { bytes }) => sum + bytes, 0);
  const runs: Awaited<ReturnType<typeof oneRound>>[] = [];
  for (let round = 0; round < rounds; round++) {
    process.stderr.write(`${name}, round ${round + 1} of ${rounds}\n`);
    runs.push(await oneRound(pack, packId, weightBytes));
  }
  const of = (which: keyof (typeof runs)[number]): Phase => {
    const middle = (part: keyof Phase): number => rounded(median(runs.map((run) => run[which][part])));
    return { firstToken: middle("firstToken"), shardLoad: middle("shardLoad"), trunkLoad: middle("trunkLoad") };
  };
  process.stderr.write(`${name}, donors\n`);
  return { pack: name, weightMib: rounded(weightBytes / MIB), store: of("store"), cache: of("cache"), memory: of("memory"), warm: of("warm"), donors: await donors(pack, packId, rounds) };
}

async function run(): Promise<ColdStartReport> {
  await buildProgram();
  const machine = machineReport();
  const rounds = Number(option("rounds") ?? 3);
  const large = await cachedPack(await cachedGguf(option("cache") ?? DEFAULT_CACHE, "cold-start", SHAPE, "Q4_0"), "cold-start");
  return {
    machine, rounds, targets: {}, profile: `bare Miniflare, one workerd process, ${SHARDS} shards, 90 MiB an isolate; donors: wrangler dev, ${PROCESSES} processes, ${SHARDS} to ${2 * SHARDS} shards, an isolate each`,
    packs: [await measure("demo", join(ROOT, "demo", "pack"), "demo", rounds), await measure("generated", large, "cold-start", rounds)],
  };
}

if (import.meta.main) {
  await present("cold-start", run, ({ profile, rounds, packs }) => [
    `${profile}; medians of ${rounds}; seconds to the first token, of which the slowest shard / the trunk loaded`,
    tableText([
      ["weights from", ...packs.map(({ pack, weightMib }) => `${pack}, ${weightMib} MiB`)],
      ...(["store", "cache", "memory", "warm"] as const).map((which) => [
        { store: "the store", cache: "the objects' SQLite", memory: "memory, shards evicted", warm: "nothing evicted" }[which], ...packs.map((of) => (which === "store" || which === "cache" ? `${of[which].firstToken} (${of[which].shardLoad} / ${of[which].trunkLoad})` : of[which].firstToken))]),
      ["donors: plan in force / first token then", ...packs.map(({ donors: of }) => `${of.inForce} / ${of.firstToken} (${of.mib} MiB)`)],
    ]),
  ].join("\n"));
}
