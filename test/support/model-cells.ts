// The table of docs/models.md as data: every architecture x form x stored type that this version reads, what its pack must hold, and what llama.cpp
// (wllama) makes of the file. Owns the sizes of the cells' models. Tests go through these cells, and the generator of the page prints them; neither
// adds one of its own. Refuses weights and running: cell-model.ts makes the models.

import type { MatrixFormat } from "../../model/kernels.ts";
import { TINY_ARCHITECTURES, type TinyArchitecture } from "./tiny-models.ts";

/** In the order of bits. */
export const GGUF_TYPES = ["F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_1", "Q5_K", "Q5_0", "Q4_1", "Q4_K", "Q4_0", "IQ4_NL", "MXFP4", "IQ4_XS", "Q3_K", "Q2_K"] as const;
export const FOLDER_TYPES = ["F32", "F16", "BF16", "F8_E4M3", "MXFP4"] as const;
export type GgufType = (typeof GGUF_TYPES)[number];
export type FolderType = (typeof FOLDER_TYPES)[number];

export type ModelCell = { readonly architecture: TinyArchitecture } & (
  | { readonly form: "gguf"; readonly type: GgufType }
  | { readonly form: "folder"; readonly type: FolderType });

/** Folders whose experts are tensors of their own, as FP8 with a factor per block needs them. Granite's and gpt-oss' stacks have no such releases. */
const hasFp8 = (architecture: TinyArchitecture): boolean => !architecture.startsWith("granite") && architecture !== "gpt_oss";

const isFolderType = (architecture: TinyArchitecture, type: FolderType): boolean =>
  type === "F8_E4M3" ? hasFp8(architecture) : type === "MXFP4" ? architecture === "gpt_oss" : true;

export const cellsOf = (architecture: TinyArchitecture): readonly ModelCell[] => [
  ...FOLDER_TYPES.filter((type) => isFolderType(architecture, type)).map((type) => ({ architecture, form: "folder", type }) as const),
  ...GGUF_TYPES.map((type) => ({ architecture, form: "gguf", type }) as const),
];
export const MODEL_CELLS: readonly ModelCell[] = TINY_ARCHITECTURES.flatMap(cellsOf);

export interface PackPromise {
  readonly format: MatrixFormat;
  /** Every weight of the file is held exactly. */
  readonly isLossless: boolean;
}

/** What docs/formats.md promises of `--quant source`, written out here once more: rows whose length is a multiple of 256 or not. */
const PROMISED: Readonly<Record<GgufType | "F8_E4M3", readonly [format: MatrixFormat, isLossless: boolean, ragged?: MatrixFormat]>> = {
  F32: ["f32", true], F16: ["f16", true], BF16: ["bf16", true], Q8_0: ["q8", true], Q6_K: ["q6k", true], Q5_1: ["q6k", false, "q8"], Q5_K: ["q8", false], Q5_0: ["q8", true],
  Q4_1: ["q4m", true], Q4_K: ["q4k", true], Q4_0: ["q4", true], IQ4_NL: ["q8", true], MXFP4: ["mxfp4", true], IQ4_XS: ["q8", false], Q3_K: ["q6k", true], Q2_K: ["q6k", false],
  F8_E4M3: ["q8", false],
};

export function promised(type: GgufType | FolderType, nCols: number): PackPromise {
  const [format, isLossless, ragged] = PROMISED[type];
  return { format: ragged !== undefined && nCols % 256 !== 0 ? ragged : format, isLossless };
}

/** What llama.cpp's quantiser takes for rows that are no multiple of 256 (llama_tensor_get_type). */
export const FALLBACK: Readonly<Partial<Record<GgufType, GgufType>>> = { Q2_K: "IQ4_NL", Q3_K: "IQ4_NL", IQ4_XS: "IQ4_NL", Q4_K: "Q5_0", Q5_K: "Q5_1", Q6_K: "Q8_0" };
export const isWide = (type: GgufType | FolderType): boolean => type in FALLBACK;

/** A dense layer and one with experts: the more routers, the fewer tokens have a clear choice in all of them. */
const LATENT: Readonly<Record<string, unknown>> = { num_hidden_layers: 2, num_experts_per_tok: 2 };
/** DeepSeek-V2 as llama.cpp can load it, in the form of its Lite release: no groups. Without low-rank queries it takes models of 27 layers only. */
const V2: Readonly<Record<string, unknown>> = { ...LATENT, q_lora_rank: 32, topk_method: "greedy" };
/** The loader of llama.cpp wants as many key-value heads as heads, which every release has. */
const OLMOE: Readonly<Record<string, unknown>> = { num_key_value_heads: 4 };

/** Rows of 256 values everywhere but in DeepSeek's attn_k_b, whose 128 in releases are no multiple of 256 either. One layer with experts, four of them. */
const WIDE: Readonly<Record<string, unknown>> = { hidden_size: 256, num_hidden_layers: 1, intermediate_size: 256 };
const WIDE_LATENT: Readonly<Record<string, unknown>> = { ...WIDE, num_hidden_layers: 2, moe_intermediate_size: 256, n_routed_experts: 4, n_shared_experts: 1, n_group: 2, topk_group: 1,
  num_experts_per_tok: 2, kv_lora_rank: 256, q_lora_rank: 256, v_head_dim: 64 };
