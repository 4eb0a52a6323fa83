// `workers-moe serve --isolate script`: Worker scripts, and so isolates, of their own for every shard and stage, in two processes. What must hold: where strict isolates are
// too small for the pack in one of them, class mode refuses it and says what to do, and script mode serves it over a ring, with the tokens of one process without limits.

import { afterAll, beforeAll, expect, it } from "vitest";
import { LocalGeneration } from "../../../cli/local-generation.ts";
import { openPack } from "../../../cli/open-pack.ts";
import { PLAIN_SAMPLING } from "../../../model/sampling.ts";
import { writeRingPlan } from "../../support/ring-plan.ts";
import { freePort, run, startServe, writeTinyPack } from "../../support/serve.ts";

/** Room for 6 MiB beside frames in flight: for each stage and each shard, but not for all of them. */
const SMALL = ["--isolates", "strict", "--isolate-mib", "14"];
const PROMPT = "abc";
const TOKENS = 60;
let pack: { folder: string; remove: () => void };
beforeAll(async () => { pack = await writeTinyPack(); });
afterAll(() => pack?.remove());

/** What the in-process engine says: no isolates, no wire, no limits. */
async function alone(seed: number): Promise<string> {
  const model = await openPack(pack.folder);
  const ids: number[] = [];
  for await (const id of new LocalGeneration(model).run(model.tokenizer!.encodeText(PROMPT), TOKENS, { ...PLAIN_SAMPLING, seed }, new AbortController().signal)) ids.push(id);
  return model.tokenizer!.decode(ids);
}

it("serves over a ring of small isolates in two processes what one process without limits says", async () => {
  const server = await startServe(pack.folder, {}, [...SMALL, "--isolate", "script", "--processes", "2", "--plan", await writeRingPlan(pack.folder, { shards: 2, lanes: 1 })]);
  try {
    for (const seed of [1, 2]) {
      const response = await fetch(`${server.url}/v1/completions`, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ model: "tiny", prompt: PROMPT, max_tokens: TOKENS, temperature: 1, seed }) });
      expect([response.status, (await response.json() as { choices: { text: string }[] }).choices?.[0]?.text]).toEqual([200, await alone(seed)]);
    }
    const { shards, stages } = await (await fetch(`${server.url}/v1/fleet`)).json() as { shards: { frames: number }[]; stages: unknown[] };
    expect([shards.length, stages.length]).toEqual([2, 1]);
  } finally {
    expect(await server.stop()).toBe(0);
  }
  expect(server.output()).not.toContain("goroutine");
});

it("refuses the same in one isolate, and says what to do", async () => {
  const together = run(["serve", pack.folder, "--port", String(await freePort()), ...SMALL]);
  expect(await together.exit).toBe(1);
  expect(together.output()).toMatch(/refused under 3 names, each time because its isolate holds another shard.*separate Worker scripts \(--isolate script\)/);
});
