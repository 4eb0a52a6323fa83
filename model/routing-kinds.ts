// The registry of what a layer of experts can be made of: every kind of every stage, with a word and a source, and families of gates that only training knows.
// The types make it whole: a kind that a config can name and that is not here does not compile; one without a golden test in test/support/routing-cases.ts
// does not either. docs/routing.md's table is made of it. Refuses to do anything: the kinds are in gates/, router.ts, experts and the engine.

import type { ExpertKind, ModelConfig } from "./config.ts";
import { branchesOf, type GateConfig, type RouterConfig, type RouterScope, type RouterScore, type RouterSelect, type RouterWeigh } from "./router-config.ts";

export interface KindNote {
  /** What it does, in a line. */
  readonly does: string;
  /** Whose it is; null where everybody has it. */
  readonly source: string | null;
}

const GATES: Readonly<Record<GateConfig["kind"] | "linear", KindNote>> = {
  linear: { does: "logits are the router's matrix times the token's row", source: null },
  mlp: { does: "two layers with tanh or ReLU between them", source: "T2MIR, 2025; MENTOR, 2024" },
  cosine: { does: "cosine of the projected row and the expert's direction, over a temperature", source: "X-MoE, 2022" },
  attention: { does: "each expert attends to all experts' values of the row", source: "Yuan 2.0-M32, 2024" },
  sparsity: { does: "how many neurons of the expert will stay silent, foretold from its weights", source: "MoE-X, 2025" },
  hash: { does: "one expert for each token of the vocabulary", source: "Hash Layers, 2021" },
  conditions: { does: "one expert, fused beforehand, for each condition there is", source: "MoDE, 2025" },
  tasks: { does: "a matrix for each task; the request says which", source: "M3ViT, 2022" },
};

const SCOPES: Readonly<Record<RouterScope["kind"] | "token", KindNote>> = {
  token: { does: "the gate reads the token's own row", source: null },
  sequence: { does: "the gate reads the mean of the sequence's first rows", source: "T2MIR, 2025" },
  condition: { does: "the gate reads a vector of the request; its logits are kept", source: "MoDE, 2025" },
};

const SCORES: Readonly<Record<RouterScore, KindNote>> = {
  softmax: { does: "softmax over all experts", source: "Shazeer et al., 2017" },
  sigmoid: { does: "sigmoid of each logit", source: "DeepSeek-V3, 2024" },
  logits: { does: "logits as they are", source: "Mixtral, Granite, gpt-oss" },
  one: { does: "every expert scores 1, without a router", source: null },
};

const SELECTS: Readonly<Record<RouterSelect | "groups" | "null" | "zero", KindNote>> = {
  "top-k": { does: "the k largest", source: "Shazeer et al., 2017; one of them: Switch, 2021" },
  sparsemixer: { does: "two, each weighed among those close to it", source: "PhiMoE, 2024" },
  threshold: { does: "of the k largest those above a bound, at least one", source: "EvoMoE, 2021" },
  groups: { does: "the k largest within the best groups (hierarchical)", source: "DeepSeek-V2, 2024" },
  null: { does: "the k largest among experts and null experts, which compute nothing", source: "AdaMoE, 2024" },
  zero: { does: "the k largest among experts and null experts, which keep their weights", source: "MoE++, 2024" },
};

const WEIGHS: Readonly<Record<RouterWeigh, KindNote>> = {
  score: { does: "their scores", source: null },
  renormalize: { does: "their scores over their sum", source: "MENTOR, 2024; Qwen3" },
  "softmax-selected": { does: "a softmax over theirs", source: "Mixtral, 2024; T2MIR" },
  one: { does: "1", source: "EMoE, 2024" },
};

