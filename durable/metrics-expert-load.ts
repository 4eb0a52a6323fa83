// How many tokens each expert of each layer was chosen for: one counter per pair, fed by what the router selects. Bounded by the model,
// layers x experts x 4 bytes; counting is one addition per choice. In a ring each stage counts its own layers. Refuses to look at weights, timelines or text, and to ask
// other stages (ring-figures.ts).

import { type ModelConfig, moeLayersOf } from "../model/config.ts";
import { NO_EXPERT } from "../model/expert-batch.ts";
import type { Tap } from "../model/taps.ts";
import type { Random } from "./clock.ts";
import type { LineFigures } from "./line-figures.ts";
import type { Sample } from "./metrics-text.ts";
import type { StageFigures } from "./stage-handshake.ts";

export class ExpertLoad {
  readonly #layers: readonly number[];
  readonly #nExperts: number;
  /** Tokens, [layer][expert]. A counter that has passed 2^32 begins again at 0, which readers of counters expect. */
  readonly #tokens: Uint32Array;
  /** Of layers that others run, as far as is known. */
  readonly #elsewhere: () => Uint32Array | null;
  /** Counts what is evaluated: tokens of prompts and replies, and guesses that did not hold. */
  readonly tap: Tap = {
    at: "selection",
    run: ({ layer, ids }) => {
      const row = layer * this.#nExperts;
      for (let i = 0; i < ids.length; i++) if (ids[i] !== NO_EXPERT) this.#tokens[row + ids[i]!]!++;
    },
  };

  constructor({ nExperts, nLayers, layerFfns }: Pick<ModelConfig, "nExperts" | "nLayers" | "layerFfns">, elsewhere: () => Uint32Array | null = () => null) {
    this.#elsewhere = elsewhere;
    this.#layers = moeLayersOf({ layerFfns });
    this.#nExperts = nExperts;
    this.#tokens = new Uint32Array(nLayers * nExperts);
  }

  /** [layer * nExperts + expert]; it may go on changing. */
  get tokens(): Uint32Array {
    const elsewhere = this.#elsewhere();
    return elsewhere === null ? this.#tokens : this.#tokens.map((n, i) => n + elsewhere[i]!);
  }

  /** Experts that were never chosen too: that they are not is what one wants to see. */
  samples(): Sample[] {
    const { tokens } = this;
    return this.#layers.flatMap((layer) => Array.from({ length: this.#nExperts }, (_, expert) => ({ labels: { layer, expert }, value: tokens[layer * this.#nExperts + expert]! })));
  }
}

/**
 * What a stage of a ring counts for stage 0 (docs/protocol.md section 6, "Figures"): from 0 when its part is loaded, and when a stage 0 that had no ring yet asks for one, so that it is told nothing
 * of what was evaluated for the one before it. Each count has a random number of its own.
 */
export class StageCount {
  readonly #config: ModelConfig;
  readonly #random: Random;
  #load: ExpertLoad;
  #life: number;
  /** Sees every pass of the stage. */
  readonly tap: Tap = { at: "selection", run: (event) => this.#load.tap.run(event) };

  constructor(config: ModelConfig, random: Random) {
    this.#config = config;
    this.#random = random;
    this.#load = new ExpertLoad(config);
    this.#life = this.#draw();
  }

  /** From 0 again. */
  restart(): void {
    this.#load = new ExpertLoad(this.#config);
    this.#life = this.#draw();
  }

  /** As they are now, with the lines to its shards. */
  figures(lines: readonly LineFigures[]): StageFigures {
    return { life: this.#life, choices: this.#load.tokens.slice(), lines };
  }

  #draw(): number { return Math.floor(this.#random.next() * 2 ** 32); }
}
