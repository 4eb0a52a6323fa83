// What a router is, as data: how logits are made (gate), of which row (scope), scored, selected and weighed. Part of the config record (config.ts).
// Owns the kinds' settings and what one of them means for another. Refuses arithmetic (gates/, router.ts) and names of architectures.
// Sources of the kinds: routing-kinds.ts; docs/routing.md explains them.

import type { ModelConfig } from "./config.ts";

/** How expert scores are made from the router's logits, before selection. `one`: every expert scores 1 (no router matrix). */
export type RouterScore = "softmax" | "sigmoid" | "logits" | "one";
/** How the weights of the selected experts are made from their scores. `one`: each counts 1, so that experts cut from one matrix add up to it (EMoE). */
export type RouterWeigh = "score" | "renormalize" | "softmax-selected" | "one";

/**
 * How experts are selected. `top-k`: the largest selection scores. `sparsemixer`: PhiMoE's two experts, each weighed by a softmax over the
 * logits close to it; it replaces score and weigh (router.ts). `threshold`: of the topK largest scores those above a bound, at least one (EvoMoE).
 */
export type RouterSelect = "top-k" | "sparsemixer" | "threshold";

/** Compressed experts (docs/arithmetic.md section 7). */
export interface AuxiliariesConfig {
  readonly perToken: number;
  /** Weights of the run experts are made as if there were no others (`run`), or among all that are ranked (`ranked`); what `score` and `one` weigh is the same in both. */
  readonly weighAmong: "run" | "ranked";
}

export const GATE_ACTIVATIONS = ["tanh", "relu"] as const;

/** How a row becomes logits where it is not one product with the router's matrix. One file of gates/ each. */
export type GateConfig =
  /** Two layers with an activation between them (T2MIR: tanh; MENTOR: relu). */
  | { readonly kind: "mlp"; readonly width: number; readonly activation: (typeof GATE_ACTIVATIONS)[number] }
  /** Cosine between the projected row and an expert's direction, over a temperature (X-MoE). */
  | { readonly kind: "cosine"; readonly width: number; readonly temperature: number }
  /** Each expert has a query, a key and a value of the row; what it attends to is its logit (Yuan 2.0-M32). */
  | { readonly kind: "attention" }
  /** How many of an expert's neurons stay silent, as its weights' means and spreads foretell (MoE-X). */
  | { readonly kind: "sparsity" }
  /** One expert for each token of the vocabulary (Hash layers). */
  | { readonly kind: "hash" }
  /** A matrix for each task; the request says which (M3ViT). */
  | { readonly kind: "tasks"; readonly nTasks: number }
  /** One expert for each condition there is, in their order: those that were one condition's choice, made one beforehand (MoDE). */
  | { readonly kind: "conditions"; readonly conditions: readonly (readonly number[])[] };
export const GATE_KINDS = ["mlp", "cosine", "attention", "sparsity", "hash", "tasks", "conditions"] as const satisfies readonly GateConfig["kind"][];

/** What the gate reads where it is not the token's own row. */
export type RouterScope =
  /** The mean of the rows at positions 0 to min(own, tokens - 1) of the sequence: causal, and the same for all from position tokens - 1 on. */
  | { readonly kind: "sequence"; readonly tokens: number }
  /** A vector of the request, of `size` numbers; all its tokens take the same experts (MoDE). */
  | { readonly kind: "condition"; readonly size: number };

/** A part of a layer's experts with a router of its own; what the branches give stands side by side (T2MIR). */
export interface RouterBranch {
  readonly topK: number;
  readonly scope?: RouterScope | undefined;
}

export interface RouterConfig {
  /** Absent: logits are one product of the row with the router's matrix. */
  readonly gate?: GateConfig | undefined;
  /** Absent: the token's own row. */
  readonly scope?: RouterScope | undefined;
  /** Two or more: the layer's experts fall into as many equal parts, one for each. Absent: they are one. */
  readonly branches?: readonly RouterBranch[] | undefined;
  readonly score: RouterScore;
  readonly select: RouterSelect;
  /** Sparsemixer only: logits farther than twice this share below the largest are left out (router_jitter_noise); else 0. */
  readonly sparsemixerEpsilon: number;
  /** Select `threshold` only: scores are softmax(logits / temperature), and what is not above `least` is left out. */
  readonly threshold?: { readonly least: number; readonly temperature: number } | undefined;
  /** Rows of the router behind those of the experts: who chooses one computes nothing there (AdaMoE). Absent = none. */
  readonly nullExperts?: number | undefined;
  /** What becomes of the weights of null experts that were chosen: those of true ones are made as if they were alone (AdaMoE), or theirs are nobody's (`kept`: MoE++'s zero experts). Absent: the former. */
  readonly nullWeights?: "kept" | undefined;
  readonly weigh: RouterWeigh;
  /** Multiplies the weights (routed_scaling_factor); 1 = none. */
  readonly scale: number;
  /** Experts per token that are run, of all branches; with null experts or a threshold, at most. */
  readonly topK: number;
  /** Experts per token behind those, in rank order, that are not run: vectors of theirs scale what the run ones get. Absent = none. */
  readonly auxiliaries?: AuxiliariesConfig | undefined;
  /** Router logits get a bias (gpt-oss). */
  readonly logitBias: boolean;
  /** A bias used for selection only (DeepSeek-V3's e_score_correction_bias). */
  readonly selectionBias: boolean;
  /** Group-limited selection; nGroups 1 = none. */
  readonly nGroups: number;
  readonly topKGroups: number;
  readonly groupScore: "max" | "top2-sum";
}

