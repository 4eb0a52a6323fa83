// The line below a finished reply: tokens, what the prefix cache spared, speed, frames and bytes, and the seed that repeats it.
// Owns the clock of one reply. Refuses estimates: before the server has counted, only the pace is shown.

import { byteSize, count, counted, element } from "./figures.ts";
import type { ReplyCost, StreamChunk, Usage } from "../worker/wire-types.ts";

export class ReplyFacts {
  readonly #askedMs = performance.now();
  #firstMs: number | null = null;
  #lastMs = 0;
  #nTokens = 0;
  #usage: Usage | null = null;
  #cost: Partial<ReplyCost> = {};

  /** Takes a chunk; `isToken`: one that showed something. */
  add(chunk: StreamChunk, isToken: boolean): void {
    if (chunk.usage != null) this.#usage = chunk.usage;
    if (chunk.moe?.frames !== undefined || chunk.moe?.seed !== undefined) this.#cost = chunk.moe;
    if (!isToken) return;
    this.#lastMs = performance.now();
    this.#firstMs ??= this.#lastMs;
    this.#nTokens++;
  }

  /** Tokens a second after the first; empty before there are two. */
  get pace(): string {
    if (this.#firstMs === null || this.#nTokens < 2) return "";
    return `${((this.#nTokens - 1) / Math.max(1e-3, (this.#lastMs - this.#firstMs) / 1000)).toFixed(1)} tokens/s`;
  }

  /** Null where the server counted nothing, since the reply was stopped or broke. `onSeed` puts the seed into the settings. */
  line(onSeed: (seed: number) => void): HTMLElement | null {
    if (this.#usage === null) return null;
    const { prompt_tokens, prompt_tokens_details: { cached_tokens }, completion_tokens } = this.#usage;
    const { frames = 0, bytes = 0, retries = 0, cold_starts: coldStarts = 0, seed } = this.#cost;
    const made = element("p", "facts");
    const facts = [
      `${counted(prompt_tokens, "token")} read${cached_tokens > 0 ? ` (${count(cached_tokens)} from the cache)` : ""}`,
      `${count(completion_tokens)} written`, this.pace,
      this.#firstMs === null ? "" : `first after ${count(this.#firstMs - this.#askedMs)} ms`,
      `${counted(frames, "frame")}, ${byteSize(bytes)}`,
      retries === 0 ? "" : retries === 1 ? "1 retry" : `${count(retries)} retries`,
      coldStarts === 0 ? "" : `woke ${counted(coldStarts, "object")}`,
    ];
    for (const fact of facts) if (fact !== "") made.append(element("span", "", fact));
    if (seed !== undefined) {
      const keep = element("button", "quiet", `seed ${seed}`);
      keep.type = "button";
      keep.title = "Keep this seed: the same request then gives the same text";
      keep.addEventListener("click", () => onSeed(seed));
      made.append(keep);
    }
    return made;
  }
}
