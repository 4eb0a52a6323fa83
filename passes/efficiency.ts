// What a model's shape says before anything is run: sparsity, tokens per parameter, and efficiency leverage, the compute a dense model of equal loss would take over
// its own. Owns the formulas. Refuses judgement where a model says nothing: how many tokens it was trained on is nowhere in its files.
// Sources: Nakamura et al., Optimal Sparsity of MoE Language Models for Reasoning Tasks, 2025; Tian et al., Towards Greater Leverage (Ling), 2025, whose logarithms
// are of base 10 for compute and 2 for granularity: only these give the paper's own optimum and ratios.

import { type ModelConfig, moeLayersOf } from "../model/config.ts";

/** Constants of the joint law (Ling, 2025, equation 8). */
const LAW = { a: 1.23, d: -7.61e-2, gamma: 1.67e-2, beta: -1.17e-1, aStart: 1.63e-2, aMax: 5.28e16 } as const;

/** Compute the law is told at where nobody knows the training: the paper's largest. */
export const REFERENCE_FLOPS = 1e22;

/** From this on, more tokens per parameter made models worse at reasoning while their loss still fell (Optimal Sparsity, 2025). */
export const REASONING_TOKENS_PER_PARAMETER = 20;

export interface Shape {
  /** Share of experts that do not take part in a token, 1 - k / E. */
  readonly sparsity: number;
  /** Share of experts that do, shared ones counted with both, by width. */
  readonly activation: number;
  /** 2 hidden / width of an expert. */
  readonly granularity: number;
}

/** null for a dense model. */
export function shapeOf(c: ModelConfig): Shape | null {
  if (moeLayersOf(c).length === 0) return null;
  const shared = c.sharedIntermediateSize / c.expertIntermediateSize;
  return { sparsity: 1 - c.router.topK / c.nExperts, activation: (c.router.topK + shared) / (c.nExperts + shared), granularity: (2 * c.hiddenSize) / c.expertIntermediateSize };
}

/** Efficiency leverage at activation A in (0, 1], granularity G and training compute in FLOP. */
export function efficiencyLeverage(activation: number, granularity: number, flops: number): number {
  const { a, d, gamma, beta, aStart, aMax } = LAW;
  const saturated = 1 / (1 / (activation + 1 / (1 / aStart - 1 / aMax)) + 1 / aMax);
  const g = Math.log2(granularity);
  return saturated ** (a + d * Math.log10(flops) + gamma * g * g + beta * g);
}

/** Granularity at which leverage is largest, whatever the rest. */
export const bestGranularity = (): number => 2 ** (-LAW.beta / (2 * LAW.gamma));

/** Training compute by the usual count, 6 FLOP for each active parameter and token. */
export const trainingFlops = (activeParameters: number, tokens: number): number => 6 * activeParameters * tokens;
