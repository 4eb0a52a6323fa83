// From the last residuals to logits: the final norm and the head's product, for whole rows or for the largest logits alone.
// Owns which rows of a step are asked for and in which form; rows of all entries share the head's weights, eight at a time.
// Refuses sampling (sampling.ts). Whole rows leave WebAssembly only where somebody asked for them. Arithmetic: docs/arithmetic.md section 9.

import { activationRows, normalise, type ActivationRows } from "./activation-rows.ts";
import type { ModelConfig } from "./config.ts";
import { inverseTemperature } from "./draw.ts";
import { LOGIT_ROWS, MAX_TOP_LOGITS, hiddenStride, logitStride, type EngineRegions } from "./engine-regions.ts";
import type { Heap } from "./heap.ts";
import { MATRIX_FORMATS, matrixBytes, type ActivationFormat, type Kernels } from "./kernels.ts";
import type { LogitStage } from "./logit-adjustments.ts";
import { argmax, type LogitsForm, type TopLogits } from "./sampling.ts";
import type { TrunkWeights } from "./trunk.ts";

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

/** A row of the step that somebody asked for. */
interface Asked {
  readonly token: number;
  readonly entry: number;
  /** Among the entry's rows. */
  readonly row: number;
  /** Of the probabilities; 0 = logits. */
  readonly temperature: number;
  readonly stage: LogitStage | null;
}

/** Above this part of the row blocks all of them are computed: rows of other entries share the weights then. */
const MOST_BLOCKS = 1 / 3;

/** What the head reads of the trunk. */
export type HeadWeights = Pick<TrunkWeights, "norm" | "normBias" | "head" | "headBias">;

export class Head {
  readonly #config: ModelConfig;
  readonly #kernels: Kernels;
  readonly #heap: Heap;
  readonly #trunk: HeadWeights;
  readonly #at: EngineRegions;
  readonly #finals: ActivationRows;
  /** Addresses of the finals in the format the head takes. */
  readonly #ptrs: number;

  /** `at` holds addresses, not bytes. */
  constructor(config: ModelConfig, kernels: Kernels, heap: Heap, trunk: HeadWeights, at: EngineRegions) {
    this.#config = config;
    this.#kernels = kernels;
    this.#heap = heap;
    this.#trunk = trunk;
    this.#at = at;
    this.#finals = activationRows(heap, LOGIT_ROWS, config.hiddenSize, { f32: at.finalsF32, qa8: at.finalsQa8, f32Ptrs: at.finalsF32Ptrs, qa8Ptrs: at.finalsQa8Ptrs });
    this.#ptrs = trunk.head.takes === "f32" ? at.finalsF32Ptrs : at.finalsQa8Ptrs;
  }

