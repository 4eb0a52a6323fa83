// `node bench/pack-memory.ts <random|qwen3-30b> [GiB]`: packs a model far larger than memory should ever have to hold, from a source made on the fly
// through a sink that hashes and discards, and prints size, time and the process's largest resident size. random: 4 GiB (or as said) of BF16
// weights to q4; qwen3-30b: Qwen3-30B-A3B's shape as a Q4_K_M file, tensors beyond 16 GiB included. Refuses to write to disk. Exits with 1 above 1.5 GiB.

import { createHash } from "node:crypto";
import { openGguf } from "../formats/gguf-checkpoint.ts";
import type { PackSink } from "../formats/pack-sink.ts";
import { type PackOptions, writePack } from "../formats/pack-writer.ts";
import { startProgress } from "../cli/progress.ts";
import { showBytes } from "../cli/sizes.ts";
import type { Field } from "./model/gguf-header.ts";
import { VirtualGguf, type VirtualTensor, type VirtualType } from "./model/virtual-gguf.ts";
import { asciiVocabulary } from "./model/vocabulary.ts";

const LIMIT_BYTES = 1.5 * 2 ** 30;

interface Shape {
  readonly hidden: number;
  readonly nLayers: number;
  readonly nHeads: number;
  readonly nKvHeads: number;
  readonly headDim: number;
  readonly nExperts: number;
  readonly topK: number;
  readonly expertWidth: number;
  readonly vocabulary: number;
  readonly matrix: VirtualType;
  readonly down: VirtualType;
}

const QWEN3_30B: Shape = {
  hidden: 2048, nLayers: 48, nHeads: 32, nKvHeads: 4, headDim: 128, nExperts: 128, topK: 8, expertWidth: 768, vocabulary: 151_936, matrix: "Q4_K", down: "Q6_K",
};
/** As many layers of 64 experts as fill the size asked for. */
const random = (bytes: number): Shape => {
  const layerBytes = 2 * 64 * 3 * 1024 * 1024;
  return { ...QWEN3_30B, hidden: 1024, nHeads: 16, nLayers: Math.ceil(bytes / layerBytes), nExperts: 64, expertWidth: 1024, vocabulary: 32_000, matrix: "BF16", down: "BF16" };
};

function metadataOf(s: Shape): Record<string, Field> {
  const u32 = (value: number): Field => ({ type: "u32", value });
  const string = (value: string): Field => ({ type: "string", value });
  const known = asciiVocabulary(Math.min(s.vocabulary, 32_000));
  const rest = Array.from({ length: s.vocabulary - known.tokens.length }, (_, i) => `<|unused ${i}|>`);
  const [tokens, types] = [[...known.tokens, ...rest], [...known.types, ...rest.map(() => 5)]];
  return {
    "general.architecture": string("qwen3moe"), "qwen3moe.block_count": u32(s.nLayers), "qwen3moe.context_length": u32(32_768), "qwen3moe.embedding_length": u32(s.hidden),
    "qwen3moe.feed_forward_length": u32(s.expertWidth), "qwen3moe.expert_feed_forward_length": u32(s.expertWidth), "qwen3moe.attention.head_count": u32(s.nHeads),
    "qwen3moe.attention.head_count_kv": u32(s.nKvHeads), "qwen3moe.attention.key_length": u32(s.headDim), "qwen3moe.attention.value_length": u32(s.headDim),
    "qwen3moe.attention.layer_norm_rms_epsilon": { type: "f32", value: 1e-6 }, "qwen3moe.rope.freq_base": { type: "f32", value: 1e6 },
    "qwen3moe.expert_count": u32(s.nExperts), "qwen3moe.expert_used_count": u32(s.topK),
    "tokenizer.ggml.model": string("gpt2"), "tokenizer.ggml.pre": string("qwen2"), "tokenizer.ggml.tokens": { type: "strings", value: tokens },
    "tokenizer.ggml.token_type": { type: "i32s", value: types }, "tokenizer.ggml.merges": { type: "strings", value: known.merges }, "tokenizer.ggml.eos_token_id": u32(0),
    "tokenizer.ggml.bos_token_id": u32(0), "tokenizer.ggml.add_bos_token": { type: "bool", value: false },
  };
}

function tensorsOf(s: Shape): VirtualTensor[] {
  const tensors: VirtualTensor[] = [{ name: "token_embd.weight", type: s.matrix, shape: [s.vocabulary, s.hidden] }];
  for (let layer = 0; layer < s.nLayers; layer++) {
    const add = (name: string, type: VirtualType, ...shape: number[]): void => void tensors.push({ name: `blk.${layer}.${name}.weight`, type, shape });
    add("attn_norm", "F32", s.hidden);
    add("attn_q", s.matrix, s.nHeads * s.headDim, s.hidden);
    add("attn_k", s.matrix, s.nKvHeads * s.headDim, s.hidden);
    add("attn_v", s.down, s.nKvHeads * s.headDim, s.hidden);
    add("attn_output", s.matrix, s.hidden, s.nHeads * s.headDim);
    add("attn_q_norm", "F32", s.headDim);
    add("attn_k_norm", "F32", s.headDim);
    add("ffn_norm", "F32", s.hidden);
    add("ffn_gate_inp", "F32", s.nExperts, s.hidden);
    add("ffn_gate_exps", s.matrix, s.nExperts, s.expertWidth, s.hidden);
    add("ffn_up_exps", s.matrix, s.nExperts, s.expertWidth, s.hidden);
    add("ffn_down_exps", layer % 2 === 0 ? s.down : s.matrix, s.nExperts, s.hidden, s.expertWidth);
  }
  tensors.push({ name: "output_norm.weight", type: "F32", shape: [s.hidden] }, { name: "output.weight", type: s.down, shape: [s.vocabulary, s.hidden] });
  return tensors;
}

const [kind = "", gib = "4"] = process.argv.slice(2);
if ((kind !== "random" && kind !== "qwen3-30b") || !(Number(gib) > 0)) {
  process.stderr.write("Usage: node bench/pack-memory.ts <random|qwen3-30b> [GiB of random weights]\n");
  process.exit(2);
}
const shape = kind === "random" ? random(Number(gib) * 2 ** 30) : QWEN3_30B;
const source = new VirtualGguf(metadataOf(shape), tensorsOf(shape));
const hash = createHash("sha256");
let written = 0;
const sink: PackSink = {
  description: "nowhere",
  append: async (_, bytes) => { hash.update(bytes); written += bytes.length; },
  commit: async () => {}, discard: async () => {},
};
const options: PackOptions = { id: kind, parts: "r2", quant: kind === "random" ? "q4" : "source" };
const started = performance.now();
const bar = startProgress({ label: `packing ${kind}`, total: source.bytes / 2 ** 20, unit: "MiB", quiet: false });
const { manifest } = await writePack(await openGguf(source, "model.gguf"), sink, options, ({ doneBytes }) => bar.update(doneBytes / 2 ** 20));
bar.stop();
const seconds = (performance.now() - started) / 1000;
const peakBytes = process.resourceUsage().maxRSS * 1024;
process.stdout.write(`${JSON.stringify({
  kind, source: showBytes(source.bytes), pack: showBytes(written), parts: manifest.parts.length, experts: manifest.experts.length, sha256: hash.digest("hex"),
  seconds: Math.round(seconds), mebibytesPerSecond: Math.round(source.bytes / 2 ** 20 / seconds), peakResident: showBytes(peakBytes), limit: showBytes(LIMIT_BYTES),
}, null, 2)}\n`);
if (peakBytes > LIMIT_BYTES) process.exitCode = 1;
