// What `moe` of a request asks of routing, as the engine takes it: `moe.prune` and `moe.interventions` (those of `moe.profile` among them, routing-profiles.ts) in one record. Owns the way from the API's words to the
// engine's. Refuses with 400 what this model has no part for: asked for other experts, a reply never comes with the usual ones unsaid.

import { LIMITS } from "../durable/limits.ts";
import { productMaskOf } from "../formats/product-mask-schema.ts";
import { answersProblem } from "../model/gate-stage.ts";
import { interventionsProblem } from "../model/interventions.ts";
import { pruningRule, type PruningRule } from "../model/online-pruning-rule.ts";
import { productMaskProblem } from "../model/product-mask.ts";
import { answersOf, type RequestRouting, requestRouting } from "../model/request-routing.ts";
import { invalid } from "./errors.ts";
import type { EdgePack } from "./pack.ts";
import type { ChatRequest } from "./schemas.ts";

type Moe = ChatRequest["moe"];

/** Undefined where nothing is asked for. Throws a RequestError 400. */
export function routingOf({ config }: Pick<EdgePack, "config">, moe: Moe): RequestRouting | undefined {
  const interventions = moe?.interventions ?? [];
  const problem = interventionsProblem(config, interventions);
  if (problem !== null) throw invalid("moe.interventions", problem, "invalid_value");
  const { task, condition, mask_experts: masked } = moe ?? {};
  const productMask = masked == null ? undefined : productMaskOf(masked);
  const wrong = productMask === undefined ? null : productMaskProblem(config, productMask);
  if (wrong !== null) throw invalid("moe.mask_experts", wrong, "invalid_value");
  const said = { ...(productMask === undefined ? {} : { productMask }), ...(task == null ? {} : { task }), ...(condition == null ? {} : { condition }) };
  const unanswered = answersProblem(config, answersOf(said));
  if (unanswered !== null) throw invalid(config.router.gate?.kind === "tasks" || task != null ? "moe.task" : "moe.condition", unanswered, "invalid_value");
  const routing = requestRouting(pruningOf(config, moe?.prune), interventions, said);
  if (interventions.length > LIMITS.interventions) throw invalid("moe.interventions", `There are ${interventions.length} interventions, those of the profile included; expected at most ${LIMITS.interventions}.`, "invalid_value");
  const length = routing === undefined ? 0 : JSON.stringify(routing).length;
  if (length > LIMITS.routingChars) throw invalid("moe.interventions", `What is asked of routing takes ${length} characters as JSON; expected at most ${LIMITS.routingChars}.`, "invalid_value");
  return routing;
}

function pruningOf(config: EdgePack["config"], prune: NonNullable<Moe>["prune"]): PruningRule | null {
  if (prune == null) return null;
  const rule = pruningRule(config, typeof prune === "string" ? prune : { ratio: prune.ratio, layers: prune.layers ?? undefined, protectFirst: prune.protect_first ?? undefined, renormalize: prune.renormalize ?? undefined });
  if (typeof rule === "string") throw invalid("moe.prune", rule, "invalid_value");
  return rule;
}
