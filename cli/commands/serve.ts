// `workers-moe serve <pack>`: the whole system on this machine, in workerd under `wrangler dev`, with the page and the API on one port.
// Owns the temporary assets folder (links to page and pack), the child process, and the word `ready`, printed once /health says so.
// Refuses to guess ports: a taken one is an error that says how to choose another.

import { InvalidArgumentError, type Command } from "commander";
import { spawn, type ChildProcess } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { basename, join, resolve } from "node:path";
import { assembleAssets, buildProgram, ROOT } from "../setup.mjs";

const HOST = "127.0.0.1";
/** wrangler needs 3 to 6 s to bundle and start, loading a large pack a minute; what takes longer has failed silently. */
const STARTUP_MS_MAX = 300_000;
const POLL_MS = 100;

interface ServeOptions {
  readonly port: number;
  readonly processes: number;
  readonly shards: number;
  readonly isolates: string;
}

export function register(program: Command): void {
  program.command("serve")
    .description("serve a pack on this machine: OpenAI-compatible API and page")
    .argument("<pack>", "folder of a pack")
    .option("-p, --port <port>", "port to listen on", portNumber, 8787)
    .option("--shards <n>", "expert shards to spread the experts over", positiveInteger, 4)
    .option("--isolates <mode>", "shared: several shards may share one isolate, as they do locally; strict: they refuse", isolatesMode, "shared")
    .option("--processes <n>", "workerd processes to spread the shards over", positiveInteger, 1)
    .action(serve);
}

async function serve(packFolder: string, options: ServeOptions): Promise<void> {
  if (options.processes > 1) {
    throw new Error(`--processes ${options.processes} was asked for, but serving over several processes is not built yet: this version runs everything in one. Leave the option out.`);
  }
  const pack = resolve(packFolder);
  const id = readPackId(pack);
  await requireFreePort(options.port);
  await buildProgram();

  mkdirSync(join(ROOT, "build"), { recursive: true });
  const work = mkdtempSync(join(ROOT, "build", "serve-"));
  const cleanUp = (): void => rmSync(work, { recursive: true, force: true });
  process.on("exit", cleanUp);
  const assets = join(work, "assets");
  assembleAssets(assets, { [id]: pack });

  const keys = process.env["API_KEYS"] ?? "";
  const envFile = join(work, "vars");
  writeFileSync(envFile, keys === "" ? 'OPEN_ACCESS="true"\n' : `API_KEYS=${JSON.stringify(keys)}\n`, { mode: 0o600 });
  process.stderr.write(keys === ""
    ? `Open access: no API_KEYS are set, so every program on this machine may use the API (it listens on ${HOST} only).\n`
    : "API_KEYS are set: requests need one of them.\n");

  const child = startWrangler(options, { id, assets, envFile, state: join(work, "state") });
  let asked = false; // somebody asked us to stop: how the child then ends is no failure
  const stop = (signal: NodeJS.Signals): void => {
    asked = true;
    child.kill(signal === "SIGHUP" ? "SIGTERM" : signal);
  };
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, stop);
  const exited = new Promise<number>((done) => child.on("exit", (code, signal) => done(signal === null ? code ?? 1 : 0)));

  const url = `http://localhost:${options.port}`;
  let stopped = false;
  void exited.then(() => (stopped = true));
  const ready = await waitUntilReady(`http://${HOST}:${options.port}/health`, keys.split(",")[0]!.trim(), () => stopped);
  if (ready === null) process.stdout.write(`ready ${url}\n`);
  else if (!stopped) {
    child.kill("SIGTERM");
    await exited;
    throw new Error(ready);
  }
  const code = await exited;
  if (code !== 0 && !asked) throw new Error(`The local runtime ended with exit code ${code}. What it said is above.`);
}

