// What llama.cpp, as wllama 3.8.1 has it, makes of our architectures: which files it does not load, and where it computes something else than the
// original implementation. A deviation is a change of our definition's config, so that a test can show that it is the whole difference. Owns the
// sentences of docs/models.md. Refuses running: wllama-comparison.ts does.

import type { ModelConfig, RouterConfig } from "../../model/config.ts";
import { yarnFrequencies } from "../../model/rope.ts";
import type { CellChanges } from "./cell-model.ts";
import type { TinyArchitecture } from "./tiny-models.ts";

export interface Deviation {
  readonly architecture: TinyArchitecture;
  /** Under which settings it shows; null: in every model of the architecture. */
  readonly where: string | null;
  /** What llama.cpp does, and what the original does. */
  readonly sentence: string;
  /** The settings, and what must be left out of the model for our definition to be able to say what llama.cpp computes. */
  readonly changes: CellChanges;
  asLlamaCpp(config: ModelConfig): ModelConfig;
}

const router = (change: Partial<RouterConfig>) => (c: ModelConfig): ModelConfig => ({ ...c, router: { ...c.router, ...change } });

export const DEVIATIONS: readonly Deviation[] = [
  {
    architecture: "phimoe", where: null,
    sentence: "it has no sparsemixer: the two experts' weights are a softmax over both; its norms are RMSNorm, not LayerNorm, the biases added; and it takes LongRoPE's long factors whenever its context is longer than the original, whatever a sequence needs",
    // Our definition has no RMSNorm with a bias.
    changes: { zero: /[nN]ormBias$/ },
    asLlamaCpp: (c) => ({ ...router({ select: "top-k", score: "softmax", weigh: "renormalize" })(c), norm: "rms" }),
  },
  {
    architecture: "gpt_oss", where: null,
    sentence: "it rounds the ends of YaRN's ramp to whole dimensions, which gpt-oss does not (\"truncate\": false)",
    changes: {},
    asLlamaCpp: (c) => ({ ...c, rope: { ...c.rope, inverseFrequencies: yarnFrequencies({
      dim: c.rope.dim, theta: c.rope.theta, factor: 32, originalContext: 16, betaFast: 32, betaSlow: 1, truncate: true,
    }).inverseFrequencies } }),
  },
  {
    architecture: "deepseek_v2", where: "topk_method = \"group_limited_greedy\" (DeepSeek-V2, not Lite)",
    sentence: "it judges groups by the sum of their two best experts, as V3 does; DeepSeek-V2 by the best one",
    changes: { config: { topk_method: "group_limited_greedy" } },
    asLlamaCpp: router({ groupScore: "top2-sum" }),
  },
  {
    architecture: "qwen2_moe", where: "norm_topk_prob = true (no release)",
    sentence: "it never renormalises the weights of the chosen experts",
    changes: { config: { norm_topk_prob: true } },
    asLlamaCpp: router({ weigh: "score" }),
  },
  {
    architecture: "qwen3_moe", where: "norm_topk_prob = false (no release)",
    sentence: "it always renormalises the weights of the chosen experts",
    changes: { config: { norm_topk_prob: false } },
    asLlamaCpp: router({ weigh: "renormalize" }),
  },
  {
    architecture: "olmoe", where: "norm_topk_prob = true (no release)",
    sentence: "it never renormalises the weights of the chosen experts",
    changes: { config: { norm_topk_prob: true } },
    asLlamaCpp: router({ weigh: "score" }),
  },
  {
    architecture: "olmoe", where: "clip_qkv (no release of OLMoE-1B-7B)",
    sentence: "it does not clamp queries, keys and values",
    changes: { config: { clip_qkv: 0.5 } },
    asLlamaCpp: (c) => ({ ...c, clipQkv: null }),
  },
];

/** The deviation that every model of the architecture shows; its cells are compared with the definition changed by it. */
export const deviationOf = (architecture: TinyArchitecture): Deviation | null => DEVIATIONS.find((d) => d.architecture === architecture && d.where === null) ?? null;

export interface Refusal {
  readonly architecture: TinyArchitecture;
  readonly where: string;
  /** What llama.cpp says. */
  readonly message: RegExp;
  readonly sentence: string;
  readonly changes: CellChanges;
}

export const REFUSALS: readonly Refusal[] = [
  {
    architecture: "deepseek_v2", where: "no low-rank queries, and other than 27 layers", message: /key not found in model: deepseek2\.attention\.q_lora_rank/,
    sentence: "it takes a model for DeepSeek-V2-Lite, which has none, by its 27 layers alone", changes: { config: { q_lora_rank: null } },
  },
  {
    architecture: "olmoe", where: "fewer key-value heads than heads", message: /attn_k_norm\.weight' has wrong shape; expected\s+64, got\s+32/,
    sentence: "its loader expects the norm of keys to be as wide as the hidden size, as it is in every release", changes: { config: { num_key_value_heads: 2 } },
  },
];

/** A context of more tokens than the tiny PhiMoE's original 32: llama.cpp chooses long factors by it. */
export const LLAMA_CONTEXT_TOKENS = 512;
