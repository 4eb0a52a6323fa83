// wllama as a child process that keeps one model loaded between requests, so that its runs can be interleaved with ours.
// Owns the process and its line protocol. Refuses two requests at once.

import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { ROOT } from "../../cli/setup.mjs";
import type { WllamaAnswer, WllamaRequest } from "./wllama-process.ts";

/** The folder of the package, a development dependency: tests compare with it too. */
export const WLLAMA = join(ROOT, "node_modules/@wllama/wllama");
export const wllamaVersion = (): string => (JSON.parse(readFileSync(join(WLLAMA, "package.json"), "utf8")) as { version: string }).version;

export interface Wllama {
  complete(request: WllamaRequest): Promise<WllamaAnswer>;
  close(): Promise<void>;
}

/** Loads the file; rejects with what the process said when it ends before. */
export async function startWllama(gguf: string): Promise<Wllama> {
  const child = spawn(process.execPath, ["--experimental-wasm-jspi", join(import.meta.dirname, "wllama-process.ts"), gguf], { cwd: ROOT, stdio: ["pipe", "pipe", "pipe"] });
  let said = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => (said = (said + text).slice(-4000)));
  const exited = new Promise<number | null>((done) => child.on("exit", done));
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const next = async (): Promise<unknown> => {
    const { value, done } = await lines.next();
    if (done === true) throw new Error(`wllama's process ended with exit code ${await exited} instead of answering: ${said.trim()}`);
    return JSON.parse(value);
  };
  await next();
  return {
    async complete(request) {
      child.stdin.write(`${JSON.stringify(request)}\n`);
      return await next() as WllamaAnswer;
    },
    async close() {
      child.stdin.end();
      await exited;
    },
  };
}
