// How each architecture's released files name, shape and order their tensors, written out by hand from transformers' and llama.cpp's own names: what
// tiny-models.ts writes. Shares nothing with model/architectures, so that a wrong name or order there is found. Owns also what converters do to values
// (permuted q and k, fused and interleaved gate and up, kv_b's two forms). Refuses reading.

import { EXPERT_MATRICES, type ExpertBias, type ExpertMatrix, type ModelConfig, sharedWidth } from "../../model/config.ts";

export interface TinyMatrix {
  readonly rows: number;
  readonly cols: number;
  readonly values: Float32Array; // [rows, cols]
}

export type TinyWeights = ReadonlyMap<string, TinyMatrix>;

/** A tensor to write: `class` decides its type (norms, biases and routers are never quantised). */
export interface FileTensor {
  readonly name: string;
  readonly shape: readonly number[];
  readonly values: Float32Array;
  readonly class: "matrix" | "vector" | "router" | "experts" | "mla";
}

/** Rows of q and k as llama.cpp's converter orders them for interleaved rotary: [head][half][pair] -> [head][pair][half]. */
export function permuteForGguf(m: TinyMatrix, nHeads: number): Float32Array {
  // A bias is a column.
  const [rows, cols] = m.rows === 1 ? [m.cols, 1] : [m.rows, m.cols];
  const headRows = rows / nHeads;
  const out = new Float32Array(m.values.length);
  for (let h = 0; h < nHeads; h++) {
    for (let i = 0; i < headRows / 2; i++) {
      for (let half = 0; half < 2; half++) {
        const from = (h * headRows + half * (headRows / 2) + i) * cols;
        out.set(m.values.subarray(from, from + cols), (h * headRows + 2 * i + half) * cols);
      }
    }
  }
  return out;
}

export function join(parts: readonly Float32Array[]): Float32Array {
  const out = new Float32Array(parts.reduce((n, p) => n + p.length, 0));
  let at = 0;
  for (const p of parts) {
    out.set(p, at);
    at += p.length;
  }
  return out;
}

export function transpose({ rows, cols, values }: TinyMatrix): Float32Array {
  const out = new Float32Array(values.length);
  for (let r = 0; r < rows; r++) for (let c = 0; c < cols; c++) out[c * rows + r] = values[r * cols + c]!;
  return out;
}

/** Rows of a and b taking turns. */
function alternate(a: Float32Array, b: Float32Array, rowLength: number): Float32Array {
  const out = new Float32Array(2 * a.length);
  for (let r = 0; r < a.length / rowLength; r++) {
    out.set(a.subarray(r * rowLength, (r + 1) * rowLength), 2 * r * rowLength);
    out.set(b.subarray(r * rowLength, (r + 1) * rowLength), (2 * r + 1) * rowLength);
  }
  return out;
}

/** kv_b as DeepSeek trains it: per head the transpose of kB, then vB. */
function kvB(c: ModelConfig, w: TinyWeights, layer: number): Float32Array {
  return join(Array.from({ length: c.nHeads }, (_, h) => [transpose(w.get(`layers.${layer}.kB.${h}`)!), w.get(`layers.${layer}.vB.${h}`)!.values]).flat());
}

const HF_TRUNK: Readonly<Record<string, string>> = {
  attnNorm: "input_layernorm.weight", attnNormBias: "input_layernorm.bias", ffnNorm: "post_attention_layernorm.weight", ffnNormBias: "post_attention_layernorm.bias",
  q: "self_attn.q_proj.weight", k: "self_attn.k_proj.weight", v: "self_attn.v_proj.weight", o: "self_attn.o_proj.weight",
  qBias: "self_attn.q_proj.bias", kBias: "self_attn.k_proj.bias", vBias: "self_attn.v_proj.bias", oBias: "self_attn.o_proj.bias",
  qNorm: "self_attn.q_norm.weight", kNorm: "self_attn.k_norm.weight", sinks: "self_attn.sinks",
  qA: "self_attn.q_a_proj.weight", qANorm: "self_attn.q_a_layernorm.weight", qB: "self_attn.q_b_proj.weight",
  kvA: "self_attn.kv_a_proj_with_mqa.weight", kvANorm: "self_attn.kv_a_layernorm.weight",
  router: "mlp.gate.weight", selectionBias: "mlp.gate.e_score_correction_bias", sharedGate: "mlp.shared_expert_gate.weight",
};
const MIXTRAL_MATRICES: Readonly<Record<ExpertMatrix, string>> = { gate: "w1", up: "w3", down: "w2" };

