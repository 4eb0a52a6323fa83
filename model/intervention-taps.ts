// Interventions while a step runs: taps behind the router's logits and behind its selection, each token by the plan of its timeline (intervention-plan.ts).
// Owns their arithmetic: f32 in fixed order, of one token and its layer alone, so batch, chunk and placement change nothing (docs/arithmetic.md section 7). Weights are made by the router's own
// `weigh`, and what is masked is routed by the router's own code over the others (masked-router.ts). Without a plan there is no tap.

import type { ModelConfig, RouterConfig } from "./config.ts";
import { NO_EXPERT } from "./expert-batch.ts";
import type { InterventionPlan, LayerPlan, LogitChange } from "./intervention-plan.ts";
import { MaskedRouter } from "./masked-router.ts";
import { weigh } from "./router.ts";
import { weighsWhileChoosing } from "./router-config.ts";
import type { Tap, TapEvent } from "./taps.ts";

const f = Math.fround;

/** How far a forced logit lies above the largest, in shares of that or of 1: 100 roundings of a softmax, and a weight that differs in the fifth digit. */
const FORCED_MARGIN = 2 ** -16;

type SteeredConfig = Pick<ModelConfig, "nExperts" | "router">;

export class InterventionTaps {
  readonly taps: readonly Tap[];
  readonly #config: SteeredConfig;
  readonly #plans: ReadonlyMap<number, InterventionPlan>;
  readonly #selectionBias: (layer: number) => Float32Array | null;
  #router: MaskedRouter | null = null;
  /** Logits of the layer's tokens after what was done to them, f32 [nTokens, nExperts]; of those whose selection needs them. */
  #logits = new Float32Array(0);

  /** `plans` by timeline; `selectionBias` gives a layer's, f32 [nExperts]. */
  constructor(config: SteeredConfig, plans: ReadonlyMap<number, InterventionPlan>, selectionBias: (layer: number) => Float32Array | null) {
    this.#config = config;
    this.#plans = plans;
    this.#selectionBias = selectionBias;
    this.taps = [{ at: "logits", run: (event) => this.#score(event) }, { at: "selection", run: (event) => this.#select(event) }];
  }

  #score({ layer, nTokens, timelines, values, rowLength }: TapEvent): void {
    const { nExperts } = this.#config;
    if (this.#logits.length < nTokens * nExperts) this.#logits = new Float32Array(nTokens * nExperts);
    for (let t = 0; t < nTokens; t++) {
      const plan = this.#plans.get(timelines[t]!)?.[layer];
      if (plan == null) continue;
      const row = values.subarray(t * rowLength, t * rowLength + nExperts);
      for (const change of plan.logits) changeLogits(row, plan.among, change);
      if (plan.isMasked || plan.leastLogit > -Infinity) this.#logits.set(row, t * nExperts);
    }
  }

  #select({ layer, nTokens, timelines, values, rowLength, ids, weights }: TapEvent): void {
    const { nExperts, router } = this.#config;
    const k = router.topK;
    for (let t = 0; t < nTokens; t++) {
      const plan = this.#plans.get(timelines[t]!)?.[layer];
      if (plan == null) continue;
      const scores = values.subarray(t * rowLength, t * rowLength + nExperts);
      const logits = this.#logits.subarray(t * nExperts, (t + 1) * nExperts);
      const [own, given] = [ids.subarray(t * k, (t + 1) * k), weights.subarray(t * k, (t + 1) * k)];
      if (plan.isMasked) (this.#router ??= new MaskedRouter(this.#config)).route(plan.among, logits, this.#selectionBias(layer), scores, own, given);
      if (choose(plan, logits, own)) reweigh(router, scores, own, given);
      if (plan.gains !== null) own.forEach((id, rank) => { if (id !== NO_EXPERT) given[rank] = given[rank]! * plan.gains![id]!; });
    }
  }
}

/** One change to a token's logits, f32 [nExperts], in place. Spread and largest are those of the experts in `among`. */
export function changeLogits(row: Float32Array, among: readonly number[], { op, experts, lambda }: LogitChange): void {
  if (op === "add_std") {
    const step = f(lambda * standardDeviation(row, among));
    for (const expert of experts) row[expert] = row[expert]! + step;
    return;
  }
  let max = -Infinity;
  for (const expert of among) max = Math.max(max, row[expert]!);
  const forced = f(max + f(Math.max(1, Math.abs(max)) * FORCED_MARGIN));
  for (const expert of experts) row[expert] = forced;
}

/** Of the population, in f32: mean, then the mean of squared distances, summed in ascending order. */
export function standardDeviation(row: Float32Array, among: readonly number[]): number {
  let sum = 0;
  for (const expert of among) sum = f(sum + row[expert]!);
  const mean = f(sum / among.length);
  let squares = 0;
  for (const expert of among) {
    const distance = f(row[expert]! - mean);
    squares = f(squares + f(distance * distance));
  }
  return f(Math.sqrt(f(squares / among.length)));
}

/** Who a token takes, in place of whom it would: `ids` u32 [topK] in rank order. Whether that is anything else. */
export function choose({ k, chosen, leastLogit, suppressed }: LayerPlan, logits: Float32Array, ids: Uint32Array): boolean {
  const before = ids.slice();
  ids.fill(NO_EXPERT, k);
  const missing = chosen.filter((expert) => !ids.includes(expert));
  // The last ranks give way, and ascending ids take their places from the front.
  for (let rank = k - 1; missing.length > 0; rank--) if (!chosen.includes(ids[rank]!)) ids[rank] = missing.pop()!;
  ids.forEach((id, rank) => {
    if (id === NO_EXPERT) return;
    if (suppressed.has(id) || (logits[id]! < leastLogit && !chosen.includes(id))) ids[rank] = NO_EXPERT;
  });
  return ids.some((id, rank) => id !== before[rank]);
}

/**
 * Weights of those a token takes, f32 [topK], as its router gives them to so few: made anew of their `scores` (f32 [nExperts]), sums in rank order. A router that makes weights while it chooses
 * gives those that stay what it gave them. All are 0 where no score is more.
 */
export function reweigh(router: RouterConfig, scores: Float32Array, ids: Uint32Array, weights: Float32Array): void {
  const ranks = Array.from(ids.keys()).filter((rank) => ids[rank] !== NO_EXPERT);
  const stay = weighsWhileChoosing(router);
  const own = Float32Array.from(ranks, (rank) => (stay ? weights[rank]! : scores[ids[rank]!]!));
  if (!stay && (router.weigh !== "renormalize" || own.some((score) => score !== 0))) weigh(router, own, 0, own.length);
  weights.fill(0);
  ranks.forEach((rank, i) => { weights[rank] = own[i]!; });
}
