// `trace <model> --text FILE --l0`: how many neurons of an expert work on a token, by layer. Owns the windows of the text and the words. Refuses packs, whose experts cannot
// be made to show what lies between their matrices: the count is passes/activation-sparsity.ts.

import { expertActivity, type LayerActivity, meanL0 } from "../passes/activation-sparsity.ts";
import { calibrationWindows } from "./compress/pass-command.ts";
import { openCheckpoint } from "./open-model.ts";
import { kernelModules } from "./open-pack.ts";
import { startProgress } from "./progress.ts";
import { percent, showTable } from "./sizes.ts";

/** Contexts of the text that are looked at, evenly spread. */
const WINDOWS = { samples: 8, window: 512 } as const;

/** What `trace` prints with --l0. */
export async function traceActivity(model: string, text: string | undefined, isJson: boolean): Promise<string> {
  if (text === undefined) throw new Error("--l0 goes with --text: neurons work or do not on the tokens of a text.");
  const checkpoint = await openCheckpoint(model);
  const sequences = calibrationWindows(checkpoint, text, WINDOWS);
  const { nExperts, nLayers, expertKind } = checkpoint.config;
  if (nExperts === 0) throw new Error(`${checkpoint.description} is a dense model: it has no experts whose neurons could be counted.`);
  const bar = startProgress({ label: `counting in ${checkpoint.name}`, total: nLayers, unit: "layers", quiet: isJson });
  const layers: LayerActivity[] = [];
  try {
    for await (const layer of expertActivity(checkpoint, sequences, kernelModules())) {
      layers.push(layer);
      bar.update(layer.layer + 1);
    }
  } finally {
    bar.stop();
  }
  const tokens = sequences.reduce((sum, { length }) => sum + length, 0);
  if (isJson) return `${JSON.stringify({ model: checkpoint.name, expertKind, tokens, layers: layers.map((layer) => ({ ...layer, meanL0: meanL0(layer) })) })}\n`;
  return `${checkpoint.name}: ${expertKind} experts over ${tokens} tokens, neurons that work on a token.\n${showTable(layers.map((layer) => [`layer ${layer.layer}`, wordsOf(layer)]))}`;
}

function wordsOf(layer: LayerActivity): string {
  const ofExperts = layer.experts.flatMap(({ tokens, working }) => (tokens === 0 ? [] : [working / tokens]));
  const mean = meanL0(layer);
  return `${mean.toFixed(1)} of ${layer.width} (${percent(mean / layer.width)}); by expert ${Math.min(...ofExperts).toFixed(1)} to ${Math.max(...ofExperts).toFixed(1)}`;
}
