// `workers-moe serve <pack>`: the whole system on this machine, in workerd under `wrangler dev`, with the page and the API on one port.
// Owns the temporary assets folder (links to page and pack), the child processes, and the word `ready`, printed once /health says so.
// With --processes N the shards live in N - 1 processes of their own, joined by wrangler's dev registry. Refuses to guess ports: a taken one is
// an error that says how to choose another. Refuses packs that would not fit before anything is started (../serve-memory.ts).

import { InvalidArgumentError, type Command } from "commander";
import { spawn, type ChildProcess } from "node:child_process";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { basename, join, resolve } from "node:path";
import { openPack } from "../../formats/pack-reader.ts";
import { FolderSource } from "../file-source.ts";
import { positiveInteger } from "../positive-integer.ts";
import { liftedNotice, MOST_ISOLATE_MIB, requireServeMemory } from "../serve-memory.ts";
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
  readonly isolateMib?: number;
}

export function register(program: Command): void {
  program.command("serve")
    .description("serve a pack on this machine: OpenAI-compatible API and page")
    .argument("<pack>", "folder of a pack")
    .option("-p, --port <port>", "port to listen on", portNumber, 8787)
    .option("--shards <n>", "expert shards to spread the experts over", positiveInteger, 4)
    .option("--isolates <mode>", "shared: several shards may share one isolate, as they do locally; strict: they refuse", isolatesMode, "shared")
    .option("--isolate-mib <n>", "memory of one isolate, on this machine only: production's 90 MiB hold small trunks", isolateMebibytes)
    .option("--processes <n>", "workerd processes: with more than one, the shards are spread over all but the first", positiveInteger, 1)
    .action(serve);
}

