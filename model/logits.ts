// From the last residuals to logits: the final norm, the head's product, and what each entry asked for of it. Owns which rows of a step are asked for and in
// which form; rows of all entries share the head's weights, eight at a time. The product is head-rows.ts; where a ring holds the head, the same code concludes from
// the stages' answers (ring-logits.ts). Refuses sampling (sampling.ts). Whole rows leave WebAssembly only where somebody asked for them. docs/arithmetic.md section 9.

import { activationRows, normalise, type ActivationRows } from "./activation-rows.ts";
import type { ModelConfig } from "./config.ts";
import { inverseTemperature } from "./draw.ts";
import { LOGIT_ROWS, MAX_TOP_LOGITS, hiddenStride, logitStride, type EngineRegions } from "./engine-regions.ts";
import { HeadRows, idsWithin, type AskedRow, type HeadAsk, type HeadWeights, type LogitSource } from "./head-rows.ts";
import type { Heap } from "./heap.ts";
import type { ActivationFormat, Kernels } from "./kernels.ts";
import type { LogitStage } from "./logit-adjustments.ts";
import { RingLogits, checkParts, type HeadAnswer, type HeadPart } from "./ring-logits.ts";
import { argmax, type LogitsForm, type TopLogits } from "./sampling.ts";
import { isEmpty } from "./stage-span.ts";

/**
 * Logits of an entry's tokens: none, of the last or of all; whole rows, or only the `top` largest of each, 1 to MAX_TOP_LOGITS, or whole
 * rows of probabilities at a `temperature` above 0, of what a `stage` leaves of the last token's logits; or the largest one it leaves; or those of its candidates. Or, in place of logits, the states they are made of: rows after the final norm.
 */
export type LogitsRequest = "none" | "last" | "all"
  | { readonly top: number; readonly stage?: LogitStage; readonly of: "last" | "all" } | { readonly temperature: number; readonly stage?: LogitStage; readonly of: "last" | "all" }
  | { readonly among: LogitStage; readonly of: "last" | "all" } | { readonly states: true; readonly of: "last" | "all" };

/** The request for a form of the logits of the last token, or of all. */
export const logitsRequest = (form: LogitsForm, of: "last" | "all"): LogitsRequest => (form === "row" ? of : { ...form, of });

/**
 * What one entry gets: whole rows f32 [nRows, vocab], probabilities where it asked for these (empty where none were asked for), or the largest (null where none
 * were); states f32 [nRows, hidden] in place of rows.
 */
export interface EntryLogits {
  readonly logits: Float32Array;
  readonly top: TopLogits | null;
}

/** An asked row and what becomes of its logits here. */
interface PlannedRow extends AskedRow {
  readonly entry: number;
  /** Among the entry's rows. */
  readonly row: number;
  /** Of the probabilities; 0 = logits. */
  readonly temperature: number;
  readonly stage: LogitStage | null;
}

/** What a step's entries ask of the head, and room for what they get. */
export interface HeadPlan {
  readonly rows: readonly PlannedRow[];
  readonly results: readonly EntryLogits[];
}

/** Above this part of the row blocks all of them are computed: rows of other entries share the weights then. */
const MOST_BLOCKS = 1 / 3;

const NO_VALUES = new Float32Array(0);
const NO_IDS = new Uint32Array(0);

export class Head {
  readonly #config: ModelConfig;
  readonly #kernels: Kernels;
  readonly #heap: Heap;
  readonly #weights: HeadWeights;
  readonly #at: EngineRegions;
  readonly #finals: ActivationRows;
  /** Of the residual in this memory. */
  readonly #own: LogitSource;

