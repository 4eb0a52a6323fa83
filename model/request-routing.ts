// All that a request asks of routing, in one record: which experts count too little to be asked (online-pruning-rule.ts), and what is done to logits, selection and weights (interventions.ts).
// It travels with a step's entries, in a ring too. Owns the record, its checks together and its name. Refuses to apply any of it: routing-taps.ts.

import type { ModelConfig } from "./config.ts";
import { type Intervention, interventionsKey, interventionsProblem } from "./interventions.ts";
import { pruningKey, pruningProblem, type PruningRule } from "./online-pruning-rule.ts";

export interface RequestRouting {
  /** Experts that its tokens do without; absent: none. */
  readonly pruning?: PruningRule | undefined;
  /** In the order they are applied; absent: none. */
  readonly interventions?: readonly Intervention[] | undefined;
}

/** What of a model a request's routing is checked against. */
export type RoutedConfig = Pick<ModelConfig, "nLayers" | "layerFfns" | "nExperts" | "router" | "onlinePruning">;

/** Undefined where nothing is asked for. */
export function requestRouting(pruning: PruningRule | null, interventions: readonly Intervention[]): RequestRouting | undefined {
  if (pruning === null && interventions.length === 0) return undefined;
  return { ...(pruning === null ? {} : { pruning }), ...(interventions.length === 0 ? {} : { interventions }) };
}

/** Why the model cannot go by it, as a sentence; null where it can. */
export const routingProblem = (config: RoutedConfig, { pruning, interventions = [] }: RequestRouting): string | null =>
  (pruning === undefined ? null : pruningProblem(config, pruning)) ?? interventionsProblem(config, interventions);

/** A name without spaces: what was evaluated by one is of no use to another. */
export const routingKey = ({ pruning, interventions = [] }: RequestRouting): string =>
  [...(pruning === undefined ? [] : [pruningKey(pruning)]), ...(interventions.length === 0 ? [] : [interventionsKey(interventions)])].join("/");
