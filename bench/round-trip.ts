// `node bench/round-trip.ts [--json]`: what one layer's round to 4 shards costs in one workerd process, against a bare echo of frames of the
// same sizes and against the same experts without a wire. Batch 1, 200 decoded tokens of the demo model's shape. Two hosts: bare Miniflare,
// and `wrangler dev` with X_LOCAL_OBSERVABILITY=false. Must reach: at most 1.5 times the echo. Figures are medians over repeats.

import { build } from "esbuild";
import { spawn } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { dirname, join } from "node:path";
import { convertV4MiniflareOptions, Miniflare } from "miniflare";
import { buildKernels } from "../cli/build-kernels.mjs";
import { FolderSource } from "../cli/file-source.ts";
import { openHuggingFace } from "../formats/huggingface.ts";
import { MemorySink } from "../formats/memory-source.ts";
import { writePack } from "../formats/pack-writer.ts";
import { machineReport, present, target, type Report } from "./report.ts";
import { WASM_FILES } from "./serving.ts";
import { median } from "./statistics.ts";

const ROOT = join(import.meta.dirname, "..");
const TOKENS = 200;
const REPEATS = 61;
const AT_MOST = 1.5;
const QUERY = `?tokens=${TOKENS}&repeats=${REPEATS}`;
const COMPATIBILITY_DATE = "2026-11-17";

interface Measured {
  readonly rounds: number;
  readonly shards: number;
  readonly layers: number;
  readonly kernels: string;
  readonly framesPerRound: number;
  readonly retries: number;
  /** Per round, one figure per repeat. */
  readonly microseconds: { readonly fanOut: number[]; readonly echo: number[]; readonly inProcess: number[] };
}

export interface RoundTripReport extends Omit<Measured, "microseconds"> {
  readonly microsecondsPerRound: { readonly fanOut: number; readonly echo: number; readonly inProcess: number };
  /** The whole round, its computing included, over the bare echo. */
  readonly ratio: number;
  /** The round less its computing, over the bare echo. */
  readonly wireRatio: number;
}

function reportOf({ microseconds, ...measured }: Measured): RoundTripReport {
  const [fanOut, echo, inProcess] = [median(microseconds.fanOut), median(microseconds.echo), median(microseconds.inProcess)];
  const rounded = (value: number): number => Math.round(value * 100) / 100;
  // Ratios are taken repeat by repeat, since the machine's pace drifts between them.
  const ratio = (of: (i: number) => number): number => rounded(median(microseconds.echo.map((_, i) => of(i) / microseconds.echo[i]!)));
  return {
    ...measured, microsecondsPerRound: { fanOut: rounded(fanOut), echo: rounded(echo), inProcess: rounded(inProcess) },
    ratio: ratio((i) => microseconds.fanOut[i]!), wireRatio: ratio((i) => microseconds.fanOut[i]! - microseconds.inProcess[i]!),
  };
}

/** The demo model as an int8 pack, by file name. */
async function demoPack(): Promise<Map<string, Uint8Array>> {
  const sink = new MemorySink();
  await writePack(await openHuggingFace(new FolderSource(join(ROOT, "demo/model")), "demo"), sink, { id: "bench", quant: "q8", parts: "assets" });
  return sink.files;
}

async function measureInMiniflare(pack: ReadonlyMap<string, Uint8Array>): Promise<RoundTripReport> {
  const bundle = await build({
    entryPoints: [join(ROOT, "bench/round-trip-worker.ts")], bundle: true, format: "esm", write: false, external: ["*.wasm", "cloudflare:workers"], logLevel: "silent",
  });
  const objects = (names: Record<string, string>) => Object.fromEntries(Object.entries(names).map(([binding, className]) => [binding, { className, useSQLite: true }]));
  const host = new Miniflare(convertV4MiniflareOptions({
    modulesRoot: "/",
    modules: [
      { type: "ESModule", path: "/bench/worker.js", contents: bundle.outputFiles[0]!.text },
      ...WASM_FILES.map((name) => ({ type: "CompiledWasm" as const, path: `/${name}`, contents: new Uint8Array(readFileSync(join(ROOT, name))) })),
    ],
    compatibilityDate: COMPATIBILITY_DATE,
    durableObjects: objects({ ORCHESTRATOR: "Orchestrator", SHARDS: "ExpertShard", ECHO: "EchoShard", BENCH: "RoundTrips" }),
    r2Buckets: ["PACKS"],
    bindings: { PACK_ID: "bench", PACK_SOURCE: "r2", SHARDS_COUNT: "4", ISOLATES: "shared" },
  }));
  try {
    const bucket = await host.getR2Bucket("PACKS");
    for (const [name, bytes] of pack) await bucket.put(`packs/bench/${name}`, bytes);
    const response = await host.dispatchFetch(`http://bench/${QUERY}`);
    if (!response.ok) throw new Error(`The benchmark's Worker answered ${response.status}: ${await response.text()}`);
    return reportOf(await response.json() as Measured);
  } finally {
    await host.dispose();
  }
}

