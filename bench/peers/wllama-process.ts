// wllama (llama.cpp as WebAssembly, what a browser user would pick) in a process of its own, one thread: loads files, one after the other, and
// answers requests line by line. Started by wllama.ts with --experimental-wasm-jspi. Owns the few browser globals the package needs in Node: a
// document's base URL and a Worker over node:worker_threads, which gets the package's code compiled already. Refuses several threads, caches and the
// network.

import { resolveObjectURL } from "node:buffer";
import { openAsBlob, readFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";
import { Worker as NodeWorker } from "node:worker_threads";
import { WLLAMA } from "./wllama.ts";

/** Loads a file in place of the one before. The answer is a WllamaLoaded. */
export interface WllamaLoad {
  readonly load: string;
  /** Type of the KV cache; f16, the package's default, when absent. */
  readonly cache?: "f16" | "f32";
}

export interface WllamaLoaded {
  /** Why the file was not loaded, in llama.cpp's words; null when it was. */
  readonly refusal: string | null;
}

export interface WllamaRequest {
  readonly prompt: string;
  readonly maxTokens: number;
  /** Log-probabilities of each generated token and of this many most likely ones; absent = none. */
  readonly logprobs?: number;
}

/** A generated token, its log-probability, and those of the most likely ones. */
export interface WllamaToken {
  readonly id: number;
  readonly token: string;
  readonly logprob: number;
  readonly top: readonly { readonly id: number; readonly token: string; readonly logprob: number }[];
}

/** llama.cpp's own timings, and the wall time around the call. */
export interface WllamaAnswer {
  readonly promptTokens: number;
  readonly promptMs: number;
  readonly generatedTokens: number;
  readonly generatedMs: number;
  readonly wallMs: number;
  readonly text: string;
  /** Where log-probabilities were asked for. */
  readonly tokens: readonly WllamaToken[];
}

const CONTEXT_TOKENS = 512;

/** What is used of the package, whose own types do not pass this repository's compiler settings. */
interface WllamaPackage {
  readonly Wllama: new (paths: { default: string }, config: object) => {
    loadModel(files: Blob[], options: {
      n_ctx: number; n_batch: number; n_threads: number; n_gpu_layers: number; cache_type_k?: "f16" | "f32"; cache_type_v?: "f16" | "f32";
    }): Promise<void>;
    exit(): Promise<void>;
    isMultithread(): boolean;
    getNumThreads(): number;
    createCompletion(options: { prompt: string; max_tokens: number; temperature: number; ignore_eos: boolean; cache_prompt: boolean; logprobs?: number }): Promise<{
      readonly choices: readonly { readonly text: string; readonly logprobs?: unknown }[];
      readonly timings?: { readonly prompt_n: number; readonly prompt_ms: number; readonly predicted_n: number; readonly predicted_ms: number };
    }>;
  };
}

type Model = InstanceType<WllamaPackage["Wllama"]>;

// The package's main entry names a file that it does not have, so Node cannot resolve it by name (3.8.1).
const FOLDER = join(WLLAMA, "esm");
const WASM = join(FOLDER, "wasm/wllama.wasm");
/** Compiled once, not for every file that is loaded. */
const compiled = WebAssembly.compile(readFileSync(WASM));

/** Gives the package's worker code the names it has in a browser's worker, and its module as it is compiled already. */
const WORKER_PRELUDE = `{
  const { parentPort, workerData } = require("node:worker_threads");
  const instantiate = WebAssembly.instantiate;
  WebAssembly.instantiate = async (_, imports) => ({ module: workerData, instance: await instantiate(workerData, imports) });
  globalThis.self = globalThis;
  globalThis.WorkerGlobalScope ??= class {};
  globalThis.postMessage = (data, transfer) => parentPort.postMessage(data, transfer);
  let handler;
  Object.defineProperty(globalThis, "onmessage", {
    configurable: true,
    get: () => handler,
    set(f) { if (!handler) parentPort.on("message", (data) => handler({ data })); handler = f; },
  });
}
`;

/** A browser's Worker over one of Node's; what is posted before the code is there waits. */
class BlobWorker {
  onmessage: ((event: { data: unknown }) => void) | null = null;
  onerror: ((error: unknown) => void) | null = null;
  readonly #ready: Promise<NodeWorker>;

  constructor(url: string | URL) {
    this.#ready = this.#start(String(url));
  }

  async #start(url: string): Promise<NodeWorker> {
    const blob = resolveObjectURL(url);
    if (blob === undefined) throw new Error(`A worker was started from ${url}; expected the URL of a blob of this process.`);
    const worker = new NodeWorker(WORKER_PRELUDE + await blob.text(), { eval: true, workerData: await compiled });
    worker.on("message", (data: unknown) => this.onmessage?.({ data }));
    worker.on("error", (error) => {
      process.stderr.write(`wllama's worker failed: ${error instanceof Error ? error.stack ?? error.message : String(error)}\n`);
      this.onerror?.(error);
      // The package would wait for an answer forever.
      process.exit(1);
    });
    return worker;
  }

  postMessage(data: unknown, transfer: Transferable[] = []): void {
    void this.#ready.then((worker) => worker.postMessage(data, transfer as Parameters<NodeWorker["postMessage"]>[1]));
  }

  terminate(): void {
    void this.#ready.then((worker) => worker.terminate());
  }
}

