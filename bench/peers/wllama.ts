// wllama as a child process that keeps one model loaded between requests, so that its runs can be interleaved with ours, and that can load another.
// Owns the process and its line protocol. Refuses two requests at once.

import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { ROOT } from "../../cli/setup.mjs";
import type { WllamaAnswer, WllamaLoad, WllamaLoaded, WllamaRequest } from "./wllama-process.ts";

/** The folder of the package, a development dependency: tests compare with it too. */
export const WLLAMA = join(ROOT, "node_modules/@wllama/wllama");
export const wllamaVersion = (): string => (JSON.parse(readFileSync(join(WLLAMA, "package.json"), "utf8")) as { version: string }).version;

export interface Wllama {
  /** Loads the file in place of the one before; the reason when llama.cpp refuses it, else null. */
  load(file: string, cache?: WllamaLoad["cache"]): Promise<string | null>;
  complete(request: WllamaRequest): Promise<WllamaAnswer>;
  close(): Promise<void>;
}

/** Loads the file; rejects with the reason when llama.cpp refuses it. */
export async function startWllama(gguf: string): Promise<Wllama> {
  const wllama = startWllamaProcess();
  const refusal = await wllama.load(gguf);
  if (refusal === null) return wllama;
  await wllama.close();
  throw new Error(`wllama does not load ${gguf}: ${refusal}`);
}

/** The process alone. Its answers reject with what it said when it ends before giving them. */
export function startWllamaProcess(): Wllama {
  const child = spawn(process.execPath, ["--experimental-wasm-jspi", join(import.meta.dirname, "wllama-process.ts")], { cwd: ROOT, stdio: ["pipe", "pipe", "pipe"] });
  let said = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => (said = (said + text).slice(-4000)));
  child.stdin.on("error", () => {}); // of a process that has ended: next() says so
  const exited = new Promise<number | null>((done) => child.on("exit", done));
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const next = async (): Promise<unknown> => {
    const { value, done } = await lines.next();
    if (done === true) throw new Error(`wllama's process ended with exit code ${await exited} instead of answering: ${said.trim()}`);
    return JSON.parse(value);
  };
  const ask = (question: WllamaLoad | WllamaRequest): Promise<unknown> => {
    child.stdin.write(`${JSON.stringify(question)}\n`);
    return next();
  };
  return {
    load: async (load, cache) => (await ask({ load, ...(cache === undefined ? {} : { cache }) }) as WllamaLoaded).refusal,
    complete: async (request) => await ask(request) as WllamaAnswer,
    async close() {
      child.stdin.end();
      await exited;
    },
  };
}
