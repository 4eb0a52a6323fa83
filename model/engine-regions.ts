// The memory of an engine's step: every region it allocates once, by name and in bytes. The engine allocates what this table says and
// nothing else, so that whoever plans memory (durable/memory-plan.ts) knows the bytes before anything is allocated.
// Refuses weights and KV pages: those are counted where they are held.

import type { ModelConfig } from "./config.ts";
import { PAIR_BYTES } from "./expert-batch.ts";
import { activationRowBytes, attentionScratchBytes, matmulScratchBytes, topLogitsScratchBytes } from "./kernels.ts";

/** Rows of logits computed at a time. */
export const LOGIT_ROWS = 8;

/** Most of the largest logits kept per row: covers the top_k in common use (40, 50); more takes whole rows. */
export const MAX_TOP_LOGITS = 64;

const align16 = (bytes: number): number => Math.ceil(bytes / 16) * 16;

/** Bytes from one row to the next of the regions whose rows are padded. */
export const hiddenStride = (c: ModelConfig): number => align16(c.hiddenSize * 4);
export const routerStride = (c: ModelConfig): number => align16(c.nExperts * 4);
export const logitStride = (c: ModelConfig): number => align16(c.vocabSize * 4);

/**
 * Bytes of each region for steps of at most `nTokens` tokens, where no expert has more than `maxSegments` segments. Regions named
 * ...F32, ...Qa8 are rows in that format, ...F32Ptrs and ...Qa8Ptrs the u32 addresses of those rows.
 */
export function engineRegions(c: ModelConfig, nTokens: number, maxSegments: number) {
  const [qDim, kvDim] = [c.nHeads * c.headDim, c.nKvHeads * c.headDim];
  const [n, k] = [nTokens, c.router.topK];
  const f32 = (nCols: number): number => n * align16(nCols * 4);
  const qa8 = (nCols: number): number => n * activationRowBytes("qa8", nCols);
  return {
    normedF32: f32(c.hiddenSize), normedQa8: qa8(c.hiddenSize), normedF32Ptrs: n * 4, normedQa8Ptrs: n * 4,
    attendedF32: f32(qDim), attendedQa8: qa8(qDim), attendedF32Ptrs: n * 4, attendedQa8Ptrs: n * 4,
    finals: LOGIT_ROWS * align16(c.hiddenSize * 4), finalsPtrs: LOGIT_ROWS * 4,
    x: n * hiddenStride(c), y: n * hiddenStride(c), q: n * qDim * 4, k: n * kvDim * 4, v: n * kvDim * 4,
    routerLogits: n * routerStride(c), ids: n * k * 4, weights: n * k * 4, pairs: n * k * PAIR_BYTES,
    expertRows: n * k * maxSegments * c.hiddenSize * 4,
    positions: n * 4, pages: n * 4, pageTables: n * 4,
    logits: LOGIT_ROWS * logitStride(c),
    topIds: LOGIT_ROWS * MAX_TOP_LOGITS * 4, topValues: LOGIT_ROWS * MAX_TOP_LOGITS * 4, notFinite: LOGIT_ROWS * 4,
    scratch: Math.max(matmulScratchBytes(Math.max(c.hiddenSize, qDim)), attentionScratchBytes(c.headDim), topLogitsScratchBytes(c.hiddenSize)),
  };
}

export type EngineRegions = ReturnType<typeof engineRegions>;