/** Longest scope of a sequence, in tokens: a step reads so many rows for each of its tokens. */
export const MOST_SCOPE_TOKENS = 64;

/** Experts per token that are not run but scale what the others get. */
export const auxiliariesOf = ({ auxiliaries }: Pick<RouterConfig, "auxiliaries">): number => auxiliaries?.perToken ?? 0;

/** What decides about a router's shapes. */
export type RoutedConfig = Pick<ModelConfig, "nExperts" | "hiddenSize"> & { readonly router: RouterConfig };

/** Logits of a token: one for each expert, then one for each null expert. */
export const logitsOf = ({ nExperts, router }: Pick<RoutedConfig, "nExperts" | "router">): number => nExperts + (router.nullExperts ?? 0);

/** Numbers of the row that the gate reads. */
export const gateInputSize = ({ hiddenSize, router: { scope } }: RoutedConfig): number => (scope?.kind === "condition" ? scope.size : hiddenSize);

/** Routers of a layer, each with the settings of a router that is alone. */
export const branchesOf = (router: RouterConfig): readonly RouterConfig[] =>
  (router.branches === undefined ? [router] : router.branches.map(({ topK, scope }) => ({ ...router, branches: undefined, topK, scope })));

/** Whether a gate reads more of the sequence than its token. */
export const readsSequence = (router: RouterConfig): boolean => branchesOf(router).some(({ scope }) => scope?.kind === "sequence");

/** Numbers of a row that routed experts give: branches stand side by side. */
export const expertOutputSize = ({ hiddenSize, router }: { readonly hiddenSize: number; readonly router: Pick<RouterConfig, "branches"> }): number => hiddenSize / (router.branches?.length ?? 1);

/** Whether a token may be left with fewer experts than topK, or none. */
export const variesInCount = ({ select, nullExperts }: RouterConfig): boolean => select === "threshold" || nullExperts !== undefined;

/** Whether weights come from the choice itself: they cannot be made again of the scores of those that stay. */
export const weighsWhileChoosing = ({ select }: Pick<RouterConfig, "select">): boolean => select === "sparsemixer";

/** Checks what branches mean for the rest, and each as a router of its own. */
function checkBranches(c: RoutedConfig & Pick<ModelConfig, "vocabSize" | "latentExperts">, branches: readonly RouterBranch[], wrong: (what: string) => never): void {
  const { router, nExperts, hiddenSize } = c;
  const n = branches.length;
  if (n < 2) wrong(`the router has ${n} branches, expected two or more`);
  if (nExperts % (4 * n) !== 0 || hiddenSize % (4 * n) !== 0) wrong(`${nExperts} experts and a hidden size of ${hiddenSize} are no multiples of four for each of ${n} branches`);
  const topK = branches.reduce((sum, branch) => sum + branch.topK, 0);
  if (topK !== router.topK) wrong(`the branches take ${topK} experts per token together, but the router ${router.topK}`);
  if (router.scope !== undefined) wrong("the router has a scope and branches, expected scopes of branches");
  if (router.score === "one" || router.selectionBias || router.nullExperts !== undefined || router.nGroups > 1 || auxiliariesOf(router) > 0 || c.latentExperts !== undefined)
    wrong("branches stand alone: they go with no selection bias, groups, null, auxiliary or latent experts, and not without a router");
  if (router.gate?.kind === "hash" || router.gate?.kind === "tasks") wrong(`branches have gates that read rows; found one of kind ${router.gate.kind}`);
  if (branches.some(({ scope }) => scope?.kind === "condition")) wrong("branches have matrices of one shape; a scope of kind condition has another");
  for (const own of branchesOf(router)) checkRouter({ ...c, nExperts: nExperts / n, router: own }, wrong);
}

