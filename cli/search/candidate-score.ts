// How well a candidate's pack predicts a text, window by window, and the bytes of weights its tokens read. It is the engine that serves and the sum that `eval` makes, on
// the pack that `workers-moe pack` writes: activations in int8 where the formats take them, the KV cache in the pack's format. Owns what of that is kept for a search that goes on later.

import { z } from "zod";
import { ffnBytes } from "../../fleet/capacity-pack.ts";
import type { Tap } from "../../model/taps.ts";
import { type TextToScore, textToScore, windowNats } from "../commands/eval.ts";
import { type LocalModel, openPack } from "../open-pack.ts";
import { trunkActiveBytes } from "./model-outline.ts";

export const scoreSchema = z.strictObject({
  /** SHA-256 of the text. */
  text: z.string(),
  /** Weights of the pack, and what it costs as `plan` says; null where it cannot be deployed. */
  bytes: z.number(),
  dollars: z.number().nullable(),
  trunkBytes: z.number(),
  /** Of each window: nats of the tokens it counts, tokens that were evaluated, and bytes of the experts these chose. */
  windows: z.array(z.strictObject({ nats: z.array(z.number()), tokens: z.int(), expertBytes: z.number() })),
});
export type Score = z.infer<typeof scoreSchema>;

export class PackScorer {
  readonly #model: LocalModel;
  readonly text: TextToScore;
  /** [layer * nExperts + expert]. */
  readonly #bytes: Float64Array;

  private constructor(model: LocalModel, text: TextToScore) {
    const { config, experts } = model.manifest;
    this.#model = model;
    this.text = text;
    this.#bytes = new Float64Array(config.nLayers * config.nExperts);
    for (const entry of experts) this.#bytes[entry.layer * config.nExperts + entry.expert] = ffnBytes(entry);
  }

  static async open(pack: string, text: string, name: string): Promise<PackScorer> {
    const model = await openPack(pack);
    return new PackScorer(model, textToScore(model, text, name));
  }

  get trunkBytes(): number { return trunkActiveBytes(this.#model.manifest); }
  get manifest(): LocalModel["manifest"] { return this.#model.manifest; }

  async window(index: number): Promise<Score["windows"][number]> {
    const { nExperts } = this.#model.manifest.config;
    let expertBytes = 0;
    const read: Tap = { at: "selection", run: ({ layer, ids }) => { for (const id of ids) expertBytes += this.#bytes[layer * nExperts + id]!; } };
    const window = this.text.windows[index]!;
    const { nats } = await windowNats(this.#model, this.text, window, { taps: [read] });
    return { nats: Array.from(nats), tokens: window.end - window.start + (this.text.bos === null ? 0 : 1), expertBytes };
  }
}

/** Mean over the tokens measured: the trunk, and the experts they chose. */
export const activeBytesOf = ({ trunkBytes, windows }: Pick<Score, "trunkBytes" | "windows">): number =>
  trunkBytes + windows.reduce((sum, of) => sum + of.expertBytes, 0) / windows.reduce((sum, of) => sum + of.tokens, 0);
