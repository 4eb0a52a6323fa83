// What a search tries, as data: stages, each a list of alternatives, each a list of passes with their options; a candidate takes one alternative of every stage, in order.
// So passes to come need no line here: a space that names them is enough. Owns the schema, the candidates and the space that is tried where none is given.
// Refuses to know what a pass does. "$text" among options stands for the calibration text, "$plan" for the rules that a `bits` before it wrote.

import { z } from "zod";
import { type ModelConfig, ModelError, moeLayersOf } from "../model/config.ts";
import { canJoin } from "./joined-experts.ts";

export const passCallSchema = z.strictObject({
  /** As `workers-moe compress <pass>` has it. */
  pass: z.string().regex(/^[a-z][a-z0-9-]*$/),
  /** Options of its command line without their hyphens; true: one that takes no value. */
  options: z.record(z.string().regex(/^[a-z][a-z0-9-]*$/), z.union([z.string(), z.number(), z.boolean()])),
}).readonly();
export type PassCall = z.infer<typeof passCallSchema>;

/** Passes in the order they are run; none: the model as it is. */
export type Candidate = readonly PassCall[];

export const searchSpaceSchema = z.strictObject({
  /** [stage][alternative][pass]. */
  stages: z.array(z.array(z.array(passCallSchema).readonly()).min(1).readonly()).min(1).readonly(),
}).readonly();
export type SearchSpace = z.infer<typeof searchSpaceSchema>;

/** More are a mistake of whoever wrote the space. */
const MOST_CANDIDATES = 4096;

/** Every choice of alternatives, the first stage's varying slowest, without repetitions. Throws ModelError where they are too many. */
export function candidatesOf({ stages }: SearchSpace): Candidate[] {
  const n = stages.reduce((product, of) => product * of.length, 1);
  if (n > MOST_CANDIDATES) throw new ModelError(`The search space has ${n} candidates; expected at most ${MOST_CANDIDATES}.`);
  const all = stages.reduce<Candidate[]>((before, alternatives) => before.flatMap((calls) => alternatives.map((more) => [...calls, ...more])), [[]]);
  return [...new Map(all.map((candidate) => [JSON.stringify(candidate), candidate])).values()];
}

/** Whether all of `part` is in `whole`, in its order, and something more. */
export function isProperPart(part: Candidate, whole: Candidate): boolean {
  if (part.length >= whole.length) return false;
  let found = 0;
  for (const call of whole) if (found < part.length && JSON.stringify(call) === JSON.stringify(part[found])) found++;
  return found === part.length;
}

export interface SpaceOptions {
  readonly samples: number;
  readonly window: number;
  readonly seed: number;
}

/**
 * Where no space is given: trunk in 8 bits with experts in 8, 4, 3 on average and 2, all of it in 4, and nothing quantised, by GPTQ; to the nearest in 8 and 4; each of the
 * whole model and of three quarters of its experts. Merged experts are rounded to the nearest, which keeps equal ones equal.
 */
export function defaultSpace(config: Pick<ModelConfig, "layerFfns" | "nExperts" | "router" | "expertIntermediateSize" | "hiddenSize">, { samples, window, seed }: SpaceOptions): SearchSpace {
  const text = { text: "$text", samples, window };
  const gptq = (plan: string): PassCall => ({ pass: "gptq", options: { plan, ...text } });
  const nearest = (plan: string): PassCall => ({ pass: "nearest", options: { plan } });
  const whole: Candidate[] = [[], [nearest("all=8")], [gptq("all=8")], [gptq("all=4; embed=8; head=8")]];
  if (moeLayersOf(config).length === 0) return { stages: [whole] };
  const { nExperts, router: { topK, nGroups } } = config;
  const keep = Math.max(topK, nGroups * Math.round((0.75 * nExperts) / nGroups));
  const merge: PassCall = { pass: "merge", options: { share: 0.75, join: canJoin(config) ? "neurons" : "mean", seed, ...text } };
  const experts: Candidate[] = [
    [nearest("all=8; routed=4")], [gptq("all=8; routed=4")], [{ pass: "bits", options: { by: "error", bits: 3, widths: "2,3,4", ...text } }, gptq("all=8; $plan")], [gptq("all=8; routed=2")],
    [merge, nearest("all=8")], [merge, nearest("all=8; routed=4")],
  ];
  const pruned: Candidate[] = keep < nExperts ? [[], [{ pass: "prune", options: { keep, ...text } }]] : [[]];
  return { stages: [pruned, [...whole, ...experts]] };
}
