// Classes of texts as `profile` is given them, LABEL=FILE: a text in windows, a text a line, JSON lines, a trace file, or totals of routing. Owns what a sequence is in each, and its words for reports.
// Refuses empty lines, which would shift parallel texts against each other, and files of another model.

import { readFileSync } from "node:fs";
import { InvalidArgumentError } from "commander";
import { isOfProducts, routingShape } from "../../fleet/product-routing.ts";
import { type RoutingShape, sequencesOf, SequenceRouting } from "../../fleet/sequence-routing.ts";
import { parseRoutingTotals } from "../../formats/routing-totals.ts";
import { readTrace, TRACE_MAGIC, type Trace } from "../../formats/trace.ts";
import type { LocalModel } from "../open-pack.ts";
import { readText } from "../read-text.ts";
import { routeSequence } from "./route-sequence.ts";

export interface LabelledFile {
  readonly label: string;
  readonly file: string;
}

/** How texts become sequences. */
export interface SequenceOptions {
  readonly per: "window" | "line";
  readonly window: number;
  /** At most so many of each file, evenly spread; absent: all. */
  readonly samples?: number | undefined;
}

export interface ClassSource extends LabelledFile {
  /** What its sequences are: "windows of 512 tokens". */
  readonly kind: string;
  /** Whether number i says the same in every class, if there are as many. */
  readonly isByLine: boolean;
  readonly shape: RoutingShape;
  /** Experts of a token; null where totals do not say. */
  readonly topK: number | null;
  readonly nSequences: number;
  /** To route; 0 where others have. */
  readonly nTokens: number;
  /** Whether it is known how many tokens there were: not of totals that count choices only, without a model. */
  readonly knowsTokens: boolean;
  /** Sequences that were longer than the context, and lost their end. */
  readonly nCut: number;
  /** Token ids of its sequences; null where others have routed them. */
  readonly ids: readonly (readonly number[])[] | null;
  /** In order, each once. */
  sequences(): AsyncIterable<SequenceRouting> | Iterable<SequenceRouting>;
}

/** For commander: collects LABEL=FILE. */
export function labelledFile(text: string, before: readonly LabelledFile[] = []): LabelledFile[] {
  const at = text.indexOf("=");
  if (at < 1 || at === text.length - 1) throw new InvalidArgumentError("Expected LABEL=FILE, such as code=main.ts.");
  const label = text.slice(0, at);
  if (before.some((of) => of.label === label)) throw new InvalidArgumentError(`The label "${label}" is there twice; expected one file for each.`);
  return [...before, { label, file: text.slice(at + 1) }];
}

/** A text or a trace. Throws a sentence where there is nothing to read, or no model to read it with. */
export function textSource(model: LocalModel | null, of: LabelledFile, options: SequenceOptions): ClassSource {
  const bytes = readFile(of);
  if (new TextDecoder().decode(bytes.subarray(0, TRACE_MAGIC.length)) === TRACE_MAGIC) return traceSource(model, of, readTrace(bytes, of.file));
  if (model === null) throw new Error(`${of.file} is a text, so the folder of a pack must say which model routes it; without one, traces and --counts are read.`);
  const { engine, manifest: { id, config } } = model;
  const shape = routingShape(config);
  if (shape.moeLayers.length === 0) throw new Error(`The pack "${id}" is a dense model: it has no experts.`);
  const isLines = of.file.endsWith(".jsonl") || options.per === "line";
  const found = isLines ? linesOf(model, of, options) : windowsOf(model, of, options);
  const ids = found.ids.map((sequence) => sequence.slice(0, engine.contextLength));
  return {
    ...of, ids, shape, topK: isOfProducts(config) ? null : config.router.topK, kind: found.kind, isByLine: isLines, nSequences: ids.length, nTokens: ids.reduce((sum, { length }) => sum + length, 0), knowsTokens: true,
    nCut: found.ids.filter(({ length }) => length > engine.contextLength).length,
    async *sequences() {
      for (const sequence of ids) yield await routeSequence(engine, sequence);
    },
  };
}

/** Totals, as one sequence. `topK`: of the model they are of, where it is known; totals that say choices only get their tokens by it. */
export function totalsSource(of: LabelledFile, topK: number | null): ClassSource {
  const { moeLayers, nExperts, tokens: said, count, weight } = parseRoutingTotals(readFile(of), of.file);
  const chosen = moeLayers.map((_, i) => count.subarray(i * nExperts, (i + 1) * nExperts).reduce((sum, n) => sum + n, 0));
  // Shares of tokens need their number; distributions over experts do not, and 1 keeps those as they are.
  const tokens = said ?? chosen.map((n) => (topK === null ? 1 : n / topK));
  const inferred = said === null ? null : said.map((n, i) => chosen[i]! / n).reduce((a, b) => Math.max(a, b));
  return {
    ...of, ids: null, kind: "totals", isByLine: false, shape: { moeLayers, nExperts }, topK: topK ?? (inferred === null ? null : Math.round(inferred)), nSequences: 1, nTokens: 0, nCut: 0, knowsTokens: said !== null || topK !== null,
    sequences: () => [SequenceRouting.ofTotals({ moeLayers, nExperts }, { tokens, count, weight })],
  };
}

