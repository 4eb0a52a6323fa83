// `workers-moe inspect <model|pack>`: what it is and how large, from headers alone.
// Owns the figures (parameters, active parameters, bytes of an expert). Refuses reading weights: `verify` does that.

import type { Command } from "commander";
import { parameterCounts } from "../../fleet/capacity-pack.ts";
import { auxiliariesOf, type ModelConfig, type ProductExpertsConfig } from "../../model/config.ts";
import { expertBiases, expertMatrices } from "../../model/expert-kinds.ts";
import { type Checkpoint, expertName } from "../../formats/checkpoint.ts";
import type { PackManifest, SourceKind } from "../../formats/manifest.ts";
import { kindsOf, type RoutingKindName } from "../../model/routing-kinds.ts";
import { type Efficiency, efficiencyOf, efficiencyRows } from "../efficiency-rows.ts";
import { type Opened, openPath } from "../open-model.ts";
import { positiveInteger } from "../positive-integer.ts";
import { routingRows } from "../routing-rows.ts";
import { showBytes, showCount, showTable } from "../sizes.ts";

export interface Inspection {
  readonly kind: SourceKind | "pack";
  readonly name: string;
  readonly architecture: string;
  readonly config: ModelConfig;
  readonly parameters: number;
  /** Parameters that take part in one token: all but the experts not selected (of the router's logits all are computed). */
  readonly activeParameters: number;
  /** Bytes of matrices by type or format, as stored. */
  readonly typeBytes: Readonly<Record<string, number>>;
  readonly totalBytes: number;
  /** Bytes of the first and of the largest expert (matrices and biases); 0 in a dense model. */
  readonly expertBytes: { readonly first: number; readonly largest: number };
  readonly tokenizer: string | null;
  readonly chatTemplate: boolean;
  readonly eosTokenIds: readonly number[];
  readonly problems: readonly string[];
  /** Kinds of routing it has (docs/routing.md), as `stage:kind`; none for a dense model. */
  readonly routing: readonly RoutingKindName[];
  /** null for a dense model. */
  readonly efficiency: Efficiency | null;
  /** Of a pack only. */
  readonly pack?: {
    readonly hash: string; readonly parts: number; readonly segments: number;
    readonly contextLength: number; readonly activations: string; readonly kvFormat: string;
  };
}

export function register(program: Command): void {
  program.command("inspect")
    .description("say what a model or a pack is")
    .argument("<model|pack>", "Hugging Face folder, .gguf file or pack folder")
    .option("--training-tokens <n>", "tokens it was trained on, which no file says: for tokens per parameter and efficiency leverage", positiveInteger)
    .option("--json", "print one JSON document")
    .action(async (path: string, options: { json?: boolean; trainingTokens?: number }) => {
      const found = inspect(await openPath(path), options.trainingTokens);
      process.stdout.write(options.json === true ? `${JSON.stringify(found)}\n` : inspectionText(found));
    });
}

export const inspect = (opened: Opened, trainingTokens?: number): Inspection =>
  opened.kind === "checkpoint" ? inspectCheckpoint(opened.checkpoint, trainingTokens) : inspectPack(opened.manifest, opened.packHash, trainingTokens);

function inspectCheckpoint(checkpoint: Checkpoint, trainingTokens: number | undefined): Inspection {
  const { config } = checkpoint;
  const { total, active } = parameterCounts(config);
  const typeBytes: Record<string, number> = {};
  let totalBytes = 0;
  for (const p of checkpoint.places()) {
    typeBytes[p.storedType] = (typeBytes[p.storedType] ?? 0) + p.storedBytes;
    totalBytes += p.storedBytes;
  }
  const sizes: number[] = [];
  const parts = [...expertMatrices(config), ...expertBiases(config)];
  config.layerFfns.forEach((kind, layer) => {
    for (let expert = 0; kind === "moe" && expert < config.nExperts; expert++) {
      sizes.push(parts.reduce((n, part) => n + checkpoint.place(expertName(layer, expert, part)).storedBytes, 0));
    }
  });
  return {
    kind: checkpoint.kind, name: checkpoint.name, architecture: config.architecture, config, parameters: total, activeParameters: active,
    typeBytes, totalBytes, expertBytes: { first: sizes[0] ?? 0, largest: sizes.reduce((a, b) => Math.max(a, b), 0) },
    tokenizer: checkpoint.tokenizer?.kind ?? null, chatTemplate: checkpoint.tokenizer?.chatTemplate != null,
    eosTokenIds: config.eosTokenIds, problems: checkpoint.warnings, routing: kindsOf(config), efficiency: efficiencyOf(config, { total, active }, trainingTokens),
  };
}

