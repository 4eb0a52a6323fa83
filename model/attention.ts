// Attention of one layer over the tokens of a wave, in the two forms there are: queries, keys and values of their own, and latent attention
// (DeepSeek's MLA, in its absorbed form for prompts and tokens alike). Owns the way from the normed rows to the output projection.
// Refuses the residual (engine.ts) and the arithmetic of a block (kernels). docs/arithmetic.md sections 7 and 8.

import { activationRows, RowProducts, type ActivationRows } from "./activation-rows.ts";
import { attendedSize, type MlaConfig, type ModelConfig } from "./config.ts";
import { LATENT_TOKENS, type EngineRegions } from "./engine-regions.ts";
import type { Heap } from "./heap.ts";
import { KV_FORMATS, ROPE_STYLES, activationRowBytes, type ActivationFormat, type Kernels, type KvFormat } from "./kernels.ts";
import type { LatentWeights, LayerWeights, MatrixStack, PlainWeights, TrunkWeights } from "./trunk.ts";

export interface AttentionParts {
  readonly config: ModelConfig;
  readonly kernels: Kernels;
  readonly heap: Heap;
  readonly trunk: TrunkWeights;
  readonly kvFormat: KvFormat;
  readonly kvLayerBytes: number;
  /** Number of the layer with which a page begins. */
  readonly firstLayer: number;
  /** Most tokens of a step. */
  readonly maxTokens: number;
  /** Addresses. */
  readonly at: EngineRegions;
  readonly normed: ActivationRows;
  readonly products: RowProducts;
}

export interface Attention {
  /** Formats in which the normed rows will be read. */
  takes(w: LayerWeights): readonly ActivationFormat[];
  /** Rows [first, first + nTokens) of `normed` through the layer's attention, to nTokens rows of hidden f32 at `out`. Their keys are in the cache afterwards. */
  run(layer: number, w: LayerWeights, first: number, nTokens: number, out: number, outStride: number): void;
}

/** The form that the config asks for. */
export const attentionOf = (parts: AttentionParts): Attention =>
  parts.config.mla === null ? new PlainAttention(parts) : new LatentAttention(parts, parts.config.mla);

const attendedRows = ({ heap, config, at, maxTokens }: AttentionParts): ActivationRows => activationRows(heap, maxTokens, attendedSize(config),
  { f32: at.attendedF32, qa8: at.attendedQa8, f32Ptrs: at.attendedF32Ptrs, qa8Ptrs: at.attendedQa8Ptrs });

class PlainAttention implements Attention {
  readonly #p: AttentionParts;
  readonly #attended: ActivationRows;

  constructor(parts: AttentionParts) {
    this.#p = parts;
    this.#attended = attendedRows(parts);
  }

  takes({ attention: w }: LayerWeights): readonly ActivationFormat[] {
    const { q, k, v } = w as PlainWeights;
    return [q.takes, k.takes, v.takes];
  }

