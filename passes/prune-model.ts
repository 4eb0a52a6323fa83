// Takes experts out of a model: the same number of every layer stays, those a score finds best for some texts. The rest of the model, and what stays, is as it was;
// router rows go with their experts. Owns the new numbers of experts. Refuses to keep fewer than a token takes. Method: EASY-EP, 2025 (expert-scores.ts).

import { afterPass, type TensorToWrite, unchanged, writeCanonical } from "../formats/canonical-writer.ts";
import type { Checkpoint } from "../formats/checkpoint.ts";
import type { PackSink } from "../formats/pack-sink.ts";
import { freezeConfig } from "../model/architectures/common.ts";
import { auxiliariesOf, inputRowsPerToken, type ModelConfig, ModelError, moeLayersOf } from "../model/config.ts";
import { logitsOf } from "../model/router-config.ts";
import type { KernelModules } from "../model/wasm-kernels.ts";
import { traceLayers } from "./calibration-trace.ts";
import { bestExperts, expertScores, mixedScores, SCORE_COLUMNS, type ScoreName } from "./expert-scores.ts";
import { requireOwnExperts } from "./own-experts.ts";

export interface PruneOptions {
  /** Experts of each layer that stay. */
  readonly keep: number;
  readonly score: ScoreName;
  /** Of random scores. */
  readonly seed: number;
  /** Texts the experts are judged by, as sequences of token ids; each domain counts the same. */
  readonly domains: readonly (readonly (readonly number[])[])[];
}

export interface PruneReport {
  readonly keep: number;
  readonly of: number;
  readonly calibrationTokens: number;
  /** Of every layer with experts: who stays, by former number, and everybody's score. */
  readonly layers: readonly { readonly layer: number; readonly kept: readonly number[]; readonly scores: readonly number[] }[];
}

/** Writes the pruned model. Throws ModelError where so many experts cannot stay. */
export async function pruneModel(checkpoint: Checkpoint, sink: PackSink, modules: KernelModules, options: PruneOptions, onLayer: (layersDone: number) => void = () => {}): Promise<PruneReport> {
  const { keep, score, seed, domains } = options;
  const config = prunedConfig(checkpoint, keep);
  const { nExperts } = checkpoint.config;
  const nGroups = groupsOf(checkpoint.config);
  const byDomain: Float64Array[][] = [];
  let done = 0;
  for (const sequences of domains) {
    const scores: Float64Array[] = [];
    for await (const { layer, records } of traceLayers(checkpoint, sequences, modules, SCORE_COLUMNS[score], () => onLayer(++done))) scores.push(expertScores(score, layer, records, nExperts, seed));
    byDomain.push(scores);
  }
  const layers = moeLayersOf(config).map((layer, i) => {
    const scores = mixedScores(byDomain.map((of) => of[i]!));
    return { layer, scores: Array.from(scores), kept: bestExperts(scores, keep, nGroups) };
  });
  const calibrationTokens = domains.flat().reduce((sum, { length }) => sum + length, 0);
  const pass = { pass: "prune", options: { keep, score, ...(score === "random" ? { seed } : {}), domains: domains.length, calibrationTokens } };
  await writeCanonical(sink, { ...afterPass(checkpoint, pass), config }, prunedTensors(checkpoint, new Map(layers.map(({ layer, kept }) => [layer, kept]))));
  return { keep, of: nExperts, calibrationTokens, layers };
}

