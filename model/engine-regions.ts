// The memory of an engine's step: every region it allocates once, by name and in bytes. The engine allocates what this table says and
// nothing else, so that whoever plans memory (durable/memory-plan.ts) knows the bytes before anything is allocated.
// What a stage of a ring does not need takes 0 bytes. Refuses weights and KV pages: those are counted where they are held.

import { attendedSize, auxiliariesOf, expertInputSize, inputRowsPerToken, latentDim, productWeightCount, sharesRouter, type ModelConfig, type ProductExpertsConfig } from "./config.ts";
import { PAIR_BYTES } from "./expert-batch.ts";
import type { GatedConfig } from "./gates/gate.ts";
import { gateOf } from "./gates/index.ts";
import { activationRowBytes, attentionScratchBytes, expertScratchBytes, matmulScratchBytes, topLogitsScratchBytes } from "./kernels.ts";
import { branchesOf, expertOutputSize, gateInputSize, logitsOf } from "./router-config.ts";
import { drawsTokens, endsLayers, isEmpty, wholeModel, type StageSpan } from "./stage-span.ts";

/** Rows of logits computed at a time. */
export const LOGIT_ROWS = 8;

/** Most of the largest logits kept per row: covers the top_k in common use (40, 50); more takes whole rows. */
export const MAX_TOP_LOGITS = 64;

/**
 * Tokens of latent attention computed at a time: its queries are as long as the cached row, for every head, so they are held for a few
 * tokens only (DeepSeek-V3: 288 KiB a token). A multiple of the kernels' eight.
 */
export const LATENT_TOKENS = 16;

/** Tokens of product experts computed at a time: a token's hidden units are those of all keys. A multiple of the kernels' eight. */
export const PRODUCT_TOKENS = 16;

const align16 = (bytes: number): number => Math.ceil(bytes / 16) * 16;

/** Bytes from one row to the next of the regions whose rows are padded. */
export const hiddenStride = (c: ModelConfig): number => align16(c.hiddenSize * 4);
export const routerStride = (c: ModelConfig): number => align16(logitsOf(c) * 4);
/** Of what a gate computes before its logits. */
export const routerWideStride = (c: ModelConfig | GatedConfig): number => align16(gateOf(c).wideColumns(c) * 4);
export const logitStride = (c: ModelConfig): number => align16(c.vocabSize * 4);
/** Of the region of logits: whole rows where tokens are drawn, else those of the own rows of the head. */
export const logitRowBytes = (c: ModelConfig, span: StageSpan): number => (drawsTokens(span) ? logitStride(c) : align16((span.headRows[1] - span.headRows[0]) * 4));

/** What the regions' sizes depend on beside the config. */
export interface RegionSizes {
  /** Most tokens of a step. */
  readonly nTokens: number;
  /** Most segments of a routed expert. */
  readonly maxSegments: number;
  /** Widest segment of the engine's dense layers and shared experts; 0 = it has none. */
  readonly sharedSegmentWidth: number;
  /** What the engine holds; absent = the whole model. */
  readonly span?: StageSpan;
}

/** Addresses or bytes of activation rows in both formats. */
const rowRegions = <Name extends string>(name: Name, nRows: number, nCols: number) => ({
  [`${name}F32`]: nRows * activationRowBytes("f32", nCols), [`${name}Qa8`]: nRows * activationRowBytes("qa8", nCols),
  [`${name}F32Ptrs`]: nRows * 4, [`${name}Qa8Ptrs`]: nRows * 4,
}) as Record<`${Name}F32` | `${Name}Qa8` | `${Name}F32Ptrs` | `${Name}Qa8Ptrs`, number>;

/** Regions of gates that are more than one product: rows of their own, and rows they read that are not the tokens' (gate-stage.ts). Branches use them in turn. */
function gateRegions(c: ModelConfig, nRouted: number) {
  const { score, branches } = c.router;
  const isGated = score !== "one";
  const own = isGated ? gateOf(c).ownColumns(c) : 0;
  const scopes = branchesOf(c.router).map(({ scope }) => scope?.kind);
  return {
    ...rowRegions("gateOwn", own > 0 ? nRouted : 0, own), routerWide: isGated ? nRouted * routerWideStride(c) : 0,
    ...rowRegions("gateIn", scopes.includes("sequence") ? nRouted : scopes.includes("condition") ? Math.min(1, nRouted) : 0, gateInputSize(c)),
    conditionLogits: scopes.includes("condition") && nRouted > 0 ? routerStride(c) : 0,
    branchIds: branches === undefined ? 0 : nRouted * c.router.topK * 4, branchWeights: branches === undefined ? 0 : nRouted * c.router.topK * 4,
  };
}

/** Regions of attention: queries, keys and values of a step, or those of LATENT_TOKENS tokens. */
function attentionRegions(c: ModelConfig, nTokens: number) {
  if (c.mla === null) {
    const [qDim, kvDim] = [c.nHeads * c.headDim, c.nKvHeads * c.headDim];
    return { q: nTokens * qDim * 4, k: nTokens * kvDim * 4, v: nTokens * kvDim * 4, latentQ: 0, latentOut: 0, ...rowRegions("lowQ", 0, 0), ...rowRegions("headIn", 0, 0), ...rowRegions("headOut", 0, 0) };
  }
  const { qLoraRank, kvLoraRank, nopeHeadDim, ropeHeadDim } = c.mla;
  const n = nTokens === 0 ? 0 : LATENT_TOKENS;
  return {
    q: n * c.nHeads * (nopeHeadDim + ropeHeadDim) * 4, k: n * align16(c.headDim * 4), v: 0,
    latentQ: n * c.nHeads * c.headDim * 4, latentOut: n * c.nHeads * kvLoraRank * 4,
    ...rowRegions("lowQ", qLoraRank === null ? 0 : n, qLoraRank ?? 0),
    // The f32 rows of both lie in q and latentOut.
    ...rowRegions("headIn", n * c.nHeads, nopeHeadDim), headInF32: 0, ...rowRegions("headOut", n * c.nHeads, kvLoraRank), headOutF32: 0,
  };
}

