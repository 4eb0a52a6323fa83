// `serve --processes 3` when a process with shards is killed: real processes, joined by wrangler's registry. What must hold: the server lives on, the process comes
// back at its port over its state, a stream under way waits for it and says what it says undisturbed, and nothing outlives the server.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { readClusterState, type ClusterState } from "../../../cli/cluster-state.ts";
import { startServe, writeTinyPack, type Serving } from "../../support/serve.ts";

const TOKENS = 800;
let pack: { folder: string; remove: () => void };
let folder: string;
let server: Serving;

beforeAll(async () => {
  pack = await writeTinyPack();
  folder = mkdtempSync(join(tmpdir(), "workers-moe-cluster-"));
  server = await startServe(pack.folder, {}, ["--processes", "3", "--state-file", join(folder, "state.json")]);
});
afterAll(async () => {
  await server?.stop();
  pack?.remove();
  rmSync(folder, { recursive: true, force: true });
});

const state = (): ClusterState => readClusterState(join(folder, "state.json"));
/** All of a process: its runtimes are in its group. */
const kill = (process: number): void => void globalThis.process.kill(-state().shardProcesses[process]!.pid!, "SIGKILL");
const isThere = (pid: number): boolean => {
  try {
    return process.kill(-pid, 0);
  } catch {
    return false;
  }
};
async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await new Promise((done) => setTimeout(done, 20));
}

/** The text of a stream; `atToken` is called as soon as it has said twenty pieces. */
async function stream(seed: number, atToken: () => void): Promise<string> {
  const response = await fetch(`${server.url}/v1/completions`, {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ model: "tiny", prompt: "abc", temperature: 1, seed, max_tokens: TOKENS, stream: true, moe: { cache: false } }),
  });
  let [pending, text, pieces] = ["", "", 0];
  for await (const chunk of response.body!.pipeThrough(new TextDecoderStream())) {
    const lines = (pending + chunk).split("\n");
    pending = lines.pop()!;
    for (const line of lines) {
      if (!line.startsWith("data: {")) continue;
      const { error, choices } = JSON.parse(line.slice(6)) as { error?: { message: string }; choices?: { text: string }[] };
      if (error !== undefined) throw new Error(`The stream ended with an error: ${error.message}`);
      text += choices?.[0]?.text ?? "";
      if (++pieces === 20) atToken();
    }
  }
  return text;
}

it("starts a killed process again at its port and over its state, says so, and a stream under way says what it says undisturbed", async () => {
  const expected = await stream(5, () => {});
  const before = state().shardProcesses;
  expect(before.map(({ shards }) => shards)).toEqual([[0, 2], [1, 3]]);
  expect(await stream(5, () => kill(0))).toBe(expected);
  await until(() => state().shardProcesses[0]!.restarts === 1);
  const [first, second] = state().shardProcesses;
  expect([first!.state, first!.port, second]).toEqual(["up", before[0]!.port, before[1]]);
  expect(first!.pid).not.toBe(before[0]!.pid);
  await until(() => !isThere(before[0]!.pid!));
  expect(server.output()).toMatch(new RegExp(`Shard process 1 of 2 ended \\(killed by SIGKILL\\); it is up again after \\d+\\.\\d s, as pid ${first!.pid}\\.`));
});

it("answers what needs no shard while one is down, and ends with nothing left behind", async () => {
  const pids = state().shardProcesses.map(({ pid }) => pid!);
  kill(1);
  await until(() => state().shardProcesses[1]!.pid !== pids[1]);
  expect((await fetch(`${server.url}/v1/models`)).status).toBe(200);
  // In the middle of a restart.
  expect(await server.stop()).toBe(0);
  // What was killed takes a moment to be gone.
  await until(() => !pids.some(isThere) && !state().shardProcesses.some(({ pid }) => pid !== null && isThere(pid)));
});
