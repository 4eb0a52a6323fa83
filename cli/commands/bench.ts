// `workers-moe bench [name...]`: runs the benchmarks of bench/, each in a fresh process so that none warms another's caches.
// With --json one document {name: result}; otherwise each benchmark's own table. Refuses to judge: the figures carry their ratios.

import type { Command } from "commander";
import { spawn } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { ROOT } from "../setup.mjs";

/** A benchmark is a file of bench/ whose header says it can be run with `--json`. */
const benchmarks = (): string[] => readdirSync(join(ROOT, "bench"))
  .filter((file) => file.endsWith(".ts") && readFileSync(join(ROOT, "bench", file), "utf8").startsWith(`// \`node bench/${file} [--json]\``))
  .map((file) => file.slice(0, -3)).sort();

export function register(program: Command): void {
  program.command("bench")
    .description("measure this machine: kernels, rounds to shards")
    .argument("[names...]", "which ones; all when left out")
    .option("--json", "print one JSON document")
    .action(async (names: string[], options: { json?: boolean }) => {
      const known = benchmarks();
      const unknown = names.find((name) => !known.includes(name));
      if (unknown !== undefined) throw new Error(`There is no benchmark "${unknown}"; expected one of ${known.join(", ")}.`);
      const results: Record<string, unknown> = {};
      for (const name of names.length === 0 ? known : names) {
        process.stderr.write(`bench ${name} …\n`);
        const output = await run(name, options.json === true);
        if (options.json === true) results[name] = JSON.parse(output);
      }
      if (options.json === true) process.stdout.write(`${JSON.stringify(results, null, 2)}\n`);
    });
}

/** Standard output of a benchmark; shown as it comes unless it is collected. */
function run(name: string, collect: boolean): Promise<string> {
  const env = { ...process.env, X_LOCAL_OBSERVABILITY: "false" };
  const child = spawn(process.execPath, [join(ROOT, "bench", `${name}.ts`), ...(collect ? ["--json"] : [])], {
    cwd: ROOT, env, stdio: ["ignore", collect ? "pipe" : "inherit", "inherit"],
  });
  let output = "";
  child.stdout?.setEncoding("utf8").on("data", (chunk: string) => (output += chunk));
  return new Promise((done, failed) => {
    child.on("error", failed);
    child.on("close", (code) => (code === 0 ? done(output) : failed(new Error(`The benchmark "${name}" ended with exit code ${code}. What it said is above.`))));
  });
}
