// `node bench/start-up.ts [--json]`: from `npm start` on a built tree to the word `ready`, and to the first whole answer of the demo model.
// Must reach: the first answer in under 10 s. Owns the process it starts. Refuses to build: a cold tree would be measured, so it is built first.

import { spawn } from "node:child_process";
import { createServer } from "node:net";
import { join } from "node:path";
import { machineReport, present, target, type Report } from "./report.ts";
import { median } from "./statistics.ts";

const ROOT = join(import.meta.dirname, "..");
const REPEATS = 3;
const AT_MOST_SECONDS = 10;

const freePort = (): Promise<number> => new Promise((done, failed) => {
  const server = createServer().once("error", failed).listen(0, "127.0.0.1", () => {
    const address = server.address();
    server.close(() => (typeof address === "object" && address !== null ? done(address.port) : failed(new Error("No free port."))));
  });
});

/** One start: seconds to `ready` and to the end of the first answer. */
async function startOnce(): Promise<{ ready: number; firstAnswer: number }> {
  const port = await freePort();
  const began = performance.now();
  const seconds = (): number => Math.round(performance.now() - began) / 1000;
  const child = spawn("npm", ["start"], { cwd: ROOT, env: { ...process.env, PORT: String(port) }, stdio: ["ignore", "pipe", "ignore"], detached: true });
  const exited = new Promise<void>((done) => child.on("exit", () => done()));
  try {
    await new Promise<void>((done, failed) => {
      let output = "";
      child.stdout.setEncoding("utf8").on("data", (text: string) => {
        output += text;
        if (/^ready /m.test(output)) done();
      });
      child.on("exit", (code) => failed(new Error(`npm start ended with exit code ${code} before it was ready: ${output}`)));
    });
    const ready = seconds();
    const response = await fetch(`http://127.0.0.1:${port}/v1/completions`, {
      method: "POST", headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ model: "demo", prompt: "Once upon a time", max_tokens: 16, temperature: 0 }),
    });
    if (!response.ok) throw new Error(`The first request was answered ${response.status}: ${await response.text()}`);
    await response.json();
    return { ready, firstAnswer: seconds() };
  } finally {
    // npm passes no signal on, so the whole process group gets it, as from Ctrl-C at a terminal.
    process.kill(-child.pid!, "SIGTERM");
    await exited;
  }
}

export interface StartUpDocument extends Report {
  readonly seconds: { readonly ready: number; readonly firstAnswer: number; readonly all: readonly { readonly ready: number; readonly firstAnswer: number }[] };
}

export async function benchStartUp(): Promise<StartUpDocument> {
  const machine = machineReport();
  await startOnce(); // builds what is missing and fills the file cache
  const runs: { ready: number; firstAnswer: number }[] = [];
  for (let i = 0; i < REPEATS; i++) runs.push(await startOnce());
  const firstAnswer = median(runs.map((run) => run.firstAnswer));
  return {
    machine, seconds: { ready: median(runs.map((run) => run.ready)), firstAnswer, all: runs },
    targets: { "npm start to the first answer, seconds": target(firstAnswer, AT_MOST_SECONDS, AT_MOST_SECONDS, "at most") },
  };
}

if (import.meta.main) await present("start-up", benchStartUp, ({ seconds }) => `ready after ${seconds.ready} s\n`);
