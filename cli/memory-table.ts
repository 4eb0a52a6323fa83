// `node cli/memory-table.ts`: the table of docs/memory.md, model size -> shards -> MiB of weights, KV bytes per token and resident tokens, computed
// from each model's config by the same plan that admits loads (durable/memory-plan.ts). `--write` puts it into the document.
// Owns the configs of the models named there. Refuses weights: no file is read but the demo's config.

import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { tenantBytes } from "../durable/isolate.ts";
import { LIMITS } from "../durable/limits.ts";
import { kvBytes, maxSegmentsOf, orchestratorMemory, plannedBytes, shardMemory, type PlannedPack } from "../durable/memory-plan.ts";
import { maxChunkTokens } from "../durable/protocol.ts";
import { expertTable, makePlan, slicedExperts } from "../fleet/plan.ts";
import { FORMAT_LIMITS } from "../formats/limits.ts";
import { formatOf, type PackFormats, type Quant } from "../formats/pack-formats.ts";
import { ConfigFields } from "../model/architectures/config-fields.ts";
import { architectureOfHuggingFace } from "../model/architectures/index.ts";
import { expertInputSize, expertOutputSize, sharedWidth, trunkTensors, type ExpertKind, type ModelConfig } from "../model/config.ts";
import { ropeTables } from "../model/trunk.ts";
import { activationFormatOf, matrixBytes, type MatrixFormat, segmentBytes } from "../model/kernels.ts";
import { ROOT } from "./setup.mjs";

const MIB = 1024 * 1024;
/** A request of this length must find room beside the weights. */
const CONTEXT_TOKENS = 4096;

/** config.json of the models of the table, without what memory does not depend on. */
const MODELS: Readonly<Record<string, () => object>> = {
  demo: () => JSON.parse(readFileSync(join(ROOT, "demo/model/config.json"), "utf8")) as object,
  "OLMoE-1B-7B": () => ({
    architectures: ["OlmoeForCausalLM"], model_type: "olmoe", vocab_size: 50304, hidden_size: 2048, intermediate_size: 1024, num_hidden_layers: 16,
    num_attention_heads: 16, num_key_value_heads: 16, num_experts: 64, num_experts_per_tok: 8, norm_topk_prob: false, rms_norm_eps: 1e-5, rope_theta: 10000,
    rope_scaling: null, max_position_embeddings: 4096, attention_bias: false, clip_qkv: null, hidden_act: "silu", tie_word_embeddings: false, eos_token_id: 50279,
  }),
  "Qwen3-30B-A3B": () => ({
    architectures: ["Qwen3MoeForCausalLM"], model_type: "qwen3_moe", vocab_size: 151936, hidden_size: 2048, num_hidden_layers: 48, num_attention_heads: 32,
    num_key_value_heads: 4, head_dim: 128, num_experts: 128, num_experts_per_tok: 8, moe_intermediate_size: 768, intermediate_size: 6144, norm_topk_prob: true,
    decoder_sparse_step: 1, mlp_only_layers: [], hidden_act: "silu", rope_theta: 1e6, rope_scaling: null, rms_norm_eps: 1e-6, max_position_embeddings: 40960,
    attention_bias: false, use_sliding_window: false, sliding_window: null, tie_word_embeddings: false, eos_token_id: 151645,
  }),
  "Mixtral-8x7B": () => ({
    architectures: ["MixtralForCausalLM"], model_type: "mixtral", vocab_size: 32000, hidden_size: 4096, intermediate_size: 14336, num_hidden_layers: 32,
    num_attention_heads: 32, num_key_value_heads: 8, num_local_experts: 8, num_experts_per_tok: 2, rms_norm_eps: 1e-5, rope_theta: 1e6, sliding_window: null,
    max_position_embeddings: 32768, hidden_act: "silu", tie_word_embeddings: false, bos_token_id: 1, eos_token_id: 2,
  }),
};

function configOf(name: string): ModelConfig {
  const fields = new ConfigFields(name, MODELS[name]!());
  return architectureOfHuggingFace(fields).fromHuggingFace(fields, null);
}

/** Formats that a checkpoint's own types ask for. */
export interface PlannedFormats extends PackFormats {
  /** Of a matrix, by its canonical name. */
  formatOf(name: string): MatrixFormat;
}

