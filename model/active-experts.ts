// How many experts a token is really given, where that is not always the same: with null experts, a threshold, or what a request leaves out. Owns the count, as a tap that only looks.
// Refuses to say which: traces do.

import { NO_EXPERT } from "./expert-batch.ts";
import type { Tap } from "./taps.ts";

export class ActiveExperts {
  readonly tap: Tap = { at: "selection", run: ({ ids, nTokens }) => {
    for (const id of ids) if (id !== NO_EXPERT) this.#calls++;
    this.#tokens += nTokens;
  } };
  #calls = 0;
  /** Once for each layer. */
  #tokens = 0;

  /** Experts of a token and layer, on average; NaN before any was seen. */
  get mean(): number { return this.#calls / this.#tokens; }
}