/** Hidden units of all keys of a codebook: what a matrix V of product experts reads of a token. */
export const productRowLength = ({ form, nKeys, expertSize }: ProductExpertsConfig): number => nKeys * expertSize / (form === "vertical" ? 2 : 1);

/** Whether an engine has weights of keys: it has product layers, or passes such weights on. */
export const holdsKeys = (c: ModelConfig, { layers: [first, end] }: StageSpan): boolean => first !== end && (c.layerFfns.slice(first, end).includes("product") || sharesRouter(c, first));

/** Regions of product experts: weights of a step's tokens, which layers share, and the hidden units of PRODUCT_TOKENS tokens. */
function productRegions(c: ModelConfig, nTokens: number) {
  const of = nTokens === 0 ? undefined : c.productExperts;
  if (of === undefined) return { productWeights: 0, productX1: 0, productX2: 0, ...rowRegions("productIn", 0, 0), productOut: 0, productSums: 0, productPairs: 0 };
  const [isVertical, length] = [of.form === "vertical", productRowLength(of)];
  return {
    productWeights: nTokens * productWeightCount(c) * 4, productX1: PRODUCT_TOKENS * length * 4, productX2: isVertical ? PRODUCT_TOKENS * length * 4 : 0,
    ...rowRegions("productIn", (isVertical ? 4 : 1) * PRODUCT_TOKENS, length), productOut: isVertical ? PRODUCT_TOKENS * c.hiddenSize / 2 * 4 : 0,
    productSums: PRODUCT_TOKENS * 2 * of.nKeys * 4, productPairs: of.nKeys * PAIR_BYTES,
  };
}

/**
 * Bytes of each region. Regions named ...F32, ...Qa8 are rows in that format, ...F32Ptrs and ...Qa8Ptrs the u32 addresses of those rows.
 */
export function engineRegions(c: ModelConfig, { nTokens, maxSegments, sharedSegmentWidth, span = wholeModel(c) }: RegionSizes) {
  const k = c.router.topK;
  const ownFfns = c.layerFfns.slice(...span.layers);
  const [hasLayers, passes, hasHead] = [ownFfns.length > 0, ownFfns.length > 0 || !isEmpty(span.embeddingRows), !isEmpty(span.headRows)];
  const n = hasLayers ? nTokens : 0;
  const nRouted = ownFfns.includes("moe") ? nTokens : 0;
  const auxiliaries = auxiliariesOf(c.router);
  const nScaled = auxiliaries > 0 ? nRouted : 0;
  const nShared = hasLayers && sharedSegmentWidth > 0 ? nTokens : 0;
  const nProduct = holdsKeys(c, span) ? nTokens : 0;
  const nFinals = hasHead ? LOGIT_ROWS : 0;
  const nTops = hasHead || drawsTokens(span) ? LOGIT_ROWS : 0;
  const widest = Math.max(c.hiddenSize, attendedSize(c), gateOf(c).ownColumns(c), gateInputSize(c), c.mla?.qLoraRank ?? 0, latentDim(c), nProduct > 0 ? productRowLength(c.productExperts!) : 0);
  return {
    ...rowRegions("normed", n, c.hiddenSize), ...rowRegions("attended", n, attendedSize(c)),
    ...rowRegions("finals", nFinals, c.hiddenSize), finalsF32: hasHead || endsLayers(c, span) ? LOGIT_ROWS * activationRowBytes("f32", c.hiddenSize) : 0,
    ...attentionRegions(c, n),
    ...rowRegions("expertIn", c.latentExperts === undefined ? 0 : nRouted * inputRowsPerToken(c), expertInputSize(c)),
    x: passes ? nTokens * hiddenStride(c) : 0, y: n * hiddenStride(c),
    ...gateRegions(c, nRouted), routerLogits: nRouted * routerStride(c), ids: nRouted * k * 4, weights: nRouted * k * 4, pairs: nRouted * k * PAIR_BYTES,
    expertRows: nRouted * k * maxSegments * expertOutputSize(c) * 4,
    rankedIds: nScaled * (k + auxiliaries) * 4, rankedWeights: nScaled * (k + auxiliaries) * 4, auxiliaryPairs: nScaled * auxiliaries * PAIR_BYTES,
    scaledF32: nScaled * activationRowBytes("f32", c.hiddenSize), scaledQa8: nScaled * activationRowBytes("qa8", c.hiddenSize),
    sharedRows: nShared * hiddenStride(c), sharedSegmentRows: nShared * hiddenStride(c),
    sharedPairs: nShared * PAIR_BYTES, sharedGates: c.sharedGate ? nShared * 16 : 0,
    ...productRegions(c, nProduct),
    positions: n * 4, ropePositions: n * 4, pages: n * 4, pageTables: n * 4,
    logits: LOGIT_ROWS * logitRowBytes(c, span),
    topIds: nTops * MAX_TOP_LOGITS * 4, topValues: nTops * MAX_TOP_LOGITS * 4, notFinite: nTops * 4,
    scratch: Math.max(hasLayers ? Math.max(matmulScratchBytes(widest), attentionScratchBytes(c.headDim, latentDim(c))) : 0, hasHead ? topLogitsScratchBytes(c.hiddenSize) : 0,
      nShared > 0 ? expertScratchBytes(c.hiddenSize, sharedSegmentWidth) : 0),
  };
}

export type EngineRegions = ReturnType<typeof engineRegions>;
