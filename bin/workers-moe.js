#!/usr/bin/env node
// The launcher of the command line. Runs on any Node >= 20: where this Node is too old to run TypeScript, or is not the pinned one, it hands
// over to the pinned binary among the packages. Owns nothing else; the commands are in cli/.

import { spawn } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { constants } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const pinned = join(root, "node_modules", "node", "bin", process.platform === "win32" ? "node.exe" : "node");

if (!existsSync(pinned)) {
  process.stderr.write("The packages are not installed. Run `npm run build` in the repository once, then try again.\n");
  process.exit(1);
}
const wanted = JSON.parse(readFileSync(join(root, "package.json"), "utf8")).devDependencies.node;

if (process.versions.node === wanted) {
  const { main } = await import("../cli/main.ts");
  await main(process.argv);
} else {
  const child = spawn(pinned, [fileURLToPath(import.meta.url), ...process.argv.slice(2)], { stdio: "inherit" });
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) {
    process.on(signal, () => {
      if (signal !== "SIGINT" || !process.stdin.isTTY) child.kill(signal);
    });
  }
  child.on("exit", (code, signal) => process.exit(code ?? 128 + (constants.signals[signal] ?? 0)));
}
