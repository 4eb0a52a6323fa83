// The rows that latent experts read in place of the normalised ones: z = B x, one for each latent group of a layer (MoLAE; config.ts LatentExpertsConfig).
// Owns those rows and their two formats. Refuses experts: whoever computes them gets rows and knows nothing of B. Arithmetic: docs/arithmetic.md section 6.

import { activationRows, type ActivationRows, type RowProducts } from "./activation-rows.ts";
import { expertInputSize, inputRowsPerToken, type ModelConfig } from "./config.ts";
import type { EngineRegions } from "./engine-regions.ts";
import type { Heap } from "./heap.ts";
import type { ActivationFormat } from "./kernels.ts";
import type { Matrix } from "./trunk.ts";

export class LatentRows {
  readonly #rows: ActivationRows; // [maxTokens * rowsPerToken, rank]
  readonly #perToken: number;
  readonly #products: RowProducts;

  constructor(config: ModelConfig, heap: Heap, at: EngineRegions, maxTokens: number, products: RowProducts) {
    this.#perToken = inputRowsPerToken(config);
    this.#products = products;
    this.#rows = activationRows(heap, config.latentExperts === undefined ? 0 : maxTokens * this.#perToken, expertInputSize(config),
      { f32: at.expertInF32, qa8: at.expertInQa8, f32Ptrs: at.expertInF32Ptrs, qa8Ptrs: at.expertInQa8Ptrs });
  }

  /** Computes the rows of tokens [first, first + nTokens), each token's one after the other; where they lie in `format`. `w`: the layer's B, all groups' rows. */
  run(w: Matrix, normed: ActivationRows, first: number, nTokens: number, format: ActivationFormat): { readonly ptr: number; readonly stride: number } {
    const rows = this.#rows;
    const [from, n] = [first * this.#perToken, nTokens * this.#perToken];
    // A token's rows are multiples of 16 bytes long: together they are the row of one product.
    this.#products.product(w, normed, first, nTokens, rows.f32 + from * rows.f32Stride, this.#perToken * rows.f32Stride);
    rows.quantised = false;
    return this.#products.rowsFor(format, rows, from, n);
  }
}
