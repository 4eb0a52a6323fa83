// Workers in bare Miniflare, for benchmarks: one workerd process each, reached over loopback, the pack behind the assets binding as in
// `serve`. Owns the processes and the bundle. Refuses wrangler's extras, which cost time of their own, and production's memory limit:
// isolateMiB lifts it, and `memoryProfile` says so in words for the output.

import { build } from "esbuild";
import { createHash } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { Miniflare, convertV4MiniflareOptions } from "miniflare";
import { assembleAssets, ROOT } from "../cli/setup.mjs";
import { LIMITS } from "../durable/limits.ts";

const COMPATIBILITY_DATE = "2026-11-17";
/** The modules of WebAssembly that the Worker imports: kernels, and the grammar library. */
export const WASM_FILES = [...["simd128", "relaxed-i32", "relaxed-i16"].map((name) => `build/kernels-${name}.wasm`), "build/xgrammar.wasm"];
const READY_MS_MAX = 120_000;

export interface HostOptions {
  /** Name of the script, by which other processes find its objects. */
  readonly name: string;
  /** File of bench/ that is the Worker. */
  readonly entry: string;
  readonly packId: string;
  readonly shards: number;
  /** Memory one object may use; above production's limit only on a local machine. */
  readonly isolateMiB: number;
  /** Bindings of Durable Objects: class name, and the script that has it when it is another. */
  readonly objects: Readonly<Record<string, { readonly className: string; readonly scriptName?: string }>>;
  /** Folder through which processes find each other; absent for a process on its own. */
  readonly registry?: string;
  /** Folder for what objects store, for whoever starts a process again over it; absent: it ends with the process. */
  readonly persist?: string;
  /** Port of the inspector, for whoever looks at the heap; absent for none. */
  readonly inspectorPort?: number;
}

export interface Host {
  readonly url: string;
  close(): Promise<void>;
}

/** Starts one workerd process; it listens when this returns, and has loaded nothing. */
export async function startHost(pack: string, options: HostOptions): Promise<Host> {
  const { name, entry, packId, shards, isolateMiB, objects, registry, persist, inspectorPort } = options;
  const bundle = await build({
    entryPoints: [join(ROOT, "bench", entry)], bundle: true, format: "esm", write: false, external: ["*.wasm", "cloudflare:workers"],
    conditions: ["workerd", "worker", "browser"], logLevel: "silent",
  });
  // What the assets binding serves: links to the pack's files, made once, among what is built: a pack may lie in a folder that is not ours to write in.
  const packDigest = createHash("sha256").update(readFileSync(join(pack, "manifest.json"))).digest("hex").slice(0, 16);
  const assets = join(ROOT, "build", "bench", `${packId}-${packDigest}-assets`);
  if (!existsSync(assets)) assembleAssets(assets, { [packId]: pack });
  const host = new Miniflare({ ...convertV4MiniflareOptions({
    host: "127.0.0.1", name, modulesRoot: "/",
    modules: [
      { type: "ESModule", path: "/bench/worker.js", contents: bundle.outputFiles[0]!.text },
      ...WASM_FILES.map((file) => ({ type: "CompiledWasm" as const, path: `/${file}`, contents: new Uint8Array(readFileSync(join(ROOT, file))) })),
    ],
    compatibilityDate: COMPATIBILITY_DATE,
    durableObjects: Object.fromEntries(Object.entries(objects).map(([binding, of]) => [binding, { ...of, useSQLite: true }])),
    assets: { directory: assets, binding: "ASSETS", routerConfig: { has_user_worker: true, invoke_user_worker_ahead_of_assets: true } },
    bindings: { PACK_ID: packId, PACK_SOURCE: "assets", SHARDS_COUNT: String(shards), ISOLATES: "shared", OPEN_ACCESS: "true", LOG: "off", ISOLATE_MIB: String(isolateMiB) },
    ...(inspectorPort === undefined ? {} : { inspectorPort }),
    ...(registry === undefined ? {} : { unsafeDevRegistryPath: registry }),
  }), ...(persist === undefined ? {} : { resourcePersistencePath: persist }) });
  try {
    return { url: (await host.ready).href.replace(/\/$/, ""), close: () => host.dispose() };
  } catch (cause) {
    await host.dispose();
    throw cause;
  }
}

/** What differs from a deployment, in words. */
export function memoryProfile(isolateMiB: number): string {
  const limitMiB = LIMITS.isolateBytes / 2 ** 20;
  return isolateMiB > limitMiB ? `local profile: memory limit lifted from ${limitMiB} to ${isolateMiB} MiB per isolate` : `${isolateMiB} MiB per isolate`;
}

export interface Server extends Host {
  /** The harness and what differs from a deployment, for the output. */
  readonly profile: string;
}

/** The whole server in one process, ready: /health says so. Throws when it does not come up. */
export async function startServer(pack: string, options: Pick<HostOptions, "packId" | "shards" | "isolateMiB" | "inspectorPort">): Promise<Server> {
  const host = await startHost(pack, { ...options, name: "serving", entry: "serving-worker.ts", objects: { ORCHESTRATOR: { className: "Orchestrator" }, SHARDS: { className: "ExpertShard" } } });
  try {
    await untilReady(host.url);
  } catch (cause) {
    await host.close();
    throw cause;
  }
  const { shards, isolateMiB } = options;
  return { ...host, profile: `bare Miniflare, one workerd process, ${shards} ${shards === 1 ? "shard" : "shards"}; ${memoryProfile(isolateMiB)}` };
}

async function untilReady(url: string): Promise<void> {
  const started = performance.now();
  for (;;) {
    const response = await fetch(`${url}/health`);
    const body = await response.text();
    if (response.status === 200) return;
    if (response.status !== 503 || performance.now() - started > READY_MS_MAX) throw new Error(`The server did not come up: /health answered ${response.status}: ${body}`);
    await new Promise((done) => setTimeout(done, 100));
  }
}