const HF_ROUTERS: Readonly<Record<string, string>> = {
  mixtral: "block_sparse_moe.gate.weight", phimoe: "block_sparse_moe.gate.weight",
  granitemoe: "block_sparse_moe.router.layer.weight", granitemoeshared: "block_sparse_moe.router.layer.weight", gpt_oss: "mlp.router.weight",
};

const GGUF_TRUNK: Readonly<Record<string, string>> = {
  attnNorm: "attn_norm.weight", attnNormBias: "attn_norm.bias", ffnNorm: "ffn_norm.weight", ffnNormBias: "ffn_norm.bias",
  q: "attn_q.weight", k: "attn_k.weight", v: "attn_v.weight", o: "attn_output.weight", qBias: "attn_q.bias", kBias: "attn_k.bias", vBias: "attn_v.bias", oBias: "attn_output.bias",
  qNorm: "attn_q_norm.weight", kNorm: "attn_k_norm.weight", sinks: "attn_sinks.weight",
  qA: "attn_q_a.weight", qANorm: "attn_q_a_norm.weight", qB: "attn_q_b.weight", kvA: "attn_kv_a_mqa.weight", kvANorm: "attn_kv_a_norm.weight",
  router: "ffn_gate_inp.weight", routerBias: "ffn_gate_inp.bias", selectionBias: "exp_probs_b.bias", sharedGate: "ffn_gate_inp_shexp.weight",
};

const VECTORS = new Set(["attnNorm", "attnNormBias", "ffnNorm", "ffnNormBias", "qBias", "kBias", "vBias", "oBias", "qNorm", "kNorm", "sinks", "qANorm", "kvANorm",
  "routerBias", "selectionBias", "norm", "normBias", "headBias"]);

const tensor = (name: string, shape: readonly number[], values: Float32Array, kind: FileTensor["class"]): FileTensor => ({ name, shape, values, class: kind });

/** Trunk tensors in canonical order but kB and vB, which the callers store their own way. */
function trunkOf(w: TinyWeights, name: (canonical: string, layer: string | null) => string, values: (canonical: string, m: TinyMatrix) => Float32Array): FileTensor[] {
  return [...w].filter(([n]) => !/\.(shared|experts|kB|vB)\./.test(n)).map(([canonical, m]) => {
    const [, layer, last] = /^layers\.(\d+)\.(.+)$/.exec(canonical) ?? [null, null, canonical];
    const part = last!;
    const kind = VECTORS.has(part) ? "vector" : part === "router" || part === "sharedGate" ? "router" : "matrix";
    return tensor(name(part, layer ?? null), kind === "vector" ? [m.cols] : [m.rows, m.cols], values(part, m), kind);
  });
}

export interface HuggingFaceForm {
  /** OLMoE, Qwen, DeepSeek: experts stacked, gate and up fused (transformers 5). */
  readonly fused: boolean;
  /** gpt-oss: experts left to the caller, which writes MXFP4 blocks. */
  readonly withoutExperts: boolean;
}

