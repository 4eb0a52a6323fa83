// What a model's shape says of the training it is good for, in words: sparsity, leverage, tokens per parameter; for `inspect` and `plan`.
// Owns the rows. Refuses formulas: those, with their sources, are passes/efficiency.ts.

import type { ModelConfig } from "../model/config.ts";
import { efficiencyLeverage, REASONING_TOKENS_PER_PARAMETER, REFERENCE_FLOPS, type Shape, shapeOf, trainingFlops } from "../passes/efficiency.ts";

/** What the shape says of the training it is good for. */
export interface Efficiency extends Shape {
  /** Compute for which leverage is told, in FLOP. */
  readonly flops: number;
  readonly leverage: number;
  /** Only where the tokens of the training were given. */
  readonly tokensPerParameter: number | null;
}

/** null for a dense model. `trainingTokens`: what no file says; undefined where it was not given. */
export function efficiencyOf(config: ModelConfig, { total, active }: { total: number; active: number }, trainingTokens: number | undefined): Efficiency | null {
  const shape = shapeOf(config);
  if (shape === null) return null;
  const flops = trainingTokens === undefined ? REFERENCE_FLOPS : trainingFlops(active, trainingTokens);
  return { ...shape, flops, leverage: efficiencyLeverage(shape.activation, shape.granularity, flops), tokensPerParameter: trainingTokens === undefined ? null : trainingTokens / total };
}

export function efficiencyRows({ sparsity, granularity, flops, leverage, tokensPerParameter }: Efficiency): [string, string][] {
  const compute = `10^${Math.log10(flops).toFixed(1)} FLOP of training`;
  return [
    ["sparsity", `${(100 * sparsity).toFixed(1)} % of experts rest; granularity ${granularity.toFixed(1)}`],
    ["leverage", `${leverage.toFixed(2)}: a dense model of equal loss takes so many times the compute, at ${compute} (Ling, 2025)`],
    ...(tokensPerParameter === null ? [] : [["trained on", `${tokensPerParameter.toFixed(1)} tokens per parameter${tokensPerParameter > REASONING_TOKENS_PER_PARAMETER
      ? `; beyond about ${REASONING_TOKENS_PER_PARAMETER} reasoning was found to suffer in models with many idle parameters (Optimal Sparsity, 2025)` : ""}`] as [string, string]]),
  ];
}
