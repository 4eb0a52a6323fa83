// Score -> Select -> Weigh: from router logits to expert ids and weights, for a batch of tokens.
// Owns the order of these operations in f32 (docs/architecture.md, docs/arithmetic.md section 7). Plain softmax and top-k run
// in the kernels; selection biases and groups run here, on as many numbers as there are experts.
// Refuses kinds it does not know when the model is read (router-config.ts), never in the middle of a step. Logits are made before: gate-stage.ts.

import { exp, sigmoid } from "./float-math.ts";
import { NO_EXPERT } from "./expert-batch.ts";
import type { Heap } from "./heap.ts";
import type { Kernels } from "./kernels.ts";
import { auxiliariesOf, branchesOf, type RouterConfig } from "./router-config.ts";

const f = Math.fround;

/** Addresses of one step's router numbers. */
export interface RouterRegions {
  readonly logits: number; // f32 [nTokens, nExperts + null experts], rows of `stride` bytes; scores after routing
  readonly stride: number;
  readonly ids: number; // u32 [nTokens, topK], rank order; NO_EXPERT in the last places where there are fewer
  readonly weights: number; // f32 [nTokens, topK]
  /** Where there are auxiliary experts: of all that are ranked, [nTokens, topK + auxiliaries]. Else 0. */
  readonly rankedIds: number; // u32, rank order
  readonly rankedWeights: number; // f32; those of the auxiliary ones add up to 1
  /** Where the router has branches: room for one branch's ids and weights, [nTokens, topK]. Else 0. */
  readonly branchIds: number;
  readonly branchWeights: number;
}

/** Turns logits into ids and weights in place. `selectionBias` is the address of f32[nExperts], or 0. */
export function routeTokens(kernels: Kernels, heap: Heap, router: RouterConfig, regions: RouterRegions, nTokens: number, nExperts: number, selectionBias: number): void {
  if (router.branches === undefined) return routeAlone(kernels, heap, router, regions, nTokens, nExperts, selectionBias);
  const { logits, stride, branchIds, branchWeights } = regions;
  const each = nExperts / router.branches.length;
  let before = 0;
  branchesOf(router).forEach((own, branch) => {
    const k = own.topK;
    routeAlone(kernels, heap, own, { ...regions, logits: logits + branch * each * 4, stride, ids: branchIds, weights: branchWeights }, nTokens, each, 0);
    for (let t = 0; t < nTokens; t++) {
      for (let rank = 0; rank < k; rank++) {
        const [from, to] = [t * k + rank, t * router.topK + before + rank];
        const id = heap.u32[branchIds / 4 + from]!;
        heap.u32[regions.ids / 4 + to] = id === NO_EXPERT ? NO_EXPERT : branch * each + id;
        heap.f32[regions.weights / 4 + to] = heap.f32[branchWeights / 4 + from]!;
      }
    }
    before += k;
  });
}

