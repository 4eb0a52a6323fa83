// Which experts of a token a request leaves out at run time, as data: by ratio of weights (MC-MoE's ODP, 2024) or by the model's own mask router (MC#'s OTP, 2025).
// Owns the rule's form, what a model must have for it, its name as part of a cache's key, and the way from a wish to a rule. Refuses to apply it: online-pruning.ts.
// Every setting is of the request and of absolute positions, so nothing depends on batch or chunk.

import { type ModelConfig, moeLayersOf } from "./config.ts";

interface Common {
  /** Tokens at lower positions lose nothing. */
  readonly protectFirst: number;
  /** Where the router brings weights to a sum: those of the experts that stay are brought to it again. Otherwise, and elsewhere, they stay as they are. */
  readonly renormalize: boolean;
}

export type PruningRule =
  /** The expert of rank r >= 1 is left out where its weight is below ratios[layer] times the first's; 0 leaves all. [nLayers] */
  | Common & { readonly by: "ratio"; readonly ratios: readonly number[] }
  /** As many experts stay, from the first on, as the layer's mask router says. */
  | Common & { readonly by: "learned" };

/** As a request or a command says it. */
export type PruningWish =
  | "calibrated" | "learned"
  | { readonly ratio: number | readonly number[]; readonly layers?: readonly number[] | undefined; readonly protectFirst?: number | undefined; readonly renormalize?: boolean | undefined };

type PrunedConfig = Pick<ModelConfig, "nLayers" | "layerFfns" | "router" | "onlinePruning">;

/** Where neither request nor model says otherwise: the first positions hold what all later ones attend to. */
export const PROTECTED_POSITIONS = 4;

/** The rule, or a sentence that says why this model has none such. */
export function pruningRule(config: PrunedConfig, wish: PruningWish): PruningRule | string {
  const { nLayers, onlinePruning: own } = config;
  const said = typeof wish === "object" ? wish : undefined;
  const common: Common = { protectFirst: said?.protectFirst ?? own?.protectFirst ?? PROTECTED_POSITIONS, renormalize: said?.renormalize ?? own?.renormalize ?? false };
  if (wish === "learned") return checked(config, { by: "learned", ...common });
  if (wish === "calibrated") {
    if (own?.ratios == null) return "The ratios of a calibration were asked for, and this model has none; expected a ratio of the request's own, or a model from `compress online-pruning`.";
    return checked(config, { by: "ratio", ratios: own.ratios, ...common });
  }
  const { ratio, layers } = wish;
  if (typeof ratio !== "number" && layers !== undefined) return "A ratio for each layer was given together with a list of layers; expected one of them, a ratio of 0 leaves a layer as it is.";
  const outside = layers?.find((layer) => !Number.isInteger(layer) || layer < 0 || layer >= nLayers || config.layerFfns[layer] !== "moe");
  if (outside !== undefined) return `Layer ${outside} was named; expected layers with experts, which are ${moeLayersOf(config).join(", ")} here.`;
  const ratios = typeof ratio === "number" ? Array.from({ length: nLayers }, (_, layer) => (layers === undefined || layers.includes(layer) ? ratio : 0)) : ratio;
  return checked(config, { by: "ratio", ratios, ...common });
}

/** Kinds of wishes that this model takes. */
export const pruningKinds = (config: PrunedConfig): ("ratio" | "calibrated" | "learned")[] => ([["ratio", { ratio: 0 }], ["calibrated", "calibrated"], ["learned", "learned"]] as const)
  .flatMap(([kind, wish]) => (typeof pruningRule(config, wish) === "string" ? [] : [kind]));

const checked = (config: PrunedConfig, rule: PruningRule): PruningRule | string => pruningProblem(config, rule) ?? rule;

/** Why the model cannot go by the rule, as a sentence; null where it can. */
export function pruningProblem(config: PrunedConfig, rule: PruningRule): string | null {
  const { nLayers, router: { topK, branches }, onlinePruning: own } = config;
  if (moeLayersOf(config).length === 0) return "Experts were to be left out, but this is a dense model: it has none.";
  if (branches !== undefined) return "Experts were to be left out, but this model's experts fall into branches, whose weights say nothing of each other.";
  if (topK < 2) return `Experts were to be left out, but this model takes ${topK} for a token; expected at least 2, since the first always stays.`;
  if (!Number.isInteger(rule.protectFirst) || rule.protectFirst < 0) return `${rule.protectFirst} positions were to be protected; expected a whole number of at least 0.`;
  if (rule.by === "learned") return own?.keepRouter === true ? null : "The learned rule was asked for, and this model has no mask router; expected a ratio, or a model from `compress online-pruning --rule learned`.";
  if (rule.ratios.length !== nLayers) return `${rule.ratios.length} ratios were given; expected one for each of ${nLayers} layers.`;
  const wrong = rule.ratios.find((ratio) => !(ratio >= 0 && ratio <= 1));
  return wrong === undefined ? null : `A ratio is ${wrong}; expected a number from 0 to 1.`;
}

/** A name of the rule without spaces: what was evaluated by one rule is of no use to another. */
export const pruningKey = (rule: PruningRule): string => `${rule.by}:${rule.protectFirst}:${rule.renormalize ? 1 : 0}${rule.by === "ratio" ? `:${rule.ratios.map(Math.fround).join(",")}` : ""}`;
