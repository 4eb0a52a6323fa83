// wllama (llama.cpp as WebAssembly, what a browser user would pick) in a process of its own, one thread: loads one file, then answers
// requests line by line. Started by wllama.ts with --experimental-wasm-jspi. Owns the few browser globals the package needs in Node:
// a document's base URL and a Worker over node:worker_threads. Refuses several threads, caches and the network.

import { resolveObjectURL } from "node:buffer";
import { openAsBlob } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";
import { Worker as NodeWorker } from "node:worker_threads";
import { WLLAMA } from "./wllama.ts";

export interface WllamaRequest {
  readonly prompt: string;
  readonly maxTokens: number;
  /** Log-probabilities of each generated token and of this many most likely ones; absent = none. */
  readonly logprobs?: number;
}

/** A generated token as text, its log-probability, and those of the most likely ones. */
export interface WllamaToken {
  readonly token: string;
  readonly logprob: number;
  readonly top: readonly { readonly token: string; readonly logprob: number }[];
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
    loadModel(files: Blob[], options: { n_ctx: number; n_batch: number; n_threads: number; n_gpu_layers: number }): Promise<void>;
    isMultithread(): boolean;
    getNumThreads(): number;
    createCompletion(options: { prompt: string; max_tokens: number; temperature: number; ignore_eos: boolean; cache_prompt: boolean; logprobs?: number }): Promise<{
      readonly choices: readonly { readonly text: string; readonly logprobs?: unknown }[];
      readonly timings?: { readonly prompt_n: number; readonly prompt_ms: number; readonly predicted_n: number; readonly predicted_ms: number };
    }>;
  };
}

/** Gives the package's worker code the names it has in a browser's worker. */
const WORKER_PRELUDE = `{
  const { parentPort } = require("node:worker_threads");
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
    const worker = new NodeWorker(WORKER_PRELUDE + await blob.text(), { eval: true });
    worker.on("message", (data: unknown) => this.onmessage?.({ data }));
    worker.on("error", (error) => {
      process.stderr.write(`wllama's worker failed: ${error instanceof Error ? error.stack ?? error.message : String(error)}\n`);
      this.onerror?.(error);
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

/** From the shape llama.cpp's server gives completions: {content: [{token, logprob, top_logprobs}]}. */
function tokensOf(logprobs: unknown): WllamaToken[] {
  const { content = [] } = (logprobs ?? {}) as { content?: { token: string; logprob: number; top_logprobs: { token: string; logprob: number }[] }[] };
  return content.map(({ token, logprob, top_logprobs: top }) => ({ token, logprob, top: top.map((t) => ({ token: t.token, logprob: t.logprob })) }));
}

async function main(gguf: string): Promise<void> {
  // The package's main entry names a file that it does not have, so Node cannot resolve it by name (3.8.1).
  const folder = join(WLLAMA, "esm");
  const globals = globalThis as unknown as { document: { baseURI: string }; Worker: unknown };
  globals.document = { baseURI: `${pathToFileURL(folder).href}/` };
  globals.Worker = BlobWorker;
  const { Wllama } = await import(pathToFileURL(join(folder, "index.js")).href) as WllamaPackage;
  const log: string[] = [];
  const note = (...words: unknown[]): void => void log.push(words.join(" "));
  const wllama = new Wllama({ default: pathToFileURL(join(folder, "wasm/wllama.wasm")).href }, {
    // The browser's file cache does not exist here; a file given as a Blob needs none.
    cacheManager: {},
    logger: { debug: note, log: note, warn: note, error: note },
  });
  try {
    await wllama.loadModel([await openAsBlob(gguf)], { n_ctx: CONTEXT_TOKENS, n_batch: CONTEXT_TOKENS, n_threads: 1, n_gpu_layers: 0 });
    if (wllama.isMultithread() || wllama.getNumThreads() !== 1) throw new Error(`wllama runs ${wllama.getNumThreads()} threads; 1 was asked for.`);
    const say = (value: object): void => void process.stdout.write(`${JSON.stringify(value)}\n`);
    say({ ready: true });
    for await (const line of createInterface({ input: process.stdin })) {
      const { prompt, maxTokens, logprobs } = JSON.parse(line) as WllamaRequest;
      const start = performance.now();
      // Never ends early, and reads every prompt anew.
      const { timings, choices } = await wllama.createCompletion({ prompt, max_tokens: maxTokens, temperature: 0, ignore_eos: true, cache_prompt: false, ...(logprobs === undefined ? {} : { logprobs }) });
      const wallMs = performance.now() - start;
      if (timings === undefined) throw new Error("wllama's answer holds no timings.");
      const answer: WllamaAnswer = {
        promptTokens: timings.prompt_n, promptMs: timings.prompt_ms, generatedTokens: timings.predicted_n, generatedMs: timings.predicted_ms, wallMs,
        text: choices[0]?.text ?? "", tokens: tokensOf(choices[0]?.logprobs),
      };
      say(answer);
    }
  } catch (cause) {
    process.stderr.write(`${log.slice(-20).join("\n")}\n`);
    throw cause;
  }
}

await main(process.argv[2]!);
process.exit(0); // its worker would keep the process alive
