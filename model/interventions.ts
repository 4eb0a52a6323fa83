// What a request changes of routing, as data: logits raised, experts forced, stimulated, suppressed, masked or amplified, fewer of them, null experts (docs/routing.md, "Interventions"). Sources: row by row there.
// Owns the form, what a model must have for each, and what contradicts itself. Refuses to apply any: intervention-plan.ts, intervention-taps.ts. Every setting is of the request and of
// absolute layers, so nothing depends on batch or chunk.

import { auxiliariesOf, type ModelConfig, moeLayersOf } from "./config.ts";
import { weighsWhileChoosing } from "./router-config.ts";

/** Experts by the number of their layer, as JSON has it: {"3": [1, 17]}. */
export type ExpertsByLayer = Readonly<Record<string, readonly number[]>>;

export type Intervention =
  /** lambda standard deviations of the layer's logits are added to theirs (soft steering, Multilingual Routing, 2025). */
  | { readonly op: "add_std"; readonly experts: ExpertsByLayer; readonly lambda: number }
  /** Their logit becomes the layer's largest, and they are chosen (hard steering, ibid.). */
  | { readonly op: "force_max"; readonly experts: ExpertsByLayer }
  /** They are chosen, with the weight their own score gives them (fTRI's force, 2025). */
  | { readonly op: "stimulate"; readonly experts: ExpertsByLayer }
  /** They count nothing, and nobody takes their place (fTRI's suppression). */
  | { readonly op: "suppress"; readonly experts: ExpertsByLayer }
  /** They are not there: others take their place (EASY-EP's mask, 2025). */
  | { readonly op: "mask"; readonly experts: ExpertsByLayer }
  /** What they give counts so many times. */
  | { readonly op: "gain"; readonly experts: ExpertsByLayer; readonly gain: number }
  /** So many experts a token, at most the model's number; in all layers when none are named. */
  | { readonly op: "top_k"; readonly k: number; readonly layers?: readonly number[] | null | undefined }
  /** Experts whose logit is below it are left out, as by null experts of that logit (AdaMoE, 2024). One number, or one for each layer, null for none. */
  | { readonly op: "null_bias"; readonly bias: number | readonly (number | null)[] };

export type InterventionOp = Intervention["op"];
export const INTERVENTION_OPS = ["add_std", "force_max", "stimulate", "suppress", "mask", "gain", "top_k", "null_bias"] as const satisfies readonly InterventionOp[];

/** Largest sizes of the numbers in them: far beyond any use, so that f32 holds every product. */
export const INTERVENTION_MOST = { lambda: 1000, gain: 1000, bias: 1e6 } as const;

export type SteeredConfig = Pick<ModelConfig, "nLayers" | "layerFfns" | "nExperts" | "router">;

/** Experts that an intervention names in a layer. */
export const namedIn = (of: Intervention, layer: number): readonly number[] => ("experts" in of ? of.experts[layer] ?? [] : []);

const hasLayer = ({ layers }: Extract<Intervention, { op: "top_k" }>, layer: number): boolean => layers == null || layers.includes(layer);

/** Experts a token takes in a layer. */
export const takenIn = ({ router: { topK } }: Pick<ModelConfig, "router">, list: readonly Intervention[], layer: number): number =>
  list.reduce((k, of) => (of.op === "top_k" && hasLayer(of, layer) ? Math.min(k, of.k) : k), topK);

/** Operations that this model takes. */
export const interventionOps = (config: SteeredConfig): InterventionOp[] => (moeLayersOf(config).length === 0 ? [] : INTERVENTION_OPS.filter((op) => kindProblem(config, op) === null));

/** Why a model of this kind cannot do it, as a sentence; null where it can. */
function kindProblem({ router }: Pick<ModelConfig, "router">, op: InterventionOp): string | null {
  if (auxiliariesOf(router) > 0 && op !== "add_std" && op !== "gain") return `\`${op}\` was asked for, and this model has compressed experts, whose shares belong to the experts the router ranked; expected \`add_std\` or \`gain\`.`;
  if (router.branches !== undefined && op !== "gain") return `\`${op}\` was asked for, and this model's experts fall into branches, each routed for itself; expected \`gain\`.`;
  if (router.nullExperts !== undefined && op !== "add_std" && op !== "gain") return `\`${op}\` was asked for, and this model has null experts, which take places of their own; expected \`add_std\` or \`gain\`.`;
  if ((router.gate?.kind === "hash" || router.gate?.kind === "conditions") && op !== "suppress" && op !== "gain") return `\`${op}\` was asked for, and this model's experts are named by ${router.gate.kind === "hash" ? "tokens" : "conditions"}, not chosen; expected \`suppress\` or \`gain\`.`;
  if (op === "mask" && router.gate?.kind === "attention") return "`mask` was asked for, and this model's experts attend to each other: without some the others' logits are not defined.";
  if (op === "mask" && router.select === "threshold") return "`mask` was asked for, and this model takes as many experts as are above a bound; expected `suppress`.";
  if (router.score === "one" && (op === "add_std" || op === "force_max" || op === "null_bias")) return `\`${op}\` was asked for, and this model's router has no logits: every expert scores 1.`;
  if (router.select !== "top-k" && (op === "force_max" || op === "stimulate" || op === "top_k" || op === "null_bias")) {
    const reason = weighsWhileChoosing(router) ? "makes the weights while it chooses, so an expert it did not choose has none" : "takes as many experts as are above a bound";
    return `\`${op}\` was asked for, and this model's router (${router.select}) ${reason}; expected a router that takes the largest scores.`;
  }
  return null;
}