function inspectPack(m: PackManifest, hash: string, trainingTokens: number | undefined): Inspection {
  const { total, active } = parameterCounts(m.config);
  const typeBytes: Record<string, number> = {};
  const add = (format: string, bytes: number): void => void (typeBytes[format] = (typeBytes[format] ?? 0) + bytes);
  for (const blob of Object.values(m.blobs)) add(blob.format, blob.bytes);
  const addSegments = (e: PackManifest["shared"][number]): number => {
    const bytes = e.segments.reduce((n, s) => n + s.bytes, 0);
    add(e.gateUp === e.down ? e.gateUp : `${e.gateUp}+${e.down}`, bytes);
    return bytes;
  };
  m.shared.forEach(addSegments);
  const sizes = m.experts.map(addSegments);
  const problems = m.tokenizer === null ? ["The pack has no tokenizer: it can be run on token ids only."] : [];
  return {
    kind: "pack", name: m.id, architecture: m.config.architecture, config: m.config, parameters: total, activeParameters: active,
    typeBytes, totalBytes: m.parts.reduce((n, p) => n + p.bytes, 0),
    expertBytes: { first: sizes[0] ?? 0, largest: sizes.reduce((a, b) => Math.max(a, b), 0) },
    tokenizer: m.tokenizer === null ? null : m.tokenizer.file, chatTemplate: m.tokenizer?.chatTemplate != null, eosTokenIds: m.config.eosTokenIds, problems,
    routing: kindsOf(m.config), efficiency: efficiencyOf(m.config, { total, active }, trainingTokens),
    pack: {
      hash, parts: m.parts.length, contextLength: m.contextLength, activations: m.activations, kvFormat: m.kvFormat,
      segments: m.experts.reduce((n, e) => n + e.segments.length, 0),
    },
  };
}

/** Experts made of halves, in words. */
const productText = ({ form, nKeys, nHeads, topK, expertSize, routerLayers }: ProductExpertsConfig, nLayers: number): string =>
  `${(nKeys * nKeys).toLocaleString("en-US")} in each of ${nLayers} layers: ${nKeys} x ${nKeys} halves, ${form}, ${expertSize} wide; ${nHeads} ${nHeads === 1 ? "head keeps" : "heads keep"} about ${topK} keys of either codebook`
  + (routerLayers > 1 ? `, one router for ${routerLayers} layers` : "");

/** The table that `inspect` prints, and a line for each problem. */
export function inspectionText(i: Inspection): string {
  const { config: c } = i;
  const { first, largest } = i.expertBytes;
  const heads = c.mla === null ? `${c.nHeads} heads of ${c.headDim} (${c.nKvHeads} key-value)`
    : `${c.nHeads} heads of ${c.mla.nopeHeadDim + c.mla.ropeHeadDim} over a latent row of ${c.headDim}`;
  const auxiliaries = auxiliariesOf(c.router);
  const nDense = c.layerFfns.filter((kind) => kind === "dense").length;
  const rows: [string, string][] = [
    [i.kind === "pack" ? "pack" : "model", `${i.name} (${i.kind === "pack" ? `revision ${i.pack!.hash.slice(0, 12)}` : i.kind})`],
    ["architecture", `${i.architecture}: ${c.nLayers} layers, hidden ${c.hiddenSize}, ${heads}, vocabulary ${c.vocabSize}`],
    ...(c.productExperts === undefined ? [] : [["product experts", productText(c.productExperts, c.layerFfns.filter((kind) => kind === "product").length)] as [string, string]]),
    ["experts", c.nExperts === 0 ? (c.productExperts === undefined ? "none: a dense model" : "no others") : `${c.nExperts} per layer, ${c.router.topK} per token${auxiliaries > 0 ? ` and ${auxiliaries} that stand by` : ""}, ${c.expertIntermediateSize} wide${c.expertKind === "swiglu" ? "" : ` (${c.expertKind})`}, ${showBytes(first)} each`
      + (largest > first ? ` (the largest ${showBytes(largest)})` : "") + (c.latentExperts === undefined ? "" : `, reading ${c.latentExperts.rank} numbers of a token (${c.latentExperts.nGroups} latent ${c.latentExperts.nGroups === 1 ? "group" : "groups"})`)
      + (c.sharedIntermediateSize > 0 ? `, and a shared one, ${c.sharedIntermediateSize} wide` : "")],
    ...routingRows(c),
    ...(nDense > 0 ? [["dense layers", `${nDense}, ${c.denseIntermediateSize} wide`] as [string, string]] : []),
    ["parameters", `${showCount(i.parameters)}, of which ${showCount(i.activeParameters)} take part in one token`],
    ...(i.efficiency === null ? [] : efficiencyRows(i.efficiency)),
    ["context", i.pack ? `${i.pack.contextLength} of ${c.maxPositions} tokens` : `${c.maxPositions} tokens`],
    ["size", showBytes(i.totalBytes)],
    ...Object.entries(i.typeBytes).map(([type, bytes]): [string, string] => [`  ${type}`, showBytes(bytes)]),
    ["tokenizer", i.tokenizer ?? "none"],
    ["chat template", i.chatTemplate ? "yes" : "none"],
    ["ends with", i.eosTokenIds.length === 0 ? "no token" : `token ${i.eosTokenIds.join(", ")}`],
  ];
  if (i.pack) rows.push(["serves with", `${i.pack.activations} activations, ${i.pack.kvFormat} cache, ${i.pack.segments} expert segments, ${i.pack.parts} parts`]);
  return showTable(rows) + i.problems.map((p) => `Problem: ${p}\n`).join("");
}