async function serve(packFolder: string, options: ServeOptions): Promise<void> {
  const nScripts = options.processes - 1;
  if (nScripts > options.shards) {
    throw new Error(`--processes ${options.processes} leaves ${nScripts} processes for ${options.shards} shards; ask for more shards or for at most ${options.shards + 1} processes.`);
  }
  const pack = resolve(packFolder);
  const id = readPackId(pack);
  const { manifest } = await openPack(new FolderSource(pack));
  requireServeMemory(manifest, options, options.isolateMib ?? null);
  await requireFreePort(options.port);
  await buildProgram();

  mkdirSync(join(ROOT, "build"), { recursive: true });
  const work = mkdtempSync(join(ROOT, "build", "serve-"));
  const cleanUp = (): void => rmSync(work, { recursive: true, force: true });
  process.on("exit", cleanUp);
  const assets = join(work, "assets");
  assembleAssets(assets, { [id]: pack });

  const keySets = ["API_KEYS", "ADMIN_KEYS"].filter((name) => (process.env[name] ?? "") !== "");
  const envFile = join(work, "vars");
  // A line for every request is for whoever runs a server, not for a first look: LOG=on asks for it.
  const logLine = `LOG='${process.env["LOG"] === "on" ? "on" : "off"}'\n`;
  writeFileSync(envFile, logLine + [...keySets, "KEY_SETTINGS", "CORS_ORIGINS", "TRACE_SHARE"].map(settingLine).join("") + (keySets.length === 0 ? 'OPEN_ACCESS="true"\n' : ""), { mode: 0o600 });
  process.stderr.write(keySets.length === 0
    ? `Open access: no API_KEYS are set, so every program on this machine may use the API (it listens on ${HOST} only).\n`
    : `${keySets.join(" and ")} are set: requests need one of them.\n`);
  // An entry is a key, or `<name>:<key>` (worker/auth.ts).
  const ownKey = (process.env[keySets[0] ?? ""] ?? "").split(",")[0]!.trim().replace(/^[\w.-]{1,64}:/, "");

  if (options.isolateMib !== undefined) process.stderr.write(`${liftedNotice(manifest, options, options.isolateMib)}\n`);

  const at: Deployment = { id, assets, envFile, work, nScripts, isLifted: options.isolateMib !== undefined };
  const children: ChildProcess[] = [];
  let asked = false; // somebody asked us to stop: how the children then end is no failure
  const endAll = (signal: NodeJS.Signals): void => { for (const child of children) child.kill(signal); };
  const stop = (signal: NodeJS.Signals): void => {
    asked = true;
    endAll(signal === "SIGHUP" ? "SIGTERM" : signal);
  };
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, stop);
  const exitOf = (child: ChildProcess): Promise<number> => new Promise((done) => child.on("exit", (code, signal) => done(signal === null ? code ?? 1 : 0)));

  // One after another: processes that start together race for the port over which the registry joins them (2026-11).
  const shardExits: Promise<number>[] = [];
  for (let script = 0; script < nScripts && !asked; script++) {
    const port = await freePort();
    const child = startWrangler(writeShardConfig(at, script), port, options, at);
    children.push(child);
    const exited = exitOf(child);
    shardExits.push(exited);
    const answered = await Promise.race([waitUntilAnswering(`http://${HOST}:${port}/`, () => asked), exited.then(() => false)]);
    if (!answered && !asked) {
      endAll("SIGTERM");
      await Promise.all(shardExits);
      throw new Error(`Shard process ${script + 1} of ${nScripts} did not start. What it said is above.`);
    }
  }
  const child = startWrangler(nScripts === 0 && !at.isLifted ? join(ROOT, "wrangler.toml") : writeMainConfig(at), options.port, options, at);
  children.push(child);
  // A signal that came before this process existed has not reached it.
  if (asked) child.kill("SIGTERM");
  const exited = exitOf(child);
  // Shards that end take the server with them: it could only say that they are gone.
  let lost = false;
  for (const shardExit of shardExits) void shardExit.then(() => {
    lost = !asked;
    child.kill("SIGTERM");
  });
  void exited.then(() => endAll("SIGTERM"));

  const url = `http://localhost:${options.port}`;
  let stopped = false;
  void exited.then(() => (stopped = true));
  const ready = await waitUntilReady(`http://${HOST}:${options.port}/health`, ownKey, () => stopped);
  if (ready === null) process.stdout.write(`ready ${url}\n`);
  else if (!stopped) {
    child.kill("SIGTERM");
    await Promise.all([exited, ...shardExits]);
    throw new Error(ready);
  }
  const code = await exited;
  await Promise.all(shardExits);
  if (lost) throw new Error("A process with shards ended, and the server with it. What it said is above.");
  if (code !== 0 && !asked) throw new Error(`The local runtime ended with exit code ${code}. What it said is above.`);
}

/** A setting of the environment as a line of an env file, nothing where it is not set. Only single quotes leave what is in them as it is. */
function settingLine(name: string): string {
  const value = process.env[name] ?? "";
  if (value === "") return "";
  if (value.includes("'")) throw new Error(`${name} has a quote (') in it, which cannot be passed on; expected a value without one.`);
  return `${name}='${value}'\n`;
}

interface Deployment {
  readonly id: string;
  readonly assets: string;
  readonly envFile: string;
  /** Folder of this run. */
  readonly work: string;
  /** Processes that hold nothing but shards. */
  readonly nScripts: number;
  /** Isolates are larger than production's. */
  readonly isLifted: boolean;
}

const shardScript = (script: number): string => `workers-moe-shards-${script}`;

/** wrangler.toml of the first process: the repository's, with the shards' scripts bound, and the entry that lifts the isolate's limit. */
function writeMainConfig({ work, nScripts, isLifted }: Deployment): string {
  const text = readFileSync(join(ROOT, "wrangler.toml"), "utf8").replace(/^main = "(.*)"$/m, (_, main: string) => `main = ${JSON.stringify(join(ROOT, isLifted ? "worker/local-worker.ts" : main))}`);
  const bindings = Array.from({ length: nScripts }, (_, script) =>
    `\n[[durable_objects.bindings]]\nname = "SHARDS_${script}"\nclass_name = "ExpertShard"\nscript_name = "${shardScript(script)}"\n`);
  return writeConfig(work, "main", text + bindings.join(""));
}

