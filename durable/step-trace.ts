// What a step did with tokens somebody wants to know about: experts and weights in every layer, who computed them, and what the frames took.
// Two taps: `selection` sees what the router chose, `expertOutput` how its rows came about. Owns the notes of one step, by timeline and
// position: of a step that was begun again, the last time. Refuses to be on the path of a step in which nothing is traced: no tap, no cost.

import { NO_EXPERT } from "../model/expert-batch.ts";
import type { ExpertBatch, ExpertRunInfo } from "../model/experts.ts";
import type { Tap } from "../model/taps.ts";
import type { TraceFrame } from "./generate.ts";

/** One token of a step, [MoE layer, ascending][rank] or [MoE layer][frame]; ranks that the token did without are not there. */
export interface TokenRoute {
  readonly experts: number[][];
  readonly weights: number[][];
  /** Parts of the placement that are shards: of an expert spread over parts, its first segment's; null in the caller's isolate. */
  readonly shards: (number | null)[][];
  /** Frames that took this token to its experts, in order of their shards. */
  readonly frames: TraceFrame[][];
}

/** Positions of one timeline from `from` on; `layer`: only that one. */
export interface Traced {
  readonly timeline: number;
  readonly from: number;
  readonly layer: number | null;
}

export class StepTrace {
  readonly taps: readonly Tap[];
  readonly #topK: number;
  readonly #traced: ReadonlyMap<number, Traced>;
  readonly #routes = new Map<number, Map<number, TokenRoute>>();
  /** Layer of each route's last choice: layers ascend, so one that comes again is of a step begun again. */
  readonly #lastLayer = new WeakMap<TokenRoute, number>();

  constructor(traced: readonly Traced[], topK: number) {
    this.#topK = topK;
    this.#traced = new Map(traced.map((one) => [one.timeline, one]));
    this.taps = [
      { at: "selection", run: ({ layer, nTokens, timelines, positions, ids, weights }) => this.#chosen(layer, nTokens, timelines, positions, ids, weights) },
      { at: "expertOutput", run: ({ layer, timelines, positions, batch, round }) => { if (batch != null && round != null) this.#computed(layer, timelines, positions, batch, round); } },
    ];
  }

  /** Undefined for what was not traced, or not evaluated. */
  routeOf(timeline: number, position: number): TokenRoute | undefined {
    return this.#routes.get(timeline)?.get(position);
  }

  /** Those of positions [from, to). */
  routesOf(timeline: number, from: number, to: number): { readonly position: number; readonly route: TokenRoute }[] {
    const routes = this.#routes.get(timeline) ?? new Map<number, TokenRoute>();
    return [...routes].filter(([position]) => position >= from && position < to).map(([position, route]) => ({ position, route }));
  }

  #wanted(layer: number, timeline: number, position: number): boolean {
    const traced = this.#traced.get(timeline);
    return traced !== undefined && position >= traced.from && (traced.layer === null || traced.layer === layer);
  }

  #chosen(layer: number, nTokens: number, timelines: Uint32Array, positions: Uint32Array, ids: Uint32Array, weights: Float32Array): void {
    const k = this.#topK;
    for (let t = 0; t < nTokens; t++) {
      const [timeline, position] = [timelines[t]!, positions[t]!];
      if (!this.#wanted(layer, timeline, position)) continue;
      let routes = this.#routes.get(timeline);
      if (routes === undefined) this.#routes.set(timeline, routes = new Map());
      let route = routes.get(position);
      if (route === undefined || this.#lastLayer.get(route)! >= layer) routes.set(position, route = { experts: [], weights: [], shards: [], frames: [] });
      this.#lastLayer.set(route, layer);
      const ranks = Array.from({ length: k }, (_, rank) => t * k + rank).filter((at) => ids[at] !== NO_EXPERT);
      route.experts.push(ranks.map((at) => ids[at]!));
      route.weights.push(ranks.map((at) => weights[at]!));
    }
  }

  #computed(layer: number, timelines: Uint32Array, positions: Uint32Array, batch: ExpertBatch, round: ExpertRunInfo): void {
    /** Parts a traced token's rows came from, by token. */
    const partsOf = new Map<number, Set<number>>();
    const partOfExpert = new Map<number, number>();
    const nParts = batch.partStart.length - 1;
    for (let part = 0; part < nParts; part++) {
      for (let g = batch.partStart[part]!; g < batch.partStart[part + 1]!; g++) {
        if (batch.groupSegment[g] === 0) partOfExpert.set(batch.groupExpert[g]!, part);
        for (let i = batch.groupStart[g]!; i < batch.groupStart[g + 1]!; i++) {
          const token = batch.groupTokens[i]!;
          if (!this.#wanted(layer, timelines[token]!, positions[token]!)) continue;
          const parts = partsOf.get(token);
          if (parts === undefined) partsOf.set(token, new Set([part]));
          else parts.add(part);
        }
      }
    }
    const frames = new Map(round.parts.map(({ part, ms, bytes }) => [part, { shard: part, ms, bytes }]));
    for (let token = 0; token < timelines.length; token++) {
      const [timeline, position] = [timelines[token]!, positions[token]!];
      if (!this.#wanted(layer, timeline, position)) continue;
      // A token without experts has no rows, and a place in every list all the same.
      const parts = partsOf.get(token) ?? new Set<number>();
      const route = this.routeOf(timeline, position)!;
      route.frames.push([...parts].flatMap((part) => frames.get(part) ?? []));
      route.shards.push(route.experts.at(-1)!.map((expert) => {
        const part = partOfExpert.get(expert)!;
        return frames.has(part) ? part : null;
      }));
    }
  }
}
