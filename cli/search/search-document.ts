// What a search found, as search.json has it (docs/formats.md), and as a table. Owns the schema and the words of what became of each candidate.

import { z } from "zod";
import { passCallSchema } from "../../passes/search-space.ts";
import { showBytes, showTable } from "../sizes.ts";

export const SEARCH_FORMAT = "workers-moe-search";
export const SEARCH_VERSION = 1;

const candidateSchema = z.strictObject({
  /** As people read it: "prune 24 > gptq all=8; routed=4". */
  name: z.string(),
  passes: z.array(passCallSchema).readonly(),
  /** front; measured: on the whole text, and beaten; dropped: beaten on part of it; over-budget; saves-nothing: no smaller than with fewer passes; failed. */
  became: z.enum(["front", "measured", "dropped", "over-budget", "saves-nothing", "failed"]),
  /** Why, where it is not on the front. */
  because: z.string().nullable(),
  /** Weights of the pack, equal experts once; where it was never made the least it can be, null where nothing is known. */
  bytes: z.number().nullable(),
  /** Of weights that a token reads, mean over the tokens measured. */
  activeBytes: z.number().nullable(),
  /** Dollars per million tokens as `plan` says for one stream; null where it was not asked for. */
  dollars: z.number().nullable(),
  /** Tokens counted so far. */
  tokens: z.int(),
  meanNll: z.number().nullable(),
  perplexity: z.number().nullable(),
  /** Command lines that make it and its pack; of what is on the front. */
  commands: z.array(z.string()).readonly(),
  /** Folder of the model, where it was kept. */
  kept: z.string().nullable(),
}).readonly();
export type FoundCandidate = z.infer<typeof candidateSchema>;

export const searchDocumentSchema = z.strictObject({
  format: z.literal(SEARCH_FORMAT),
  version: z.literal(SEARCH_VERSION),
  model: z.strictObject({ path: z.string(), kind: z.string(), sha256: z.string() }).readonly(),
  calibration: z.strictObject({ file: z.string(), sha256: z.string() }).readonly(),
  evaluation: z.strictObject({ file: z.string(), sha256: z.string(), tokens: z.int(), windows: z.int(), contextLength: z.int() }).readonly(),
  budget: z.strictObject({ bytes: z.number().nullable(), dollars: z.number().nullable() }).readonly(),
  /** Standard errors by which one must be worse to be dropped. */
  deviations: z.number(),
  /** Windows after which candidates were compared. */
  shares: z.array(z.int()).readonly(),
  candidates: z.array(candidateSchema).readonly(),
  /** Numbers of candidates, smallest first. */
  front: z.array(z.int()).readonly(),
}).readonly();
export type SearchDocument = z.infer<typeof searchDocumentSchema>;

export const frontOf = ({ candidates, front }: SearchDocument): FoundCandidate[] => front.map((i) => candidates[i]!);

/** The front, how each point is made, and what became of the others. */
export function searchText(document: SearchDocument): string {
  const { candidates, evaluation } = document;
  const front = frontOf(document);
  const dollars = front.some((of) => of.dollars !== null);
  const rows = [["", "pack", "read per token", "perplexity", ...(dollars ? ["dollars per million"] : []), "passes"],
    ...front.map((of, i) => [String(i + 1), showBytes(of.bytes!), showBytes(Math.round(of.activeBytes!)), of.perplexity!.toFixed(3), ...(dollars ? [of.dollars!.toFixed(3)] : []), of.name])];
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)));
  const aligned = rows.map((row) => `${row.map((cell, i) => (i === row.length - 1 ? cell : cell.padStart(widths[i]!))).join("  ")}\n`).join("");
  const others = (["measured", "dropped", "over-budget", "saves-nothing", "failed"] as const).map((became) => [became, candidates.filter((of) => of.became === became)] as const).filter(([, of]) => of.length > 0);
  return `${front.length} of ${candidates.length} candidates are on the front, over ${evaluation.tokens} tokens of ${evaluation.file}:\n\n${aligned}\n`
    + front.map((of, i) => `${i + 1}:\n${of.commands.map((line) => `  ${line}\n`).join("")}${of.kept === null ? "" : `  kept in ${of.kept}\n`}`).join("")
    + (others.length === 0 ? "" : `\nOthers:\n${showTable(others.flatMap(([became, of]) => of.map(({ name, because }): [string, string] => [`  ${became}`, `${name}${because === null ? "" : `: ${because}`}`])))}`);
}
