// `workers-moe serve` as a child process for tests: the real command, on a free port, until it prints `ready`.
// Also the tiny pack on disk that it serves: long enough a context that a generation can be left in the middle.

import { spawn, type ChildProcess } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { pinnedNode, ROOT } from "../../cli/setup.mjs";
import { openHuggingFace } from "../../formats/huggingface.ts";
import { MemorySource } from "../../formats/memory-source.ts";
import { packToMemory } from "./pack-to-memory.ts";
import { tinyChatFiles } from "./tiny-chat.ts";
import { tinyModel } from "./tiny-models.ts";

export const LONG_CONTEXT = 4096;

/** Writes a tiny pack that never ends by itself (no end token) to a temporary folder. */
export async function writeTinyPack(): Promise<{ folder: string; remove: () => void }> {
  const model = tinyModel("qwen3_moe", 3, { config: { max_position_embeddings: LONG_CONTEXT, eos_token_id: [] } });
  const source = model.huggingFaceFiles();
  source.delete("generation_config.json");
  const settings = JSON.parse(new TextDecoder().decode(source.get("tokenizer_config.json"))) as object;
  source.set("tokenizer_config.json", new TextEncoder().encode(JSON.stringify({ ...settings, eos_token: null })));
  return writePack(source, "tiny");
}

/** Writes a tiny pack that takes tools and thinking, and never ends by itself. */
export const writeChatPack = (): Promise<{ folder: string; remove: () => void }> => writePack(tinyChatFiles(LONG_CONTEXT), "chat");

async function writePack(source: Map<string, Uint8Array>, id: string): Promise<{ folder: string; remove: () => void }> {
  const { files } = await packToMemory(await openHuggingFace(new MemorySource(source), "tiny"), { id, contextLength: LONG_CONTEXT });
  const folder = mkdtempSync(join(tmpdir(), "workers-moe-pack-"));
  for (const [name, bytes] of files) {
    mkdirSync(dirname(join(folder, name)), { recursive: true });
    writeFileSync(join(folder, name), bytes);
  }
  return { folder, remove: () => rmSync(folder, { recursive: true, force: true }) };
}

export async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
  const { port } = server.address() as { port: number };
  await new Promise((done) => server.close(done));
  return port;
}

export interface Serving {
  readonly url: string;
  readonly child: ChildProcess;
  /** Everything on stdout and stderr so far. */
  output(): string;
  /** SIGTERM; resolves to the exit code. */
  stop(): Promise<number | null>;
}

export function run(args: readonly string[], env: Readonly<Record<string, string>> = {}): { child: ChildProcess; output: () => string; exit: Promise<number | null> } {
  const child = spawn(pinnedNode, [join(ROOT, "bin", "workers-moe.js"), ...args], { cwd: ROOT, env: { ...process.env, API_KEYS: "", ...env } });
  let text = "";
  child.stdout!.setEncoding("utf8").on("data", (chunk: string) => (text += chunk));
  child.stderr!.setEncoding("utf8").on("data", (chunk: string) => (text += chunk));
  return { child, output: () => text, exit: new Promise((done) => child.on("exit", (code) => done(code))) };
}

/** Starts serving and waits for `ready`; throws with the output when the command ends before. */
export async function startServe(pack: string, env: Readonly<Record<string, string>> = {}, options: readonly string[] = []): Promise<Serving> {
  const port = await freePort();
  const { child, output, exit } = run(["serve", pack, "--port", String(port), ...options], env);
  const ready = new Promise<void>((done) => child.stdout!.on("data", () => output().includes(`ready http://localhost:${port}\n`) && done()));
  const ended = exit.then((code) => {
    throw new Error(`serve ended with exit code ${code} before it was ready:\n${output()}`);
  });
  await Promise.race([ready, ended]);
  ended.catch(() => {}); // from here on an exit is the caller's business
  return {
    url: `http://127.0.0.1:${port}`, child, output,
    stop: async () => {
      child.kill("SIGTERM");
      return exit;
    },
  };
}