/** A pack as `workers-moe pack --quant` would write it, without a byte of weights: every blob is its own. */
export function plannedPack(id: string, config: ModelConfig, formats: Exclude<Quant, "source"> | PlannedFormats, contextLength: number, segmentWidth: number = FORMAT_LIMITS.segmentWidth): PlannedPack {
  let blobs = 0;
  const blob = (bytes: number): { hash: string; bytes: number; extents: [] } => ({ hash: String(blobs++), bytes, extents: [] });
  const format = (name: string, nCols: number) => (typeof formats === "string" ? formatOf({ name, type: "F32", storedType: "F32", nCols }, formats) : formats.formatOf(name));
  const trunk: Record<string, PlannedPack["blobs"][string]> = {};
  for (const t of trunkTensors(config)) {
    if (t.kind === "vector") {
      trunk[t.name] = { format: "f32-vector", rows: 1, cols: t.length, ...blob(t.length * 4) };
      continue;
    }
    const [of, count] = t.kind === "matrices" ? [format(`${t.name}.0`, t.nCols), t.count] : [format(t.name, t.nCols), 1];
    trunk[t.name] = { format: of, count, rows: t.nRows, cols: t.nCols, ...blob(count * matrixBytes(of, t.nRows, t.nCols)) };
  }
  const ropeRows = ropeTables(config) * contextLength;
  trunk["rope"] = { format: "f32-vector", rows: ropeRows, cols: config.rope.dim, ...blob(ropeRows * config.rope.dim * 4) };
  const ffn = (kind: ExpertKind, at: string, input: number, width: number, output = config.hiddenSize) => {
    const [gateUp, down] = [format(`${at}.up`, input), format(`${at}.down`, width)];
    const segments = [];
    for (let start = 0; start < width; start += segmentWidth) {
      const end = Math.min(width, start + segmentWidth);
      segments.push({ start, end, ...blob(segmentBytes(kind, gateUp, down, input, output, end - start)) });
    }
    return { gateUp, down, segments };
  };
  const layers = Array.from({ length: config.nLayers }, (_, layer) => layer);
  return {
    id, config, blobs: trunk,
    ...(typeof formats === "string" ? { kvFormat: formats === "f32" ? "f32" : "f16", activations: activationFormatOf(format("experts.up", expertInputSize(config))) } : { kvFormat: formats.kvFormat, activations: formats.activations }),
    shared: layers.filter((layer) => sharedWidth(config, layer) > 0).map((layer) => ({ layer, ...ffn("swiglu", `layers.${layer}.shared`, config.hiddenSize, sharedWidth(config, layer)) })),
    experts: layers.filter((layer) => config.layerFfns[layer] === "moe").flatMap((layer) =>
      Array.from({ length: config.nExperts }, (_, expert) => ({ layer, expert, ...ffn(config.expertKind, `layers.${layer}.experts.${expert}`, expertInputSize(config), config.expertIntermediateSize, expertOutputSize(config)) }))),
  };
}

export interface MemoryRow {
  readonly model: string;
  readonly quant: string;
  readonly expertBytes: number;
  /** Fewest shards whose isolates hold the experts, and the most weights one of them has. */
  readonly shards: number;
  readonly shardWeightBytes: number;
  readonly trunkBytes: number;
  /** Fewest isolates that hold the trunk, its working memory and one context. */
  readonly stages: number;
  readonly kvBytesPerToken: number;
  /** Tokens of KV cache that fit beside the trunk in that many isolates. */
  readonly residentTokens: number;
}

/** Plans segments over more and more shards until every isolate holds its share. */
function fewestShards(pack: PlannedPack): { shards: number; weightBytes: number } {
  const table = expertTable(pack);
  const allBytes = table.reduce((sum, { segmentBytes: bytes }) => sum + bytes.reduce((a, b) => a + b), 0);
  for (let shards = Math.ceil(allBytes / tenantBytes(LIMITS)); ; shards++) {
    const { slots, shardBytes } = makePlan(table, shards, slicedExperts);
    const largest = shardBytes.indexOf(shardBytes.reduce((most, bytes) => Math.max(most, bytes), 0));
    const plan = shardMemory(pack, slots[largest]!, LIMITS);
    if (plannedBytes(plan) <= tenantBytes(LIMITS)) return { shards, weightBytes: plan.weightBytes };
  }
}

export function memoryRow(model: string, quant: "q4" | "q8"): MemoryRow {
  const config = configOf(model);
  const context = Math.min(CONTEXT_TOKENS, config.maxPositions);
  const pack = plannedPack(model, config, quant, context);
  const { shards, weightBytes } = fewestShards(pack);
  const roundTokens = maxChunkTokens(config, maxSegmentsOf(pack), pack.activations);
  const trunk = orchestratorMemory(pack, { stepTokens: roundTokens, roundTokens, ranges: [] }, LIMITS);
  // Layers are cut over stages; each has working memory of its own.
  const room = tenantBytes(LIMITS) - trunk.scratchBytes - trunk.frameBytes;
  const stages = Math.ceil((trunk.weightBytes + kvBytes(pack, context)) / room);
  const kvBytesPerToken = kvBytes(pack, 3200) / 3200;
  return {
    model, quant, shards, stages, kvBytesPerToken, shardWeightBytes: weightBytes, trunkBytes: trunk.weightBytes,
    expertBytes: pack.experts.reduce((sum, { segments }) => sum + segments.reduce((bytes, s) => bytes + s.bytes, 0), 0),
    residentTokens: Math.floor((stages * room - trunk.weightBytes) / kvBytesPerToken / 32) * 32,
  };
}

export function memoryTable(): string {
  const head = ["model", "pack", "experts, MiB", "shards", "weights of the largest shard, MiB", "trunk, MiB", "isolates for the trunk", "KV, bytes per token", "resident tokens"];
  const mib = (bytes: number): string => (bytes / MIB).toFixed(1);
  const rows = Object.keys(MODELS).flatMap((model) => (["q4", "q8"] as const).map((quant) => {
    const row = memoryRow(model, quant);
    return [model, quant, mib(row.expertBytes), row.shards, mib(row.shardWeightBytes), mib(row.trunkBytes), row.stages, Math.round(row.kvBytesPerToken), row.residentTokens];
  }));
  return [head, head.map(() => "---"), ...rows].map((row) => `| ${row.join(" | ")} |\n`).join("");
}

const DOCUMENT = join(ROOT, "docs/memory.md");
const [BEGIN, END] = ["<!-- made by `node cli/memory-table.ts --write` -->\n", "<!-- end -->"] as const;

/** The table as the document has it. */
export function writtenTable(): string {
  const text = readFileSync(DOCUMENT, "utf8");
  return text.slice(text.indexOf(BEGIN) + BEGIN.length, text.indexOf(END));
}

if (import.meta.main) {
  const table = memoryTable();
  process.stdout.write(table);
  if (process.argv.includes("--write")) writeFileSync(DOCUMENT, readFileSync(DOCUMENT, "utf8").replace(BEGIN + writtenTable(), () => BEGIN + table));
}
