// A layer of product experts (Monet, Park et al., 2024): nKeys^2 experts made of halves, computed without ever naming one. Works in turns of PRODUCT_TOKENS tokens, on the
// keys that some head keeps. Owns the order of all sums (docs/arithmetic.md section 11) and what a mask takes out of them. Refuses routing of its own
// (product-router.ts), quantising of its own (activation-rows.ts) and the wire: such a layer is computed where the trunk lies.

import { activationRows, type ActivationRows, type RowProducts } from "./activation-rows.ts";
import { productWeightCount, type ModelConfig, type ProductExpertsConfig } from "./config.ts";
import { PRODUCT_TOKENS, hiddenStride, productRowLength, type EngineRegions } from "./engine-regions.ts";
import { PAIR_BYTES } from "./expert-batch.ts";
import type { Heap } from "./heap.ts";
import { MATRIX_FORMATS, activationRowBytes, matrixBytes, type ActivationFormat, type Kernels } from "./kernels.ts";
import type { LayerMask } from "./product-mask.ts";
import { keyThreshold, weighKeys } from "./product-router.ts";
import type { Matrix, ProductWeights } from "./trunk.ts";

const f = Math.fround;
const BLOCK_ROWS = 32;

export interface ProductExpertsParts {
  readonly config: ModelConfig;
  readonly kernels: Kernels;
  readonly heap: Heap;
  /** Addresses. */
  readonly at: EngineRegions;
  readonly products: RowProducts;
}

/** Keys of one codebook that the heads of a token keep. */
interface KeptKeys {
  /** Of head h: keys[h * nKeys] to keys[h * nKeys + count[h] - 1], ascending. */
  readonly keys: Uint16Array; // [nHeads, nKeys]
  readonly count: Uint32Array; // [nHeads]
}

export class ProductExperts {
  readonly #p: ProductExpertsParts;
  readonly #of: ProductExpertsConfig;
  readonly #threshold: number;
  /** Hidden units of a key. */
  readonly #units: number;
  /** Rows that each matrix V reads, [PRODUCT_TOKENS, nKeys * units]: vertical X11, X12, X21, X22; horizontal X. */
  readonly #inputs: readonly ActivationRows[];
  readonly #kept: readonly [KeptKeys, KeptKeys];
  /** Keys that some head of the token keeps, by codebook. */
  readonly #used: readonly [Uint8Array, Uint8Array]; // [nKeys]
  readonly #blocks: Uint8Array; // row blocks of U
  /** Weighted hidden units of a head, all of them and without those masked. */
  readonly #all: Float32Array; // [units]
  readonly #rest: Float32Array; // [units]

