// A tiny GGUF in this engine and in wllama 3.8.1 (llama.cpp as WebAssembly): what nobody here wrote. Greedy, token by token, while both say the
// same; where they part, how clear wllama's choice was. Owns the walk. Refuses to explain a difference: tests and docs/models.md name those known.

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { startWllama } from "../../bench/peers/wllama.ts";
import { openPackFrom } from "../../cli/open-pack.ts";
import { openGguf } from "../../formats/gguf-checkpoint.ts";
import { MemorySource } from "../../formats/memory-source.ts";
import { packToMemory } from "./pack-to-memory.ts";

export interface WllamaComparison {
  /** Why wllama does not load or run the file; null when it does. */
  readonly refusal: string | null;
  /** Tokens that both chose, of those compared. */
  readonly agreed: number;
  readonly compared: number;
  /** wllama's margin in nats where the first difference lay; null when there was none. */
  readonly marginWhereParted: number | null;
  /** Largest difference of log-probabilities of tokens that both list among the five most likely, in nats, and its mean. */
  readonly worstLogprob: number;
  readonly meanLogprob: number;
}

export async function compareWithWllama(gguf: Uint8Array, prompt: string, nTokens: number): Promise<WllamaComparison> {
  const folder = mkdtempSync(join(tmpdir(), "workers-moe-wllama-"));
  const file = join(folder, "tiny.gguf");
  writeFileSync(file, gguf);
  try {
    const wllama = await startWllama(file);
    try {
      const { tokens } = await wllama.complete({ prompt, maxTokens: nTokens, logprobs: 5 });
      return await compare(gguf, prompt, tokens);
    } finally {
      await wllama.close();
    }
  } catch (error) {
    if (!(error instanceof Error) || !error.message.startsWith("wllama's process ended")) throw error;
    const reason = /(?:error|Error|failed|unknown|unsupported|missing|expected)[^\n]{0,200}/.exec(error.message.replace(/^wllama's process ended[^:]*: /, ""))?.[0] ?? error.message.slice(-200);
    return { refusal: reason.trim(), agreed: 0, compared: 0, marginWhereParted: null, worstLogprob: 0, meanLogprob: 0 };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

type Said = Awaited<ReturnType<Awaited<ReturnType<typeof startWllama>>["complete"]>>["tokens"];

async function compare(gguf: Uint8Array, prompt: string, said: Said): Promise<WllamaComparison> {
  const pack = await packToMemory(await openGguf(new MemorySource(new Map([["tiny.gguf", gguf]])), "tiny.gguf"));
  const { engine, tokenizer } = await openPackFrom(pack.source);
  const ids = tokenizer!.encodeText(prompt);
  const timeline = engine.kv.open(ids.length + said.length);
  let next = ids;
  const differences: number[] = [];
  let [agreed, compared, marginWhereParted] = [0, 0, null as number | null];
  for (const { token, top } of said) {
    const [row] = (await engine.step([{ timeline, ids: next, logits: "last" }])).logits;
    const total = Math.log(row!.reduce((sum, logit) => sum + Math.exp(logit), 0));
    const ours = Array.from(row!, (logit, id) => ({ id, token: tokenizer!.decode([id]), logprob: logit - total })).sort((a, b) => b.logprob - a.logprob);
    for (const their of top) {
      const same = ours.slice(0, 5).find((mine) => mine.token === their.token);
      if (same !== undefined && their.token !== "") differences.push(Math.abs(same.logprob - their.logprob));
    }
    compared++;
    // The end token is never drawn by either.
    const mine = ours.find(({ id }) => !engine.config.eosTokenIds.includes(id))!;
    if (mine.token !== token) {
      marginWhereParted = top.length > 1 ? top[0]!.logprob - top[1]!.logprob : null;
      break;
    }
    agreed++;
    next = [mine.id];
  }
  return {
    refusal: null, agreed, compared, marginWhereParted,
    worstLogprob: differences.reduce((most, d) => Math.max(most, d), 0), meanLogprob: differences.reduce((sum, d) => sum + d, 0) / Math.max(1, differences.length),
  };
}
