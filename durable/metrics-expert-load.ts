// How many tokens each expert of each layer was chosen for: one counter per pair, fed by what the router selects. Bounded by the model,
// layers x experts x 4 bytes; counting is one addition per choice. Refuses to look at weights, timelines or text.

import { type ModelConfig, moeLayersOf } from "../model/config.ts";
import type { Tap } from "../model/taps.ts";
import type { Sample } from "./metrics-text.ts";

export class ExpertLoad {
  readonly #layers: readonly number[];
  readonly #nExperts: number;
  /** Tokens, [layer][expert]. A counter that has passed 2^32 begins again at 0, which readers of counters expect. */
  readonly #tokens: Uint32Array;
  /** Counts what is evaluated: tokens of prompts and replies, and guesses that did not hold. */
  readonly tap: Tap = {
    at: "selection",
    run: ({ layer, ids }) => {
      const row = layer * this.#nExperts;
      for (let i = 0; i < ids.length; i++) this.#tokens[row + ids[i]!]!++;
    },
  };

  constructor({ nExperts, nLayers, layerFfns }: Pick<ModelConfig, "nExperts" | "nLayers" | "layerFfns">) {
    this.#layers = moeLayersOf({ layerFfns });
    this.#nExperts = nExperts;
    this.#tokens = new Uint32Array(nLayers * nExperts);
  }

  /** [layer * nExperts + expert]; it goes on changing. */
  get tokens(): Uint32Array { return this.#tokens; }

  /** Experts that were never chosen too: that they are not is what one wants to see. */
  samples(): Sample[] {
    return this.#layers.flatMap((layer) => Array.from({ length: this.#nExperts }, (_, expert) => ({ labels: { layer, expert }, value: this.#tokens[layer * this.#nExperts + expert]! })));
  }
}
