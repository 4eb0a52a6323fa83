// Rotary settings of config.json and of GGUF metadata, as inverse frequencies and magnitudes. Owns which key means what in which form.
// Refuses types of scaling it does not know, those that depend on a request's length (dynamic), and rotating a part of each head.
// Sources: transformers' modeling_rope_utils, DeepSeek-V2's and Phi-3.5-MoE's own code, llama.cpp's rope.scaling keys and factor tensors.

import { ModelError, type RopeConfig } from "../config.ts";
import type { RopeStyle } from "../kernels.ts";
import { linearInverseFrequencies, plainInverseFrequencies, yarnFrequencies, yarnMscale } from "../rope.ts";
import type { GgufTensors } from "./architecture.ts";
import type { ConfigFields } from "./config-fields.ts";

export interface RopeSettings {
  readonly rope: RopeConfig;
  readonly maxPositions: number;
  /** What multiplies queries and keys each, beside cos and sin (DeepSeek's mscale of the scores is its square); 1 = none. */
  readonly scoreMscale: number;
}

/** GGUF tensors that hold factors of rotary frequencies. */
export const GGUF_ROPE_FACTORS = ["rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"] as const;

const KNOWN_TYPES = `expected "default", "linear", "yarn", "llama3" or "longrope"`;

/** Frequencies of `dim` dimensions, each divided by its factor. */
const dividedFrequencies = (dim: number, theta: number, factors: readonly number[]): number[] =>
  plainInverseFrequencies(dim, theta).map((f, i) => f / factors[i]!);

/** Llama 3.1: low frequencies are divided by the factor, high ones kept, those between blended. */
function llama3Frequencies(dim: number, theta: number, f: ConfigFields): number[] {
  const factor = f.positive("factor");
  const low = f.positive("low_freq_factor");
  const high = f.positive("high_freq_factor");
  const original = f.integer("original_max_position_embeddings", 1);
  return plainInverseFrequencies(dim, theta).map((frequency) => {
    const turns = (original * frequency) / (2 * Math.PI);
    if (turns > high) return frequency;
    if (turns < low) return frequency / factor;
    const smooth = (turns - low) / (high - low);
    return (1 - smooth) * (frequency / factor) + smooth * frequency;
  });
}

/** LongRoPE's magnitude where the checkpoint names none. */
const longRopeMagnitude = (maxPositions: number, original: number): number =>
  maxPositions <= original ? 1 : Math.sqrt(1 + Math.log(maxPositions / original) / Math.log(original));

/** In the old form (rope_theta, rope_scaling) or the new (rope_parameters). `dim` dimensions of each head are rotated. */
export function ropeOfHuggingFace(f: ConfigFields, style: RopeStyle, dim: number, defaults: { readonly theta: number }): RopeSettings {
  const declared = f.integer("max_position_embeddings", 1);
  const parameters = f.object("rope_parameters");
  const scaling = parameters ?? f.object("rope_scaling");
  const theta = parameters?.has("rope_theta") ? parameters.positive("rope_theta") : f.positive("rope_theta", defaults.theta);
  for (const fields of [f, ...(parameters === null ? [] : [parameters])]) fields.only("partial_rotary_factor", [1], "rotating a part of each head");
  const settings = (inverseFrequencies: number[], maxPositions: number, magnitude = 1, long: RopeConfig["long"] = null, scoreMscale = 1): RopeSettings =>
    ({ rope: { style, dim, theta, inverseFrequencies, magnitude, long }, maxPositions, scoreMscale });
  const type = scaling === null ? "default" : scaling.string(scaling.has("rope_type") ? "rope_type" : "type", "default");
  // What scales has a factor; with no type, or the plain one, it would be passed over.
  if (type === "default") for (const key of ["factor", "short_factor", "long_factor"]) scaling?.only(key, key === "factor" ? [1] : [], 'without a "type" that says how frequencies are scaled');
  if (scaling === null || type === "default") return settings(plainInverseFrequencies(dim, theta), declared);
  switch (type) {
    case "linear": return settings(linearInverseFrequencies(dim, theta, scaling.positive("factor")), declared);
    case "llama3": return settings(llama3Frequencies(dim, theta, scaling), declared);
    case "yarn": {
      const factor = scaling.positive("factor");
      const originalContext = scaling.integer("original_max_position_embeddings", 1, declared);
      const { inverseFrequencies } = yarnFrequencies({
        dim, theta, factor, originalContext, betaFast: scaling.positive("beta_fast", 32), betaSlow: scaling.positive("beta_slow", 1),
        truncate: scaling.boolean("truncate", true),
      });
      const mscale = scaling.number("mscale", 0);
      const mscaleAllDim = scaling.number("mscale_all_dim", 0);
      const magnitude = scaling.has("attention_factor") ? scaling.positive("attention_factor")
        : mscale !== 0 && mscaleAllDim !== 0 ? yarnMscale(factor, mscale) / yarnMscale(factor, mscaleAllDim) : yarnMscale(factor);
      return settings(inverseFrequencies, Math.max(declared, Math.floor(originalContext * factor)), magnitude, null,
        mscaleAllDim === 0 ? 1 : yarnMscale(factor, mscaleAllDim));
    }
    case "longrope": case "su": {
      const original = scaling.has("original_max_position_embeddings") ? scaling.integer("original_max_position_embeddings", 2)
        : f.integer("original_max_position_embeddings", 2);
      const both = longRopeMagnitude(scaling.has("factor") ? original * scaling.positive("factor") : declared, original);
      const magnitude = scaling.positive("attention_factor", both);
      const long = {
        fromPositions: original, magnitude: scaling.positive("long_mscale", magnitude),
        inverseFrequencies: dividedFrequencies(dim, theta, scaling.positives("long_factor", dim / 2)),
      };
      return settings(dividedFrequencies(dim, theta, scaling.positives("short_factor", dim / 2)), declared, scaling.positive("short_mscale", magnitude), long);
    }
    default: throw new ModelError(`${scaling.file} has rope type "${type}", which this version cannot run; ${KNOWN_TYPES}.`);
  }
}

