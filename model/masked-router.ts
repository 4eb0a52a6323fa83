// A router over some of a layer's experts, for one token: what it would give in the model that has only these, bit for bit (passes/prune-model.ts makes such models). Owns memory of its own, outside
// the engine's account: a few kilobytes, made when a request first masks experts. The arithmetic is the router's own (router.ts) over the scalar kernels: softmax sums run over the experts
// that are there, so leaving them in with a logit of minus infinity would round otherwise.

import type { ModelConfig, RouterConfig } from "./config.ts";
import { Heap } from "./heap.ts";
import type { Kernels } from "./kernels.ts";
import { routeTokens, type RouterRegions } from "./router.ts";
import { createScalarKernels } from "./scalar-kernels.ts";

const PAGE_BYTES = 65_536;

export class MaskedRouter {
  readonly #config: Pick<ModelConfig, "nExperts" | "router">;
  readonly #heap: Heap;
  readonly #kernels: Kernels;
  readonly #regions: RouterRegions;
  readonly #bias: number;

  constructor(config: Pick<ModelConfig, "nExperts" | "router">) {
    const { nExperts, router: { topK } } = config;
    this.#config = config;
    const bytes = 16 * nExperts + 16 * topK + PAGE_BYTES;
    const memory = new WebAssembly.Memory({ initial: Math.ceil(bytes / PAGE_BYTES) });
    this.#heap = new Heap(memory, 0, bytes);
    this.#kernels = createScalarKernels(memory);
    const of = (numbers: number): number => this.#heap.alloc(4 * numbers, "masked router");
    // Address 0 says that there is no bias, so nothing lies there.
    of(1);
    const stride = Math.ceil(nExperts / 4) * 16;
    this.#regions = { logits: of(stride / 4), stride, ids: of(topK), weights: of(topK), rankedIds: 0, rankedWeights: 0 };
    this.#bias = of(nExperts);
  }

  /**
   * Routes a token of these `logits`, f32 [nExperts], among the experts in `among`, ascending; `bias` f32 [nExperts] is the selection's. Writes scores, f32 [nExperts] with 0 for all others, and
   * ids and weights, [topK], in rank order.
   */
  route(among: readonly number[], logits: Float32Array, bias: Float32Array | null, scores: Float32Array, ids: Uint32Array, weights: Float32Array): void {
    const { router, nExperts } = this.#config;
    const isGrouped = router.nGroups > 1;
    const compact = (of: Float32Array): Float32Array => Float32Array.from(among, (expert) => of[expert]!);
    // Groups are of neighbours in the whole layer: scores first, then the choice among all, from which the others are barred.
    this.#run(isGrouped ? { ...router, nGroups: 1, topK: 1 } : router, compact(logits), isGrouped || bias === null ? null : compact(bias));
    const found = this.#row(among.length).slice();
    scores.fill(0);
    among.forEach((expert, i) => { scores[expert] = found[i]!; });
    if (isGrouped) {
      const barred = new Float32Array(nExperts).fill(-Infinity);
      for (const expert of among) barred[expert] = bias?.[expert] ?? 0;
      this.#run({ ...router, score: "logits" }, scores, barred);
    }
    const { u32, f32 } = this.#heap;
    const { ids: idsAt, weights: weightsAt } = this.#regions;
    for (let rank = 0; rank < router.topK; rank++) {
      const id = u32[idsAt / 4 + rank]!;
      ids[rank] = isGrouped ? id : among[id]!;
      weights[rank] = f32[weightsAt / 4 + rank]!;
    }
  }

  #row(length: number): Float32Array {
    return this.#heap.f32.subarray(this.#regions.logits / 4, this.#regions.logits / 4 + length);
  }

  #run(router: RouterConfig, logits: Float32Array, bias: Float32Array | null): void {
    this.#row(logits.length).set(logits);
    if (bias !== null) this.#heap.f32.set(bias, this.#bias / 4);
    routeTokens(this.#kernels, this.#heap, router, this.#regions, 1, logits.length, bias === null ? 0 : this.#bias);
  }
}
