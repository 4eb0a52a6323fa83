// Tiny GGUF files in wllama 3.8.1 (llama.cpp as WebAssembly): what nobody here wrote. It says log-probabilities of the whole vocabulary for tokens it
// chose greedily, and those are held against rows of logits for the very tokens it went through, whoever computed them. Owns the process, which
// takes one file after the other. Refuses to explain a difference: tests and docs/models.md name those known.

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Wllama, startWllamaProcess } from "../../bench/peers/wllama.ts";
import type { Rows } from "./cell-model.ts";
import { TINY_TOKENS } from "./tiny-tokenizer.ts";

/** What wllama said to some prompts. */
export interface WllamaSaid {
  /** Prompt and generated tokens of each prompt, but the last, which nothing was computed from. */
  readonly sequences: readonly (readonly number[])[];
  /** By prompt: its last token's position, and from there on wllama's log-probabilities of all tokens, f64 [vocab] each. */
  readonly from: readonly number[];
  readonly logprobs: Rows;
}

/** Characters are tokens: a space is 2, the others follow ASCII. */
const idsOf = (text: string): number[] => Array.from(text, (c) => (c === " " ? 2 : TINY_TOKENS.indexOf(c)));

/** wllama, a file at a time. */
export class WllamaRunner {
  readonly #folder = mkdtempSync(join(tmpdir(), "workers-moe-wllama-"));
  #wllama: Wllama = startWllamaProcess();

  /** What it says, or why it does not load the file. `cache` f32 takes one rounding of its away. */
  async ask(gguf: Uint8Array, prompts: readonly string[], nTokens: number, cache: "f16" | "f32" = "f16"): Promise<WllamaSaid | { readonly refusal: string }> {
    const file = join(this.#folder, "tiny.gguf");
    writeFileSync(file, gguf);
    const refusal = await this.#load(file, cache);
    if (refusal !== null) return { refusal };
    const sequences: number[][] = [];
    const logprobs: Float64Array[][] = [];
    for (const prompt of prompts) {
      const { tokens } = await this.#wllama.complete({ prompt, maxTokens: nTokens, logprobs: TINY_TOKENS.length });
      sequences.push([...idsOf(prompt), ...tokens.slice(0, -1).map(({ id }) => id)]);
      logprobs.push(tokens.map(({ top }) => {
        const row = new Float64Array(TINY_TOKENS.length).fill(NaN);
        for (const { id, logprob } of top) row[id] = logprob;
        return row;
      }));
    }
    return { sequences, from: prompts.map((prompt) => prompt.length - 1), logprobs };
  }

  /** A process that a file brought down is replaced: its end is the refusal. */
  async #load(file: string, cache: "f16" | "f32"): Promise<string | null> {
    try {
      return await this.#wllama.load(file, cache);
    } catch (error) {
      if (!(error instanceof Error) || !error.message.startsWith("wllama's process ended")) throw error;
      this.#wllama = startWllamaProcess();
      return error.message;
    }
  }

  async close(): Promise<void> {
    await this.#wllama.close();
    rmSync(this.#folder, { recursive: true, force: true });
  }
}
