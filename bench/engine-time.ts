// `node bench/engine-time.ts CHECKOUT PACK`: milliseconds per token of a prompt and of a reply, by the engine of a checkout, which need not be this one: engine-against.ts runs it in turn for two.
// Owns the workload: 512 tokens of a prompt in chunks of 64, then 160 tokens one by one, twice before anything counts. Refuses anything that an older checkout has not: a pack, a step, its logits.

import { join } from "node:path";
import { performance } from "node:perf_hooks";
import type { openPack as OpenPack } from "../cli/open-pack.ts";

const PROMPT = 512;
const REPLY = 160;
const ROUNDS = 3;

const [checkout, pack] = process.argv.slice(2) as [string, string];
const { openPack } = await import(join(checkout, "cli/open-pack.ts")) as { openPack: typeof OpenPack };
const { engine } = await openPack(pack);
const { vocabSize } = engine.config;
const ids = Array.from({ length: PROMPT + REPLY }, (_, i) => (i * i * 7 + 13 * i + 3) % vocabSize);

async function round(): Promise<{ promptMs: number; tokenMs: number }> {
  const timeline = engine.kv.open(PROMPT + REPLY);
  const start = performance.now();
  for (let done = 0; done < PROMPT; done += 64) await engine.step([{ timeline, ids: ids.slice(done, done + 64), logits: "none" }]);
  const middle = performance.now();
  for (let done = PROMPT; done < PROMPT + REPLY; done++) await engine.step([{ timeline, ids: [ids[done]!], logits: "last" }]);
  const end = performance.now();
  engine.kv.close(timeline);
  return { promptMs: (middle - start) / PROMPT, tokenMs: (end - middle) / REPLY };
}

for (let i = 0; i < 2; i++) await round();
const rounds: { promptMs: number; tokenMs: number }[] = [];
for (let i = 0; i < ROUNDS; i++) rounds.push(await round());
const least = (of: "promptMs" | "tokenMs"): number => Math.min(...rounds.map((times) => times[of]));
process.stdout.write(JSON.stringify({ promptMs: least("promptMs"), tokenMs: least("tokenMs") }));
