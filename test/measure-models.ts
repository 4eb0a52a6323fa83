// `node test/measure-models.ts [architecture...]`: the logit error and KL divergence of every cell of test/support/model-cells.ts, our pack at the source's own
// quality and wllama where it reads the file, both against the float64 definition on the weights that the file holds. One line of JSON per cell on
// standard output, progress on standard error. `npm run bench models` runs it and prints the table. Refuses to judge.

import { cellModel, engineRows, truthOf, type Rows, type Truth } from "./support/cell-model.ts";
import { LLAMA_CONTEXT_TOKENS, deviationOf } from "./support/llama-cpp.ts";
import { type LogitDifference, logitDifference } from "./support/logit-difference.ts";
import { MODEL_CELLS, type ModelCell, cellTitle, sourceBounds } from "./support/model-cells.ts";
import { packToMemory } from "./support/pack-to-memory.ts";
import { WllamaRunner } from "./support/wllama-comparison.ts";

/** `all` rows, and those whose choice of experts no rounding turns over. */
interface CellErrors { readonly all: LogitDifference; readonly clear: LogitDifference }

export interface MeasuredCell {
  readonly architecture: string;
  readonly form: ModelCell["form"];
  readonly type: string;
  readonly ours: CellErrors;
  /** null: a folder, or a file that wllama refuses. */
  readonly wllama: CellErrors | null;
  /** What wllama says of a file that it refuses. */
  readonly refusal: string | null;
  /** wllama computes another model than the original. */
  readonly deviates: boolean;
}

const PROMPTS = ["Hey!", "3 + 4", "fox;", "ZyX", "a b", "{q}", "?9#", "~*w", "M", ":-)", "0x1F", "don't"];
const TOKENS = 8;
/** Without wllama's choices: as many positions behind as long prompts. */
const FIXED = PROMPTS.map((_, s) => Array.from({ length: 11 }, (__, i) => (i * i * (5 + s) + 3 * i * (s + 1) + 7 * s + 11) % 97));

function errors(truth: Truth, rows: (s: number, t: number) => ArrayLike<number>, from: readonly number[], clear: number): CellErrors {
  const pairs = (least: number) => truth.logits.flatMap((right, s) => right.flatMap((row, t) =>
    t < from[s]! || truth.clearness[s]![t]! < least ? [] : [[row, rows(s, t)] as const]));
  return { all: logitDifference(pairs(0)), clear: logitDifference(pairs(clear)) };
}

async function measure(cell: ModelCell, wllama: WllamaRunner): Promise<MeasuredCell> {
  const model = cellModel(cell, 1);
  const gguf = model.files.get("tiny.gguf");
  const said = gguf === undefined ? null : await wllama.ask(gguf, PROMPTS, TOKENS);
  const heard = said === null || "refusal" in said ? null : said;
  const sequences = heard?.sequences ?? FIXED;
  const from = heard?.from ?? FIXED.map(() => 3);
  const { clear } = sourceBounds(cell);
  const ours: Rows = await engineRows(await packToMemory(await model.open(), { quant: "source" }), sequences);
  return {
    ...cell, deviates: deviationOf(cell.architecture) !== null,
    refusal: said !== null && "refusal" in said ? said.refusal : null,
    ours: errors(truthOf(model, sequences), (s, t) => ours[s]![t]!, from, clear),
    // LongRoPE's choice of factors is llama.cpp's own.
    wllama: heard === null ? null : errors(truthOf(model, sequences, model.model.config, LLAMA_CONTEXT_TOKENS), (s, t) => heard.logprobs[s]![t - from[s]!]!, from, clear),
  };
}

const asked = process.argv.slice(2);
const wllama = new WllamaRunner();
for (const cell of MODEL_CELLS.filter(({ architecture }) => asked.length === 0 || asked.includes(architecture))) {
  process.stderr.write(`${cell.architecture} ${cellTitle(cell)}\n`);
  process.stdout.write(`${JSON.stringify(await measure(cell, wllama))}\n`);
}
await wllama.close();
