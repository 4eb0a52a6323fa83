// `workers-moe trace <pack> --text FILE` of a model whose experts are made of halves: which keys tokens keep. Owns the run over the text and its words.
// Refuses files: a trace's records are of experts that are chosen one by one (formats/trace.ts).

import type { LocalModel } from "../open-pack.ts";
import { startProgress } from "../progress.ts";
import { percent, showTable } from "../sizes.ts";
import { ProductUse, type CodebookUse, type ProductLayerUse } from "../../model/product-use.ts";

/** Every token of a text once, in windows of the context length, each begun with BOS where the tokenizer adds one. */
export async function keysOfText({ engine, tokenizer, manifest: { id, config, tokenizer: settings } }: LocalModel, text: string, name: string, quiet: boolean): Promise<readonly ProductLayerUse[]> {
  if (tokenizer === null) throw new Error(`The pack "${id}" has no tokenizer, which trace needs.`);
  const ids = tokenizer.encodeText(text);
  if (ids.length === 0) throw new Error(`${name} has no text to trace.`);
  const before = settings?.addBos === true && config.bosTokenId !== null ? [config.bosTokenId] : [];
  const room = engine.contextLength - before.length;
  const use = new ProductUse(config);
  const bar = startProgress({ label: "trace", total: ids.length, unit: "tokens", quiet });
  try {
    for (let start = 0; start < ids.length; start += room) {
      const window = [...before, ...ids.slice(start, start + room)];
      const timeline = engine.kv.open(window.length);
      try {
        while (timeline.length < window.length) {
          await engine.step([{ timeline, ids: window.slice(timeline.length, timeline.length + engine.maxChunkTokens), logits: "none" }], [use.tap]);
          bar.update(Math.min(ids.length, start + timeline.length));
        }
      } finally {
        engine.kv.close(timeline);
      }
    }
  } finally {
    bar.stop();
  }
  return use.layers;
}

/** What a script reads of it. */
export const keysDocument = ({ manifest: { id, config: { productExperts } }, packHash }: LocalModel, layers: readonly ProductLayerUse[]): object => ({
  model: id, packHash, productExperts, layers: layers.map(({ layer, tokens, codebooks }) => ({
    layer, tokens, codebooks: codebooks.map(({ tokensOfKeys, ...of }) => ({ ...of, tokensOfKeys: Array.from(tokensOfKeys) })),
  })),
});

export function showKeys({ manifest: { id, config: { productExperts } } }: LocalModel, layers: readonly ProductLayerUse[]): string {
  const { nKeys, nHeads } = productExperts!;
  const words = ({ kept, least, most, tokensOfKeys }: CodebookUse, tokens: number): string => {
    const idle = tokensOfKeys.reduce((n, of) => n + (of === 0 ? 1 : 0), 0);
    const busiest = Array.from(tokensOfKeys.keys()).sort((a, b) => tokensOfKeys[b]! - tokensOfKeys[a]! || a - b).slice(0, 4);
    return `${(kept / Math.max(1, tokens * nHeads)).toFixed(1)} of ${nKeys} kept by a head (${least} to ${most}), ${idle} kept by none, busiest ${busiest.map((key) => `${key} (${percent(tokensOfKeys[key]! / Math.max(1, tokens))} of tokens)`).join(", ")}`;
  };
  return `${id}: ${layers[0]?.tokens ?? 0} tokens, ${nHeads} ${nHeads === 1 ? "head" : "heads"} over two codebooks of ${nKeys} keys.\n`
    + layers.map(({ layer, tokens, codebooks }) => `layer ${layer}\n${showTable(codebooks.map((of, i) => [`  codebook ${i + 1}`, words(of, tokens)] as const))}`).join("");
}