/** `arch` prefixes the keys. `truncate` is YaRN's, which no key tells. */
export function ropeOfGguf(
  f: ConfigFields, arch: string, tensors: GgufTensors, { style, dim, truncate = true }: { readonly style: RopeStyle; readonly dim: number; readonly truncate?: boolean },
): RopeSettings {
  const declared = f.integer(`${arch}.context_length`, 1);
  const theta = decimalOfF32(f.positive(`${arch}.rope.freq_base`, 10000));
  f.only(`${arch}.rope.dimension_count`, [dim], "rotating a part of each head");
  const settings = (inverseFrequencies: number[], maxPositions: number, magnitude = 1, long: RopeConfig["long"] = null, scoreMscale = 1): RopeSettings =>
    ({ rope: { style, dim, theta, inverseFrequencies, magnitude, long }, maxPositions, scoreMscale });
  const factorsOf = (name: (typeof GGUF_ROPE_FACTORS)[number]): readonly number[] | null => {
    const factors = tensors.vector(name);
    if (factors !== null && (factors.length !== dim / 2 || factors.some((x) => !(x > 0 && x < Infinity)))) {
      throw new ModelError(`${f.file}: tensor ${name} holds ${factors.length} factors, expected ${dim / 2} numbers above 0.`);
    }
    return factors;
  };
  const originalKey = `${arch}.rope.scaling.original_context_length`;
  const attnFactorKey = `${arch}.rope.scaling.attn_factor`;
  const type = f.string(`${arch}.rope.scaling.type`, "none");

  const [short, long] = [factorsOf("rope_factors_short.weight"), factorsOf("rope_factors_long.weight")];
  if (short !== null && long !== null) {
    if (type !== "none" && type !== "longrope") throw f.error(`${arch}.rope.scaling.type`, `"longrope" or no such key beside the tensors rope_factors_short and rope_factors_long`);
    const original = f.integer(originalKey, 2);
    const exact = longRopeMagnitude(declared, original);
    // The key holds the f32 of the same formula; what is meant is known to more digits.
    const given = f.positive(attnFactorKey, exact);
    const magnitude = Math.fround(given) === Math.fround(exact) ? exact : given;
    return settings(dividedFrequencies(dim, theta, short), declared, magnitude, { fromPositions: original, inverseFrequencies: dividedFrequencies(dim, theta, long), magnitude });
  }
  const factors = factorsOf("rope_freqs.weight");
  if (factors !== null) {
    if (type !== "none") throw f.error(`${arch}.rope.scaling.type`, `no such key beside the tensor rope_freqs, which scales already`);
    return settings(dividedFrequencies(dim, theta, factors), declared);
  }
  if (type === "none") {
    // Files older than the typed keys give linear scaling by this one alone.
    return settings(linearInverseFrequencies(dim, theta, f.positive(`${arch}.rope.scale_linear`, 1)), declared);
  }
  if (type === "linear") return settings(linearInverseFrequencies(dim, theta, f.positive(`${arch}.rope.scaling.factor`)), declared);
  if (type !== "yarn") {
    throw new ModelError(`${f.file} has ${arch}.rope.scaling.type = "${type}", which this version cannot run; expected "none", "linear", "yarn" or "longrope" with its factors.`);
  }
  const factor = f.positive(`${arch}.rope.scaling.factor`);
  const originalContext = f.integer(originalKey, 1, declared);
  const { inverseFrequencies } = yarnFrequencies({
    dim, theta, factor, originalContext, truncate,
    betaFast: f.positive(`${arch}.rope.scaling.yarn_beta_fast`, 32), betaSlow: f.positive(`${arch}.rope.scaling.yarn_beta_slow`, 1),
  });
  const attnFactor = f.positive(attnFactorKey, 1);
  const logMultiplier = f.number(`${arch}.rope.scaling.yarn_log_multiplier`, 0);
  const maxPositions = Math.max(declared, Math.floor(originalContext * factor));
  if (logMultiplier === 0) return settings(inverseFrequencies, maxPositions, attnFactor * yarnMscale(factor));
  // The converter writes 0.1 mscale_all_dim. llama.cpp takes mscale for equal to it, as it is in all published models: the ratio is 1.
  const mscaleAllDim = Number((10 * decimalOfF32(logMultiplier)).toPrecision(7));
  return settings(inverseFrequencies, maxPositions, 1, null, attnFactor * yarnMscale(factor, mscaleAllDim));
}

/** GGUF holds 1e-5 as an f32; the shortest decimal with that f32 is the number that was meant. */
export function decimalOfF32(x: number): number {
  for (let digits = 1; digits < 9; digits++) {
    const decimal = Number(x.toPrecision(digits));
    if (Math.fround(decimal) === Math.fround(x)) return decimal;
  }
  return x;
}
