// What a steered reader asks of routing beside the text: interventions and online pruning (model/request-routing.ts), for the model of tiny-model.ts. Owns the draw. Refuses what that model could not do:
// of a layer no expert is named twice, fewer are masked than leave a token its two, and one at most is forced or stimulated.

import { SeededRandom } from "../durable/clock.ts";
import type { Intervention } from "../model/interventions.ts";
import type { RequestRouting } from "../model/request-routing.ts";
import { TINY_SHAPE } from "./tiny-model.ts";

/** Differs from the stream that the text is drawn from. */
const STREAM = 0x51ee4ed;

/** Of request `number`: something always, often several things at a time. */
export function steeringOf(number: number): RequestRouting {
  const random = new SeededRandom(number + STREAM);
  const whole = (from: number, to: number): number => from + Math.floor(random.next() * (to - from + 1));
  const { nLayers, nExperts } = TINY_SHAPE;
  // Of each layer all experts in some order, of which each intervention takes the next ones.
  const left = Array.from({ length: nLayers }, () => {
    const experts = Array.from({ length: nExperts }, (_, expert) => expert);
    for (let i = nExperts - 1; i > 0; i--) {
      const j = whole(0, i);
      [experts[i], experts[j]] = [experts[j]!, experts[i]!];
    }
    return experts;
  });
  const experts = (most: number): Record<string, number[]> => Object.fromEntries(left.flatMap((of, layer): [string, number[]][] => (random.next() < 0.7 ? [[String(layer), of.splice(0, whole(1, most))]] : [])));
  const made: Readonly<Record<Exclude<Intervention["op"], "null_bias">, () => Intervention>> = {
    add_std: () => ({ op: "add_std", experts: experts(2), lambda: whole(-2, 4) / 2 }), force_max: () => ({ op: "force_max", experts: experts(1) }), stimulate: () => ({ op: "stimulate", experts: experts(1) }),
    suppress: () => ({ op: "suppress", experts: experts(2) }), mask: () => ({ op: "mask", experts: experts(2) }), gain: () => ({ op: "gain", experts: experts(2), gain: whole(-2, 6) / 4 }), top_k: () => ({ op: "top_k", k: 1 }),
  };
  const ops = Object.keys(made) as (keyof typeof made)[];
  const first = whole(0, ops.length - 1);
  // Two places of a token: forced and stimulated experts are one of a layer each, and with top_k 1 there is room for one.
  const chosen = [ops[first]!, ...(random.next() < 0.5 ? [ops[(first + whole(1, ops.length - 1)) % ops.length]!] : [])];
  const pruning = random.next() < 0.3 ? { by: "ratio", ratios: Array.from({ length: nLayers }, () => whole(0, 8) / 10), protectFirst: whole(0, 4), renormalize: random.next() < 0.5 } as const : undefined;
  return { interventions: chosen.map((op) => made[op]()), ...(pruning === undefined ? {} : { pruning }) };
}
