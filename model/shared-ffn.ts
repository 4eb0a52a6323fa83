// The feed-forward part that every token of a layer passes: a dense layer's, or the shared experts of a sparse one. Stored and cut into segments
// as routed experts are, but held with the trunk. Owns its rows and their weights. Refuses routing. docs/arithmetic.md section 6.

import type { RowProducts, ActivationRows } from "./activation-rows.ts";
import type { ModelConfig } from "./config.ts";
import { hiddenStride, type EngineRegions } from "./engine-regions.ts";
import { PAIR_BYTES } from "./expert-batch.ts";
import { sigmoid } from "./float-math.ts";
import type { Heap } from "./heap.ts";
import { EXPERT_KINDS, MATRIX_FORMATS, activationFormatOf, type ActivationFormat, type Kernels } from "./kernels.ts";
import type { SegmentWeights } from "./local-experts.ts";
import type { Matrix } from "./trunk.ts";

/** Bytes from one gate to the next: rows of a product are aligned. */
const GATE_STRIDE = 16;

export interface SharedFfnParts {
  readonly config: ModelConfig;
  readonly kernels: Kernels;
  readonly heap: Heap;
  /** By layer; empty where the layer has none. */
  readonly segments: readonly (readonly SegmentWeights[])[];
  /** Addresses. */
  readonly at: EngineRegions;
  readonly products: RowProducts;
}

export class SharedFfn {
  readonly #p: SharedFfnParts;

  constructor(parts: SharedFfnParts) { this.#p = parts; }

  /** Formats in which a layer reads the normed rows. */
  takes(layer: number, gate: Matrix | null): readonly ActivationFormat[] {
    const [first] = this.#p.segments[layer]!;
    return first === undefined ? [] : [activationFormatOf(MATRIX_FORMATS[first.gateUp]!), ...(gate === null ? [] : [gate.takes])];
  }

  /**
   * Computes rows [first, first + nTokens) of `normed` and writes the records by which `combine` adds them. Returns their number: nTokens, or 0
   * where the layer has no such part.
   */
  run(layer: number, gate: Matrix | null, normed: ActivationRows, first: number, nTokens: number): number {
    const { config: c, kernels: k, heap, segments, at, products } = this.#p;
    const stride = hiddenStride(c);
    const rows = at.sharedRows + first * stride;
    for (const [i, w] of segments[layer]!.entries()) {
      const { ptrs } = products.rowsFor(activationFormatOf(MATRIX_FORMATS[w.gateUp]!), normed, first, nTokens);
      const to = i === 0 ? rows : at.sharedSegmentRows;
      k.expertFfn(EXPERT_KINDS.indexOf("swiglu"), 0, w.gateUp, w.down, w.ptr, c.hiddenSize, c.hiddenSize, w.width, ptrs, nTokens, to, stride, at.scratch);
      if (i > 0) k.addRows(rows, stride, to, stride, nTokens, c.hiddenSize);
    }
    if (segments[layer]!.length === 0) return 0;
    if (gate !== null) products.product(gate, normed, first, nTokens, at.sharedGates, GATE_STRIDE);
    const { u32, f32 } = heap;
    for (let t = 0; t < nTokens; t++) {
      const record = (this.pairs(first) + t * PAIR_BYTES) / 4;
      u32[record] = t;
      u32[record + 1] = rows + t * stride;
      u32[record + 2] = 0;
      u32[record + 3] = 1;
      f32[record + 4] = gate === null ? 1 : sigmoid(f32[(at.sharedGates + t * GATE_STRIDE) / 4]!);
    }
    return nTokens;
  }

  /** Where the records of the tokens from `first` on lie. */
  pairs(first: number): number { return this.#p.at.sharedPairs + first * PAIR_BYTES; }
}