const freePort = (): Promise<number> => new Promise((resolve, reject) => {
  const server = createServer().on("error", reject).listen(0, "127.0.0.1", () => {
    const { port } = server.address() as { port: number };
    server.close(() => resolve(port));
  });
});

async function measureInWranglerDev(pack: ReadonlyMap<string, Uint8Array>): Promise<RoundTripReport> {
  mkdirSync(join(ROOT, "build"), { recursive: true });
  const work = mkdtempSync(join(ROOT, "build", "round-trip-"));
  const port = await freePort();
  const classes: Record<string, string> = { ORCHESTRATOR: "Orchestrator", SHARDS: "ExpertShard", ECHO: "EchoShard", BENCH: "RoundTrips" };
  writeFileSync(join(work, "wrangler.toml"), [
    'name = "round-trip"', `main = ${JSON.stringify(join(ROOT, "bench/round-trip-worker.ts"))}`, `compatibility_date = "${COMPATIBILITY_DATE}"`,
    ...Object.values(classes).map((name) => `[exports.${name}]\ntype = "durable-object"\nstorage = "sqlite"`),
    ...Object.entries(classes).map(([binding, name]) => `[[durable_objects.bindings]]\nname = "${binding}"\nclass_name = "${name}"`),
    '[assets]\ndirectory = "assets"\nbinding = "ASSETS"\nrun_worker_first = true',
    '[vars]\nPACK_ID = "bench"\nPACK_SOURCE = "assets"\nSHARDS_COUNT = "4"\nISOLATES = "shared"',
  ].join("\n"));
  for (const [name, bytes] of pack) {
    const path = join(work, "assets/packs/bench", name);
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, bytes);
  }
  cpSync(join(ROOT, "tsconfig.json"), join(work, "tsconfig.json"));
  const child = spawn(process.execPath, [
    join(ROOT, "node_modules/wrangler/bin/wrangler.js"), "dev", "--config", join(work, "wrangler.toml"), "--local", "--ip", "127.0.0.1", "--port", String(port),
    "--inspector-port", "0", "--persist-to", join(work, "state"), "--log-level", "warn", "--show-interactive-dev-session=false",
  ], { cwd: work, stdio: ["ignore", "ignore", "inherit"], env: { ...process.env, X_LOCAL_OBSERVABILITY: "false", WRANGLER_SEND_METRICS: "false" } });
  const exited = new Promise<void>((resolve) => child.on("exit", () => resolve()));
  try {
    for (const endMs = Date.now() + 120_000; ;) {
      try {
        const response = await fetch(`http://127.0.0.1:${port}/${QUERY}`);
        if (!response.ok) throw new Error(`The benchmark's Worker answered ${response.status}: ${await response.text()}`);
        return reportOf(await response.json() as Measured);
      } catch (cause) {
        // Until it listens, the connection is refused.
        if (!(cause instanceof TypeError) || Date.now() > endMs || child.exitCode !== null) throw cause;
        await new Promise((resolve) => setTimeout(resolve, 200));
      }
    }
  } finally {
    child.kill("SIGTERM");
    await exited;
    rmSync(work, { recursive: true, force: true });
  }
}

export interface RoundTripDocument extends Report {
  readonly miniflare: RoundTripReport;
  readonly wranglerDev: RoundTripReport;
}

export async function benchRoundTrip(): Promise<RoundTripDocument> {
  await buildKernels({ log: (line) => console.error(line) });
  const machine = machineReport();
  const pack = await demoPack();
  const miniflare = await measureInMiniflare(pack);
  const wranglerDev = await measureInWranglerDev(pack);
  return {
    machine, miniflare, wranglerDev,
    targets: {
      "bare Miniflare: a round to 4 shards over a bare echo": target(miniflare.ratio, AT_MOST, AT_MOST, "at most"),
      "wrangler dev without local observability: a round to 4 shards over a bare echo": target(wranglerDev.ratio, AT_MOST, AT_MOST, "at most"),
    },
  };
}

if (import.meta.main) await present("round-trip", benchRoundTrip, () => "");
