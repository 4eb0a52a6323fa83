// From the last residuals to logits: the final norm and the head's product, for whole rows or for the largest logits alone.
// Owns which rows of a step are asked for and in which form; rows of all entries share the head's weights, eight at a time.
// Refuses sampling (sampling.ts). Whole rows leave WebAssembly only where somebody asked for them. Arithmetic: docs/arithmetic.md section 9.

import { activationRows, normalise, type ActivationRows } from "./activation-rows.ts";
import type { ModelConfig } from "./config.ts";
import { inverseTemperature } from "./draw.ts";
import { LOGIT_ROWS, MAX_TOP_LOGITS, hiddenStride, logitStride, type EngineRegions } from "./engine-regions.ts";
import type { Heap } from "./heap.ts";
import type { ActivationFormat, Kernels } from "./kernels.ts";
import type { LogitStage } from "./logit-adjustments.ts";
import type { LogitsForm, TopLogits } from "./sampling.ts";
import type { TrunkWeights } from "./trunk.ts";

/**
 * Logits of an entry's tokens: none, of the last or of all; whole rows, or only the `top` largest of each, 1 to MAX_TOP_LOGITS, or whole
 * rows of probabilities at a `temperature` above 0, of what a `stage` leaves of the last token's logits; or what it leaves `among` its candidates. Or, in place of logits, the states they are made of: rows after the final norm.
 */
export type LogitsRequest = "none" | "last" | "all"
  | { readonly top: number; readonly of: "last" | "all" } | { readonly temperature: number; readonly stage?: LogitStage; readonly of: "last" | "all" }
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
  /** Only the candidates of the stage. */
  readonly isAmong: boolean;
}

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
    const [whole, ranked, states]: [Asked[], Asked[], Asked[]] = [[], [], []];
    let first = 0;
    const results = entries.map(({ ids, logits: asked }, entry): EntryLogits => {
      const of = typeof asked === "object" ? asked.of : asked;
      const nRows = of === "all" ? ids.length : of === "last" ? Math.min(1, ids.length) : 0;
      const isAmong = typeof asked === "object" && "among" in asked;
      const list = typeof asked !== "object" || isAmong || "temperature" in asked ? whole : "top" in asked ? ranked : states;
      const temperature = typeof asked === "object" && "temperature" in asked ? asked.temperature : 0;
      const stage = typeof asked !== "object" ? null : "among" in asked ? asked.among : "stage" in asked ? asked.stage ?? null : null;
      for (let row = 0; row < nRows; row++) list.push({ token: first + ids.length - nRows + row, entry, row, temperature, stage, isAmong });
      first += ids.length;
      if (typeof asked === "object" && "among" in asked) return { logits: new Float32Array(asked.among.candidates!.length), top: null };
      if (typeof asked !== "object" || "temperature" in asked) return { logits: new Float32Array(nRows * vocabSize), top: null };
      if ("states" in asked) return { logits: new Float32Array(nRows * hiddenSize), top: null };
      const k = Math.min(asked.top, vocabSize);
      if (!Number.isInteger(k) || k < 1 || k > MAX_TOP_LOGITS) throw new Error(`The ${asked.top} largest logits were asked for; 1 to ${MAX_TOP_LOGITS} was expected.`);
      return { logits: new Float32Array(0), top: { k, ids: new Uint32Array(nRows * k), values: new Float32Array(nRows * k), notFinite: new Int32Array(nRows) } };
    });
    for (let done = 0; done < whole.length; done += LOGIT_ROWS) this.#wholeRows(whole.slice(done, done + LOGIT_ROWS), results);
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
    rows.forEach(({ entry, row, temperature, stage, isAmong }, i) => {
      const logits = at.logits + i * stride;
      if (stage !== null) {
        const own = this.#heap.f32.subarray(logits / 4, logits / 4 + vocabSize);
        const left = stage.apply(own);
        if (isAmong) {
          stage.candidates!.forEach((id, n) => { results[entry]!.logits[n] = left[id]!; });
          return;
        }
        own.set(left);
      }
      if (temperature > 0) {
        this.#kernels.scaleRows(logits, stride, inverseTemperature(temperature), 1, vocabSize);
        this.#kernels.softmaxRows(logits, stride, 1, vocabSize);
      }
      const from = logits / 4;
      results[entry]!.logits.set(this.#heap.f32.subarray(from, from + vocabSize), row * vocabSize);
    });
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