const WIDE_OF: Readonly<Record<TinyArchitecture, Readonly<Record<string, unknown>>>> = {
  olmoe: { ...WIDE, num_experts: 4 },
  qwen3_moe: { ...WIDE, num_experts: 4, moe_intermediate_size: 256, head_dim: 128 },
  mixtral: { ...WIDE, num_local_experts: 4 },
  qwen2_moe: { ...WIDE, num_experts: 4, moe_intermediate_size: 256, shared_expert_intermediate_size: 256 },
  granitemoe: { ...WIDE, num_local_experts: 4 },
  granitemoeshared: { ...WIDE, num_local_experts: 4, shared_intermediate_size: 256 },
  deepseek_v2: { ...WIDE_LATENT, topk_method: "greedy" },
  deepseek_v3: WIDE_LATENT,
  phimoe: { ...WIDE, num_local_experts: 4, num_attention_heads: 16 }, // heads of 16, to which the factors of its rotary frequencies belong
  gpt_oss: { ...WIDE, num_hidden_layers: 2, num_local_experts: 4, head_dim: 64 },
  llama: WIDE, qwen2: WIDE, qwen3: { ...WIDE, head_dim: 128 },
};
/** FP8's factors belong to blocks of 128 x 128: rows and columns of more than one block. */
const FP8: Readonly<Record<string, unknown>> = { hidden_size: 160, intermediate_size: 160 };

/** Keys of config.json that the cell's model has other than the tiny model. */
export function cellConfig({ architecture, type }: Pick<ModelCell, "architecture" | "type">): Readonly<Record<string, unknown>> {
  const own = architecture === "deepseek_v2" ? V2 : architecture === "deepseek_v3" ? LATENT : architecture === "olmoe" ? OLMOE : {};
  return { ...own, ...(isWide(type) ? WIDE_OF[architecture] : type === "F8_E4M3" ? { ...FP8, ...(architecture === "phimoe" ? { num_attention_heads: 10 } : {}) } : {}) };
}

/** As tests are named after it. */
export const cellTitle = ({ form, type }: Pick<ModelCell, "form" | "type">): string => `${form === "gguf" ? "GGUF" : "folder"} ${type}`;

export interface SourceBounds {
  /** Only tokens count whose choice of experts is this far from another, in logits of the router: rounding turns over what is closer. */
  readonly clear: number;
  /** Root mean square error of the logits relative to their spread. Twice what was measured, or more. */
  readonly relative: number;
  /** Tokens that must remain to be judged. */
  readonly atLeast: number;
}

/** By what is rounded: nothing but sums; the KV cache (f16); activations to int8; and the weights too. Latent attention with YaRN is sharper and rounds more. */
export function sourceBounds({ architecture, type }: Pick<ModelCell, "architecture" | "type">): SourceBounds {
  const sharper = architecture.startsWith("deepseek") && !["F32", "F16", "BF16"].includes(type) ? 2 : 1;
  const { clear, relative, atLeast } = boundsOfType(type);
  return { clear: sharper * clear, relative: sharper * relative, atLeast };
}

function boundsOfType(type: GgufType | FolderType): SourceBounds {
  switch (type) {
    case "F32": return { clear: 1e-3, relative: 1e-5, atLeast: 50 };
    case "F16": case "BF16": return { clear: 1e-2, relative: 2e-3, atLeast: 40 };
    case "F8_E4M3": case "Q5_1": case "Q2_K": return { clear: 0.15, relative: 0.15, atLeast: 8 };
    default: return { clear: 0.15, relative: 0.05, atLeast: 8 };
  }
}

export interface WllamaBounds extends SourceBounds {
  /** Largest difference of log-probabilities among wllama's five most likely tokens, in nats. */
  readonly topLogprob: number;
  /** wllama's choice of a token is clear where it prefers it by so many nats to the next. */
  readonly clearNats: number;
}

/** Ours against wllama, which rounds activations too: to f16, BF16 or 8 bits, as the weights are; and its KV cache to f16. */
export function wllamaBounds(cell: Pick<ModelCell, "architecture" | "type">): WllamaBounds {
  const { clear, relative } = sourceBounds(cell);
  switch (cell.type) {
    case "F32": case "F16": return { clear: 0.02, relative: 5e-3, topLogprob: 0.05, clearNats: 0.05, atLeast: 8 };
    case "BF16": return { clear: 0.06, relative: 0.03, topLogprob: 0.3, clearNats: 0.1, atLeast: 4 };
    // Weights of two bits are coarse, and so are the routers' inputs: choices flip over wider margins.
    case "Q2_K": return { clear: 4 * clear, relative: 1.5 * relative, topLogprob: 10 * relative, clearNats: 6 * relative, atLeast: 2 };
    default: return { clear, relative: 1.5 * relative, topLogprob: 10 * relative, clearNats: 6 * relative, atLeast: 2 };
  }
}