function traceSource(model: LocalModel | null, of: LabelledFile, trace: Trace): ClassSource {
  const { header } = trace;
  if (model !== null && header.packHash !== model.packHash) {
    throw new Error(`The trace ${of.file} is of "${header.model}", revision ${header.packHash.slice(0, 12)}; expected "${model.manifest.id}", ${model.packHash.slice(0, 12)}.`);
  }
  function* records(): Generator<ReturnType<Trace["record"]>> {
    for (let i = 0; i < trace.length; i++) yield trace.record(i);
  }
  const requests = new Set<number>();
  for (const { request } of records()) requests.add(request);
  const nSequences = requests.size;
  if (nSequences === 0) throw new Error(`The trace ${of.file} has no record.`);
  return {
    ...of, ids: null, kind: "requests of a trace", isByLine: false, shape: header, topK: header.topK, nSequences, nTokens: 0, nCut: 0, knowsTokens: true,
    sequences: () => sequencesOf(header, records),
  };
}

function linesOf(model: LocalModel, { label, file }: LabelledFile, { samples }: SequenceOptions): { ids: number[][]; kind: string } {
  const isJson = file.endsWith(".jsonl");
  const lines = readText(file).replaceAll("\r\n", "\n").replace(/\n+$/, "").split("\n");
  const texts = lines.map((line, i) => (isJson ? textOfLine(line, label, `${file}, line ${i + 1}`) : line));
  const empty = texts.findIndex((text) => text.trim() === "");
  if (empty >= 0) throw new Error(`${file}, line ${empty + 1} has no text; expected one in every line.`);
  return { ids: evenly(texts.length, samples).map((i) => tokensOf(model, texts[i]!)), kind: isJson ? "texts of JSON lines" : "lines" };
}

/** {"text": ...}, or the label's own field: one file of aligned texts serves all its languages. */
function textOfLine(line: string, label: string, name: string): string {
  let json: unknown;
  try {
    json = JSON.parse(line);
  } catch (cause) {
    throw new Error(`${name} is not JSON; expected {"text": "..."}.`, { cause });
  }
  const fields = (typeof json === "object" && json !== null ? json : {}) as Record<string, unknown>;
  const text = Object.hasOwn(fields, "text") ? fields["text"] : Object.hasOwn(fields, label) ? fields[label] : undefined;
  if (typeof text !== "string") throw new Error(`${name} has no field "text" or "${label}" with a text.`);
  return text;
}

function windowsOf(model: LocalModel, { file }: LabelledFile, { window, samples }: SequenceOptions): { ids: number[][]; kind: string } {
  const { engine } = model;
  const length = Math.min(window, engine.contextLength);
  const ids = tokenizerOf(model).encodeText(readText(file));
  if (ids.length === 0) throw new Error(`${file} has no text to route.`);
  const before = bosOf(model);
  const room = length - before.length;
  const n = Math.ceil(ids.length / room);
  return { ids: evenly(n, samples).map((i) => [...before, ...ids.slice(i * room, (i + 1) * room)]), kind: `windows of ${length} tokens` };
}

const tokensOf = (model: LocalModel, text: string): number[] => [...bosOf(model), ...tokenizerOf(model).encodeText(text)];
const bosOf = ({ manifest: { tokenizer, config } }: LocalModel): number[] => (tokenizer?.addBos === true && config.bosTokenId !== null ? [config.bosTokenId] : []);

function tokenizerOf({ tokenizer, manifest }: LocalModel): NonNullable<LocalModel["tokenizer"]> {
  if (tokenizer === null) throw new Error(`The pack "${manifest.id}" has no tokenizer, which profile needs to read texts.`);
  return tokenizer;
}

function readFile({ file }: LabelledFile): Uint8Array {
  try {
    return readFileSync(file);
  } catch (cause) {
    throw new Error(`${file} cannot be read: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
  }
}

/** `samples` of the numbers below `n`, evenly spread; all where there are no more. */
const evenly = (n: number, samples = n): number[] => (samples >= n ? Array.from({ length: n }, (_, i) => i) : Array.from({ length: samples }, (_, i) => Math.floor((i * n) / samples)));