export function huggingFaceTensors(c: ModelConfig, w: TinyWeights, form: HuggingFaceForm): FileTensor[] {
  const arch = c.architecture;
  const OUTSIDE: Readonly<Record<string, string>> = { embed: "model.embed_tokens.weight", norm: "model.norm.weight", normBias: "model.norm.bias", head: "lm_head.weight", headBias: "lm_head.bias" };
  const trunkName = (part: string, layer: string | null): string => {
    if (layer === null) return OUTSIDE[part]!;
    const named = part === "router" ? HF_ROUTERS[arch] ?? HF_TRUNK["router"]! : part === "routerBias" ? "mlp.router.bias" : HF_TRUNK[part]!;
    return `model.layers.${layer}.${named}`;
  };
  const out = trunkOf(w, trunkName, (_, m) => m.values);
  const { hiddenSize: H, expertIntermediateSize: I, nExperts: E } = c;
  for (let layer = 0; layer < c.nLayers; layer++) {
    const at = `model.layers.${layer}.`;
    if (c.mla !== null) {
      out.push(tensor(`${at}self_attn.kv_b_proj.weight`, [c.nHeads * (c.mla.nopeHeadDim + c.mla.valueHeadDim), c.mla.kvLoraRank], kvB(c, w, layer), "mla"));
    }
    const S = sharedWidth(c, layer);
    const isDense = c.layerFfns[layer] === "dense";
    const shared = (m: ExpertMatrix): TinyMatrix => w.get(`layers.${layer}.shared.${m}`)!;
    if (S > 0 && arch === "granitemoeshared") {
      out.push(tensor(`${at}shared_mlp.input_linear.weight`, [2 * S, H], join([shared("gate").values, shared("up").values]), "matrix"));
      out.push(tensor(`${at}shared_mlp.output_linear.weight`, [H, S], shared("down").values, "matrix"));
    } else if (S > 0) {
      const stem = isDense ? "mlp" : arch === "qwen2_moe" ? "mlp.shared_expert" : "mlp.shared_experts";
      for (const m of EXPERT_MATRICES) out.push(tensor(`${at}${stem}.${m}_proj.weight`, [shared(m).rows, shared(m).cols], shared(m).values, "matrix"));
    }
    if (isDense) continue;
    const expert = (e: number, part: ExpertMatrix | ExpertBias): TinyMatrix => w.get(`layers.${layer}.experts.${e}.${part}`)!;
    const every = (make: (e: number) => Float32Array): Float32Array => join(Array.from({ length: E }, (_, e) => make(e)));
    if (arch === "gpt_oss") {
      if (!form.withoutExperts) {
        const gateUp = (e: number): Float32Array => transpose({ rows: 2 * I, cols: H, values: alternate(expert(e, "gate").values, expert(e, "up").values, H) });
        out.push(tensor(`${at}mlp.experts.gate_up_proj`, [E, H, 2 * I], every(gateUp), "experts"));
        out.push(tensor(`${at}mlp.experts.down_proj`, [E, I, H], every((e) => transpose(expert(e, "down"))), "experts"));
      }
      out.push(tensor(`${at}mlp.experts.gate_up_proj_bias`, [E, 2 * I], every((e) => alternate(expert(e, "gateBias").values, expert(e, "upBias").values, 1)), "vector"));
      out.push(tensor(`${at}mlp.experts.down_proj_bias`, [E, H], every((e) => expert(e, "downBias").values), "vector"));
    } else if (arch.startsWith("granite")) {
      out.push(tensor(`${at}block_sparse_moe.input_linear.weight`, [E, 2 * I, H], every((e) => join([expert(e, "gate").values, expert(e, "up").values])), "experts"));
      out.push(tensor(`${at}block_sparse_moe.output_linear.weight`, [E, H, I], every((e) => expert(e, "down").values), "experts"));
    } else if (form.fused) {
      out.push(tensor(`${at}mlp.experts.gate_up_proj`, [E, 2 * I, H], every((e) => join([expert(e, "gate").values, expert(e, "up").values])), "experts"));
      out.push(tensor(`${at}mlp.experts.down_proj`, [E, H, I], every((e) => expert(e, "down").values), "experts"));
    } else {
      for (let e = 0; e < E; e++) for (const m of EXPERT_MATRICES) {
        const { rows, cols, values } = expert(e, m);
        const named = arch === "mixtral" || arch === "phimoe" ? `block_sparse_moe.experts.${e}.${MIXTRAL_MATRICES[m]}` : `mlp.experts.${e}.${m}_proj`;
        out.push(tensor(`${at}${named}.weight`, [rows, cols], values, "experts"));
      }
    }
  }
  return out;
}

export interface GgufForm {
  readonly experts: "stacked" | "fused" | "own";
  /** DeepSeek: attn_k_b and attn_v_b, or the older attn_kv_b. */
  readonly mla: "split" | "fused";
  /** q, k and v in one tensor. */
  readonly fusedQkv: boolean;
}

/** Architectures whose q and k rows llama.cpp's converter permutes. */
export const isPermuted = (arch: string): boolean => ["llama", "mixtral", "granitemoe", "granitemoeshared"].includes(arch);

