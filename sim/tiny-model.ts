// The model that simulated fleets serve: a real one, only small. Three layers, six experts in two segments each, two of them per token, quantised weights.
// Owns its numbers (drawn once, the same in every run) and the way through the house's own packer into a pack in memory.
// Refuses to be quick to read: what a run does with it is what a fleet does with any pack.

import { openHuggingFace } from "../formats/huggingface.ts";
import { MemorySink, type MemoryFiles, MemorySource } from "../formats/memory-source.ts";
import { openPack, type OpenPack } from "../formats/pack-reader.ts";
import { writePack } from "../formats/pack-writer.ts";
import { Draws } from "./draws.ts";

const CONFIG = {
  architectures: ["OlmoeForCausalLM"], model_type: "olmoe", vocab_size: 40, hidden_size: 32, num_hidden_layers: 3, num_attention_heads: 2, num_key_value_heads: 1, intermediate_size: 64,
  num_experts: 6, num_experts_per_tok: 2, max_position_embeddings: 64, rms_norm_eps: 1e-5, rope_theta: 10000, norm_topk_prob: true, hidden_act: "silu", tie_word_embeddings: false, eos_token_id: 0,
};

/** What requests of its routing go by. */
export const TINY_SHAPE = { nLayers: CONFIG.num_hidden_layers, nExperts: CONFIG.num_experts };

interface Matrix {
  readonly name: string;
  readonly shape: readonly number[];
  /** Values are drawn from [base - scale, base + scale). */
  readonly base: number;
  readonly scale: number;
}

function matrices(): Matrix[] {
  const { hidden_size: h, vocab_size: v, intermediate_size: i, num_experts: e, num_hidden_layers: l, num_attention_heads: q, num_key_value_heads: kv } = CONFIG;
  const head = h / q;
  const matrix = (name: string, rows: number, cols: number, scale = 2 / Math.sqrt(cols)): Matrix => ({ name: `${name}.weight`, shape: [rows, cols], base: 0, scale });
  const norm = (name: string, width: number): Matrix => ({ name: `${name}.weight`, shape: [width], base: 1, scale: 0.3 });
  const layer = (n: number): Matrix[] => {
    const at = `model.layers.${n}.`;
    return [
      norm(`${at}input_layernorm`, h), norm(`${at}post_attention_layernorm`, h), norm(`${at}self_attn.q_norm`, h), norm(`${at}self_attn.k_norm`, kv * head),
      matrix(`${at}self_attn.q_proj`, h, h), matrix(`${at}self_attn.k_proj`, kv * head, h), matrix(`${at}self_attn.v_proj`, kv * head, h), matrix(`${at}self_attn.o_proj`, h, h),
      matrix(`${at}mlp.gate`, e, h, 1),
      ...Array.from({ length: e }, (_, expert) => [
        matrix(`${at}mlp.experts.${expert}.gate_proj`, i, h), matrix(`${at}mlp.experts.${expert}.up_proj`, i, h), matrix(`${at}mlp.experts.${expert}.down_proj`, h, i),
      ]).flat(),
    ];
  };
  return [matrix("model.embed_tokens", v, h, 1), norm("model.norm", h), matrix("lm_head", v, h), ...Array.from({ length: l }, (_, n) => layer(n)).flat()];
}

/** The folder of a checkpoint: config.json, and one safetensors file (header length, JSON header, tensors). */
function checkpointFiles(): MemoryFiles {
  const draws = new Draws(0, 0);
  const header: Record<string, unknown> = {};
  const values: number[] = [];
  for (const { name, shape, base, scale } of matrices()) {
    const from = values.length * 4;
    for (let n = shape.reduce((product, length) => product * length, 1); n > 0; n--) values.push(base + draws.between(-scale, scale));
    header[name] = { dtype: "F32", shape, data_offsets: [from, values.length * 4] };
  }
  const text = new TextEncoder().encode(JSON.stringify(header));
  const padded = Math.ceil(text.length / 8) * 8;
  const file = new Uint8Array(8 + padded + values.length * 4).fill(0x20, 8, 8 + padded);
  file.set(text, 8);
  new DataView(file.buffer).setBigUint64(0, BigInt(padded), true);
  file.set(new Uint8Array(Float32Array.from(values).buffer), 8 + padded);
  return new Map([["config.json", new TextEncoder().encode(JSON.stringify(CONFIG))], ["model.safetensors", file]]);
}

export interface TinyPack extends OpenPack {
  readonly files: MemoryFiles;
}

export async function tinyPack(): Promise<TinyPack> {
  const checkpoint = await openHuggingFace(new MemorySource(checkpointFiles()), "sim");
  const sink = new MemorySink();
  await writePack(checkpoint, sink, { id: "sim", quant: "q4", segmentWidth: 32, contextLength: 64 });
  return { ...await openPack(new MemorySource(sink.files)), files: sink.files };
}
