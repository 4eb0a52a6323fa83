// Bit plans by structure (QuantMoE-Bench, 2024): attention, shared experts and dense layers get the most bits that the budget allows, since every token passes them;
// what is left goes to routed experts, the first of an order first: of the first layers, frequent ones, those of layers that turn tokens most, those with outliers,
// or any. Owns orders and the spending, exact with scales. Refuses budgets that the smallest width exceeds. Rules are those of bit-plan.ts; measures come from others.

import type { Checkpoint } from "../formats/checkpoint.ts";
import { ModelError, moeLayersOf, type ModelConfig } from "../model/config.ts";
import { uniform } from "../model/random.ts";
import { accountBits, averageBits, checkColumns } from "./bit-accounting.ts";
import { parseBitPlan, partOf, type PlanBits, storedBits, typeOfBits } from "./bit-plan.ts";

export const ORDERS = ["structure", "frequency", "importance", "outliers", "random"] as const;
export type OrderName = (typeof ORDERS)[number];
export type Width = Exclude<PlanBits, 16>;

/** What orders look at, [layer][expert]; layers without experts are empty. */
export interface ExpertMeasures {
  /** Tokens that chose it. */
  readonly frequency: readonly (readonly number[])[];
  /** Of layers. */
  readonly importance: readonly number[];
  /** The largest of its matrices' scores. */
  readonly outliers: readonly (readonly number[])[];
}

/** Measures that an order needs; the others may be empty. */
export const NEEDS: Readonly<Record<OrderName, readonly (keyof ExpertMeasures)[]>> = {
  structure: ["frequency"], frequency: ["frequency"], importance: ["frequency", "importance"], outliers: ["outliers"], random: [],
};

export interface ExpertPlace {
  readonly layer: number;
  readonly expert: number;
}

/** All experts, those that are to get bits first first. Equal ones by layer and number. */
export function expertOrder(order: OrderName, config: ModelConfig, { frequency, importance, outliers }: ExpertMeasures, seed: number): ExpertPlace[] {
  const keys: Readonly<Record<OrderName, (at: ExpertPlace) => readonly number[]>> = {
    structure: ({ layer, expert }) => [-layer, frequency[layer]![expert]!],
    // Every layer sends out equally many tokens: counts compare.
    frequency: ({ layer, expert }) => [frequency[layer]![expert]!],
    importance: ({ layer, expert }) => [importance[layer]!, frequency[layer]![expert]!],
    outliers: ({ layer, expert }) => [outliers[layer]![expert]!],
    random: ({ layer, expert }) => [uniform(seed, layer, expert, 0)],
  };
  return moeLayersOf(config).flatMap((layer) => Array.from({ length: config.nExperts }, (_, expert) => ({ layer, expert, key: keys[order]({ layer, expert }) })))
    .sort((a, b) => firstDifference(b.key, a.key) || a.layer - b.layer || a.expert - b.expert).map(({ layer, expert }) => ({ layer, expert }));
}

const firstDifference = (a: readonly number[], b: readonly number[]): number => a.map((x, i) => x - b[i]!).find((difference) => difference !== 0) ?? 0;

/** Matrices that get their bits together: a part of one layer, or one expert. */
interface Unit {
  readonly target: string;
  /** Stored bits at each width. */
  readonly bits: readonly number[];
}

export interface StructurePlan {
  /** Rules for bit-plan.ts, of everything within layers. */
  readonly rules: string;
  /** Stored bits per weight of the matrices within layers, scales included: at most what was asked for, and exact. */
  readonly average: number;
}

/**
 * The plan with at most `bits` stored bits per weight, scales included, over all matrices within layers: embedding and head are not in it. Parts that every token
 * passes get the largest width that still fits with everything behind them at the smallest, first layers first; experts are raised in order, one width after the other.
 */
export function structurePlan(checkpoint: Pick<Checkpoint, "config" | "places">, order: readonly ExpertPlace[], widths: readonly Width[], bits: number): StructurePlan {
  const { config } = checkpoint;
  const { always, experts, weights } = unitsOf(checkpoint, order, widths);
  const level = new Map([...always, ...experts].map((unit) => [unit, 0]));
  let spent = [...level.keys()].reduce((sum, unit) => sum + unit.bits[0]!, 0);
  const budget = bits * weights + 1e-6;
  const least = spent / weights;
  if (weights === 0 || spent > budget) throw new ModelError(`${bits} bits per weight were asked for, scales included; with ${widths[0]} bits for everything within layers it is ${least.toFixed(3)} already.`);
  const raise = (unit: Unit, to: number): void => {
    const more = unit.bits[to]! - unit.bits[level.get(unit)!]!;
    if (spent + more > budget) return;
    spent += more;
    level.set(unit, to);
  };
  for (const unit of always) for (let to = widths.length - 1; to > level.get(unit)!; to--) raise(unit, to);
  for (let to = 1; to < widths.length; to++) for (const unit of experts) if (level.get(unit) === to - 1) raise(unit, to);
  const smallest = widths[0]!;
  const rules = [`attn=${smallest}; dense=${smallest}; shared=${smallest}; routed=${smallest}`, ...[...level].flatMap(([{ target }, to]) => (to === 0 ? [] : [`${target}=${widths[to]}`]))].join("; ");
  const account = accountBits(checkpoint, parseBitPlan(rules, config));
  return { rules, average: averageBits(account.layers) };
}

function unitsOf(checkpoint: Pick<Checkpoint, "config" | "places">, order: readonly ExpertPlace[], widths: readonly Width[]): { always: Unit[]; experts: Unit[]; weights: number } {
  const byTarget = new Map<string, number[]>();
  let weights = 0;
  const { config } = checkpoint;
  for (const of of checkpoint.places()) {
    const { structure, layer, expert } = partOf(config, of.name);
    if (structure === null || structure === "embed" || structure === "head" || of.nRows === 1) continue;
    const target = expert === null ? `${structure}[l${layer}]` : `exp[l${layer}e${expert}]`;
    const sums = byTarget.get(target) ?? widths.map(() => 0);
    widths.forEach((width, w) => {
      checkColumns(of, typeOfBits(width));
      sums[w]! += storedBits(typeOfBits(width), of.nRows, of.nCols);
    });
    byTarget.set(target, sums);
    weights += of.nRows * of.nCols;
  }
  const unit = (target: string): Unit => ({ target, bits: byTarget.get(target)! });
  const targets = [...byTarget.keys()];
  const part = (name: string): string[] => targets.filter((target) => target.startsWith(`${name}[`));
  return { always: ["attn", "shared", "dense"].flatMap(part).map(unit), experts: order.map(({ layer, expert }) => unit(`exp[l${layer}e${expert}]`)), weights };
}
