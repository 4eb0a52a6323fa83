// `node test/models-table.ts [--write] [--measured FILE]`: the generated parts of docs/models.md: architectures by their records, the table architecture x
// form x stored type with its tests, and what llama.cpp does otherwise. --write puts them into the page instead of printing them; --measured takes the errors from the document
// of `npm run bench models` (build/bench/models.json) into it too. Owns the names of releases and the words for a config. Refuses running a model.

import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { CellReport } from "../bench/models.ts";
import { ROOT } from "../cli/setup.mjs";
import { ARCHITECTURES } from "../model/architectures/index.ts";
import { fleetTable } from "./fleet-table.ts";
import { DEVIATIONS, REFUSALS, deviationOf } from "./support/llama-cpp.ts";
import { FALLBACK, GGUF_TYPES, MODEL_CELLS, type ModelCell, cellTitle, cellsOf, promised } from "./support/model-cells.ts";
import { isPermuted } from "./support/tiny-files.ts";
import { TINY_ARCHITECTURES, type TinyArchitecture, type TinyModel, tinyModel } from "./support/tiny-models.ts";

/** Released checkpoints of the architecture, as published. */
const RELEASES: Readonly<Record<TinyArchitecture, string>> = {
  olmoe: "OLMoE-1B-7B (0924, 0125; base, SFT, Instruct)", qwen3_moe: "Qwen3-30B-A3B, Qwen3-235B-A22B, Qwen3-Coder-30B-A3B", mixtral: "Mixtral-8x7B, Mixtral-8x22B (base, Instruct)",
  qwen2_moe: "Qwen1.5-MoE-A2.7B, Qwen2-57B-A14B", granitemoe: "Granite 3.0 and 3.1 1B-A400M, 3B-A800M", granitemoeshared: "models of transformers' GraniteMoeSharedForCausalLM",
  deepseek_v2: "DeepSeek-V2, DeepSeek-V2-Lite, DeepSeek-Coder-V2, DeepSeek-V2.5", deepseek_v3: "DeepSeek-V3, DeepSeek-R1", phimoe: "Phi-3.5-MoE", gpt_oss: "gpt-oss-20b, gpt-oss-120b",
  llama: "Llama 2, Llama 3, 3.1, 3.2 (dense)", qwen2: "Qwen2, Qwen2.5 (dense)", qwen3: "Qwen3 0.6B to 32B (dense)",
};

/** What is particular about a model, by its config record (of rotary scaling, by its config.json). */
function oddities({ config: c, configJson }: TinyModel): string {
  const { router: r } = c;
  const isGrouped = r.nGroups > 1;
  const scaling = configJson["rope_scaling"] as { type?: string; rope_type?: string; truncate?: boolean } | null | undefined;
  const words: (string | false)[] = [
    c.mla !== null && "latent attention: one row of the cache is key and value of all heads",
    c.mla !== null && c.mla.qLoraRank !== null && "low-rank queries",
    isPermuted(c.architecture) && "rows of q and k permuted in GGUF",
    c.norm === "layer" && "LayerNorm with biases",
    c.qkNorm === "whole-vector" && "RMSNorm over the whole query and key before heads are split",
    c.qkNorm === "per-head" && "RMSNorm over each query and key head",
    c.qkvBias && (c.oBias ? "biases on q, k, v and o" : "biases on q, k and v"),
    c.attentionSinks && "a learned sink per head",
    c.slidingWindows.some((w) => w > 0) && "sliding windows in every other layer",
    (scaling?.rope_type ?? scaling?.type) === "yarn" && `YaRN${scaling?.truncate === false ? ", the ends of its ramp not rounded" : ""}${c.mla === null ? "" : ", which scales attention scores too"}`,
    c.rope.long !== null && "LongRoPE, its factors chosen by the positions a sequence reserves",
    c.embeddingMultiplier !== 1 && "multipliers on embeddings, attention scores, residuals and logits",
    c.layerFfns.includes("dense") && c.layerFfns.includes("moe") && "leading dense layers",
    c.nExperts === 0 && "no experts: each feed-forward part runs like a shared expert",
    r.select === "sparsemixer" && "two experts by sparsemixer",
    c.nExperts > 0 && r.select !== "sparsemixer" && (r.weigh === "softmax-selected" ? "softmax over the chosen logits" : `${r.score} scores, ${r.weigh === "renormalize" ? "renormalised" : "not renormalised"}`),
    r.selectionBias && "a bias that only selects",
    isGrouped && `groups of experts judged by ${r.groupScore === "max" ? "their best one" : "the sum of their two best"}`,
    r.logitBias && "biases on the router",
    c.sharedIntermediateSize > 0 && c.nExperts > 0 && (c.sharedGate ? "a shared expert behind a sigmoid gate" : "a shared expert, ungated"),
    c.expertKind === "clamped-swiglu" && "clamped SwiGLU with biases",
    c.headBias && "a bias on the head",
  ];
  return words.filter((word) => word !== false).join("; ");
}