/** Checks what one setting of the router means for another; `wrong` throws. */
export function checkRouter(c: RoutedConfig & Pick<ModelConfig, "vocabSize" | "latentExperts">, wrong: (what: string) => never): void {
  const { router: r, nExperts } = c;
  if (r.branches !== undefined) return checkBranches(c, r.branches, wrong);
  const { topK, nGroups, topKGroups, select, gate, scope, nullExperts = 0 } = r;
  const auxiliaries = auxiliariesOf(r);
  const nRanked = topK + auxiliaries;
  if (topK > logitsOf(c)) wrong(`${topK} experts per token of ${nExperts} experts${nullExperts > 0 ? ` and ${nullExperts} null ones` : ""}`);
  if (select === "sparsemixer" && topK !== 2) wrong(`${topK} experts per token, but sparsemixer selects 2`);
  if (auxiliaries > 0) {
    if (topK === 0) wrong(`${auxiliaries} auxiliary experts per token, but none that is run`);
    if (nRanked > nExperts) wrong(`${topK} experts per token and ${auxiliaries} auxiliary ones of ${nExperts} experts`);
    if (select !== "top-k") wrong(`${auxiliaries} auxiliary experts per token, but ${select} ranks no more than those that are run`);
    if (nullExperts > 0) wrong(`${auxiliaries} auxiliary experts per token and ${nullExperts} null ones; expected one kind of them, since a null expert says nothing of those behind it`);
  }
  if (nGroups > 1) {
    if (nExperts % nGroups !== 0) wrong(`${nExperts} experts are no multiple of ${nGroups} groups`);
    if (topKGroups > nGroups) wrong(`${topKGroups} groups per token of ${nGroups} groups`);
    if (topKGroups * (nExperts / nGroups) < nRanked) wrong(`${nRanked} experts per token, but ${topKGroups} groups hold only ${topKGroups * (nExperts / nGroups)}`);
    if (r.groupScore === "top2-sum" && nExperts / nGroups < 2) wrong(`${nGroups} groups of ${nExperts} experts have fewer than the two experts by which they are judged`);
    if (select === "sparsemixer") wrong("sparsemixer knows no groups");
  }
  if ((select === "threshold") !== (r.threshold !== undefined)) wrong(`the router selects by ${select}, ${r.threshold === undefined ? "but has no threshold" : "but has a threshold"}`);
  if (select === "threshold" && (r.score !== "softmax" || r.selectionBias || nGroups > 1)) wrong("a threshold is one of softmax scores; expected score softmax, without selection bias and groups");
  if (nullExperts === 0 && r.nullWeights !== undefined) wrong("the router says what becomes of null experts' weights, but has none");
  if (nullExperts > 0) {
    if (select !== "top-k" || nGroups > 1) wrong(`${nullExperts} null experts; expected selection by top-k without groups, not ${nGroups > 1 ? `${nGroups} groups` : select}`);
    if (r.selectionBias) wrong(`${nullExperts} null experts and a selection bias, which has nothing to say about them`);
    if (r.score === "one" || r.weigh === "one") wrong(`${nullExperts} null experts, but scores or weights are all 1: nobody could be chosen before another`);
  }
  if (r.score === "one" && (gate !== undefined || scope !== undefined)) wrong("every expert scores 1 without a router, but the router has a gate or a scope");
  if (scope !== undefined && gate !== undefined && ["hash", "tasks", "sparsity"].includes(gate.kind)) wrong(`a gate of kind ${gate.kind} reads ${gate.kind === "hash" ? "ids of tokens" : "tokens' own rows"}; it has no scope of kind ${scope.kind}`);
  if (scope?.kind === "condition" && auxiliaries > 0) wrong("all tokens of a request take the same experts; auxiliary ones are scaled by the token");
  if (scope?.kind === "condition" && scope.size % 4 !== 0) wrong(`a condition has ${scope.size} numbers, expected a multiple of 4`);
  if (gate !== undefined && "width" in gate && gate.width % 4 !== 0) wrong(`the gate is ${gate.width} wide, expected a multiple of 4`);
  if (gate?.kind === "conditions") {
    if (scope?.kind !== "condition" || topK !== 1 || nullExperts > 0 || r.logitBias) wrong("experts of conditions are chosen by a scope of kind condition, one for a token, without null experts and bias");
    else if (gate.conditions.length !== nExperts || gate.conditions.some((row) => row.length !== scope.size)) wrong(`there are ${gate.conditions.length} conditions of ${gate.conditions[0]?.length ?? 0} numbers, expected one of ${scope.size} for each of ${nExperts} experts`);
    else if (new Set(gate.conditions.map((row) => row.map(Math.fround).join())).size !== nExperts) wrong("two experts have one condition");
  }
  if (gate?.kind === "hash" && (topK !== 1 || nullExperts > 0 || r.logitBias)) wrong(`a token's id names one expert; found ${topK} experts per token, ${nullExperts} null experts${r.logitBias ? " and a bias" : ""}`);
  if (gate?.kind === "sparsity" && nullExperts > 0) wrong("the sparsity of null experts is not defined");
}
