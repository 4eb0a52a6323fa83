// What the run experts of a token get where others stand by (compressed experts): the normed row times one plus the shares of the auxiliary experts' scale
// vectors. Owns those rows, in f32 and in the format that experts consume. Refuses to choose (router.ts) and to touch the normed rows themselves, which the
// router and the shared expert read. Vectors are stored less one, so that a vector of ones changes no bit. Arithmetic: docs/arithmetic.md section 7.

import type { ActivationRows } from "./activation-rows.ts";
import { auxiliariesOf, type ModelConfig } from "./config.ts";
import type { EngineRegions } from "./engine-regions.ts";
import { PAIR_BYTES } from "./expert-batch.ts";
import type { Heap } from "./heap.ts";
import { activationRowBytes, type ActivationFormat, type Kernels } from "./kernels.ts";

export interface AuxiliaryScalingParts {
  readonly config: ModelConfig;
  readonly kernels: Kernels;
  readonly heap: Heap;
  /** Addresses. */
  readonly at: EngineRegions;
  /** What experts consume. */
  readonly activations: ActivationFormat;
}

export class AuxiliaryScaling {
  readonly #p: AuxiliaryScalingParts;
  readonly #nRanked: number;
  readonly #auxiliaries: number;
  /** The format in which it reads the normed rows. */
  readonly takes = "f32";

  private constructor(parts: AuxiliaryScalingParts) {
    this.#p = parts;
    this.#auxiliaries = auxiliariesOf(parts.config.router);
    this.#nRanked = parts.config.router.topK + this.#auxiliaries;
  }

  /** null for a model without auxiliary experts. */
  static of(parts: AuxiliaryScalingParts): AuxiliaryScaling | null {
    return auxiliariesOf(parts.config.router) === 0 ? null : new AuxiliaryScaling(parts);
  }

  /** Bytes before the token's entry of the ranked ids, and of their weights. */
  rankedOffset(token: number): number { return token * this.#nRanked * 4; }

  /**
   * Rows [first, first + nTokens) of `normed`, scaled as the ranked experts of each token say. `scales` is the address of f32 [nExperts, hidden].
   * Returns address and stride of the first row.
   */
  rows(scales: number, normed: ActivationRows, first: number, nTokens: number): { readonly ptr: number; readonly stride: number } {
    const { config: { hiddenSize, router: { topK } }, kernels, heap: { u32, f32 }, at, activations } = this.#p;
    const stride = activationRowBytes("f32", hiddenSize);
    const scaled = at.scaledF32 + first * stride;
    let record = at.auxiliaryPairs / 4;
    for (let t = 0; t < nTokens; t++) {
      f32.fill(1, (scaled + t * stride) / 4, (scaled + t * stride) / 4 + hiddenSize);
      for (let rank = topK; rank < this.#nRanked; rank++, record += PAIR_BYTES / 4) {
        const ranked = (first + t) * this.#nRanked + rank;
        u32[record] = t;
        u32[record + 1] = scales + u32[at.rankedIds / 4 + ranked]! * hiddenSize * 4;
        u32[record + 2] = 0;
        u32[record + 3] = 1;
        f32[record + 4] = f32[at.rankedWeights / 4 + ranked]!;
      }
    }
    kernels.combine(at.auxiliaryPairs, nTokens * this.#auxiliaries, scaled, stride, hiddenSize);
    for (let t = 0; t < nTokens; t++) {
      const [to, from] = [(scaled + t * stride) / 4, (normed.f32 + (first + t) * normed.f32Stride) / 4];
      for (let i = 0; i < hiddenSize; i++) f32[to + i] = f32[from + i]! * f32[to + i]!;
    }
    if (activations === "f32") return { ptr: scaled, stride };
    const qa8Stride = activationRowBytes("qa8", hiddenSize);
    const quantised = at.scaledQa8 + first * qa8Stride;
    kernels.quantizeRows(scaled, stride, quantised, qa8Stride, nTokens, hiddenSize);
    return { ptr: quantised, stride: qa8Stride };
  }
}