export function ggufTensors(c: ModelConfig, w: TinyWeights, form: GgufForm): FileTensor[] {
  const arch = c.architecture;
  const OUTSIDE: Readonly<Record<string, string>> = { embed: "token_embd.weight", norm: "output_norm.weight", normBias: "output_norm.bias", head: "output.weight", headBias: "output.bias" };
  const name = (part: string, layer: string | null): string =>
    layer === null ? OUTSIDE[part]! : `blk.${layer}.${arch === "gpt_oss" && part === "ffnNorm" ? "post_attention_norm.weight" : GGUF_TRUNK[part]!}`;
  const values = (part: string, m: TinyMatrix): Float32Array =>
    isPermuted(arch) && /^[qk](Bias)?$/.test(part) ? permuteForGguf(m, part.startsWith("q") ? c.nHeads : c.nKvHeads) : m.values;
  let out = trunkOf(w, name, values).map((t) => (t.name.endsWith("ffn_gate_inp_shexp.weight") ? { ...t, shape: [c.hiddenSize] } : t));
  if (form.fusedQkv) {
    for (let layer = 0; layer < c.nLayers; layer++) {
      for (const kind of ["weight", "bias"]) {
        const parts = ["q", "k", "v"].flatMap((p) => out.find((t) => t.name === `blk.${layer}.attn_${p}.${kind}`) ?? []);
        if (parts.length === 0) continue;
        const fused = tensor(`blk.${layer}.attn_qkv.${kind}`, [parts.reduce((n, p) => n + p.shape[0]!, 0), ...parts[0]!.shape.slice(1)], join(parts.map((p) => p.values)), parts[0]!.class);
        out = [...out.filter((t) => !parts.includes(t)), fused];
      }
    }
  }
  const { hiddenSize: H, expertIntermediateSize: I, nExperts: E } = c;
  for (let layer = 0; layer < c.nLayers; layer++) {
    const at = `blk.${layer}.`;
    if (c.mla !== null) {
      const { kvLoraRank, nopeHeadDim, valueHeadDim } = c.mla;
      const heads = (part: string): Float32Array => join(Array.from({ length: c.nHeads }, (_, h) => w.get(`layers.${layer}.${part}.${h}`)!.values));
      if (form.mla === "fused") out.push(tensor(`${at}attn_kv_b.weight`, [c.nHeads * (nopeHeadDim + valueHeadDim), kvLoraRank], kvB(c, w, layer), "mla"));
      else {
        out.push(tensor(`${at}attn_k_b.weight`, [c.nHeads, kvLoraRank, nopeHeadDim], heads("kB"), "matrix"));
        out.push(tensor(`${at}attn_v_b.weight`, [c.nHeads, valueHeadDim, kvLoraRank], heads("vB"), "matrix"));
      }
    }
    const isDense = c.layerFfns[layer] === "dense";
    if (sharedWidth(c, layer) > 0) for (const m of EXPERT_MATRICES) {
      const { rows, cols, values: v } = w.get(`layers.${layer}.shared.${m}`)!;
      out.push(tensor(`${at}ffn_${m}${isDense ? "" : "_shexp"}.weight`, [rows, cols], v, "matrix"));
    }
    if (isDense) continue;
    const expert = (e: number, part: ExpertMatrix | ExpertBias): TinyMatrix => w.get(`layers.${layer}.experts.${e}.${part}`)!;
    const every = (...of: (ExpertMatrix | ExpertBias)[]): Float32Array => join(Array.from({ length: E }, (_, e) => of.map((m) => expert(e, m).values)).flat());
    if (form.experts === "own") {
      for (let e = 0; e < E; e++) for (const m of EXPERT_MATRICES) out.push(tensor(`${at}ffn_${m}.${e}.weight`, [expert(e, m).rows, expert(e, m).cols], expert(e, m).values, "experts"));
    } else {
      if (form.experts === "fused") out.push(tensor(`${at}ffn_gate_up_exps.weight`, [E, 2 * I, H], every("gate", "up"), "experts"));
      else for (const m of ["gate", "up"] as const) out.push(tensor(`${at}ffn_${m}_exps.weight`, [E, I, H], every(m), "experts"));
      out.push(tensor(`${at}ffn_down_exps.weight`, [E, H, I], every("down"), "experts"));
    }
    if (c.expertKind !== "clamped-swiglu") continue;
    for (const [bias, width] of [["gate", I], ["up", I], ["down", H]] as const) out.push(tensor(`${at}ffn_${bias}_exps.bias`, [E, width], every(`${bias}Bias`), "vector"));
  }
  return out;
}
