// `node bench/constraints.ts [--json]`: what holding replies to schemas and grammars costs per token, over real vocabularies of 512 to 201,088 tokens. Owns the
// constraints, the texts that are followed through them, and what is taken for a step: the demo's own engine; for a large vocabulary only the product
// of its head (hidden 2,048), which no step is without. Options: --data DIR (where tokenizers lie). Refuses to guess: a vocabulary that is not there is skipped.

import { existsSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { gunzipSync } from "node:zlib";
import { FolderSource } from "../cli/file-source.ts";
import { buildProgram, ROOT } from "../cli/setup.mjs";
import type { Constraint } from "../durable/generate.ts";
import { LIMITS } from "../durable/limits.ts";
import { MemorySource } from "../formats/memory-source.ts";
import { openPack, readTokenizerJson } from "../formats/pack-reader.ts";
import { buildTokenizer } from "../formats/tokenizer-files.ts";
import type { LogitStage } from "../model/logit-adjustments.ts";
import { logitsRequest } from "../model/logits.ts";
import { decidingForm, PLAIN_SAMPLING, sampleForm, type SamplingParams } from "../model/sampling.ts";
import { createTokenizer, type Tokenizer } from "../model/tokenizer.ts";
import { harmonyFormat } from "../worker/harmony-constraint.ts";
import { openHead, type BareHead } from "./bare-head.ts";
import { benchServed } from "./constraints-served.ts";
import { localEngine } from "./local-engine.ts";
import { machineReport, option, present, tableText, target, type Report, type Target } from "./report.ts";
import { median, percentile, rounded } from "./statistics.ts";

const ROUNDS = 2;
const HIDDEN = 2048;
/** [folder's file, the name by which the tokenizer's reader knows it] */
const VOCABULARIES = [
  ["tokenizers/tiktoken/r50k_base.tiktoken", "tiktoken.model"], ["tokenizers/tiktoken/cl100k_base.tiktoken.gz", "cl100k_base.tiktoken"],
  ["tokenizers/qwen/qwen.tiktoken.gz", "qwen.tiktoken"], ["tokenizers/tiktoken/o200k_base.tiktoken.gz", "o200k_base.tiktoken"],
] as const;

const SCHEMA = {
  type: "object", required: ["name", "kind", "tags", "at"], additionalProperties: false,
  properties: { name: { type: "string" }, kind: { enum: ["red", "green", "blue"] }, tags: { type: "array", items: { type: "string", maxLength: 16 } }, at: { type: "object", properties: { x: { type: "number" }, y: { type: "integer" } }, required: ["x", "y"] } },
};
const JSON_TEXT = '{"name": "Ada Lovelace, countess of Lovelace", "kind": "green", "tags": ["mathematics", "engine"], "at": {"x": 1.5, "y": -22}}';
const tags = (format: object): Constraint => ({ kind: "tags", tag: JSON.stringify({ type: "structural_tag", format }) });
const TOOL = { type: "function" as const, function: { name: "note", parameters: SCHEMA } };

interface Case { readonly name: string; readonly constraint: Constraint; readonly text: string }
const CASES: readonly Case[] = [
  { name: "json_object", constraint: { kind: "json" }, text: JSON_TEXT },
  { name: "json_schema", constraint: { kind: "json-schema", schema: JSON.stringify(SCHEMA), strict: true }, text: JSON_TEXT },
  { name: "one way only", constraint: { kind: "json-schema", schema: JSON.stringify({ type: "object", properties: { a: { const: "yes" }, b: { const: "no" } }, required: ["a", "b"] }), strict: true }, text: '{"a": "yes", "b": "no"}' },
  { name: "GBNF", constraint: { kind: "grammar", grammar: 'root ::= line+\nline ::= [a-z]+ ": " [0-9]+ "\\n"' }, text: "width: 1280\nheight: 44\ndepth: 3\n" },
  {
    name: "tools", text: `Let me write that down.\n<tool_call>\n{"name": "note", "arguments": ${JSON_TEXT}}\n</tool_call>`,
    constraint: tags({ type: "triggered_tags", triggers: ["<tool_call>"], tags: [{ begin: '<tool_call>\n{"name": "note", "arguments": ', content: { type: "json_schema", json_schema: SCHEMA }, end: "}\n</tool_call>" }], at_least_one: false, stop_after_first: false }),
  },
];
const HARMONY: Case = {
  name: "channels", constraint: tags(harmonyFormat(null, [TOOL], true)),
  text: `<|channel|>analysis<|message|>They want a note, so I write one down.<|end|><|start|>assistant<|channel|>commentary to=functions.note <|constrain|>json<|message|>${JSON_TEXT}`,
};
const SAMPLINGS: Readonly<Record<"greedy" | "drawn", SamplingParams>> = { greedy: { ...PLAIN_SAMPLING, temperature: 0, seed: 1 }, drawn: { ...PLAIN_SAMPLING, seed: 1 } };

interface Spent { readonly median: number; readonly p90: number }
interface CaseReport {
  readonly name: string;
  readonly tokens: number;
  readonly compileMs: number;
  /** The bits of the next token, the logits they leave, and the step of the grammar with the token that was drawn; µs per token. */
  readonly fillUs: Spent;
  readonly applyUs: Spent;
  readonly pushUs: Spent;
  /** What the median step takes longer than without the constraint, over that step; greedy, and drawn at temperature 1. */
  readonly share: Readonly<Record<"greedy" | "drawn", number>>;
}
interface VocabularyReport {
  readonly name: string;
  readonly tokens: number;
  readonly step: string;
  readonly stepMs: Readonly<Record<"greedy" | "drawn", number>>;
  readonly openMs: number;
  readonly cases: readonly CaseReport[];
}
export interface ConstraintsReport extends Report {
  readonly vocabularies: readonly VocabularyReport[];
  readonly served: Awaited<ReturnType<typeof benchServed>>;
  readonly skipped: readonly string[];
}

/** A step that ends in a token. `position` counts from 0; `id` is the token evaluated in it. Gives ms. */
interface Stepper {
  readonly name: string;
  start(): void;
  step(id: number, position: number, params: SamplingParams, stage: LogitStage | null): Promise<number>;
  /** A row of its logits. */
  readonly row: Float32Array;
}

const spent = (values: readonly number[], factor = 1): Spent => ({ median: rounded(median(values) * factor), p90: rounded(percentile(values, 0.9) * factor) });
const timed = (work: () => void): number => {
  const start = performance.now();
  work();
  return performance.now() - start;
};

async function measureVocabulary(name: string, tokenizer: Tokenizer, vocabSize: number, stepper: Stepper): Promise<VocabularyReport> {
  // Built before it is loaded.
  const { Constraints } = await import("../durable/constraints.ts");
  const start = performance.now();
  const constraints = await Constraints.create(new WebAssembly.Module(readFileSync(join(ROOT, "build/xgrammar.wasm"))), tokenizer, vocabSize, LIMITS);
  const openMs = performance.now() - start;
  const channel = tokenizer.idOf("<|channel|>");
  const followed = channel !== undefined && tokenizer.isControl(channel) ? [...CASES, HARMONY] : CASES;
  const cases: CaseReport[] = [];
  const all = { greedy: [] as number[], drawn: [] as number[] };
  for (const { name: of, constraint, text } of followed) {
    const ids = tokenizer.encodeTemplate(text);
    const from = performance.now();
    (await constraints.stage(constraint, [])).dispose();
    const compileMs = performance.now() - from;
    const [fill, apply, push] = [[] as number[], [] as number[], [] as number[]];
    const held = { greedy: [] as number[], drawn: [] as number[] };
    const bare = { greedy: [] as number[], drawn: [] as number[] };
    for (let round = 0; round <= ROUNDS; round++) {
      const stage = await constraints.stage(constraint, []);
      for (const id of ids) {
        const times = [timed(() => void stage.candidates), timed(() => void stage.apply(stepper.row)), timed(() => stage.push(id))] as const;
        if (round > 0) [fill, apply, push].forEach((list, i) => list.push(times[i]!));
      }
      stage.dispose();
      for (const kind of ["greedy", "drawn"] as const) {
        // Each token with the constraint and without, one after the other, so that a noisy moment hits both.
        const stage = await constraints.stage(constraint, []);
        stepper.start();
        for (const [position, id] of ids.entries()) {
          const run = (of: LogitStage | null): Promise<number> => stepper.step(ids[position - 1] ?? 0, position, SAMPLINGS[kind], of);
          const isFirst = (position + round) % 2 === 0;
          const early = await run(isFirst ? stage : null);
          const late = await run(isFirst ? null : stage);
          const pushMs = timed(() => stage.push(id));
          if (round === 0) continue;
          held[kind].push((isFirst ? early : late) + pushMs);
          bare[kind].push(isFirst ? late : early);
        }
        stage.dispose();
      }
    }
    for (const kind of ["greedy", "drawn"] as const) all[kind].push(...bare[kind]);
    const shareOf = (kind: "greedy" | "drawn"): number => rounded((median(held[kind]) - median(bare[kind])) / median(bare[kind]));
    cases.push({ name: of, tokens: ids.length, compileMs: rounded(compileMs), fillUs: spent(fill, 1000), applyUs: spent(apply, 1000), pushUs: spent(push, 1000),
      share: { greedy: shareOf("greedy"), drawn: shareOf("drawn") } });
  }
  return { name, tokens: vocabSize, step: stepper.name, stepMs: { greedy: rounded(median(all.greedy)), drawn: rounded(median(all.drawn)) }, openMs: rounded(openMs), cases };
}

/** Steps of the demo model in this process, each at its own place of one text. */
async function demoStepper(folder: string): Promise<Stepper> {
  const engine = await localEngine(folder, { maxChunkTokens: 8 });
  const vocab = engine.config.vocabSize;
  let timeline = engine.kv.open(256);
  const { logits } = await engine.step([{ timeline, ids: [1], logits: "last" }]);
  return {
    name: "a step of the demo model, in process", row: logits[0]!,
    start: () => {
      engine.kv.close(timeline);
      timeline = engine.kv.open(256);
    },
    step: async (id, position, params, stage) => {
      timeline.length = Math.min(position, timeline.length);
      const start = performance.now();
      const form = decidingForm(params, null, vocab, stage);
      const result = await engine.step([{ timeline, ids: [id], logits: logitsRequest(form, "last") }]);
      sampleForm(form, result.logits[0]!, result.tops[0]!, 0, params, 0, position, null, stage);
      return performance.now() - start;
    },
  };
}

function headStepper(head: BareHead): Stepper {
  return {
    name: `only the head's product, ${head.format}, hidden ${HIDDEN} (${Math.round(head.bytes / 1e6)} MB)`, row: head.logits(),
    start: () => {},
    step: async (_id, position, params, stage) => {
      const start = performance.now();
      const form = decidingForm(params, null, head.vocabSize, stage);
      const { logits, top } = head.run(logitsRequest(form, "last"));
      sampleForm(form, logits, top, 0, params, 0, position, null, stage);
      return performance.now() - start;
    },
  };
}

export async function benchConstraints(): Promise<ConstraintsReport> {
  await buildProgram();
  const machine = machineReport();
  const skipped: string[] = [];
  const vocabularies: VocabularyReport[] = [];
  const demo = join(ROOT, "demo", "pack");
  const source = new FolderSource(demo);
  const { manifest } = await openPack(source);
  vocabularies.push(await measureVocabulary("the demo's", createTokenizer(await readTokenizerJson(source, manifest)), manifest.config.vocabSize, await demoStepper(demo)));
  const data = resolve(ROOT, option("data") ?? process.env.WORKERS_MOE_DATA ?? "../shared/data");
  for (const [file, name] of VOCABULARIES) {
    const path = join(data, file);
    if (!existsSync(path)) {
      skipped.push(`${file}: there is no such file in the data folder (--data DIR)`);
      continue;
    }
    const bytes = readFileSync(path);
    const built = await buildTokenizer(new MemorySource(new Map([[name, new Uint8Array(file.endsWith(".gz") ? gunzipSync(bytes) : bytes)]])), {});
    const tokenizer = createTokenizer(JSON.parse(new TextDecoder().decode(built!.json)));
    const head = openHead(manifest.config, "q4", tokenizer.vocabSize, HIDDEN);
    vocabularies.push(await measureVocabulary(file.split("/").at(-1)!.replace(/\.gz$/, ""), tokenizer, tokenizer.vocabSize, headStepper(head)));
  }
  const targets: Record<string, Target> = {};
  for (const { name, tokens, step, cases } of vocabularies) {
    for (const kind of ["greedy", "drawn"] as const) {
      targets[`${name}, ${tokens} tokens, ${kind}: largest share of ${step}`] = target(Math.max(...cases.map(({ share }) => share[kind])), 0.05, 0.02);
    }
  }
  const served = await benchServed();
  targets["the demo model as it is served: largest share of a token"] = target(Math.max(...served.cases.map(({ share }) => share)), 0.05, 0.02);
  return { machine, vocabularies, served, skipped, targets };
}

if (import.meta.main) {
  const two = ({ median: middle, p90 }: Spent): string => `${middle} (${p90})`;
  const percent = (share: number): string => `${(share * 100).toFixed(1)} %`;
  await present("constraints", benchConstraints, ({ vocabularies, served, skipped }) => [
    "Medians over tokens (90th percentile). Share: what the median step takes longer, over the one without a constraint.",
    ...vocabularies.flatMap(({ name, tokens, step, stepMs, openMs, cases }) => [
      `\n${name}: ${tokens} tokens, opened in ${openMs} ms; a step is ${step}: ${stepMs.greedy} ms greedy, ${stepMs.drawn} ms drawn`,
      tableText([["constraint", "tokens", "compile ms", "fill µs", "apply µs", "push µs", "share, greedy", "share, drawn"],
        ...cases.map((one) => [one.name, one.tokens, one.compileMs, two(one.fillUs), two(one.applyUs), two(one.pushUs), percent(one.share.greedy), percent(one.share.drawn)])]),
    ]),
    `\nThe demo model as it is served (${served.profile}), one request at a time, without guesses; ms per token`,
    tableText([["constraint", "sampling", "without", "with", "share"], ...served.cases.map((one) => [one.name, one.sampling, one.bareMsPerToken, one.msPerToken, percent(one.share)])]),
    ...skipped.map((line) => `skipped: ${line}`), "",
  ].join("\n"));
}