/** wrangler.toml of a process with shards. */
function writeShardConfig({ work, isLifted }: Deployment, script: number): string {
  const date = /^compatibility_date = .*$/m.exec(readFileSync(join(ROOT, "wrangler.toml"), "utf8"))![0];
  return writeConfig(work, shardScript(script), [
    `name = "${shardScript(script)}"`, `main = ${JSON.stringify(join(ROOT, isLifted ? "worker/local-shards.ts" : "worker/shard-script.ts"))}`, date,
    '[exports.ExpertShard]', 'type = "durable-object"', 'storage = "sqlite"',
    '[assets]', 'directory = "assets"', 'binding = "ASSETS"', "run_worker_first = true", "",
  ].join("\n"));
}

function writeConfig(work: string, name: string, text: string): string {
  const folder = join(work, name);
  mkdirSync(folder, { recursive: true });
  // The bundler looks for it beside the configuration.
  cpSync(join(ROOT, "tsconfig.json"), join(folder, "tsconfig.json"));
  const path = join(folder, "wrangler.toml");
  writeFileSync(path, text);
  return path;
}

function startWrangler(config: string, port: number, options: ServeOptions, at: Deployment): ChildProcess {
  const vars = [`PACK_ID:${at.id}`, "PACK_SOURCE:assets", `SHARDS_COUNT:${options.shards}`, `SHARD_SCRIPTS:${at.nScripts}`, `ISOLATES:${options.isolates}`,
    ...(options.isolateMib === undefined ? [] : [`ISOLATE_MIB:${options.isolateMib}`])];
  const args = [
    join(ROOT, "node_modules", "wrangler", "bin", "wrangler.js"), "dev",
    "--config", config, "--local", "--ip", HOST, "--port", String(port), "--inspector-port", "0",
    "--assets", at.assets, "--persist-to", join(at.work, `state-${port}`), "--env-file", at.envFile,
    "--log-level", "warn", "--show-interactive-dev-session=false", ...vars.flatMap((pair) => ["--var", pair]),
  ];
  // Local observability makes every WebSocket event four times slower (measured 2026-11 with wrangler 4.164).
  // A registry of its own: other programs' shards must not be taken for ours.
  const env = { ...process.env, X_LOCAL_OBSERVABILITY: "false", WRANGLER_SEND_METRICS: "false", WRANGLER_REGISTRY_PATH: join(at.work, "registry") };
  return spawn(process.execPath, args, { cwd: ROOT, env, stdio: ["ignore", "ignore", "inherit"] });
}

/** True once anything answers at the address; false when it is time to stop. */
async function waitUntilAnswering(url: string, stopped: () => boolean): Promise<boolean> {
  for (const started = performance.now(); !stopped() && performance.now() - started < STARTUP_MS_MAX;) {
    try {
      await (await fetch(url)).arrayBuffer();
      return true;
    } catch {
      await new Promise((done) => setTimeout(done, POLL_MS));
    }
  }
  return false;
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

/** A port for a process that only its siblings talk to. */
function freePort(): Promise<number> {
  return new Promise((done, failed) => {
    const probe = createServer().once("error", failed).listen(0, HOST, () => {
      const { port } = probe.address() as { port: number };
      probe.close(() => done(port));
    });
  });
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
  const port = positiveInteger(text);
  if (port > 65_535) throw new InvalidArgumentError("Expected a port number from 1 to 65535.");
  return port;
}

function isolateMebibytes(text: string): number {
  const n = positiveInteger(text);
  if (n > MOST_ISOLATE_MIB) throw new InvalidArgumentError(`Expected at most ${MOST_ISOLATE_MIB}: a WebAssembly memory ends at 4 GiB.`);
  return n;
}

function isolatesMode(text: string): string {
  if (text !== "shared" && text !== "strict") throw new InvalidArgumentError('Expected "shared" or "strict".');
  return text;
}