  /** `at` holds addresses, not bytes. */
  constructor(config: ModelConfig, kernels: Kernels, heap: Heap, weights: HeadWeights, at: EngineRegions) {
    this.#config = config;
    this.#kernels = kernels;
    this.#heap = heap;
    this.#weights = weights;
    this.#at = at;
    this.#finals = activationRows(heap, isEmpty(weights.span.headRows) ? 0 : LOGIT_ROWS, config.hiddenSize, { f32: at.finalsF32, qa8: at.finalsQa8, f32Ptrs: at.finalsF32Ptrs, qa8Ptrs: at.finalsQa8Ptrs });
    this.#own = new HeadRows(this.#parts, (rows, takes) => this.#norm(rows, takes));
  }

  /** Logits of a step whose entries lie one after the other in the residual. Throws where more of the largest are asked for than there is room. */
  run(entries: readonly { readonly ids: ArrayLike<number>; readonly logits: LogitsRequest }[]): readonly EntryLogits[] {
    return this.#conclude(this.plan(entries), this.#own);
  }

  /** Which rows are asked for and in which form. Throws where more of the largest are asked for than there is room. */
  plan(entries: readonly { readonly ids: ArrayLike<number>; readonly logits: LogitsRequest }[]): HeadPlan {
    const { vocabSize, hiddenSize } = this.#config;
    const rows: PlannedRow[] = [];
    let first = 0;
    const results = entries.map(({ ids, logits: asked }, entry): EntryLogits => {
      const of = typeof asked === "object" ? asked.of : asked;
      const nRows = of === "all" ? ids.length : of === "last" ? Math.min(1, ids.length) : 0;
      const stage = typeof asked !== "object" || "states" in asked ? null : "among" in asked ? asked.among : asked.stage ?? null;
      const temperature = typeof asked === "object" && "temperature" in asked ? asked.temperature : 0;
      const k = typeof asked === "object" && "top" in asked ? Math.min(asked.top, vocabSize) : 0;
      for (let row = 0; row < nRows; row++) {
        const token = first + ids.length - nRows + row;
        const ask: HeadAsk = typeof asked !== "object" || "temperature" in asked ? { token, form: "whole" } : "states" in asked ? { token, form: "states" }
          : "among" in asked ? (this.#areFew(stage!.candidates!) ? { token, form: "among", ids: stage!.candidates! } : { token, form: "whole" })
          : stage === null ? { token, form: "top", k } : { token, form: "whole" };
        rows.push({ ask, index: rows.length, entry, row, temperature, stage });
      }
      first += ids.length;
      if (typeof asked === "object" && "among" in asked) return { logits: new Float32Array(asked.among.candidates!.length), top: null };
      if (typeof asked !== "object" || "temperature" in asked) return { logits: new Float32Array(nRows * vocabSize), top: null };
      if ("states" in asked) return { logits: new Float32Array(nRows * hiddenSize), top: null };
      if (!Number.isInteger(k) || k < 1 || k > MAX_TOP_LOGITS) throw new Error(`The ${asked.top} largest logits were asked for; 1 to ${MAX_TOP_LOGITS} was expected.`);
      return { logits: new Float32Array(0), top: { k, ids: new Uint32Array(nRows * k), values: new Float32Array(nRows * k), notFinite: new Int32Array(nRows) } };
    });
    return { rows, results };
  }

  /** Final rows f32 [tokens, hidden] of the residual in this memory: what crosses a ring to the stages that hold the head. */
  finals(tokens: readonly number[]): Float32Array {
    const { hiddenSize } = this.#config;
    const out = new Float32Array(tokens.length * hiddenSize);
    const rows = tokens.map((token, index): AskedRow => ({ ask: { token, form: "states" }, index }));
    inForms(rows, { states: (some) => this.#own.states(some, (i, values) => out.set(values, some[i]!.index * hiddenSize)) });
    return out;
  }

  /** What the own rows of the head say to asks about final rows that came from elsewhere. */
  answers(asks: readonly HeadAsk[], finals: Float32Array): HeadAnswer[] {
    const { headRows: [from, to] } = this.#weights.span;
    const source = new HeadRows(this.#parts, (rows, takes) => this.#place(rows, takes, finals));
    const { f32, u32 } = this.#heap;
    const answers = new Array<HeadAnswer>(asks.length);
    const logitsAt = (i: number): number => (source.first + i * source.stride) / 4;
    inForms(asks.map((ask, index): AskedRow => ({ ask, index })), {
      whole: (rows) => {
        source.whole(rows);
        rows.forEach(({ index }, i) => { answers[index] = { values: f32.slice(logitsAt(i), logitsAt(i) + to - from), ids: NO_IDS, notFinite: -1 }; });
      },
      among: (row) => {
        source.among(row);
        answers[row.index] = { values: Float32Array.from(idsWithin(row.ask, from, to), (id) => f32[logitsAt(0) + id - from]!), ids: NO_IDS, notFinite: -1 };
      },
      ranked: (rows) => {
        const most = Math.min(mostOf(rows), to - from);
        source.ranked(rows, most);
        rows.forEach(({ ask, index }, i) => {
          const k = Math.min(largestOf(ask), most);
          const bad = u32[this.#at.notFinite / 4 + i]! | 0;
          answers[index] = {
            values: f32.slice(this.#at.topValues / 4 + i * most, this.#at.topValues / 4 + i * most + k),
            ids: u32.slice(this.#at.topIds / 4 + i * most, this.#at.topIds / 4 + i * most + k).map((id) => id + from), notFinite: bad < 0 ? bad : bad + from,
          };
        });
      },
      states: (rows) => rows.forEach(({ index }) => { answers[index] = { values: NO_VALUES, ids: NO_IDS, notFinite: -1 }; }),
    });
    return answers;
  }

  /** What the entries get, from the answers of all stages that hold the head. Throws ModelError where these do not fit what was asked. */
  conclude(plan: HeadPlan, finals: Float32Array, parts: readonly HeadPart[]): readonly EntryLogits[] {
    checkParts(plan.rows.map(({ ask }) => ask), finals, parts, this.#config);
    return this.#conclude(plan, new RingLogits(this.#config, this.#heap, this.#at, finals, parts));
  }

  #conclude({ rows, results }: HeadPlan, source: LogitSource): readonly EntryLogits[] {
    const { hiddenSize } = this.#config;
    inForms(rows, {
      whole: (some) => this.#wholeRows(some, results, source),
      among: (row) => {
        source.among(row);
        this.#staged(this.#at.logits, row.stage!, results[row.entry]!);
      },
      ranked: (some) => this.#rankedRows(some, results, source),
      states: (some) => source.states(some, (i, values) => results[some[i]!.entry]!.logits.set(values, some[i]!.row * hiddenSize)),
    });
    return results;
  }

  #wholeRows(rows: readonly PlannedRow[], results: readonly EntryLogits[], source: LogitSource): void {
    const { vocabSize } = this.#config;
    const [at, stride] = [this.#at, logitStride(this.#config)];
    source.whole(rows);
    rows.forEach(({ entry, row, temperature, stage }, i) => {
      const logits = at.logits + i * stride;
      if (stage !== null && temperature === 0) return this.#staged(logits, stage, results[entry]!);
      if (stage !== null) {
        const own = this.#heap.f32.subarray(logits / 4, logits / 4 + vocabSize);
        own.set(stage.apply(own));
      }
      if (temperature > 0) {
        this.#kernels.scaleRows(logits, stride, inverseTemperature(temperature), 1, vocabSize);
        this.#kernels.softmaxRows(logits, stride, 1, vocabSize);
      }
      const from = logits / 4;
      results[entry]!.logits.set(this.#heap.f32.subarray(from, from + vocabSize), row * vocabSize);
    });
  }

  /** What a stage leaves of the row at `logits`: that of its candidates, or the largest. */
  #staged(logits: number, stage: LogitStage, { logits: found, top }: EntryLogits): void {
    const own = this.#heap.f32.subarray(logits / 4, logits / 4 + this.#config.vocabSize);
    const left = stage.apply(own);
    if (top === null) return stage.candidates!.forEach((id, n) => { found[n] = left[id]!; });
    // x - x is 0 for what is finite.
    let sum = 0;
    for (let id = 0; id < own.length; id++) sum += own[id]! - own[id]!;
    const id = argmax(left);
    top.ids[0] = id;
    top.values[0] = left[id]!;
    top.notFinite[0] = sum === 0 ? -1 : own.findIndex((value) => !Number.isFinite(value));
  }

  #areFew(candidates: Uint32Array): boolean {
    let [blocks, last] = [0, -1];
    for (const id of candidates) {
      if (id >> 5 !== last) blocks++;
      last = id >> 5;
    }
    return blocks * 32 < MOST_BLOCKS * this.#config.vocabSize;
  }

  #rankedRows(rows: readonly PlannedRow[], results: readonly EntryLogits[], source: LogitSource): void {
    const at = this.#at;
    const most = mostOf(rows); // the k largest are the first k of any more
    source.ranked(rows, most);
    rows.forEach(({ entry, row }, i) => {
      const { k, ids, values, notFinite } = results[entry]!.top!;
      const from = i * most;
      ids.set(this.#heap.u32.subarray(at.topIds / 4 + from, at.topIds / 4 + from + k), row * k);
      values.set(this.#heap.f32.subarray(at.topValues / 4 + from, at.topValues / 4 + from + k), row * k);
      notFinite[row] = this.#heap.u32[at.notFinite / 4 + i]! | 0;
    });
  }

  get #parts(): ConstructorParameters<typeof HeadRows>[0] {
    return { config: this.#config, kernels: this.#kernels, heap: this.#heap, weights: this.#weights, at: this.#at, finals: this.#finals };
  }

  /** Final norm of the rows' residuals, in the format that is taken; neighbours in one call. */
  #norm(rows: readonly AskedRow[], takes: ActivationFormat): void {
    const { norm, normBias } = this.#weights;
    const stride = hiddenStride(this.#config);
    for (let i = 0; i < rows.length;) {
      const { token } = rows[i]!.ask;
      let n = 1;
      while (i + n < rows.length && rows[i + n]!.ask.token === token + n) n++;
      normalise(this.#config, this.#kernels, norm, normBias, this.#at.x + token * stride, stride, this.#finals, i, n, [takes]);
      i += n;
    }
  }

  /** Final rows that came from elsewhere, in the format that is taken: the norm's two halves give the bits of the norm that quantises at once. */
  #place(rows: readonly AskedRow[], takes: ActivationFormat, from: Float32Array): void {
    const { hiddenSize } = this.#config;
    const { f32, f32Stride, qa8, qa8Stride } = this.#finals;
    rows.forEach(({ index }, i) => this.#heap.f32.set(from.subarray(index * hiddenSize, (index + 1) * hiddenSize), (f32 + i * f32Stride) / 4));
    if (takes === "qa8") this.#kernels.quantizeRows(f32, f32Stride, qa8, qa8Stride, rows.length, hiddenSize);
  }
}

const largestOf = (ask: HeadAsk): number => (ask.form === "top" ? ask.k : 0);
const mostOf = (rows: readonly AskedRow[]): number => rows.reduce((most, { ask }) => Math.max(most, largestOf(ask)), 0);

/** Hands out the rows of each form, LOGIT_ROWS at a time. */
function inForms<Row extends AskedRow>(rows: readonly Row[], take: {
  readonly whole?: (rows: readonly Row[]) => void; readonly among?: (row: Row) => void; readonly ranked?: (rows: readonly Row[]) => void; readonly states?: (rows: readonly Row[]) => void;
}): void {
  const eights = (form: HeadAsk["form"], run: ((rows: readonly Row[]) => void) | undefined): void => {
    const some = rows.filter(({ ask }) => ask.form === form);
    for (let done = 0; done < some.length; done += LOGIT_ROWS) run!(some.slice(done, done + LOGIT_ROWS));
  };
  eights("whole", take.whole);
  for (const row of rows) if (row.ask.form === "among") take.among!(row);
  eights("top", take.ranked);
  eights("states", take.states);
}