const table = (rows: readonly (readonly (string | number)[])[]): string => [rows[0]!, rows[0]!.map(() => "---"), ...rows.slice(1)].map((row) => `| ${row.join(" | ")} |\n`).join("");
const code = (text: string): string => `\`${text}\``;

const architectureTable = (): string => table([
  ["config.json `model_type`", "GGUF `general.architecture`", "checkpoints", "what is particular"],
  ...TINY_ARCHITECTURES.map((name) => [code(name), code(ARCHITECTURES.find((a) => a.name === name)!.ggufName), RELEASES[name], oddities(tinyModel(name, 1))]),
]);

function held(cell: ModelCell): string {
  const [whole, ragged] = [promised(cell.type, 256), promised(cell.type, 32)];
  const loss = whole.isLossless ? "lossless" : "requantised";
  if (cell.form === "folder" && cell.type === "MXFP4") return "experts `mxfp4`, the rest `bf16`; lossless";
  if (cell.type === "F8_E4M3") return "`q8`, embedding and head `bf16`; requantised";
  return ragged.format === whole.format ? `${code(whole.format)}, ${loss}` : `${code(whole.format)}, ${code(ragged.format)} where rows are no multiple of 256; ${loss}`;
}

function wllamaColumn({ architecture, form }: ModelCell): string {
  if (form === "folder") return "reads GGUF only";
  return deviationOf(architecture) === null ? "agrees" : "deviates (below); agrees with the definition so changed";
}

const QUANT_TYPES = "quant-types.test.ts";
const cellTable = (): string => table([
  ["architecture", "form", "type", "the pack holds (`--quant source`)", `test in ${code(`test/node/model/${QUANT_TYPES}`)}`, "wllama 3.8.1, and its test in `test/node/model/wllama.test.ts`"],
  ...TINY_ARCHITECTURES.flatMap((architecture) => cellsOf(architecture).map((cell) => [
    code(architecture), cell.form, cell.type, held(cell), `${architecture} > ${cellTitle(cell)}`,
    cell.form === "folder" ? wllamaColumn(cell) : `${wllamaColumn(cell)}: ${architecture} agrees with llama.cpp${deviationOf(architecture) === null ? "" : " but for its deviation"} > ${cellTitle(cell)}`,
  ])),
]);

const fallbackTable = (): string => table([
  ["type asked for", "rows that are no multiple of 256 are stored in"],
  ...GGUF_TYPES.flatMap((type) => (FALLBACK[type] === undefined ? [] : [[type, FALLBACK[type]]])),
]);

const deviationTable = (): string => table([
  ["architecture", "where", "llama.cpp"],
  ...DEVIATIONS.map((d) => [code(d.architecture), d.where ?? "every model", d.sentence]),
  ...REFUSALS.map((r) => [code(r.architecture), r.where, `does not load: ${r.sentence}`]),
]);

const PAGE = join(ROOT, "docs/models.md");
const PARTS = { architectures: architectureTable, fleet: fleetTable, cells: cellTable, fallbacks: fallbackTable, "llama.cpp": deviationTable } as const;
const marks = (name: string): readonly [string, string] => [`<!-- ${name}: made by \`node test/models-table.ts --write\` -->\n`, `<!-- end of ${name} -->`];

