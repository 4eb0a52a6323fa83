// The tiny models can spring every trap that architectures.md names: what an implementation gets wrong there changes their logits by far more than
// rounding. Computed by the float64 definition, with the record or the weights as the mistake would have them. Tests of the engine compare it with the
// definition on these models, so that a sprung trap is seen there.

import { describe, expect, it } from "vitest";
import { softmaxRouter } from "../../../model/architectures/common.ts";
import type { ModelConfig } from "../../../model/config.ts";
import { type DefinitionMatrix, forwardDefinition } from "../../../model/definition.ts";
import { plainInverseFrequencies } from "../../../model/rope.ts";
import { TINY_ARCHITECTURES, type TinyArchitecture, type TinyModel, tinyModel } from "../../support/tiny-models.ts";
import { permuteForGguf } from "../../support/tiny-files.ts";

const IDS = [5, 17, 60, 3, 44, 91, 8, 30, 22, 71, 2, 50];

type Weights = (name: string) => DefinitionMatrix;
type WeightMistake = (name: string, of: Weights, c: ModelConfig) => DefinitionMatrix;
interface Mistake {
  readonly config?: (c: ModelConfig) => ModelConfig;
  readonly weights?: WeightMistake;
  /** Positions a sequence is reserved for; default its length. */
  readonly reserved?: number;
}

const given = (model: TinyModel): Weights => (name) => {
  const found = model.weights.get(name);
  if (found === undefined) throw new Error(`The tiny model has no ${name}.`);
  return found;
};

function logitsOf(model: TinyModel, { config = (c) => c, weights = (name, of) => of(name), reserved = IDS.length }: Mistake = {}): number[][] {
  return forwardDefinition(config(model.config), (name) => weights(name, given(model), model.config), IDS, reserved).logits;
}

const router = (change: Partial<ModelConfig["router"]>) => (c: ModelConfig): ModelConfig => ({ ...c, router: { ...c.router, ...change } });
const rope = (change: (r: ModelConfig["rope"]) => Partial<ModelConfig["rope"]>) => (c: ModelConfig): ModelConfig => ({ ...c, rope: { ...c.rope, ...change(c.rope) } });
const swapped = (a: string, b: string): WeightMistake => (name, of) => of(name.endsWith(`.${a}`) ? name.slice(0, -a.length) + b : name.endsWith(`.${b}`) ? name.slice(0, -b.length) + a : name);
const without = (pattern: RegExp): WeightMistake => (name, of) => (pattern.test(name) ? { ...of(name), values: new Float32Array(of(name).values.length) } : of(name));
/** Rows of gate and up as halves of what is stored in turns. */
const halves: WeightMistake = (name, of) => {
  const part = /^(.*)\.(gate|up)$/.exec(name);
  if (part === null) return of(name);
  const { rows, cols } = of(name);
  const at = (row: number): number[] => Array.from(of(`${part[1]}.${row % 2 === 0 ? "gate" : "up"}`).values).slice((row >> 1) * cols, ((row >> 1) + 1) * cols);
  return { rows, cols, values: Array.from({ length: rows }, (_, r) => at(part[2] === "gate" ? r : rows + r)).flat() };
};