const EXPERTS: Readonly<Record<ExpertKind | "product", KindNote>> = {
  swiglu: { does: "down . (silu(gate . x) * up . x)", source: "Shazeer, 2020" },
  "clamped-swiglu": { does: "the same with clamps and biases", source: "gpt-oss, 2025" },
  "relu-mlp": { does: "down . relu(up . x) with biases; zeros are left out", source: "MoE-X, 2025; MENTOR, 2024" },
  "gelu-mlp": { does: "down . gelu(up . x) with biases, the form with erf", source: "BERT, 2018; DistilBERT, 2019" },
  product: { does: "every half of one codebook with every half of another, routed by keys of both", source: "Monet, 2024" },
};

const TABLES: Readonly<Record<"own" | "pool" | "latent", KindNote>> = {
  own: { does: "every layer has its own experts", source: null },
  pool: { does: "neighbouring layers share one pool of experts", source: "ReXMoE, 2025" },
  latent: { does: "experts of a group read one projection of the row", source: "MoLAE, 2025" },
};

const COMBINES: Readonly<Record<"sum" | "shared" | "auxiliary" | "concat", KindNote>> = {
  sum: { does: "weighted sum, by ascending expert", source: null },
  shared: { does: "and an expert that every token takes, with or without a gate", source: "DeepSeekMoE, 2024; Qwen2-MoE" },
  auxiliary: { does: "vectors of further experts scale what the run ones get", source: "Compressed Experts, 2025" },
  concat: { does: "branches with routers of their own, side by side", source: "T2MIR, 2025" },
};

/** What of a router its selection is, by its name here. */
export const selectKindOf = ({ nullExperts, nullWeights, nGroups, select }: RouterConfig): keyof typeof SELECTS => {
  if (nullExperts !== undefined) return nullWeights === "kept" ? "zero" : "null";
  return nGroups > 1 ? "groups" : select;
};

/** By stage, in the order of a layer. */
export const ROUTING_KINDS = { gate: GATES, scope: SCOPES, score: SCORES, select: SELECTS, weigh: WEIGHS, table: TABLES, expert: EXPERTS, combine: COMBINES } as const;
export type RoutingStage = keyof typeof ROUTING_KINDS;
/** `gate:mlp`, `select:null` ... */
export type RoutingKindName = { [Stage in RoutingStage]: `${Stage}:${keyof (typeof ROUTING_KINDS)[Stage] & string}` }[RoutingStage];

/** What a kind does and whose it is. */
export function noteOf(name: RoutingKindName): KindNote {
  const [stage, kind] = name.split(":") as [RoutingStage, string];
  return (ROUTING_KINDS[stage] as Readonly<Record<string, KindNote>>)[kind]!;
}

/** The kinds that a model has, each once, in the order of a layer; none in a dense one. */
export function kindsOf(c: ModelConfig): RoutingKindName[] {
  const { router: r } = c;
  const names: RoutingKindName[] = [];
  if (c.layerFfns.includes("moe")) {
    names.push(`gate:${r.gate?.kind ?? "linear"}`, ...branchesOf(r).map(({ scope }): RoutingKindName => `scope:${scope?.kind ?? "token"}`), `score:${r.score}`, `select:${selectKindOf(r)}`, `weigh:${r.weigh}`);
    names.push(`table:${c.expertPool !== undefined ? "pool" : c.latentExperts !== undefined ? "latent" : "own"}`, `expert:${c.expertKind}`, `combine:${r.branches !== undefined ? "concat" : "sum"}`);
    if (c.sharedIntermediateSize > 0) names.push("combine:shared");
    if (r.auxiliaries !== undefined) names.push("combine:auxiliary");
  }
  if (c.layerFfns.includes("product")) names.push("expert:product");
  return [...new Set(names)];
}

/** Gate families of the survey (row 24) that have no kind here, and why. */
export const TRAINING_ONLY: Readonly<Record<string, string>> = {
  noisy: "noise is added to logits in training; with none, as every release serves it, it is top-k",
  "expert choice": "experts choose tokens of the batch: what a token gets depends on who is beside it, later tokens included, which a causal model cannot serve and our promise of equal bits excludes",
  "dense to sparse (Gumbel)": "the temperature falls in training; what is left is the threshold",
};
