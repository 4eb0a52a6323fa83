// The residual at both ends of a stage's layers: rows that came from the stage before, rows of tokens that are embedded here, and rows for the next stage. Where a cut
// parts layers of product experts that share a router, the weights of its keys stand behind each residual row.
// Owns which token is whose: the stage that holds its embedding row fills it in, and nobody touches it again before the first layer. f32 all the way, so that a
// cut changes no bit. Refuses layers (engine.ts). docs/arithmetic.md sections 9 and 10.

import { cutRowLength, ModelError, productWeightCount, type ModelConfig } from "./config.ts";
import { hiddenStride } from "./engine-regions.ts";
import type { Heap } from "./heap.ts";
import type { Kernels } from "./kernels.ts";
import type { TrunkWeights } from "./trunk.ts";

export class ResidualRows {
  readonly #config: ModelConfig;
  readonly #kernels: Kernels;
  readonly #heap: Heap;
  readonly #trunk: Pick<TrunkWeights, "span" | "embed">;
  readonly #x: number;
  readonly #stride: number;
  /** Weights of keys, f32 [tokens, productWeightCount]; 0 where the engine has none. */
  readonly #keys: number;

  /** `x`: address of the engine's residual; `keys` of its weights of product experts' keys. */
  constructor(config: ModelConfig, kernels: Kernels, heap: Heap, trunk: Pick<TrunkWeights, "span" | "embed">, x: number, keys: number) {
    this.#config = config;
    this.#kernels = kernels;
    this.#heap = heap;
    this.#trunk = trunk;
    this.#x = x;
    this.#stride = hiddenStride(config);
    this.#keys = keys;
  }

  /** Fills the residual of a step: `rows` f32 [tokens, cutRowLength] from the stage before, null at the first. Ids are within the vocabulary. */
  fill(entries: readonly { readonly ids: ArrayLike<number> }[], rows: Float32Array | null, nTokens: number): void {
    this.#place(rows, nTokens);
    this.#embed(entries);
  }

  /** The residual of the step's tokens in fresh memory, f32 [tokens, cutRowLength] for the next stage. */
  take(nTokens: number): Float32Array {
    const { hiddenSize } = this.#config;
    const length = cutRowLength(this.#config, this.#trunk.span.layers[1]);
    const out = new Float32Array(nTokens * length);
    const { f32 } = this.#heap;
    for (let t = 0; t < nTokens; t++) {
      out.set(f32.subarray(this.#at(t) / 4, this.#at(t) / 4 + hiddenSize), t * length);
      if (length > hiddenSize) out.set(f32.subarray(this.#keysAt(t), this.#keysAt(t + 1)), t * length + hiddenSize);
    }
    return out;
  }

  #at(t: number): number { return this.#x + t * this.#stride; }

  #keysAt(t: number): number { return this.#keys / 4 + t * productWeightCount(this.#config); }

  /** At the first stage tokens of later embedding rows begin as zeros. */
  #place(rows: Float32Array | null, nTokens: number): void {
    const { hiddenSize, vocabSize } = this.#config;
    const [first, end] = this.#trunk.span.embeddingRows;
    const { f32 } = this.#heap;
    if (rows === null) {
      if (first !== 0 || end === 0) throw new ModelError(`No residual rows came to a stage whose embedding rows are ${first} to ${end}; only the first begins without.`);
      if (end < vocabSize) f32.fill(0, this.#at(0) / 4, this.#at(nTokens) / 4);
      return;
    }
    const length = cutRowLength(this.#config, this.#trunk.span.layers[0]);
    if (rows.length !== nTokens * length) throw new ModelError(`Residual rows of ${rows.length} numbers came for ${nTokens} tokens; ${nTokens * length} were expected.`);
    for (let t = 0; t < nTokens; t++) {
      f32.set(rows.subarray(t * length, t * length + hiddenSize), this.#at(t) / 4);
      if (length > hiddenSize) f32.set(rows.subarray(t * length + hiddenSize, (t + 1) * length), this.#keysAt(t));
    }
  }

  /** Rows of the tokens whose embedding rows are here, multiplied in runs: in a whole model that is one. */
  #embed(entries: readonly { readonly ids: ArrayLike<number> }[]): void {
    const { hiddenSize } = this.#config;
    const { embed, span: { embeddingRows: [first, end] } } = this.#trunk;
    if (embed === null) return;
    let [t, run] = [0, 0]; // `run`: its first token
    for (const { ids } of entries) {
      for (let i = 0; i < ids.length; i++, t++) {
        const row = ids[i]! - first;
        if (row >= 0 && row < end - first) this.#kernels.readRow(embed.code, embed.ptr, hiddenSize, row, this.#at(t));
        else {
          this.#multiply(run, t);
          run = t + 1;
        }
      }
    }
    this.#multiply(run, t);
  }

  #multiply(from: number, to: number): void {
    const { embeddingMultiplier, hiddenSize } = this.#config;
    if (to > from && embeddingMultiplier !== 1) this.#kernels.scaleRows(this.#at(from), this.#stride, embeddingMultiplier, to - from, hiddenSize);
  }
}