const TRAPS: readonly (readonly [TinyArchitecture, string, Mistake])[] = [
  ["olmoe", "weights renormalised although norm_topk_prob is off", { config: router({ weigh: "renormalize" }) }],
  ["olmoe", "query-key norm by head instead of over the whole vector", { config: (c) => ({ ...c, qkNorm: "per-head" }) }],
  ["qwen3_moe", "weights not renormalised", { config: router({ weigh: "score" }) }],
  ["qwen3_moe", "no query-key norm", { config: (c) => ({ ...c, qkNorm: "none" }) }],
  ["qwen3_moe", "head dimension taken for hidden / heads in the scale", { config: (c) => ({ ...c, attentionScale: (c.hiddenSize / c.nHeads) ** -0.5 }) }],
  ["mixtral", "w1 and w3 exchanged", { weights: swapped("gate", "up") }],
  ["mixtral", "rows of q and k permuted, the rotary embedding not", { weights: (name, of, c) => /\.[qk]$/.test(name) ? { ...of(name), values: permuteForGguf({ ...of(name), values: Float32Array.from(of(name).values) }, name.endsWith("q") ? c.nHeads : c.nKvHeads) } : of(name) }],
  ["llama", "rotary embedding interleaved, the rows not", { config: rope(() => ({ style: "interleaved" })) }],
  ["qwen2_moe", "weights renormalised", { config: router({ weigh: "renormalize" }) }],
  ["qwen2_moe", "shared expert without its gate", { config: (c) => ({ ...c, sharedGate: false }) }],
  ["qwen2_moe", "no biases on q, k and v", { config: (c) => ({ ...c, qkvBias: false }) }],
  ["granitemoe", "no embedding multiplier", { config: (c) => ({ ...c, embeddingMultiplier: 1 }) }],
  ["granitemoe", "no attention multiplier", { config: (c) => ({ ...c, attentionScale: c.headDim ** -0.5 }) }],
  ["granitemoe", "no residual multiplier", { config: (c) => ({ ...c, residualMultiplier: 1 }) }],
  ["granitemoe", "no logits scaling", { config: (c) => ({ ...c, logitsScaling: 1 }) }],
  ["granitemoeshared", "no shared part", { config: (c) => ({ ...c, sharedIntermediateSize: 0 }) }],
  ["deepseek_v2", "mscale left out of the scores", { config: (c) => ({ ...c, attentionScale: (c.mla!.nopeHeadDim + c.mla!.ropeHeadDim) ** -0.5 }) }],
  ["deepseek_v2", "mscale multiplying cos and sin too", { config: rope(() => ({ magnitude: 1.2608 })) }],
  ["deepseek_v2", "no groups", { config: router({ nGroups: 1, topKGroups: 1 }) }],
  ["deepseek_v2", "groups judged by two experts", { config: router({ groupScore: "top2-sum" }) }],
  ["deepseek_v2", "no routed scaling factor", { config: router({ scale: 1 }) }],
  ["deepseek_v2", "rotary embedding by halves", { config: rope(() => ({ style: "half" })) }],
  ["deepseek_v2", "weights renormalised", { config: router({ weigh: "renormalize" }) }],
  ["deepseek_v3", "no groups", { config: router({ nGroups: 1, topKGroups: 1 }) }],
  ["deepseek_v3", "no selection bias", { weights: without(/selectionBias$/) }],
  ["deepseek_v3", "scores by softmax", { config: router({ score: "softmax" }) }],
  ["deepseek_v3", "groups judged by their best expert", { config: router({ groupScore: "max" }) }],
  ["deepseek_v3", "weights not renormalised", { config: router({ weigh: "score" }) }],
  ["deepseek_v3", "no shared expert", { config: (c) => ({ ...c, sharedIntermediateSize: 0 }) }],
  ["phimoe", "softmax over the two instead of sparsemixer", { config: (c) => ({ ...c, router: softmaxRouter(2, "renormalize") }) }],
  ["phimoe", "RMSNorm without bias", { config: (c) => ({ ...c, norm: "rms" }) }],
  ["phimoe", "no bias on the output projection", { config: (c) => ({ ...c, oBias: false }) }],
  ["phimoe", "no bias on the logits", { config: (c) => ({ ...c, headBias: false }) }],
  ["phimoe", "short factors for a long sequence", { reserved: 100, config: rope(() => ({ long: null })) }],
  ["phimoe", "long factors for a short sequence", { config: rope((r) => ({ ...r.long, long: null })) }],
  ["phimoe", "no magnitude", { config: rope(() => ({ magnitude: 1 })) }],
  ["gpt_oss", "no sinks", { config: (c) => ({ ...c, attentionSinks: false }) }],
  ["gpt_oss", "no window", { config: (c) => ({ ...c, slidingWindows: c.slidingWindows.map(() => 0) }) }],
  ["gpt_oss", "a window one wider", { config: (c) => ({ ...c, slidingWindows: c.slidingWindows.map((w) => (w === 0 ? 0 : w + 1)) }) }],
  ["gpt_oss", "windows in the other layers", { config: (c) => ({ ...c, slidingWindows: c.slidingWindows.map((w) => (w === 0 ? 8 : 0)) }) }],
  ["gpt_oss", "gate and up as halves", { weights: halves }],
  ["gpt_oss", "gate and up exchanged", { weights: swapped("gate", "up") }],
  ["gpt_oss", "no clamp", { config: (c) => ({ ...c, swigluLimit: 1e9 }) }],
  ["gpt_oss", "no biases of experts", { weights: without(/(gate|up|down)Bias$/) }],
  ["gpt_oss", "no bias of the router", { config: router({ logitBias: false }) }],
  ["gpt_oss", "softmax before the selection", { config: (c) => ({ ...c, router: { ...softmaxRouter(2, "score"), logitBias: true } }) }],
  ["gpt_oss", "YaRN's ramp rounded", { config: () => tinyModel("gpt_oss", 7, { config: { rope_scaling: { rope_type: "yarn", factor: 32, beta_fast: 32, beta_slow: 1, original_max_position_embeddings: 16, truncate: true } } }).config }],
  ["gpt_oss", "no YaRN", { config: rope((r) => ({ inverseFrequencies: plainInverseFrequencies(r.dim, r.theta) })) }],
  ["gpt_oss", "YaRN without magnitude", { config: rope(() => ({ magnitude: 1 })) }],
  ["qwen3", "query-key norm left out", { config: (c) => ({ ...c, qkNorm: "none" }) }],
  ["qwen2", "no biases on q, k and v", { config: (c) => ({ ...c, qkvBias: false }) }],
];

describe.each(TINY_ARCHITECTURES)("%s", (architecture) => {
  const model = tinyModel(architecture, 7);
  const right = logitsOf(model);

  it("gives logits of order 1 to 10", () => {
    const largest = Math.max(...right.flat().map(Math.abs));
    expect(largest).toBeGreaterThan(1);
    expect(largest).toBeLessThan(15);
  });

  const traps = TRAPS.filter(([a]) => a === architecture);
  it.skipIf(traps.length === 0).each(traps)("%s: %s", (_, __, mistake) => {
    const meant = mistake.reserved === undefined ? right : logitsOf(model, { reserved: mistake.reserved });
    const wrong = logitsOf(model, mistake);
    const worst = Math.max(...meant.flatMap((row, i) => row.map((x, j) => Math.abs(x - wrong[i]![j]!))));
    expect(worst).toBeGreaterThan(0.01);
  });
});