/** From the shape llama.cpp's server gives completions: {content: [{id, token, logprob, top_logprobs}]}. */
function tokensOf(logprobs: unknown): WllamaToken[] {
  type Said = Omit<WllamaToken, "top">;
  const { content = [] } = (logprobs ?? {}) as { content?: (Said & { top_logprobs: Said[] })[] };
  return content.map(({ id, token, logprob, top_logprobs: top }) => ({ id, token, logprob, top: top.map((t) => ({ id: t.id, token: t.token, logprob: t.logprob })) }));
}

/** What llama.cpp's log says went wrong; null where nothing did. The package itself takes a model that failed to load for one that did (3.8.1). */
function failureIn(log: readonly string[]): string | null {
  for (const line of log) {
    const reason = /error loading model: (?:error loading model [a-z]+: )?(.*)/.exec(line)?.[1];
    if (reason !== undefined) return reason;
  }
  return log.some((line) => line.includes("failed to load model")) ? "failed to load model" : null;
}

async function main(): Promise<void> {
  const globals = globalThis as unknown as { document: { baseURI: string }; Worker: unknown };
  globals.document = { baseURI: `${pathToFileURL(FOLDER).href}/` };
  globals.Worker = BlobWorker;
  const { Wllama } = await import(pathToFileURL(join(FOLDER, "index.js")).href) as WllamaPackage;
  let log: string[] = [];
  const note = (...words: unknown[]): void => void log.push(words.join(" "));
  let model: Model | null = null;

  const load = async ({ load: file, cache = "f16" }: WllamaLoad): Promise<WllamaLoaded> => {
    await model?.exit();
    log = [];
    model = new Wllama({ default: pathToFileURL(WASM).href }, {
      // The browser's file cache does not exist here; a file given as a Blob needs none.
      cacheManager: {},
      logger: { debug: note, log: note, warn: note, error: note },
    });
    try {
      await model.loadModel([await openAsBlob(file)], { n_ctx: CONTEXT_TOKENS, n_batch: CONTEXT_TOKENS, n_threads: 1, n_gpu_layers: 0, cache_type_k: cache, cache_type_v: cache });
    } catch (error) {
      return { refusal: failureIn(log) ?? (error instanceof Error ? error.message : String(error)) };
    }
    const refusal = failureIn(log);
    if (refusal !== null) return { refusal };
    if (model.isMultithread() || model.getNumThreads() !== 1) throw new Error(`wllama runs ${model.getNumThreads()} threads; 1 was asked for.`);
    return { refusal: null };
  };

  const complete = async ({ prompt, maxTokens, logprobs }: WllamaRequest): Promise<WllamaAnswer> => {
    if (model === null) throw new Error("A completion was asked for before a file was loaded.");
    const start = performance.now();
    // Never ends early, and reads every prompt anew.
    const { timings, choices } = await model.createCompletion({ prompt, max_tokens: maxTokens, temperature: 0, ignore_eos: true, cache_prompt: false, ...(logprobs === undefined ? {} : { logprobs }) });
    const wallMs = performance.now() - start;
    if (timings === undefined) throw new Error("wllama's answer holds no timings.");
    return {
      promptTokens: timings.prompt_n, promptMs: timings.prompt_ms, generatedTokens: timings.predicted_n, generatedMs: timings.predicted_ms, wallMs,
      text: choices[0]?.text ?? "", tokens: tokensOf(choices[0]?.logprobs),
    };
  };

  try {
    for await (const line of createInterface({ input: process.stdin })) {
      const asked = JSON.parse(line) as WllamaLoad | WllamaRequest;
      process.stdout.write(`${JSON.stringify("load" in asked ? await load(asked) : await complete(asked))}\n`);
    }
  } catch (cause) {
    process.stderr.write(`${log.slice(-20).join("\n")}\n`);
    throw cause;
  }
}

await main();
process.exit(0); // its worker would keep the process alive