function startWrangler(options: ServeOptions, at: { id: string; assets: string; envFile: string; state: string }): ChildProcess {
  const vars = [`PACK_ID:${at.id}`, "PACK_SOURCE:assets", `SHARDS_COUNT:${options.shards}`, `ISOLATES:${options.isolates}`];
  const args = [
    join(ROOT, "node_modules", "wrangler", "bin", "wrangler.js"), "dev",
    "--config", join(ROOT, "wrangler.toml"), "--local", "--ip", HOST, "--port", String(options.port), "--inspector-port", "0",
    "--assets", at.assets, "--persist-to", at.state, "--env-file", at.envFile,
    "--log-level", "warn", "--show-interactive-dev-session=false", ...vars.flatMap((pair) => ["--var", pair]),
  ];
  // Local observability makes every WebSocket event four times slower (measured 2026-11 with wrangler 4.164).
  const env = { ...process.env, X_LOCAL_OBSERVABILITY: "false", WRANGLER_SEND_METRICS: "false" };
  return spawn(process.execPath, args, { cwd: ROOT, env, stdio: ["ignore", "ignore", "inherit"] });
}

/** Asks /health until it is ready; null when it is, else a sentence. */
async function waitUntilReady(healthUrl: string, key: string, stopped: () => boolean): Promise<string | null> {
  const started = performance.now();
  let last = "no answer";
  while (!stopped()) {
    if (performance.now() - started > STARTUP_MS_MAX) return `The server was not ready after ${STARTUP_MS_MAX / 1000} s; its last answer was: ${last}.`;
    try {
      const response = await fetch(healthUrl, { headers: key === "" ? {} : { Authorization: `Bearer ${key}` } });
      last = await response.text();
      if (response.status === 200) return null;
      if (response.status !== 503) return `The server cannot load the pack: ${sentenceOf(last)}`;
    } catch {
      // Nothing listens yet.
    }
    await new Promise((done) => setTimeout(done, POLL_MS));
  }
  return "stopped";
}

function sentenceOf(body: string): string {
  try {
    return (JSON.parse(body) as { error?: { message?: string } }).error?.message ?? body;
  } catch {
    return body;
  }
}

function readPackId(pack: string): string {
  const manifest = join(pack, "manifest.json");
  if (!existsSync(manifest)) {
    throw new Error(`${pack} is not a pack: it holds no manifest.json. Make one with \`workers-moe pack <model> --out ${basename(pack)}\`.`);
  }
  const { id } = JSON.parse(readFileSync(manifest, "utf8")) as { id?: unknown };
  if (typeof id !== "string" || !/^[a-z0-9._-]+$/.test(id)) throw new Error(`${manifest}: \`id\` is ${JSON.stringify(id)}; lower-case letters, digits, '-', '.' and '_' were expected.`);
  return id;
}

/** Throws when something listens on the port already. */
async function requireFreePort(port: number): Promise<void> {
  await new Promise<void>((free, taken) => {
    const probe = createServer();
    probe.once("error", (cause: NodeJS.ErrnoException) => {
      taken(new Error(cause.code === "EADDRINUSE"
        ? `Port ${port} is taken by another program. Choose another: \`PORT=${port + 1} npm start\` or \`--port ${port + 1}\`.`
        : `Port ${port} cannot be used: ${cause.message}.`));
    });
    probe.listen(port, HOST, () => probe.close(() => free()));
  });
}

function portNumber(text: string): number {
  const port = Number(text);
  if (!Number.isInteger(port) || port < 1 || port > 65_535) throw new InvalidArgumentError(`found "${text}", expected a port number from 1 to 65535.`);
  return port;
}

function positiveInteger(text: string): number {
  const n = Number(text);
  if (!Number.isInteger(n) || n < 1) throw new InvalidArgumentError(`found "${text}", expected an integer of at least 1.`);
  return n;
}

function isolatesMode(text: string): string {
  if (text !== "shared" && text !== "strict") throw new InvalidArgumentError(`found "${text}", expected "shared" or "strict".`);
  return text;
}