  private constructor(parts: ProductExpertsParts, of: ProductExpertsConfig) {
    const { heap, at } = parts;
    const { nKeys, nHeads, form } = of;
    this.#p = parts;
    this.#of = of;
    this.#threshold = keyThreshold(of);
    const length = productRowLength(of);
    this.#units = length / nKeys;
    const [f32Bytes, qa8Bytes] = [activationRowBytes("f32", length) * PRODUCT_TOKENS, activationRowBytes("qa8", length) * PRODUCT_TOKENS];
    this.#inputs = Array.from({ length: form === "vertical" ? 4 : 1 }, (_, n) => activationRows(heap, PRODUCT_TOKENS, length, {
      f32: at.productInF32 + n * f32Bytes, qa8: at.productInQa8 + n * qa8Bytes, f32Ptrs: at.productInF32Ptrs + n * PRODUCT_TOKENS * 4, qa8Ptrs: at.productInQa8Ptrs + n * PRODUCT_TOKENS * 4,
    }));
    const kept = (): KeptKeys => ({ keys: new Uint16Array(nHeads * nKeys), count: new Uint32Array(nHeads) });
    this.#kept = [kept(), kept()];
    this.#used = [new Uint8Array(nKeys), new Uint8Array(nKeys)];
    [this.#all, this.#rest] = [new Float32Array(this.#units), new Float32Array(this.#units)];
    this.#blocks = new Uint8Array(Math.ceil(length / BLOCK_ROWS));
  }

  /** null for an engine without such layers, unless it passes weights of keys on. */
  static of(parts: ProductExpertsParts, holdsKeys: boolean): ProductExperts | null {
    const { productExperts } = parts.config;
    return productExperts === undefined || !holdsKeys ? null : new ProductExperts(parts, productExperts);
  }

  /** Numbers of a token that a tap at `keys` sees. */
  get weightCount(): number { return productWeightCount(this.#p.config); }

  /** Where the weights of the tokens from `first` on lie, f32 [nTokens, 2, nHeads, nKeys]: those of the last layer that routed. */
  weights(first: number): number { return this.#p.at.productWeights + first * this.weightCount * 4; }

  /** Formats in which a layer reads the normed rows. */
  takes({ keys, reads }: ProductWeights): readonly ActivationFormat[] {
    return [...(keys ?? []).map(({ w }) => w.takes), ...reads.map(({ u }) => u.takes)];
  }

  /** Keys and weights of tokens [first, first + nTokens), where the layer has a router; else those of the layer that has stay. */
  route({ keys }: ProductWeights, normed: ActivationRows, first: number, nTokens: number): void {
    if (keys === null) return;
    const { heap, products } = this.#p;
    const { nHeads, nKeys } = this.#of;
    const stride = this.weightCount * 4;
    for (const [codebook, { w, mean, variance }] of keys.entries()) {
      const to = this.weights(first) + codebook * nHeads * nKeys * 4;
      products.product(w, normed, first, nTokens, to, stride);
      const { f32 } = heap;
      for (let t = 0; t < nTokens; t++) {
        for (let h = 0; h < nHeads; h++) weighKeys(f32, (to + t * stride) / 4 + h * nKeys, nKeys, f32[mean / 4 + h]!, f32[variance / 4 + h]!, this.#threshold);
      }
    }
  }

  /** What tokens [first, first + nTokens) get, into their rows at `y` (the first's address), f32 [nTokens, hidden]. `masks`: of each token, from `first` on; null: none has one. */
  run(w: ProductWeights, normed: ActivationRows, first: number, nTokens: number, y: number, masks: readonly (LayerMask | null)[] | null): void {
    const yStride = hiddenStride(this.#p.config);
    for (let done = 0; done < nTokens; done += PRODUCT_TOKENS) {
      const n = Math.min(PRODUCT_TOKENS, nTokens - done);
      for (const [codebook, { u }] of w.reads.entries()) this.#read(codebook, u, normed, first + done, n);
      for (const rows of this.#inputs) {
        rows.quantised = false;
        this.#p.heap.f32.fill(0, rows.f32 / 4, (rows.f32 + n * rows.f32Stride) / 4);
      }
      for (let t = 0; t < n; t++) this.#mix(w, first + done + t, t, masks?.[done + t] ?? null);
      this.#write(w, n, y + done * yStride, yStride);
    }
  }

  /** Rows of U that some token's kept keys need, times the tokens' rows: whole row blocks, neighbours in one product. */
  #read(codebook: number, u: Matrix, normed: ActivationRows, first: number, nTokens: number): void {
    const { kernels, heap: { f32 }, at, products } = this.#p;
    const { nHeads, nKeys } = this.#of;
    const blocks = this.#blocks.fill(0);
    for (let t = 0; t < nTokens; t++) {
      const from = this.weights(first + t) / 4 + codebook * nHeads * nKeys;
      for (let i = 0; i < nHeads * nKeys; i++) {
        if (f32[from + i] === 0) continue;
        const row = (i % nKeys) * this.#units;
        for (let block = Math.floor(row / BLOCK_ROWS); block * BLOCK_ROWS < row + this.#units; block++) blocks[block] = 1;
      }
    }
    const { ptrs } = products.rowsFor(u.takes, normed, first, nTokens);
    const blockBytes = matrixBytes(MATRIX_FORMATS[u.code]!, BLOCK_ROWS, u.nCols);
    for (let block = 0; block < blocks.length; block++) {
      if (blocks[block] === 0) continue;
      let end = block + 1;
      while (end < blocks.length && blocks[end] === 1) end++;
      const row = block * BLOCK_ROWS;
      kernels.matmul(u.code, u.ptr + block * blockBytes, Math.min(end * BLOCK_ROWS, u.nRows) - row, u.nCols, ptrs, nTokens, this.#x(codebook, 0) + row * 4, productRowLength(this.#of) * 4, at.scratch);
      block = end;
    }
  }

  /** Hidden units of a token of the turn, f32 [nKeys, units]. */
  #x(codebook: number, t: number): number {
    const { at } = this.#p;
    return (codebook === 0 ? at.productX1 : at.productX2) + t * productRowLength(this.#of) * 4;
  }

  /** Summed weights of a token's keys, f32 [nKeys]. */
  #sums(codebook: number, t: number): number { return this.#p.at.productSums / 4 + (t * 2 + codebook) * this.#of.nKeys; }

  /** The rows that V reads of one token: number `token` of the step, `t` of the turn. */
  #mix(w: ProductWeights, token: number, t: number, mask: LayerMask | null): void {
    const { f32 } = this.#p.heap;
    const { nKeys, form } = this.#of;
    for (const codebook of [0, 1] as const) {
      this.#keep(codebook, token);
      f32.fill(0, this.#sums(codebook, t), this.#sums(codebook, t) + nKeys);
    }
    for (const [codebook, { bias }] of w.reads.entries()) this.#activate(this.#used[codebook]!, this.#x(codebook, t) / 4, bias / 4);
    const row = (n: number): number => (this.#inputs[n]!.f32 + t * this.#inputs[n]!.f32Stride) / 4;
    if (form === "horizontal") return this.#cross(0, 1, token, t, row(0), mask);
    this.#cross(1, 0, token, t, row(1), mask);
    this.#cross(0, 1, token, t, row(2), mask);
    this.#own(0, t, row(0));
    this.#own(1, t, row(3));
  }

  /** Lists what the token's heads keep of a codebook. */
  #keep(codebook: 0 | 1, token: number): void {
    const { f32 } = this.#p.heap;
    const { nHeads, nKeys } = this.#of;
    const { keys, count } = this.#kept[codebook];
    const used = this.#used[codebook].fill(0);
    const from = this.weights(token) / 4 + codebook * nHeads * nKeys;
    for (let h = 0; h < nHeads; h++) {
      let n = 0;
      for (let key = 0; key < nKeys; key++) {
        if (f32[from + h * nKeys + key] === 0) continue;
        keys[h * nKeys + n++] = key;
        used[key] = 1;
      }
      count[h] = n;
    }
  }

  /** x = max(x + bias, 0)^2 of the used keys. */
  #activate(used: Uint8Array, x: number, bias: number): void {
    const { f32 } = this.#p.heap;
    const units = this.#units;
    for (let key = 0; key < used.length; key++) {
      if (used[key] === 0) continue;
      for (let c = key * units; c < (key + 1) * units; c++) {
        const v = f(f32[x + c]! + f32[bias + c]!);
        f32[x + c] = v <= 0 ? 0 : v * v;
      }
    }
  }

  /**
   * What keys of codebook `to` get from those of codebook `from`, head by head, added to the row at `row` [nKeys, units]; and the summed weights of the former.
   * A key that has a masked expert with a kept one sums over the others alone.
   */
  #cross(from: 0 | 1, to: 0 | 1, token: number, t: number, row: number, mask: LayerMask | null): void {
    const { f32 } = this.#p.heap;
    const { nHeads, nKeys } = this.#of;
    const units = this.#units;
    const [x, sums] = [this.#x(from, t) / 4, this.#sums(to, t)];
    const weightsOf = (codebook: number, h: number): number => this.weights(token) / 4 + (codebook * nHeads + h) * nKeys;
    const [all, rest] = [this.#all, this.#rest];
    for (let h = 0; h < nHeads; h++) {
      const sources = this.#kept[from].keys.subarray(h * nKeys, h * nKeys + this.#kept[from].count[h]!);
      const [sourceWeights, weights] = [weightsOf(from, h), weightsOf(to, h)];
      /** Into `into`, over the sources that `leaves` does not take out; returns their weights' sum. */
      const sum = (into: Float32Array, leaves: ((source: number) => boolean) | null): number => {
        into.fill(0);
        let share = 0;
        for (const source of sources) {
          if (leaves !== null && leaves(source)) continue;
          const g = f32[sourceWeights + source]!;
          share = f(share + g);
          for (let c = 0; c < units; c++) into[c] = into[c]! + f(g * f32[x + source * units + c]!);
        }
        return share;
      };
      sum(all, null);
      for (let i = 0; i < this.#kept[to].count[h]!; i++) {
        const key = this.#kept[to].keys[h * nKeys + i]!;
        const g = f32[weights + key]!;
        const leaves = mask === null ? null : (source: number): boolean => (to === 0 ? mask.has(key, source) : mask.has(source, key));
        const isMet = leaves !== null && sources.some(leaves);
        f32[sums + key] = f32[sums + key]! + (isMet ? f(g * sum(rest, leaves)) : g);
        const s = isMet ? rest : all;
        for (let c = 0, at = row + key * units; c < units; c++, at++) f32[at] = f32[at]! + f(g * s[c]!);
      }
    }
  }

  /** Hidden units of a codebook's used keys times their summed weights. */
  #own(codebook: 0 | 1, t: number, row: number): void {
    const { f32 } = this.#p.heap;
    const units = this.#units;
    const [used, x, sums] = [this.#used[codebook], this.#x(codebook, t) / 4, this.#sums(codebook, t)];
    for (let key = 0; key < used.length; key++) {
      if (used[key] === 0) continue;
      for (let c = key * units; c < (key + 1) * units; c++) f32[row + c] = f32[sums + key]! * f32[x + c]!;
    }
  }

  /** The products with V and the biases. */
  #write({ v, b }: ProductWeights, nTokens: number, y: number, yStride: number): void {
    const { config: { hiddenSize }, kernels, at, products } = this.#p;
    const parts = this.#of.form === "vertical" ? [[0, 1], [2, 3]] : [[0]];
    const length = hiddenSize / parts.length;
    for (const [half, [first, ...more]] of parts.entries()) {
      const to = y + half * length * 4;
      products.product(v[first!]!, this.#inputs[first!]!, 0, nTokens, to, yStride);
      for (const n of more) {
        products.product(v[n]!, this.#inputs[n]!, 0, nTokens, at.productOut, length * 4);
        kernels.addRows(to, yStride, at.productOut, length * 4, nTokens, length);
      }
      for (let t = 0; t < nTokens; t++) this.#addBiases(b[half]!, length, this.#sums(parts.length === 2 ? half : 1, t), to + t * yStride);
    }
  }

  /** y = y + sum * bias row, keys ascending. */
  #addBiases(b: number, length: number, sums: number, y: number): void {
    const { kernels, heap: { u32, f32 }, at } = this.#p;
    let nPairs = 0;
    for (let key = 0; key < this.#of.nKeys; key++) {
      if (f32[sums + key] === 0) continue;
      const record = (at.productPairs + nPairs++ * PAIR_BYTES) / 4;
      u32[record] = 0;
      u32[record + 1] = b + key * length * 4;
      u32[record + 2] = 0;
      u32[record + 3] = 1;
      f32[record + 4] = f32[sums + key]!;
    }
    kernels.combine(at.productPairs, nPairs, y, length * 4, length);
  }
}
