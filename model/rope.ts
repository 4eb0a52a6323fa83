// Rotary frequencies and tables, computed in float64 at pack time and rounded once (docs/arithmetic.md section 7).
// Owns plain, linear and YaRN frequencies and the making of the table. Refuses rotation itself (kernels) and any
// frequency that depends on the length of a request.
// YaRN: Peng et al. 2023, in the form of transformers' modeling_rope_utils and DeepSeek-V2.

import type { RopeConfig } from "./config.ts";

/** theta^(-2i/dim) for i in [0, dim / 2). */
export function plainInverseFrequencies(dim: number, theta: number): number[] {
  return Array.from({ length: dim / 2 }, (_, i) => theta ** ((-2 * i) / dim));
}

/** Position interpolation: every frequency divided by the factor. */
export function linearInverseFrequencies(dim: number, theta: number, factor: number): number[] {
  return plainInverseFrequencies(dim, theta).map((f) => f / factor);
}

export interface YarnParameters {
  readonly dim: number;
  readonly theta: number;
  /** Context extension factor. */
  readonly factor: number;
  /** Context of the original training, in tokens. */
  readonly originalContext: number;
  readonly betaFast: number;
  readonly betaSlow: number;
  /** Round the ramp's ends outwards to whole dimensions (all but gpt-oss). */
  readonly truncate: boolean;
}

/** Ends of YaRN's ramp, in dimension pairs, and the blended inverse frequencies [dim / 2]. */
export function yarnFrequencies(p: YarnParameters): { low: number; high: number; inverseFrequencies: number[] } {
  const pairTurning = (turns: number): number =>
    (p.dim * Math.log(p.originalContext / (2 * Math.PI * turns))) / (2 * Math.log(p.theta));
  let low = pairTurning(p.betaFast);
  let high = pairTurning(p.betaSlow);
  if (p.truncate) {
    low = Math.max(Math.floor(low), 0);
    high = Math.min(Math.ceil(high), p.dim - 1);
  }
  const span = high === low ? 0.001 : high - low;
  const inverseFrequencies = plainInverseFrequencies(p.dim, p.theta).map((f, i) => {
    const ramp = Math.min(Math.max((i - low) / span, 0), 1);
    return (f / p.factor) * ramp + f * (1 - ramp);
  });
  return { low, high, inverseFrequencies };
}

/** YaRN's magnitude correction 0.1 m ln(s) + 1; 1 where the context is not extended. */
export const yarnMscale = (factor: number, m = 1): number => (factor <= 1 ? 1 : 0.1 * m * Math.log(factor) + 1);

/** The table the kernels read: f32 [nPositions][cos[dim / 2], sin[dim / 2]], and with rope.long as many rows more, of the long frequencies. */
export function ropeTable(rope: RopeConfig, nPositions: number): Float32Array {
  const tables = [rope, ...(rope.long === null ? [] : [rope.long])];
  const half = rope.dim / 2;
  const table = new Float32Array(tables.length * nPositions * rope.dim);
  let row = 0;
  for (const { inverseFrequencies, magnitude } of tables) {
    for (let p = 0; p < nPositions; p++, row += rope.dim) {
      for (let i = 0; i < half; i++) {
        const angle = p * inverseFrequencies[i]!;
        table[row + i] = Math.cos(angle) * magnitude;
        table[row + half + i] = Math.sin(angle) * magnitude;
      }
    }
  }
  return table;
}
