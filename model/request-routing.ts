// All that a request asks of routing, in one record: which experts count too little to be asked (online-pruning-rule.ts), what is done to logits, selection and weights (interventions.ts), which
// product experts are not there (product-mask.ts), and what it says to gates that ask: its task, or its condition (gate-stage.ts).
// It travels with a step's entries, in a ring too. Owns the record, its checks together and its name. Refuses to apply any of it: routing-taps.ts.

import type { ModelConfig } from "./config.ts";
import { answersProblem, type GateAnswers } from "./gate-stage.ts";
import { type Intervention, interventionsKey, interventionsProblem } from "./interventions.ts";
import { pruningKey, pruningProblem, type PruningRule } from "./online-pruning-rule.ts";
import { type ProductMask, productMaskProblem } from "./product-mask.ts";

export interface RequestRouting {
  /** Experts that its tokens do without; absent: none. */
  readonly pruning?: PruningRule | undefined;
  /** In the order they are applied; absent: none. */
  readonly interventions?: readonly Intervention[] | undefined;
  /** Product experts that its tokens do without; absent: none. */
  readonly productMask?: ProductMask | undefined;
  /** Where the model routes by task, or by a condition. */
  readonly task?: number | undefined;
  readonly condition?: readonly number[] | undefined;
}

/** What of a model a request's routing is checked against. */
export type RoutedConfig = Pick<ModelConfig, "nLayers" | "layerFfns" | "nExperts" | "router" | "onlinePruning" | "productExperts">;

/** Undefined where nothing is asked for. */
export function requestRouting(pruning: PruningRule | null, interventions: readonly Intervention[], said: Pick<RequestRouting, "productMask" | "task" | "condition"> = {}): RequestRouting | undefined {
  const { productMask, task, condition } = said;
  const routing: RequestRouting = {
    ...(pruning === null ? {} : { pruning }), ...(interventions.length === 0 ? {} : { interventions }), ...(productMask === undefined ? {} : { productMask }), ...(task === undefined ? {} : { task }), ...(condition === undefined ? {} : { condition }),
  };
  return Object.keys(routing).length === 0 ? undefined : routing;
}

/** Why the model cannot go by it, as a sentence; null where it can. */
export const routingProblem = (config: RoutedConfig, routing: RequestRouting): string | null => {
  const { pruning, interventions = [], productMask } = routing;
  return answersProblem(config, answersOf(routing)) ?? (pruning === undefined ? null : pruningProblem(config, pruning)) ?? interventionsProblem(config, interventions) ?? (productMask === undefined ? null : productMaskProblem(config, productMask));
};

const made = new WeakMap<RequestRouting, GateAnswers>();

/** What it says to gates, as they take it: made once, since a request brings the same record with every step. */
export function answersOf(routing: RequestRouting): GateAnswers {
  let answers = made.get(routing);
  const { task, condition } = routing;
  if (answers === undefined) made.set(routing, answers = { ...(task === undefined ? {} : { task }), ...(condition === undefined ? {} : { condition: Float32Array.from(condition) }) });
  return answers;
}

/** A name without spaces: what was evaluated by one is of no use to another. */
export const routingKey = ({ pruning, interventions = [], productMask, task, condition }: RequestRouting): string => [
  ...(pruning === undefined ? [] : [pruningKey(pruning)]), ...(interventions.length === 0 ? [] : [interventionsKey(interventions)]), ...(productMask === undefined ? [] : [`mask:${JSON.stringify(productMask)}`]),
  ...(task === undefined ? [] : [`task:${task}`]), ...(condition === undefined ? [] : [`condition:${condition.map(Math.fround).join()}`]),
].join("/");