function routeAlone(kernels: Kernels, heap: Heap, router: RouterConfig, regions: RouterRegions, nTokens: number, nTrue: number, selectionBias: number): void {
  const { logits, stride } = regions;
  const nExperts = nTrue + (router.nullExperts ?? 0);
  const auxiliaries = auxiliariesOf(router);
  const k = router.topK + auxiliaries;
  const [ids, weights] = auxiliaries > 0 ? [regions.rankedIds, regions.rankedWeights] : [regions.ids, regions.weights];
  if (router.select === "sparsemixer") {
    for (let t = 0; t < nTokens; t++) {
      const from = (logits + t * stride) / 4;
      sparsemixer(heap.f32.subarray(from, from + nExperts), router.sparsemixerEpsilon).forEach(({ id, weight }, rank) => {
        heap.u32[ids / 4 + t * k + rank] = id;
        heap.f32[weights / 4 + t * k + rank] = weight;
      });
    }
    return;
  }
  if (router.threshold !== undefined && router.threshold.temperature !== 1) kernels.scaleRows(logits, stride, f(1 / router.threshold.temperature), nTokens, nExperts);
  if (router.score === "softmax") kernels.softmaxRows(logits, stride, nTokens, nExperts);
  if (router.score === "sigmoid" || router.score === "one") {
    for (let t = 0; t < nTokens; t++) {
      const row = heap.f32.subarray((logits + t * stride) / 4, (logits + t * stride) / 4 + nExperts);
      for (let e = 0; e < nExperts; e++) row[e] = router.score === "one" ? 1 : sigmoid(row[e]!);
    }
  }
  if (selectionBias === 0 && router.nGroups === 1) kernels.topKRows(logits, stride, nTokens, nExperts, k, ids, weights);
  else {
    const bias = selectionBias === 0 ? null : heap.f32.subarray(selectionBias / 4, selectionBias / 4 + nExperts);
    for (let t = 0; t < nTokens; t++) {
      const row = heap.f32.subarray((logits + t * stride) / 4, (logits + t * stride) / 4 + nExperts);
      const chosen = selectInGroups(router, row, bias, k);
      chosen.forEach((id, rank) => {
        heap.u32[ids / 4 + t * k + rank] = id;
        heap.f32[weights / 4 + t * k + rank] = row[id]!;
      });
    }
  }
  if (auxiliaries > 0) weighRanked(heap, router, regions, nTokens);
  else if (router.nullExperts !== undefined) for (let t = 0; t < nTokens; t++) weighTrue(heap, router, { ids: ids / 4 + t * k, weights: weights / 4 + t * k, scores: (logits + t * stride) / 4 }, nTrue);
  else if (router.threshold !== undefined) for (let t = 0; t < nTokens; t++) weighAbove(heap, router, router.threshold.least, ids / 4 + t * k, weights / 4 + t * k);
  else for (let t = 0; t < nTokens; t++) weigh(router, heap.f32, weights / 4 + t * k, k);
}

/** Of all that are ranked, takes out those that are run, with their weights, and leaves the others' shares of one. */
function weighRanked({ u32, f32 }: Heap, router: RouterConfig, { ids, weights, rankedIds, rankedWeights }: RouterRegions, nTokens: number): void {
  const [k, auxiliaries] = [router.topK, auxiliariesOf(router)];
  const isAmongRun = router.auxiliaries?.weighAmong === "run";
  for (let t = 0; t < nTokens; t++) {
    const [id, score] = [rankedIds / 4 + t * (k + auxiliaries), rankedWeights / 4 + t * (k + auxiliaries)];
    const own = weights / 4 + t * k;
    u32.copyWithin(ids / 4 + t * k, id, id + k);
    if (isAmongRun) {
      f32.copyWithin(own, score, score + k);
      weigh(router, f32, own, k);
    }
    weigh(router, f32, score, k + auxiliaries);
    if (!isAmongRun) f32.copyWithin(own, score, score + k);
    makeShares(f32, score + k, auxiliaries);
  }
}

/**
 * Of a token's choices those that are no null experts, in their order and before all else. Their weights are what the router gives among true experts: where it
 * leaves scores as they are, a softmax's are divided by its sum over all true experts, as if it had been made over these. Or, where null experts keep theirs, among all that were chosen.
 */
function weighTrue({ u32, f32 }: Heap, router: RouterConfig, at: { readonly ids: number; readonly weights: number; readonly scores: number }, nTrue: number): void {
  const k = router.topK;
  const keeps = router.nullWeights === "kept";
  if (keeps) weigh(router, f32, at.weights, k);
  let n = 0;
  for (let rank = 0; rank < k; rank++) {
    if (u32[at.ids + rank]! >= nTrue) continue;
    u32[at.ids + n] = u32[at.ids + rank]!;
    f32[at.weights + n++] = f32[at.weights + rank]!;
  }
  if (!keeps && router.score === "softmax" && router.weigh === "score") {
    let sum = 0;
    for (let e = at.scores; e < at.scores + nTrue; e++) sum = f(sum + f32[e]!);
    for (let rank = at.weights; rank < at.weights + n; rank++) f32[rank] = f32[rank]! / sum;
  }
  if (!keeps) weigh(router, f32, at.weights, n);
  leaveBehind(u32, f32, at, n, k);
}

