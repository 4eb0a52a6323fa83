// Interventions of one request, made ready for a model: what each layer does, once per request. Owns their order within a layer and what has no effect (a lambda of 0, a gain of 1, the model's own
// top_k, an empty list), which makes no plan: such a request gives the bits of one without. Refuses to check (interventions.ts) and to run (intervention-taps.ts).

import { moeLayersOf } from "./config.ts";
import { type Intervention, namedIn, type SteeredConfig, takenIn } from "./interventions.ts";

export interface LogitChange {
  readonly op: "add_std" | "force_max";
  /** Ascending. */
  readonly experts: readonly number[];
  readonly lambda: number;
}

export interface LayerPlan {
  /** In the order they were listed. */
  readonly logits: readonly LogitChange[];
  /** Experts that may be chosen, ascending; [nExperts] where none is masked. */
  readonly among: readonly number[];
  readonly isMasked: boolean;
  /** Experts a token takes. */
  readonly k: number;
  /** Experts that are chosen by every token, ascending. */
  readonly chosen: readonly number[];
  /** Others whose logit is below it are left out; -Infinity: none. */
  readonly leastLogit: number;
  readonly suppressed: ReadonlySet<number>;
  /** f32 [nExperts]; null where all are 1. */
  readonly gains: Float32Array | null;
}

/** By layer; null where a layer is as ever. */
export type InterventionPlan = readonly (LayerPlan | null)[];

/** Of a list without problems. Null where nothing changes anywhere. */
export function interventionPlan(config: SteeredConfig, list: readonly Intervention[]): InterventionPlan | null {
  const layers = moeLayersOf(config);
  const plan = Array.from({ length: config.nLayers }, (_, layer) => (layers.includes(layer) ? layerPlan(config, list, layer) : null));
  return plan.some((of) => of !== null) ? plan : null;
}

const ascending = (experts: Iterable<number>): number[] => [...new Set(experts)].sort((a, b) => a - b);

function layerPlan(config: SteeredConfig, list: readonly Intervention[], layer: number): LayerPlan | null {
  const { nExperts, router: { topK } } = config;
  const named = (...ops: Intervention["op"][]): number[] => ascending(list.flatMap((of) => (ops.includes(of.op) ? namedIn(of, layer) : [])));
  const masked = new Set(named("mask"));
  const logits = list.flatMap((of): LogitChange[] => {
    if (of.op !== "add_std" && of.op !== "force_max") return [];
    const experts = ascending(namedIn(of, layer));
    const lambda = of.op === "add_std" ? Math.fround(of.lambda) : 0;
    return experts.length === 0 || (of.op === "add_std" && lambda === 0) ? [] : [{ op: of.op, experts, lambda }];
  });
  const gains = new Float32Array(nExperts).fill(1);
  for (const of of list) if (of.op === "gain") for (const expert of namedIn(of, layer)) gains[expert] = gains[expert]! * Math.fround(of.gain);
  const plan: LayerPlan = {
    logits, among: Array.from({ length: nExperts }, (_, expert) => expert).filter((expert) => !masked.has(expert)), isMasked: masked.size > 0,
    k: takenIn(config, list, layer), chosen: named("force_max", "stimulate"),
    leastLogit: list.reduce((least, of) => (of.op === "null_bias" ? Math.max(least, Math.fround((typeof of.bias === "number" ? of.bias : of.bias[layer]) ?? -Infinity)) : least), -Infinity),
    suppressed: new Set(named("suppress")), gains: gains.every((gain) => gain === 1) ? null : gains,
  };
  const changes = logits.length > 0 || plan.isMasked || plan.k < topK || plan.chosen.length > 0 || plan.leastLogit > -Infinity || plan.suppressed.size > 0 || plan.gains !== null;
  return changes ? plan : null;
}
