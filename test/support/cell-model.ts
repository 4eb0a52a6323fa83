// One cell of the table (model-cells.ts) as a tiny model: its file, its weights as the file holds them, and its logits by the float64 definition and by
// this engine. The weights are quantised and dequantised matrix by matrix under their canonical names, apart from the file and from the reader that
// finds them there. Owns which tokens are judged: those whose choice of experts no rounding turns over. Refuses judging.

import { evaluate, kernelModules, openPackFrom } from "../../cli/open-pack.ts";
import type { Checkpoint } from "../../formats/checkpoint.ts";
import { decodeRows } from "../../formats/dequantize.ts";
import { openGguf } from "../../formats/gguf-checkpoint.ts";
import { openHuggingFace } from "../../formats/huggingface.ts";
import { MemorySource } from "../../formats/memory-source.ts";
import type { ModelConfig } from "../../model/config.ts";
import { type DefinitionMatrix, type DefinitionWeights, forwardDefinition } from "../../model/definition.ts";
import { FALLBACK, type GgufType, type ModelCell, cellConfig, isWide } from "./model-cells.ts";
import type { MemoryPack } from "./pack-to-memory.ts";
import { storedRows } from "./stored-rows.ts";
import { type TinyModel, type TinyOverrides, tinyModel } from "./tiny-models.ts";

export interface CellModel {
  readonly cell: ModelCell;
  readonly model: TinyModel;
  /** The values that the file holds. */
  readonly weights: DefinitionWeights;
  /** The folder's files, or "tiny.gguf" alone. */
  readonly files: ReadonlyMap<string, Uint8Array>;
  open(): Promise<Checkpoint>;
}

/** The last models made: cells of one architecture that differ in their stored type have the same weights before quantising. */
const recent = new Map<string, TinyModel>();
function modelOf(cell: ModelCell, seed: number, overrides: TinyOverrides, zero: RegExp | undefined): TinyModel {
  const key = JSON.stringify([cell.architecture, seed, overrides, zero?.source]);
  const known = recent.get(key);
  if (known !== undefined) return known;
  const model = tinyModel(cell.architecture, seed, overrides);
  for (const [name, { values }] of model.weights) if (zero?.test(name) === true) values.fill(0);
  recent.set(key, model);
  for (const old of [...recent.keys()].slice(0, -3)) recent.delete(old);
  return model;
}

/** Stored type of a GGUF tensor whose rows are no multiple of 256, where `type` needs that. */
const typeOfRows = (type: GgufType, nCols: number): GgufType => (nCols % 256 !== 0 ? FALLBACK[type] ?? type : type);

function dequantized(model: TinyModel, type: GgufType): DefinitionWeights {
  const done = new Map<string, DefinitionMatrix>();
  return (name) => {
    const found = done.get(name);
    if (found !== undefined) return found;
    const m = model.weights.get(name)!;
    const as = typeOfRows(type, m.cols);
    const isMatrix = m.rows > 1 && !name.endsWith(".router");
    const values = isMatrix ? decodeRows(as, storedRows(as, m.values, m.rows, m.cols), m.rows, m.cols) : m.values;
    const matrix = { rows: m.rows, cols: m.cols, values };
    done.set(name, matrix);
    return matrix;
  };
}

export interface CellChanges {
  /** Further keys of config.json, or other values. */
  readonly config?: Readonly<Record<string, unknown>>;
  /** Vectors that are zero, by the end of their names. */
  readonly zero?: RegExp;
}

export function cellModel(cell: ModelCell, seed: number, { config, zero }: CellChanges = {}): CellModel {
  const { form, type } = cell;
  const exactIn = form === "folder" && (type === "F8_E4M3" || type === "MXFP4") ? { exactIn: type } : {};
  const model = modelOf(cell, seed, { config: { ...cellConfig(cell), ...config }, byFanIn: isWide(type), ...exactIn }, zero);
  if (form === "folder") {
    const options = type === "MXFP4" ? { experts: "mxfp4" } as const : { dtype: type };
    const files = model.huggingFaceFiles(options);
    return { cell, model, files, weights: (name) => model.weights.get(name)!, open: () => openHuggingFace(new MemorySource(files), "tiny") };
  }
  // Only DeepSeek's attn_k_b has rows of another length than the wide models' 256 and more.
  const kB = typeOfRows(type, model.config.mla?.nopeHeadDim ?? 256);
  const files = new Map([["tiny.gguf", model.ggufBytes({ type, overrideType: (name) => (name.endsWith("attn_k_b.weight") ? kB : null) })]]);
  return { cell, model, files, weights: dequantized(model, type), open: () => openGguf(new MemorySource(files), "tiny.gguf") };
}

/** One row of logits per token of every sequence, f64 or f32 [vocab]. */
export type Rows = readonly (readonly ArrayLike<number>[])[];

export interface Truth {
  readonly logits: Rows;
  /** By sequence and token: distance of the nearest other choice of experts that would change this token's logits. */
  readonly clearness: readonly (readonly number[])[];
}

/** Steps of scores in logits, roughly: a sigmoid's slope is at most 1/4, a softmax' about 1/8 where the last of a few experts is chosen. */
const inLogits = ({ router: { select, score } }: ModelConfig): number => (select === "sparsemixer" || score === "logits" ? 1 : score === "sigmoid" ? 4 : 8);

/** The sequences by the definition. A choice counts for its own token in the last layer, before that also for the tokens that attend to it. */
export function truthOf({ model, weights }: Pick<CellModel, "model" | "weights">, sequences: readonly (readonly number[])[], config: ModelConfig = model.config, reserved?: number): Truth {
  const results = sequences.map((ids) => forwardDefinition(config, weights, ids, reserved ?? ids.length));
  const unit = inLogits(config);
  return {
    logits: results.map(({ logits }) => logits),
    clearness: results.map(({ routing }, s) => {
      let before = Infinity;
      return sequences[s]!.map((_, t) => {
        routing.slice(0, -1).forEach((layer) => { before = Math.min(before, layer[t]!.margin * unit); });
        return Math.min(before, (routing.at(-1)?.[t]?.margin ?? Infinity) * unit);
      });
    }),
  };
}

/** Compiled once: dozens of packs are opened. */
let modules: ReturnType<typeof kernelModules> | null = null;

/** The sequences by this engine. */
export async function engineRows(pack: MemoryPack, sequences: readonly (readonly number[])[]): Promise<Float32Array[][]> {
  const { engine } = await openPackFrom(pack.source, { modules: (modules ??= kernelModules()) });
  const out: Float32Array[][] = [];
  for (const ids of sequences) {
    const rows: Float32Array[] = [];
    await evaluate(engine, ids, (_, logits) => void rows.push(logits.slice()));
    out.push(rows);
  }
  return out;
}
