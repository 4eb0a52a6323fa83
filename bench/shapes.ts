// `node bench/shapes.ts <architecture...|all> [--keep] [--folder DIR] [--tokens N]`: every architecture at a release's full width, a few layers deep, through
// the commands a user runs: inspect, pack, serve with a streamed chat request sent twice, verify --source. One table row each: sizes, seconds, peak memory of
// each command, tokens a second, and how far the pack is from its source. Owns the files it makes (deleted unless --keep) and the order. Refuses to go on after
// a failure: exit 1 with what the command said.

import { spawn } from "node:child_process";
import { mkdirSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import type { ModelAgreement } from "../cli/compare-models.ts";
import { FolderSource } from "../cli/file-source.ts";
import { serveMemory } from "../cli/serve-memory.ts";
import { ROOT } from "../cli/setup.mjs";
import { showBytes, showCount } from "../cli/sizes.ts";
import { openPack } from "../formats/pack-reader.ts";
import { streamChat } from "./chat-client.ts";
import { watchPeak } from "./peak-memory.ts";
import { RELEASED_SHAPES, SHAPE_NAMES, type ReleasedShape, type ShapeName } from "./model/released-shapes.ts";
import { writeShape } from "./model/write-shape.ts";

const COMMAND = join(ROOT, "bin", "workers-moe.js");
const REPLY_TOKENS = 24;
const READY_MS_MAX = 400_000;
const MESSAGE = "the quick brown fox jumps over the lazy dog and runs into the wood";

class CommandFailed extends Error {}

interface Ran {
  readonly stdout: string;
  readonly seconds: number;
  readonly peakBytes: number;
}

/** Runs a command to its end. Throws CommandFailed with what it printed. */
async function command(...args: string[]): Promise<Ran> {
  const started = performance.now();
  const child = spawn(process.execPath, [COMMAND, ...args], { cwd: ROOT, stdio: ["ignore", "pipe", "pipe"] });
  const peak = watchPeak(child.pid!);
  let [stdout, said] = ["", ""];
  child.stdout.on("data", (bytes: Buffer) => { stdout += bytes; said += bytes; });
  child.stderr.on("data", (bytes: Buffer) => { said += bytes; });
  const code = await new Promise<number>((done) => child.on("close", (status) => done(status ?? 1)));
  const peakBytes = peak();
  if (code !== 0) throw new CommandFailed(`workers-moe ${args.join(" ")} ended with exit code ${code}:\n${said}`);
  return { stdout, seconds: (performance.now() - started) / 1000, peakBytes };
}

interface Served {
  readonly isolateMib: number;
  readonly readySeconds: number;
  readonly tokensPerSecond: number;
  readonly firstTokenSeconds: number;
  readonly text: string;
  readonly peakBytes: number;
}

/** Serves the pack and asks it the same twice, greedily. Throws CommandFailed when the server fails or the answers differ. */
async function serve(pack: string, shape: ReleasedShape): Promise<Served> {
  const { manifest } = await openPack(new FolderSource(pack));
  const shards = Math.max(1, shape.processes - 1);
  const { isolateMib } = serveMemory(manifest, { shards, processes: shape.processes });
  const port = await freePort();
  const started = performance.now();
  const args = ["serve", pack, "--port", String(port), "--shards", String(shards), "--processes", String(shape.processes), "--isolate-mib", String(isolateMib)];
  const child = spawn(process.execPath, [COMMAND, ...args], { cwd: ROOT, stdio: ["ignore", "pipe", "pipe"] });
  const peak = watchPeak(child.pid!);
  let said = "";
  const ended = new Promise<void>((done) => child.on("close", () => done()));
  const ready = new Promise<boolean>((done) => {
    const heard = (bytes: Buffer): void => {
      said += bytes;
      if (said.includes("ready http")) done(true);
    };
    child.stdout.on("data", heard);
    child.stderr.on("data", heard);
    void ended.then(() => done(false));
    setTimeout(() => done(false), READY_MS_MAX).unref();
  });
  try {
    if (!(await ready)) throw new CommandFailed(`workers-moe ${args.join(" ")} did not become ready:\n${said}`);
    const readySeconds = (performance.now() - started) / 1000;
    const ask = (): ReturnType<typeof streamChat> => streamChat(`http://127.0.0.1:${port}`, { model: manifest.id, content: MESSAGE, maxTokens: REPLY_TOKENS, seed: 1 });
    const [once, again] = [await ask(), await ask()];
    if (once.text !== again.text) throw new CommandFailed(`The same greedy request gave two answers:\n${once.text}\n${again.text}`);
    const { tokenMs } = again;
    return {
      isolateMib, readySeconds, text: again.text, firstTokenSeconds: tokenMs[0]! / 1000,
      tokensPerSecond: (1000 * (tokenMs.length - 1)) / (tokenMs.at(-1)! - tokenMs[0]!), peakBytes: peak(),
    };
  } catch (cause) {
    if (cause instanceof CommandFailed) throw cause;
    throw new CommandFailed(`workers-moe ${args.join(" ")}: ${cause instanceof Error ? cause.message : String(cause)}\n${said}`, { cause });
  } finally {
    child.kill("SIGTERM");
    await ended;
    peak();
  }
}

function freePort(): Promise<number> {
  return new Promise((done, failed) => {
    const probe = createServer().once("error", failed).listen(0, "127.0.0.1", () => {
      const { port } = probe.address() as { port: number };
      probe.close(() => done(port));
    });
  });
}

const COLUMNS = ["architecture", "shape of", "layers", "parameters", "source", "pack", "generate s", "inspect s", "pack s (peak)", "ready s (peak)", "isolate MiB", "decoded tokens/s",
  "first token s", "verify s (peak)", "least layer cosine", "logit error", "KL mean / most, nats", "same top", "perplexity source / pack"];

async function row(name: ShapeName, folder: string, tokens: number): Promise<string[]> {
  const shape: ReleasedShape = RELEASED_SHAPES[name];
  const say = (what: string): void => void process.stderr.write(`${name}: ${what}\n`);
  const at = join(folder, name);
  rmSync(at, { recursive: true, force: true });
  mkdirSync(at, { recursive: true });
  say("generating");
  const started = performance.now();
  const model = await writeShape(name, join(at, "model"));
  const generateSeconds = (performance.now() - started) / 1000;
  say(`${showCount(model.parameters)} parameters, ${showBytes(model.bytes)} in ${generateSeconds.toFixed(1)} s; inspect`);
  const inspected = await command("inspect", model.path, "--json");
  const { architecture } = JSON.parse(inspected.stdout) as { architecture: string };
  if (architecture !== name) throw new CommandFailed(`workers-moe inspect found the architecture ${architecture}; ${name} was written.`);
  say(`pack --quant ${shape.quant}`);
  const pack = join(at, "pack");
  const packed = await command("pack", model.path, "--out", pack, "--quant", shape.quant, "--id", name.replaceAll("_", "-"), "--json");
  const { packBytes, warnings } = JSON.parse(packed.stdout) as { packBytes: number; warnings: readonly string[] };
  say(`${showBytes(packBytes)} in ${packed.seconds.toFixed(1)} s${warnings.map((w) => `; ${w}`).join("")}; serve`);
  const served = await serve(pack, shape);
  say(`${served.tokensPerSecond.toFixed(2)} tokens/s: ${JSON.stringify(served.text)}; verify`);
  const verified = await command("verify", pack, "--source", model.path, "--tokens", String(tokens), "--json");
  const { agreement: a } = JSON.parse(verified.stdout) as { agreement: ModelAgreement };
  const timed = ({ seconds, peakBytes }: { seconds: number; peakBytes: number }): string => `${seconds.toFixed(1)} (${showBytes(peakBytes)})`;
  const form = shape.form.kind === "gguf" ? `GGUF ${shape.form.mixture}` : `safetensors ${shape.form.dtype}, ${shape.form.shards === 1 ? "1 file" : `${shape.form.shards} files`}`;
  return [
    name, `${shape.release}${shape.differs === null ? "" : `, but ${shape.differs}`}`, String(shape.config["num_hidden_layers"]), showCount(model.parameters), `${form}, ${showBytes(model.bytes)}`,
    `${shape.quant}, ${showBytes(packBytes)}`, generateSeconds.toFixed(1), inspected.seconds.toFixed(1), timed(packed),
    `${served.readySeconds.toFixed(1)} (${showBytes(served.peakBytes)})`, `${served.isolateMib}${shape.processes > 1 ? `, ${shape.processes} processes` : ""}`,
    served.tokensPerSecond.toFixed(2), served.firstTokenSeconds.toFixed(2), timed(verified),
    Math.min(...a.layers.map((l) => l.leastCosine)).toFixed(6), `${(100 * a.logitError).toFixed(3)} %`, `${a.klMean.toExponential(2)} / ${a.klMost.toExponential(2)}`,
    `${(100 * a.sameTop).toFixed(1)} %`, `${a.perplexity[0].toPrecision(5)} / ${a.perplexity[1].toPrecision(5)}`,
  ];
}

function optionsOf(args: readonly string[]): { names: ShapeName[]; folder: string; keep: boolean; tokens: number } | null {
  const names: ShapeName[] = [];
  let [folder, keep, tokens] = [join(ROOT, "build", "shapes"), false, 32];
  for (let i = 0; i < args.length; i++) {
    const arg = args[i]!;
    if (arg === "--keep") keep = true;
    else if (arg === "--folder" && args[i + 1] !== undefined) folder = args[++i]!;
    else if (arg === "--tokens" && Number.isInteger(Number(args[i + 1])) && Number(args[i + 1]) > 0) tokens = Number(args[++i]);
    else if (arg === "all") names.push(...SHAPE_NAMES);
    else if (SHAPE_NAMES.some((name) => name === arg)) names.push(arg as ShapeName);
    else return null;
  }
  return names.length === 0 ? null : { names, folder, keep, tokens };
}

const options = optionsOf(process.argv.slice(2));
if (options === null) {
  process.stderr.write(`Usage: node bench/shapes.ts <architecture...|all> [--keep] [--folder DIR] [--tokens N]\nArchitectures: ${SHAPE_NAMES.join(", ")}\n`);
  process.exit(2);
}
const line = (cells: readonly string[]): string => `| ${cells.join(" | ")} |\n`;
process.stdout.write(line(COLUMNS) + line(COLUMNS.map(() => "---")));
for (const name of options.names) {
  try {
    process.stdout.write(line(await row(name, options.folder, options.tokens)));
  } catch (cause) {
    if (!(cause instanceof CommandFailed)) throw cause;
    process.stderr.write(`${name}: ${cause.message}\n`);
    process.exitCode = 1;
    break;
  } finally {
    if (!options.keep) rmSync(join(options.folder, name), { recursive: true, force: true });
  }
}