function prunedConfig({ config, description }: Checkpoint, keep: number): ModelConfig {
  requireOwnExperts({ config, description }, "prune");
  if (moeLayersOf(config).length === 0) throw new ModelError(`${description} is a dense model: it has no experts to take out.`);
  const { nExperts, router } = config;
  if (router.gate?.kind === "hash") throw new ModelError(`${description} has a table that names an expert for every token; none of them can be taken out.`);
  const topK = router.topK + auxiliariesOf(router);
  const nGroups = groupsOf(config);
  if (nGroups % router.nGroups !== 0 || nGroups % inputRowsPerToken(config) !== 0) {
    throw new ModelError(`${description} has ${router.nGroups} groups of its router and ${inputRowsPerToken(config)} latent groups; as many experts can only stay in each where one divides the other.`);
  }
  if (!Number.isInteger(keep) || keep < topK || keep > nExperts || keep % nGroups !== 0) {
    throw new ModelError(`${keep} experts per layer were to stay; expected ${topK}, which a token takes, to ${nExperts}${nGroups > 1 ? `, a multiple of its ${nGroups} groups` : ""}.`);
  }
  return freezeConfig(description, { ...config, nExperts: keep });
}

/** Groups of neighbouring experts that stay of one size: the router's, or latent ones. */
const groupsOf = (config: ModelConfig): number => Math.max(config.router.nGroups, inputRowsPerToken(config));

/** Tensors of the pruned model under their new numbers, in the checkpoint's own types. */
function prunedTensors(checkpoint: Checkpoint, kept: ReadonlyMap<number, readonly number[]>): TensorToWrite[] {
  const { hiddenSize } = checkpoint.config;
  const tensors: TensorToWrite[] = [];
  for (const { name } of checkpoint.places()) {
    const [, layer, part] = /^layers\.(\d+)\.(.+)$/.exec(name) ?? [];
    const stays = layer === undefined ? undefined : kept.get(Number(layer));
    const [, expert, matrix] = /^experts\.(\d+)\.(\w+)$/.exec(part ?? "") ?? [];
    const whole = unchanged(checkpoint, name);
    if (stays === undefined) tensors.push(whole);
    else if (expert !== undefined) {
      const to = stays.indexOf(Number(expert));
      if (to >= 0) tensors.push({ ...whole, name: `layers.${layer}.experts.${to}.${matrix}` });
    } else if (part === "router" || part === "routerSpread" || /^taskRouter\.\d+$/.test(part!)) tensors.push(someRows(checkpoint, name, gateRows(checkpoint.config, stays)));
    else if (part === "routerBias") tensors.push(someValues(checkpoint, name, withNulls(checkpoint.config, stays)));
    else if (part === "selectionBias") tensors.push(someValues(checkpoint, name, stays));
    else if (part === "auxiliaryScales") tensors.push(someValues(checkpoint, name, stays.flatMap((e) => Array.from({ length: hiddenSize }, (_, i) => e * hiddenSize + i))));
    else tensors.push(whole);
  }
  return tensors;
}

/** Null experts stand behind the others, and all of them stay. */
const withNulls = ({ nExperts, router: { nullExperts = 0 } }: ModelConfig, stays: readonly number[]): number[] => [...stays, ...Array.from({ length: nullExperts }, (_, i) => nExperts + i)];

/** Rows of a router's matrix that stay: attending experts have three each (gates/attention.ts). */
function gateRows(config: ModelConfig, stays: readonly number[]): number[] {
  const rows = withNulls(config, stays);
  return config.router.gate?.kind === "attention" ? [0, 1, 2].flatMap((part) => rows.map((row) => part * logitsOf(config) + row)) : rows;
}

function someRows(checkpoint: Checkpoint, name: string, rows: readonly number[]): TensorToWrite {
  const place = checkpoint.place(name);
  return {
    ...unchanged(checkpoint, name), nRows: rows.length,
    async *read() { for (const row of rows) yield await checkpoint.readRows(place, row, 1); },
  };
}

/** Values of a vector, in f32, which holds every type a vector is stored in. */
function someValues(checkpoint: Checkpoint, name: string, at: readonly number[]): TensorToWrite {
  return {
    name, type: "F32", nRows: 1, nCols: at.length,
    async *read() {
      const values = await checkpoint.readF32(name);
      yield new Uint8Array(Float32Array.from(at, (i) => values[i]!).buffer);
    },
  };
}
