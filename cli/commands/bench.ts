// `workers-moe bench [name...]`: runs the benchmarks of bench/, each in a fresh process so that none warms another's caches.
// Each benchmark's table goes to standard error as it ends, one document {name: result} to standard output at the end; --table leaves the
// document out. Refuses to judge: the figures carry their ratios, bars and stretches.

import type { Command } from "commander";
import { spawn } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { ROOT } from "../setup.mjs";

/** Says "each of them" instead of a name. */
const ALL = "all";

interface BenchOptions {
  readonly table?: boolean;
  readonly rounds?: string;
  readonly cache?: string;
  readonly data?: string;
}

/** A benchmark is a file of bench/ whose header says it can be run with `--json`. */
const benchmarks = (): string[] => readdirSync(join(ROOT, "bench"))
  .filter((file) => file.endsWith(".ts") && readFileSync(join(ROOT, "bench", file), "utf8").startsWith(`// \`node bench/${file} [--json]\``))
  .map((file) => file.slice(0, -3)).sort();

export function register(program: Command): void {
  program.command("bench")
    .description("measure this machine: kernels, engine (against wllama), serve, constraints, sweeps, round-trip, start-up, a first token from cold, a fleet whose processes are killed, one that grows and one that holds a pack too large for an isolate; and the errors of models")
    .argument("[names...]", `which ones; each of them when left out or "${ALL}"`)
    .option("--table", "tables only, on standard output")
    .option("--json", "tables on standard error, then one JSON document on standard output (what it does anyway)")
    .option("--rounds <n>", "interleaved runs of the engine benchmark (default 5)")
    .option("--cache <dir>", "where generated models are kept (default build/bench)")
    .option("--data <dir>", "where tokenizers for the constraints benchmark lie (default WORKERS_MOE_DATA)")
    .action(async (names: string[], options: BenchOptions) => {
      const known = benchmarks();
      const unknown = names.find((name) => name !== ALL && !known.includes(name));
      if (unknown !== undefined) throw new Error(`There is no benchmark "${unknown}"; expected ${known.join(", ")} or ${ALL}.`);
      const passed = (["rounds", "cache", "data"] as const).flatMap((name) => (options[name] === undefined ? [] : [`--${name}`, options[name]]));
      const results: Record<string, unknown> = {};
      for (const name of names.length === 0 || names.includes(ALL) ? known : names) {
        process.stderr.write(`bench ${name} …\n`);
        await run(name, options.table !== true, passed);
        if (options.table !== true) results[name] = JSON.parse(readFileSync(join(ROOT, "build", "bench", `${name}.json`), "utf8"));
      }
      if (options.table !== true) process.stdout.write(`${JSON.stringify(results, null, 2)}\n`);
    });
}

/**
 * Runs one benchmark, which shows its table and keeps its document. With `toStandardError` nothing of it reaches standard output: runtimes it
 * starts write there too.
 */
function run(name: string, toStandardError: boolean, passed: readonly string[]): Promise<void> {
  const env = { ...process.env, X_LOCAL_OBSERVABILITY: "false" };
  const child = spawn(process.execPath, [join(ROOT, "bench", `${name}.ts`), ...passed], {
    cwd: ROOT, env, stdio: ["ignore", toStandardError ? process.stderr : "inherit", "inherit"],
  });
  return new Promise((done, failed) => {
    child.on("error", failed);
    child.on("close", (code) => (code === 0 ? done() : failed(new Error(`The benchmark "${name}" ended with exit code ${code}. What it said is above.`))));
  });
}