  run(layer: number, { attention, o, oBias, sinks }: LayerWeights, first: number, nTokens: number, out: number, outStride: number): void {
    const { config: c, kernels: k, trunk, at, normed, products, kvLayerBytes, firstLayer } = this.#p;
    const w = attention as PlainWeights;
    const [qStride, kvStride] = [c.nHeads * c.headDim * 4, c.nKvHeads * c.headDim * 4];
    const [pages, pageTables, positions, ropePositions] = [at.pages + first * 4, at.pageTables + first * 4, at.positions + first * 4, at.ropePositions + first * 4];
    // Queries, keys and values live within this call only: all waves use the same rows.
    products.product(w.q, normed, first, nTokens, at.q, qStride, w.qBias);
    products.product(w.k, normed, first, nTokens, at.k, kvStride, w.kBias);
    products.product(w.v, normed, first, nTokens, at.v, kvStride, w.vBias);
    for (const [x, stride, norm, nHeads] of [[at.q, qStride, w.qNorm, c.nHeads], [at.k, kvStride, w.kNorm, c.nKvHeads]] as const) {
      if (c.qkNorm === "whole-vector") k.rmsNormRows(x, stride, norm, c.normEps, x, stride, nTokens, nHeads * c.headDim);
      if (c.qkNorm === "per-head") k.rmsNormRows(x, c.headDim * 4, norm, c.normEps, x, c.headDim * 4, nTokens * nHeads, c.headDim);
    }
    if (c.clipQkv !== null) {
      k.clampRows(at.q, qStride, c.clipQkv, nTokens, qStride / 4);
      k.clampRows(at.k, kvStride, c.clipQkv, nTokens, kvStride / 4);
      k.clampRows(at.v, kvStride, c.clipQkv, nTokens, kvStride / 4);
    }
    const style = ROPE_STYLES.indexOf(c.rope.style);
    k.ropeRows(style, at.q, qStride, nTokens, c.nHeads, c.headDim, c.rope.dim, trunk.rope, ropePositions);
    k.ropeRows(style, at.k, kvStride, nTokens, c.nKvHeads, c.headDim, c.rope.dim, trunk.rope, ropePositions);
    const [kvFormat, offset] = [KV_FORMATS.indexOf(this.#p.kvFormat), (layer - firstLayer) * kvLayerBytes];
    k.kvWrite(kvFormat, at.k, at.v, kvStride, nTokens, c.nKvHeads, c.headDim, pages, offset, positions);
    const attended = this.#attended;
    attended.quantised = false;
    k.attention(kvFormat, at.q, qStride, attended.f32, attended.f32Stride, nTokens, c.nHeads, c.nKvHeads, c.headDim, 0,
      pageTables, offset, positions, c.attentionScale, c.slidingWindows[layer]!, sinks, at.scratch);
    products.product(o, attended, 0, nTokens, out, outStride, oBias);
  }
}

/**
 * A key is the latent row with the rotated part behind it, one for all heads; a head's query is taken into the latent space (kB), and what it
 * reads there out of it again (vB), so that keys and values are never spelled out. LATENT_TOKENS tokens at a time: a token sees no later one.
 */
class LatentAttention implements Attention {
  readonly #p: AttentionParts;
  readonly #mla: MlaConfig;
  readonly #attended: ActivationRows;
  readonly #lowQ: ActivationRows;
  /** Address lists [head][LATENT_TOKENS] of the parts of queries and of what heads read, in either format. */
  readonly #headIn: Readonly<Record<ActivationFormat, number>>;
  readonly #headOut: Readonly<Record<ActivationFormat, number>>;

  constructor(parts: AttentionParts, mla: MlaConfig) {
    const { config: c, heap, at } = parts;
    this.#p = parts;
    this.#mla = mla;
    this.#attended = attendedRows(parts);
    this.#lowQ = activationRows(heap, mla.qLoraRank === null ? 0 : LATENT_TOKENS, mla.qLoraRank ?? 0,
      { f32: at.lowQF32, qa8: at.lowQQa8, f32Ptrs: at.lowQF32Ptrs, qa8Ptrs: at.lowQQa8Ptrs });
    const lists = (ptrs: number, base: number, rowBytes: number): number => {
      for (let head = 0; head < c.nHeads; head++) {
        for (let t = 0; t < LATENT_TOKENS; t++) heap.u32[ptrs / 4 + head * LATENT_TOKENS + t] = base + (t * c.nHeads + head) * rowBytes;
      }
      return ptrs;
    };
    this.#headIn = {
      f32: lists(at.headInF32Ptrs, at.q, (mla.nopeHeadDim + mla.ropeHeadDim) * 4),
      qa8: lists(at.headInQa8Ptrs, at.headInQa8, activationRowBytes("qa8", mla.nopeHeadDim)),
    };
    this.#headOut = {
      f32: lists(at.headOutF32Ptrs, at.latentOut, mla.kvLoraRank * 4),
      qa8: lists(at.headOutQa8Ptrs, at.headOutQa8, activationRowBytes("qa8", mla.kvLoraRank)),
    };
  }

  takes({ attention }: LayerWeights): readonly ActivationFormat[] {
    const w = attention as LatentWeights;
    return [w.q?.takes ?? w.qA!.takes, w.kvA.takes];
  }

  run(layer: number, w: LayerWeights, first: number, nTokens: number, out: number, outStride: number): void {
    const attended = this.#attended;
    attended.quantised = false;
    for (let done = 0; done < nTokens; done += LATENT_TOKENS) {
      this.#some(layer, w, first + done, Math.min(LATENT_TOKENS, nTokens - done), attended.f32 + done * attended.f32Stride);
    }
    this.#p.products.product(w.o, attended, 0, nTokens, out, outStride, w.oBias);
  }

  /** At most LATENT_TOKENS tokens, to rows of what all heads give at `to`. */
  #some(layer: number, { attention, sinks }: LayerWeights, first: number, n: number, to: number): void {
    const { config: c, kernels: k, trunk, at, normed, products, kvLayerBytes, firstLayer } = this.#p;
    const { kvLoraRank, nopeHeadDim, ropeHeadDim, valueHeadDim } = this.#mla;
    const w = attention as LatentWeights;
    const headStride = (nopeHeadDim + ropeHeadDim) * 4;
    const [qStride, kStride, latentStride, keyBytes] = [c.nHeads * headStride, Math.ceil(c.headDim / 4) * 16, c.nHeads * c.headDim * 4, c.headDim * 4];
    const [positions, ropePositions, style] = [at.positions + first * 4, at.ropePositions + first * 4, ROPE_STYLES.indexOf(c.rope.style)];
    if (w.q !== null) products.product(w.q, normed, first, n, at.q, qStride);
    else {
      const low = this.#lowQ;
      products.product(w.qA!, normed, first, n, low.f32, low.f32Stride);
      k.rmsNormRows(low.f32, low.f32Stride, w.qANorm, this.#mla.normEps, low.f32, low.f32Stride, n, low.nCols);
      low.quantised = false;
      products.product(w.qB!, low, 0, n, at.q, qStride);
    }
    k.ropeRows(style, at.q + nopeHeadDim * 4, qStride, n, c.nHeads, nopeHeadDim + ropeHeadDim, ropeHeadDim, trunk.rope, ropePositions);

    products.product(w.kvA, normed, first, n, at.k, kStride);
    k.rmsNormRows(at.k, kStride, w.kvANorm, this.#mla.normEps, at.k, kStride, n, kvLoraRank);
    k.ropeRows(style, at.k + kvLoraRank * 4, kStride, n, 1, ropeHeadDim, ropeHeadDim, trunk.rope, ropePositions);
    const [kvFormat, offset] = [KV_FORMATS.indexOf(this.#p.kvFormat), (layer - firstLayer) * kvLayerBytes];
    k.kvWrite(kvFormat, at.k, 0, kStride, n, 1, c.headDim, at.pages + first * 4, offset, positions);

    if (w.kB.takes === "qa8") k.quantizeRows(at.q, headStride, at.headInQa8, activationRowBytes("qa8", nopeHeadDim), n * c.nHeads, nopeHeadDim);
    this.#perHead(w.kB, this.#headIn[w.kB.takes], n, at.latentQ, keyBytes, latentStride);
    k.copyRows(at.q + nopeHeadDim * 4, headStride, at.latentQ + kvLoraRank * 4, keyBytes, n * c.nHeads, ropeHeadDim);
    k.attention(kvFormat, at.latentQ, latentStride, at.latentOut, c.nHeads * kvLoraRank * 4, n, c.nHeads, 1, c.headDim, kvLoraRank,
      at.pageTables + first * 4, offset, positions, c.attentionScale, c.slidingWindows[layer]!, sinks, at.scratch);
    if (w.vB.takes === "qa8") k.quantizeRows(at.latentOut, kvLoraRank * 4, at.headOutQa8, activationRowBytes("qa8", kvLoraRank), n * c.nHeads, kvLoraRank);
    this.#perHead(w.vB, this.#headOut[w.vB.takes], n, to, valueHeadDim * 4, this.#attended.f32Stride);
  }

  /** Each head's matrix times that head's rows, to columns `headBytes` apart. */
  #perHead(w: MatrixStack, lists: number, n: number, out: number, headBytes: number, outStride: number): void {
    for (let head = 0; head < w.count; head++) {
      this.#p.kernels.matmul(w.code, w.ptr + head * w.eachBytes, w.nRows, w.nCols, lists + head * LATENT_TOKENS * 4, n, out + head * headBytes, outStride, this.#p.at.scratch);
    }
  }
}