function between(text: string, name: string): string {
  const [begin, end] = marks(name);
  const [from, to] = [text.indexOf(begin), text.indexOf(end)];
  if (from < 0 || to < from) throw new Error(`docs/models.md has no place for "${name}"; expected the lines ${begin.trim()} and ${end}.`);
  return text.slice(from + begin.length, to);
}

/** A part as the page has it, and as it is computed. */
export const parts = (): { readonly name: string; readonly written: string; readonly computed: string }[] =>
  Object.entries(PARTS).map(([name, compute]) => ({ name, written: between(readFileSync(PAGE, "utf8"), name), computed: compute() }));

/** Cells that the page has measured errors of: "architecture form type". */
export const measuredCells = (): string[] =>
  [...between(readFileSync(PAGE, "utf8"), "measured").matchAll(/^\| `(\w+)` \| (folder|gguf) \| (\w+) \|/gm)].map(([, architecture, form, type]) => `${architecture} ${form} ${type}`);
export const allCells = (): string[] => MODEL_CELLS.map(({ architecture, form, type }) => `${architecture} ${form} ${type}`);

/** The document of `node bench/models.ts --json`, or of `npm run bench models -- --json`, which has it under the suite's name. */
type MeasuredDocument = { readonly cells: CellReport[] } | { readonly models: { readonly cells: CellReport[] } };
const measuredCellsOf = (document: MeasuredDocument): CellReport[] => ("models" in document ? document.models : document).cells;

function measuredTable(cells: readonly CellReport[]): string {
  const figure = (x: number): string => x.toExponential(1);
  const errors = (of: CellReport["ours"] | null): string[] =>
    of === null ? ["", "", "", ""] : [figure(of.all.relative), figure(of.all.worst), figure(of.all.kl), of.clear.rows === 0 ? "" : `${figure(of.clear.kl)} (${of.clear.rows})`];
  return `${medianTable(cells)}\n${table([
    ["architecture", "form", "type", "rms", "worst", "KL", "KL, clear", "wllama: rms", "worst", "KL", "KL, clear"],
    ...cells.map((c) => [code(c.architecture), c.form, c.type, ...errors(c.ours), ...errors(c.wllama).map((x, i) => (c.deviates && i === 0 && x !== "" ? `${x} (deviates)` : x))]),
  ])}`;
}

/** By stored type, over the architectures that llama.cpp computes as the original does, of positions with a clear choice of experts. */
function medianTable(cells: readonly CellReport[]): string {
  const median = (values: readonly number[]): string => {
    const sorted = [...values].sort((a, b) => a - b);
    const middle = (sorted[(sorted.length - 1) >> 1]! + sorted[sorted.length >> 1]!) / 2;
    return sorted.length === 0 ? "" : middle.toExponential(1);
  };
  const title = ({ form, type }: CellReport): string => `${form} ${type}`;
  const kinds = [...new Set(MODEL_CELLS.map((cell) => `${cell.form} ${cell.type}`))];
  return table([
    ["type", "architectures", "median rms", "median KL", "wllama: median rms", "median KL"],
    ...kinds.flatMap((kind) => {
      const of = cells.filter((c) => title(c) === kind && !(c.deviates && c.form === "gguf") && c.ours.clear.rows > 0);
      const theirs = of.flatMap((c) => (c.wllama === null ? [] : [c.wllama.clear]));
      return of.length === 0 ? [] : [[kind, of.length, median(of.map((c) => c.ours.clear.relative)), median(of.map((c) => c.ours.clear.kl)), median(theirs.map((e) => e.relative)), median(theirs.map((e) => e.kl))]];
    }),
  ]);
}

if (import.meta.main) {
  const measured = process.argv.indexOf("--measured");
  const made = Object.entries(PARTS).map(([name, compute]) => [name, compute()] as [string, string]);
  if (measured > 0) made.push(["measured", measuredTable(measuredCellsOf(JSON.parse(readFileSync(process.argv[measured + 1]!, "utf8")) as MeasuredDocument))]);
  if (!process.argv.includes("--write")) for (const [, text] of made) process.stdout.write(`${text}\n`);
  else {
    let page = readFileSync(PAGE, "utf8");
    for (const [name, text] of made) page = page.replace(marks(name)[0] + between(page, name), () => marks(name)[0] + text);
    writeFileSync(PAGE, page);
  }
}
