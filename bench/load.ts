// `node bench/load.ts [--json]`: the demo model under 64 streams for 60 seconds (--streams N, --seconds N), with everything a public server meets mixed
// in: readers that leave at seeded positions, slow readers, bodies too large, requests that mean nothing. What must hold is judged here: every
// stream equals its solo run, every refusal has the API's shape, and afterwards nothing is left, neither in the ledger nor in the heap.
// Exits with 1 where it does not. Speed is reported, not judged.

import { parseArgs } from "node:util";
import { join } from "node:path";
import { ROOT } from "../cli/setup.mjs";
import type { OrchestratorStatus } from "../durable/generate.ts";
import { openHeap } from "./heap-inspector.ts";
import { runClients, type LoadCounts, type SoloRun } from "./load-clients.ts";
import { machineReport, present, tableText, type Report } from "./report.ts";
import { startServer } from "./serving.ts";

const { values: options } = parseArgs({ options: { json: { type: "boolean" }, seconds: { type: "string" }, streams: { type: "string" } } });
const SECONDS = Number(options.seconds ?? 60);
const STREAMS = Number(options.streams ?? 64);
const INSPECTOR_PORT = 9329;
const ISOLATE_MIB = 90;
/** Growth of the heap after a forced collection that counts as none: compiled code and caches of a warm isolate come and go. */
const HEAP_GROWTH_MIB_MOST = 4;
/** Different requests; each was run alone first. */
const REQUESTS = 24;

interface LoadReport extends Report {
  readonly profile: string;
  readonly counts: LoadCounts;
  readonly tokensPerSecond: number;
  /** After a forced collection, before and after the load, in MiB. */
  readonly heapMiB: readonly [before: number, after: number];
  /** Bytes of kernel memory by purpose, without pages kept for later prompts. */
  readonly ledger: readonly [before: Record<string, number>, after: Record<string, number>];
  readonly failures: readonly string[];
}

async function run(): Promise<LoadReport> {
  const server = await startServer(join(ROOT, "demo", "pack"), { packId: "demo", shards: 4, isolateMiB: ISOLATE_MIB, inspectorPort: INSPECTOR_PORT });
  try {
    const status = async (): Promise<OrchestratorStatus> => (await fetch(`${server.url}/v1/fleet`)).json() as Promise<OrchestratorStatus>;
    const idle = async (): Promise<OrchestratorStatus> => {
      for (;;) {
        const found = await status();
        if (found.generations.active === 0 && found.generations.queued === 0) return found;
        await new Promise((done) => setTimeout(done, 50));
      }
    };
    process.stderr.write(`${REQUESTS} requests alone\n`);
    const solo: SoloRun[] = [];
    for (let i = 0; i < REQUESTS; i++) solo.push(await alone(server.url, i));
    // Twice the same load: the first warms caches and compiled code, so that the second may be compared with it.
    process.stderr.write(`warm-up\n`);
    await runClients({ url: server.url, solo, streams: STREAMS, seconds: Math.min(10, SECONDS), seed: 1 });
    const before = await idle();
    const heap = await openHeap(INSPECTOR_PORT, "serving");
    const heapBefore = await heap.usedMiB();
    process.stderr.write(`${STREAMS} streams for ${SECONDS} s\n`);
    const counts = await runClients({ url: server.url, solo, streams: STREAMS, seconds: SECONDS, seed: 2 });
    const after = await idle();
    const heapAfter = await heap.usedMiB();
    heap.close();
    const ledger = [ownMemory(before), ownMemory(after)] as const;
    const failures = [
      ...counts.wrong,
      ...(JSON.stringify(ledger[0]) === JSON.stringify(ledger[1]) ? [] : [`The ledger changed from ${JSON.stringify(ledger[0])} to ${JSON.stringify(ledger[1])}.`]),
      ...(heapAfter - heapBefore <= HEAP_GROWTH_MIB_MOST ? [] : [`The heap grew from ${heapBefore.toFixed(1)} to ${heapAfter.toFixed(1)} MiB.`]),
    ];
    return { machine: machineReport(), targets: {}, profile: server.profile, counts, tokensPerSecond: counts.tokens / SECONDS, heapMiB: [heapBefore, heapAfter], ledger, failures };
  } finally {
    await server.close();
  }
}

/** Kernel memory but for KV pages: those kept for later prompts may be any number, and no generation is under way. */
function ownMemory({ isolate }: OrchestratorStatus): Record<string, number> {
  const { ["kv cache"]: _, ...rest } = isolate!.account;
  return rest;
}

const WORDS = ["Once upon a time", "Prince Andrew", "ROMEO:\nWhat", "export const", "class Tensor:\n", "Return a new list", "static void", "Tom has 12 apples."];

/** Request number i, run with nobody else there. */
async function alone(url: string, i: number): Promise<SoloRun> {
  const isChat = i % 3 === 2;
  const common = { model: "demo", max_tokens: 20 + ((i * 37) % 80), temperature: i % 4 === 0 ? 0 : 0.8, seed: i, ...(i % 5 === 0 ? { frequency_penalty: 0.4, top_k: 40 } : {}), ...(i % 7 === 0 ? { stop: ["\n\n"] } : {}) };
  const text = `${WORDS[i % WORDS.length]} ${i}`;
  const path = isChat ? "/v1/chat/completions" : "/v1/completions";
  const body = isChat ? { ...common, messages: [{ role: "user", content: text }] } : { ...common, prompt: text };
  const response = await fetch(`${url}${path}`, { method: "POST", body: JSON.stringify(body) });
  const reply = (await response.json()) as { choices: { text?: string; message?: { content: string } }[]; usage: { completion_tokens: number } };
  return { path, body, text: reply.choices[0]!.text ?? reply.choices[0]!.message!.content, nTokens: reply.usage.completion_tokens };
}

await present("load", run, ({ profile, counts, tokensPerSecond, heapMiB, failures }) => {
  if (failures.length > 0) process.exitCode = 1;
  return [
    profile,
    tableText([
      ["what", "how many"],
      ["streams read to their end, each equal to its solo run", counts.whole], ["left in the middle", counts.left], ["read slowly", counts.slow], ["not streamed", counts.plain],
      ["turned away with 429 and Retry-After", counts.overloaded], ["malformed, refused", counts.malformed], ["too large, refused with 413", counts.oversized],
      ["tokens a second", tokensPerSecond.toFixed(0)], ["heap after a forced collection, MiB, before and after", heapMiB.map((mib) => mib.toFixed(1)).join(", ")], ["failures", failures.length],
    ]),
    ...failures.slice(0, 20),
  ].join("\n");
});
