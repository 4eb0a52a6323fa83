// `moe.prune` of a request as a rule of the model that serves it. Owns the way from the API's words to the engine's (model/online-pruning-rule.ts). Refuses with 400 what this
// model has no part for: asked for fewer experts, a reply never comes with all of them unsaid.

import { pruningRule, type PruningRule } from "../model/online-pruning-rule.ts";
import { invalid } from "./errors.ts";
import type { EdgePack } from "./pack.ts";
import type { ChatRequest } from "./schemas.ts";

/** Null where nothing is left out. Throws a RequestError 400. */
export function pruningOf({ config }: Pick<EdgePack, "config">, prune: NonNullable<ChatRequest["moe"]>["prune"]): PruningRule | null {
  if (prune == null) return null;
  const rule = pruningRule(config, typeof prune === "string" ? prune : { ratio: prune.ratio, layers: prune.layers ?? undefined, protectFirst: prune.protect_first ?? undefined, renormalize: prune.renormalize ?? undefined });
  if (typeof rule === "string") throw invalid("moe.prune", rule, "invalid_value");
  return rule;
}
