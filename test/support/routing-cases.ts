// A golden case for every registered kind: the smallest change of a seeded model that has it, and what its request must say. Every kind needs one: the record
// is typed by the registry (model/routing-kinds.ts), so a kind without a case does not compile. Owns the cases. Refuses judging (routing-kinds.test.ts).

import type { ModelConfig } from "../../model/config.ts";
import type { GateAnswers } from "../../model/gate-stage.ts";
import type { RouterConfig } from "../../model/router-config.ts";
import type { RoutingKindName } from "../../model/routing-kinds.ts";
import type { PlainWeights } from "./direct-engine.ts";
import { productConfig, productWeights } from "./product-model.ts";
import { seededConfig } from "./seeded-model.ts";

export interface RoutingCase {
  readonly config: ModelConfig;
  readonly answers?: GateAnswers;
  /** Where seeded ones do not fit; by config and seed. */
  readonly weights?: (config: ModelConfig, seed: number) => PlainWeights;
}

const own = (over: Partial<ModelConfig>, answers?: GateAnswers): RoutingCase => ({ config: { ...seededConfig, ...over }, ...(answers === undefined ? {} : { answers }) });
const routed = (over: Partial<RouterConfig>, answers?: GateAnswers): RoutingCase => own({ router: { ...seededConfig.router, ...over } }, answers);

export const ROUTING_CASES: Readonly<Record<RoutingKindName, RoutingCase>> = {
  "gate:linear": routed({}),
  "gate:mlp": routed({ gate: { kind: "mlp", width: 20, activation: "tanh" }, weigh: "renormalize", logitBias: true }),
  "gate:cosine": routed({ gate: { kind: "cosine", width: 12, temperature: 0.3 } }),
  "gate:attention": routed({ gate: { kind: "attention" }, score: "logits", weigh: "softmax-selected" }),
  "gate:hash": routed({ gate: { kind: "hash" }, score: "logits", topK: 1 }),
  "gate:tasks": routed({ gate: { kind: "tasks", nTasks: 3 }, logitBias: true }, { task: 2 }),
  "gate:conditions": routed({ gate: { kind: "conditions", conditions: Array.from({ length: 8 }, (_, i) => [i, 0.1 * i, -1, 2]) }, scope: { kind: "condition", size: 4 }, score: "logits", topK: 1 }, { condition: Float32Array.of(3, 0.1 * 3, -1, 2) }),
  "gate:sparsity": routed({ gate: { kind: "sparsity" }, score: "logits", weigh: "softmax-selected" }),
  "scope:token": routed({}),
  "scope:sequence": routed({ scope: { kind: "sequence", tokens: 6 } }),
  "scope:condition": routed({ scope: { kind: "condition", size: 8 }, gate: { kind: "mlp", width: 12, activation: "relu" } }, { condition: Float32Array.from([0.3, -1, 0.5, 2, 0, -0.25, 1, 0.125]) }),
  "score:softmax": routed({}),
  "score:sigmoid": routed({ score: "sigmoid", weigh: "renormalize", scale: 2.5 }),
  "score:logits": routed({ score: "logits", weigh: "softmax-selected" }),
  "score:one": routed({ score: "one", weigh: "one", topK: 8 }),
  "select:top-k": routed({ topK: 3 }),
  "select:sparsemixer": routed({ score: "logits", select: "sparsemixer", sparsemixerEpsilon: 0.01 }),
  "select:threshold": routed({ select: "threshold", threshold: { least: 0.08, temperature: 2 }, topK: 8 }),
  "select:groups": routed({ score: "sigmoid", weigh: "renormalize", selectionBias: true, nGroups: 4, topKGroups: 2, groupScore: "top2-sum" }),
  "select:null": routed({ nullExperts: 6, topK: 4, logitBias: true, weigh: "renormalize" }),
  "select:zero": routed({ nullExperts: 6, nullWeights: "kept", topK: 4, logitBias: true, weigh: "renormalize" }),
  "weigh:score": routed({}),
  "weigh:renormalize": routed({ weigh: "renormalize" }),
  "weigh:softmax-selected": routed({ score: "logits", weigh: "softmax-selected" }),
  "weigh:one": routed({ weigh: "one", score: "logits" }),
  "table:own": own({}),
  "table:pool": own({ expertPool: { layers: 2 }, nLayers: 4, layerFfns: ["moe", "moe", "moe", "moe"], slidingWindows: [0, 0, 0, 0] }),
  "table:latent": own({ latentExperts: { rank: 32, nGroups: 2 } }),
  "expert:swiglu": own({}),
  "expert:clamped-swiglu": own({ expertKind: "clamped-swiglu", swigluLimit: 1.5 }),
  "expert:relu-mlp": own({ expertKind: "relu-mlp" }),
  "expert:gelu-mlp": own({ expertKind: "gelu-mlp" }),
  "expert:product": { config: productConfig({}, 2), weights: productWeights },
  "combine:sum": own({}),
  "combine:shared": own({ sharedIntermediateSize: 72, sharedGate: true }),
  "combine:auxiliary": routed({ auxiliaries: { perToken: 2, weighAmong: "run" } }),
  "combine:concat": routed({
    branches: [{ topK: 2 }, { topK: 1, scope: { kind: "sequence", tokens: 5 } }], topK: 3, gate: { kind: "mlp", width: 20, activation: "tanh" }, score: "logits", weigh: "softmax-selected", logitBias: true,
  }),
};
