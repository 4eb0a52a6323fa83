// What a step's entries ask of routing (request-routing.ts), as taps that come before all others, so that whoever looks sees the outcome: interventions first, then experts that count too little.
// Owns their order, and that a list of interventions is made ready once for each engine, however many steps go by it. Null where no entry asks for anything: no tap, the bits of a model without.

import type { ModelConfig } from "./config.ts";
import { interventionPlan, type InterventionPlan } from "./intervention-plan.ts";
import { InterventionTaps } from "./intervention-taps.ts";
import type { Intervention } from "./interventions.ts";
import { OnlinePruning, type PrunedCalls } from "./online-pruning.ts";
import type { RequestRouting } from "./request-routing.ts";
import type { Tap } from "./taps.ts";

export interface RoutedEntry {
  readonly timeline: { readonly id: number };
  readonly routing?: RequestRouting | null | undefined;
}

/** What of a layer's weights they need. */
export interface RoutingWeights {
  /** f32 [topK, keepRouterColumns] */
  keepRouter(layer: number): Float32Array;
  /** f32 [nExperts]; null where there is none. */
  selectionBias(layer: number): Float32Array | null;
}

/** Of one engine's model. */
export class EntryRouting {
  readonly #config: ModelConfig;
  readonly #weights: RoutingWeights;
  readonly #plans = new WeakMap<readonly Intervention[], { readonly plan: InterventionPlan | null }>();

  constructor(config: ModelConfig, weights: RoutingWeights) {
    this.#config = config;
    this.#weights = weights;
  }

  /** Taps of a step, and, once it has run, calls of experts left out, by entry; undefined where no entry has a rule for them. */
  tapsOf(entries: readonly RoutedEntry[]): { readonly taps: readonly Tap[]; readonly pruned: PrunedCalls[] | undefined } | null {
    const plans = new Map(entries.flatMap(({ timeline, routing }) => {
      const plan = routing?.interventions === undefined ? null : this.#planOf(routing.interventions);
      return plan === null ? [] : [[timeline.id, plan] as const];
    }));
    const pruning = OnlinePruning.of(this.#config, entries.map(({ timeline, routing }) => ({ timeline, pruning: routing?.pruning ?? null })), (layer) => this.#weights.keepRouter(layer));
    if (plans.size === 0 && pruning === null) return null;
    const steering = plans.size === 0 ? [] : new InterventionTaps(this.#config, plans, (layer) => this.#weights.selectionBias(layer)).taps;
    return { taps: [...steering, ...(pruning?.taps ?? [])], get pruned() { return pruning?.calls; } };
  }

  #planOf(list: readonly Intervention[]): InterventionPlan | null {
    let known = this.#plans.get(list);
    if (known === undefined) this.#plans.set(list, known = { plan: interventionPlan(this.#config, list) });
    return known.plan;
  }
}
