// The command line: collects the commands of cli/commands/ and turns every outcome into an exit code.
// 0 done, 1 failed (one sentence on stderr; with --json one document {"error": …} on stdout), 2 wrong usage.

import { Command, CommanderError } from "commander";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { ROOT } from "./setup.mjs";

/** In the order of the help text. Each module registers one command; loading is lazy so that `serve` does not wait for the rest. */
const COMMANDS: Readonly<Record<string, () => Promise<{ register(program: Command): void }>>> = {
  serve: () => import("./commands/serve.ts"),
  chat: () => import("./commands/chat.ts"),
  inspect: () => import("./commands/inspect.ts"),
  pack: () => import("./commands/pack.ts"),
  compress: () => import("./commands/compress.ts"),
  report: () => import("./commands/report.ts"),
  search: () => import("./commands/search.ts"),
  plan: () => import("./commands/plan.ts"),
  deploy: () => import("./commands/deploy.ts"),
  verify: () => import("./commands/verify.ts"),
  logits: () => import("./commands/logits.ts"),
  eval: () => import("./commands/eval.ts"),
  trace: () => import("./commands/trace.ts"),
  profile: () => import("./commands/profile.ts"),
  bench: () => import("./commands/bench.ts"),
};

export async function main(argv: readonly string[]): Promise<void> {
  const { version } = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8")) as { version: string };
  const program = new Command("workers-moe")
    .description("Serve your own Mixture-of-Experts language model from Cloudflare Workers.")
    .version(version)
    .exitOverride()
    .configureHelp({ showGlobalOptions: true });
  const asked = argv[2] ?? "";
  const names = asked in COMMANDS ? [asked] : Object.keys(COMMANDS);
  for (const name of names) (await COMMANDS[name]!()).register(program);
  // exitOverride and the output settings are copied to subcommands made by program.command(); ones added whole need them again.
  for (const command of program.commands) command.exitOverride();
  try {
    await program.parseAsync([...argv]);
  } catch (cause) {
    process.exitCode = exitCodeOf(cause, argv.includes("--json"));
  }
}

function exitCodeOf(cause: unknown, json: boolean): number {
  if (cause instanceof CommanderError) {
    if (cause.code === "commander.helpDisplayed" || cause.code === "commander.version" || cause.code === "commander.help") return cause.exitCode === 0 ? 0 : 2;
    return 2; // commander has already said what is wrong
  }
  const message = cause instanceof Error ? cause.message : String(cause);
  if (json) process.stdout.write(`${JSON.stringify({ error: { message } })}\n`);
  else process.stderr.write(`workers-moe: ${message}\n`);
  if (process.env["WORKERS_MOE_STACK"] === "1" && cause instanceof Error) process.stderr.write(`${cause.stack ?? ""}\n`);
  return 1;
}