/** Leaves out, of a token's ranked experts, all but the first whose scores are not above `least`, and weighs those that stay. */
function weighAbove({ u32, f32 }: Heap, router: RouterConfig, least: number, ids: number, weights: number): void {
  let n = 1;
  while (n < router.topK && f32[weights + n]! > f(least)) n++;
  weigh(router, f32, weights, n);
  leaveBehind(u32, f32, { ids, weights }, n, router.topK);
}

/** Nobody at the ranks of a token from n on. */
function leaveBehind(u32: Uint32Array, f32: Float32Array, { ids, weights }: { readonly ids: number; readonly weights: number }, n: number, k: number): void {
  u32.fill(NO_EXPERT, ids + n, ids + k);
  f32.fill(0, weights + n, weights + k);
}

/** n weights from `from` on, divided by their sum; equal shares where that is zero. */
function makeShares(w: Float32Array, from: number, n: number): void {
  const sumOf = (): number => w.subarray(from, from + n).reduce((sum, x) => f(sum + x), 0);
  if (sumOf() === 0) w.fill(1, from, from + n);
  const sum = sumOf();
  for (let i = from; i < from + n; i++) w[i] = w[i]! / sum;
}

/**
 * PhiMoE's two experts: the largest logit, weighed by a softmax over the logits close to it; then the same among the others, whose closeness is
 * still measured on all logits. Rank order.
 */
export function sparsemixer(logits: Float32Array, epsilon: number): { readonly id: number; readonly weight: number }[] {
  const limit = f(2 * epsilon);
  const chosen: { id: number; weight: number }[] = [];
  for (let rank = 0; rank < 2; rank++) {
    const others = (e: number): boolean => chosen.every(({ id }) => id !== e);
    let id = -1;
    for (let e = 0; e < logits.length; e++) if (others(e) && (id < 0 || logits[e]! > logits[id]!)) id = e;
    const max = logits[id]!;
    let sum = 0;
    for (let e = 0; e < logits.length; e++) {
      const distance = f(f(max - logits[e]!) / Math.max(Math.abs(logits[e]!), max));
      if (others(e) && !(distance > limit)) sum = f(sum + exp(f(logits[e]! - max)));
    }
    chosen.push({ id, weight: f(1 / sum) });
  }
  return chosen;
}

/** Selection with a bias and within the best groups (DeepSeek); masked groups count as -Infinity. Rank order, ties to the lowest id. */
export function selectInGroups(router: RouterConfig, scores: Float32Array, bias: Float32Array | null, k = router.topK): number[] {
  const selection = Float32Array.from(scores, (score, e) => (bias === null ? score : f(score + bias[e]!)));
  if (router.nGroups > 1) {
    const size = scores.length / router.nGroups;
    const groups = Array.from({ length: router.nGroups }, (_, g) => {
      const [best, second] = largest(selection.subarray(g * size, (g + 1) * size), 2).map((e) => selection[g * size + e]!);
      return router.groupScore === "max" ? best! : f(best! + second!);
    });
    const kept = new Set(largest(groups, router.topKGroups));
    for (let e = 0; e < scores.length; e++) if (!kept.has(Math.floor(e / size))) selection[e] = -Infinity;
  }
  return largest(selection, k);
}

const largest = (values: ArrayLike<number>, k: number): number[] =>
  Array.from({ length: values.length }, (_, i) => i).sort((a, b) => values[b]! - values[a]! || a - b).slice(0, k);

/** Weights of one token from the scores of its k experts, which lie in `w` from `from` on, in place; sums run in rank order. */
export function weigh(router: RouterConfig, w: Float32Array, from: number, k: number): void {
  const end = from + k;
  if (router.weigh === "one") w.fill(1, from, end);
  if (router.weigh === "softmax-selected") {
    let max = -Infinity;
    for (let i = from; i < end; i++) max = Math.max(max, w[i]!);
    for (let i = from; i < end; i++) w[i] = exp(f(w[i]! - max));
  }
  if (router.weigh === "renormalize" || router.weigh === "softmax-selected") {
    let sum = 0;
    for (let i = from; i < end; i++) sum = f(sum + w[i]!);
    for (let i = from; i < end; i++) w[i] = w[i]! / sum;
  }
  if (router.scale !== 1) for (let i = from; i < end; i++) w[i] = w[i]! * f(router.scale);
}