/** Why the model cannot go by them, as a sentence; null where it can. */
export function interventionsProblem(config: SteeredConfig, list: readonly Intervention[]): string | null {
  if (list.length === 0) return null;
  const layers = moeLayersOf(config);
  if (layers.length === 0) return "Interventions were asked for, but this is a dense model: it has no experts.";
  for (const of of list) {
    const problem = kindProblem(config, of.op) ?? formProblem(config, layers, of);
    if (problem !== null) return problem;
  }
  for (const layer of layers) {
    const problem = layerProblem(config, list, layer);
    if (problem !== null) return problem;
  }
  return null;
}

const isWithin = (value: number, most: number): boolean => Number.isFinite(value) && Math.abs(value) <= most;

function formProblem({ nLayers, nExperts, router: { topK } }: SteeredConfig, layers: readonly number[], of: Intervention): string | null {
  const outside = (layer: number): string => `\`${of.op}\` names layer ${layer}; expected layers with experts, which are ${layers.join(", ")} here.`;
  if ("experts" in of) {
    for (const [key, experts] of Object.entries(of.experts)) {
      if (!/^(0|[1-9]\d*)$/.test(key)) return `\`${of.op}\` names experts under "${key}"; expected the number of a layer.`;
      if (!layers.includes(Number(key))) return outside(Number(key));
      const wrong = experts.find((expert) => !Number.isInteger(expert) || expert < 0 || expert >= nExperts);
      if (wrong !== undefined) return `\`${of.op}\` names expert ${wrong} of layer ${key}; expected numbers from 0 to ${nExperts - 1}.`;
      if (new Set(experts).size !== experts.length) return `\`${of.op}\` names an expert of layer ${key} twice.`;
    }
  }
  switch (of.op) {
    case "add_std": return isWithin(of.lambda, INTERVENTION_MOST.lambda) ? null : `\`add_std\` has a lambda of ${of.lambda}; expected a number from -${INTERVENTION_MOST.lambda} to ${INTERVENTION_MOST.lambda}.`;
    case "gain": return isWithin(of.gain, INTERVENTION_MOST.gain) ? null : `\`gain\` has a gain of ${of.gain}; expected a number from -${INTERVENTION_MOST.gain} to ${INTERVENTION_MOST.gain}.`;
    case "top_k": {
      if (!Number.isInteger(of.k) || of.k < 1 || of.k > topK) return `\`top_k\` has a k of ${of.k}; expected 1 to ${topK}, which this model takes.`;
      const layer = of.layers?.find((each) => !layers.includes(each));
      return layer === undefined ? null : outside(layer);
    }
    case "null_bias": {
      if (typeof of.bias !== "number" && of.bias.length !== nLayers) return `\`null_bias\` has ${of.bias.length} biases; expected one number, or one for each of ${nLayers} layers.`;
      const wrong = (typeof of.bias === "number" ? [of.bias] : of.bias).find((bias) => bias !== null && !isWithin(bias, INTERVENTION_MOST.bias));
      return wrong === undefined ? null : `\`null_bias\` has a bias of ${wrong}; expected a number from -${INTERVENTION_MOST.bias} to ${INTERVENTION_MOST.bias}.`;
    }
    default: return null;
  }
}

/** What cannot go together in one layer. */
function layerProblem(config: SteeredConfig, list: readonly Intervention[], layer: number): string | null {
  const { nExperts, router: { nGroups, topKGroups } } = config;
  const named = (...ops: InterventionOp[]): Set<number> => new Set(list.flatMap((of) => (ops.includes(of.op) ? namedIn(of, layer) : [])));
  const [chosen, masked, suppressed] = [named("force_max", "stimulate"), named("mask"), named("suppress")];
  const k = takenIn(config, list, layer);
  if (chosen.size > k) return `${chosen.size} experts of layer ${layer} are to be forced or stimulated; expected at most ${k}, which a token takes there.`;
  const both = [...chosen].find((expert) => masked.has(expert) || suppressed.has(expert));
  if (both !== undefined) return `Expert ${both} of layer ${layer} is to be chosen and to be left out; expected one of them.`;
  // Experts a token finds at worst: those of the groups with the fewest.
  const size = nExperts / nGroups;
  const left = Array.from({ length: nGroups }, (_, group) => Array.from({ length: size }, (_, i) => group * size + i).filter((expert) => !masked.has(expert)).length);
  const least = left.sort((a, b) => a - b).slice(0, nGroups > 1 ? topKGroups : 1).reduce((sum, n) => sum + n, 0);
  if (masked.size > 0 && least < k) {
    return `${masked.size} of ${nExperts} experts of layer ${layer} are masked${nGroups > 1 ? `, which leaves ${least} in some ${topKGroups} of the router's ${nGroups} groups` : ""}; expected at least ${k} to stay, which a token takes there.`;
  }
  return null;
}

/** A name of the list without spaces: what was evaluated by one is of no use to another. */
export const interventionsKey = (list: readonly Intervention[]): string => JSON.stringify(list);