  /** Logits of a step whose entries lie one after the other in the residual. Throws where more of the largest are asked for than there is room. */
  run(entries: readonly { readonly ids: ArrayLike<number>; readonly logits: LogitsRequest }[]): EntryLogits[] {
    const { vocabSize, hiddenSize } = this.#config;
    const [whole, ranked, states, among]: [Asked[], Asked[], Asked[], Asked[]] = [[], [], [], []];
    let first = 0;
    const results = entries.map(({ ids, logits: asked }, entry): EntryLogits => {
      const of = typeof asked === "object" ? asked.of : asked;
      const nRows = of === "all" ? ids.length : of === "last" ? Math.min(1, ids.length) : 0;
      const stage = typeof asked !== "object" || "states" in asked ? null : "among" in asked ? asked.among : asked.stage ?? null;
      const list = typeof asked !== "object" || "temperature" in asked ? whole : "states" in asked ? states : "among" in asked ? (this.#areFew(stage!.candidates!) ? among : whole) : stage === null ? ranked : whole;
      const temperature = typeof asked === "object" && "temperature" in asked ? asked.temperature : 0;
      for (let row = 0; row < nRows; row++) list.push({ token: first + ids.length - nRows + row, entry, row, temperature, stage });
      first += ids.length;
      if (typeof asked === "object" && "among" in asked) return { logits: new Float32Array(asked.among.candidates!.length), top: null };
      if (typeof asked !== "object" || "temperature" in asked) return { logits: new Float32Array(nRows * vocabSize), top: null };
      if ("states" in asked) return { logits: new Float32Array(nRows * hiddenSize), top: null };
      const k = Math.min(asked.top, vocabSize);
      if (!Number.isInteger(k) || k < 1 || k > MAX_TOP_LOGITS) throw new Error(`The ${asked.top} largest logits were asked for; 1 to ${MAX_TOP_LOGITS} was expected.`);
      return { logits: new Float32Array(0), top: { k, ids: new Uint32Array(nRows * k), values: new Float32Array(nRows * k), notFinite: new Int32Array(nRows) } };
    });
    for (let done = 0; done < whole.length; done += LOGIT_ROWS) this.#wholeRows(whole.slice(done, done + LOGIT_ROWS), results);
    for (const asked of among) this.#candidateRow(asked, results);
    for (let done = 0; done < ranked.length; done += LOGIT_ROWS) this.#rankedRows(ranked.slice(done, done + LOGIT_ROWS), results);
    for (let done = 0; done < states.length; done += LOGIT_ROWS) this.#stateRows(states.slice(done, done + LOGIT_ROWS), results);
    return results;
  }

  #stateRows(rows: readonly Asked[], results: readonly EntryLogits[]): void {
    const { hiddenSize } = this.#config;
    this.#norm(rows, "f32");
    rows.forEach(({ entry, row }, i) => {
      const from = (this.#finals.f32 + i * this.#finals.f32Stride) / 4;
      results[entry]!.logits.set(this.#heap.f32.subarray(from, from + hiddenSize), row * hiddenSize);
    });
  }

  /** All logits of the rows, into the region of whole rows. */
  #compute(rows: readonly Asked[]): void {
    const { vocabSize, logitsScaling } = this.#config;
    const { head, headBias } = this.#trunk;
    const [at, stride] = [this.#at, logitStride(this.#config)];
    this.#norm(rows);
    this.#kernels.matmul(head.code, head.ptr, head.nRows, head.nCols, this.#ptrs, rows.length, at.logits, stride, at.scratch);
    if (headBias !== 0) this.#kernels.addBiasRows(at.logits, stride, headBias, rows.length, vocabSize);
    if (logitsScaling !== 1) this.#kernels.scaleRows(at.logits, stride, 1 / logitsScaling, rows.length, vocabSize);
  }

  #wholeRows(rows: readonly Asked[], results: readonly EntryLogits[]): void {
    const { vocabSize } = this.#config;
    const [at, stride] = [this.#at, logitStride(this.#config)];
    this.#compute(rows);
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

  /** The product of the row blocks in which a candidate lies: each row's logit is the same whatever others are computed. */
  #candidateRow(asked: Asked, results: readonly EntryLogits[]): void {
    const { logitsScaling } = this.#config;
    const { head, headBias } = this.#trunk;
    const [at, stride, k] = [this.#at, logitStride(this.#config), this.#kernels];
    const blockBytes = matrixBytes(MATRIX_FORMATS[head.code]!, 32, head.nCols);
    const candidates = asked.stage!.candidates!;
    this.#norm([asked]);
    for (let i = 0; i < candidates.length;) {
      const first = candidates[i]! >> 5;
      let last = first;
      while (i < candidates.length && candidates[i]! >> 5 <= last + 1) last = candidates[i++]! >> 5;
      const nRows = Math.min((last + 1) * 32, head.nRows) - first * 32;
      const y = at.logits + first * 128;
      k.matmul(head.code, head.ptr + first * blockBytes, nRows, head.nCols, this.#ptrs, 1, y, stride, at.scratch);
      if (headBias !== 0) k.addBiasRows(y, stride, headBias + first * 128, 1, nRows);
      if (logitsScaling !== 1) k.scaleRows(y, stride, 1 / logitsScaling, 1, nRows);
    }
    this.#staged(at.logits, asked.stage!, results[asked.entry]!);
  }

  /** As the kernel topLogits, over whole rows: a bias on logits is added to them before they are ranked. */
  #rankWhole(rows: readonly Asked[], most: number): void {
    const { vocabSize } = this.#config;
    const [at, stride] = [this.#at, logitStride(this.#config)];
    this.#compute(rows);
    this.#kernels.topKRows(at.logits, stride, rows.length, vocabSize, most, at.topIds, at.topValues);
    for (let i = 0; i < rows.length; i++) {
      const from = (at.logits + i * stride) / 4;
      this.#heap.u32[at.notFinite / 4 + i] = this.#heap.f32.subarray(from, from + vocabSize).findIndex((logit) => !Number.isFinite(logit));
    }
  }

  #rankedRows(rows: readonly Asked[], results: readonly EntryLogits[]): void {
    const { head, headBias } = this.#trunk;
    const at = this.#at;
    const most = Math.max(...rows.map(({ entry }) => results[entry]!.top!.k)); // the k largest are the first k of any more
    if (headBias !== 0) this.#rankWhole(rows, most);
    else {
      this.#norm(rows);
      this.#kernels.topLogits(head.code, head.ptr, head.nRows, head.nCols, this.#ptrs, rows.length, 1 / this.#config.logitsScaling, most,
        at.topIds, at.topValues, at.notFinite, at.scratch);
    }
    rows.forEach(({ entry, row }, i) => {
      const { k, ids, values, notFinite } = results[entry]!.top!;
      const from = i * most;
      ids.set(this.#heap.u32.subarray(at.topIds / 4 + from, at.topIds / 4 + from + k), row * k);
      values.set(this.#heap.f32.subarray(at.topValues / 4 + from, at.topValues / 4 + from + k), row * k);
      notFinite[row] = this.#heap.u32[at.notFinite / 4 + i]! | 0;
    });
  }

  /** Final norm of the rows' residuals, in the format that is taken; neighbours in one call. */
  #norm(rows: readonly Asked[], takes: ActivationFormat = this.#trunk.head.takes): void {
    const { norm, normBias } = this.#trunk;
    const stride = hiddenStride(this.#config);
    for (let i = 0; i < rows.length;) {
      let n = 1;
      while (i + n < rows.length && rows[i + n]!.token === rows[i]!.token + n) n++;
      normalise(this.#config, this.#kernels, norm, normBias, this.#at.x + rows[i]!.token * stride, stride, this.#finals, i, n, [takes]);
      i += n;
    }
  }
}
