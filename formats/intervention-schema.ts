// The schema of interventions, as requests, profiles and the way to the orchestrator have them (model/interventions.ts). Owns what a valid list is; its `meta` is what each field means, and
// openapi.ts and docs/api.md are made of it. Refuses unknown keys. What a model has for them is checked where the model is known.

import { z } from "zod";
import { CONFIG_MOST } from "../model/config.ts";
import { INTERVENTION_MOST, type Intervention } from "../model/interventions.ts";

const numberWithin = (most: number): z.ZodNumber => {
  const expected = `a number from -${most} to ${most}`;
  return z.number(expected).min(-most, expected).max(most, expected);
};
const whole = (min: number, max: number): z.ZodNumber => {
  const expected = `an integer from ${min} to ${max}`;
  return z.number(expected).int(expected).min(min, expected).max(max, expected);
};

const expertsExpected = "an object from numbers of layers to numbers of experts, such as {\"3\": [1, 17]}";
const experts = z.record(z.string(expertsExpected).regex(/^\d{1,4}$/, expertsExpected), z.array(whole(0, CONFIG_MOST.experts - 1), expertsExpected).max(CONFIG_MOST.experts, expertsExpected), expertsExpected)
  .refine((of) => Object.keys(of).length <= CONFIG_MOST.layers, expertsExpected).meta({ description: "Experts by the number of their layer, both from 0: {\"3\": [1, 17]}." });

const fields = (op: string, ...names: readonly string[]): string => `an intervention {"op": "${op}"} with ${names.map((name) => `\`${name}\``).join(" and ")}, and no other fields`;
const biasExpected = "a number, or an array with one for each layer, null for none";
const bias = numberWithin(INTERVENTION_MOST.bias);
const expected = "an array of interventions such as {\"op\": \"suppress\", \"experts\": {\"3\": [1, 17]}}";

export const interventionSchema = z.discriminatedUnion("op", [
  z.strictObject({ op: z.literal("add_std"), experts, lambda: numberWithin(INTERVENTION_MOST.lambda).meta({ description: "So many standard deviations of the layer's logits are added to those of the experts." }) }, fields("add_std", "experts", "lambda")),
  z.strictObject({ op: z.literal("force_max"), experts }, fields("force_max", "experts")),
  z.strictObject({ op: z.literal("stimulate"), experts }, fields("stimulate", "experts")),
  z.strictObject({ op: z.literal("suppress"), experts }, fields("suppress", "experts")),
  z.strictObject({ op: z.literal("mask"), experts }, fields("mask", "experts")),
  z.strictObject({ op: z.literal("gain"), experts, gain: numberWithin(INTERVENTION_MOST.gain).meta({ description: "What the experts give counts so many times." }) }),
  z.strictObject({
    op: z.literal("top_k"), k: whole(1, CONFIG_MOST.experts).meta({ description: "Experts a token takes, at most as many as the model's own number." }),
    layers: z.array(whole(0, CONFIG_MOST.layers - 1)).max(CONFIG_MOST.layers).nullish().meta({ description: "The layers it holds for; all that have experts when absent." }),
  }, fields("top_k", "k", "layers")),
  z.strictObject({ op: z.literal("null_bias"), bias: z.union([bias, z.array(bias.nullable(), biasExpected).max(CONFIG_MOST.layers, biasExpected)], biasExpected).meta({ description: "Experts whose logit is below it are left out: one number, or one for each layer, null for none." }) }, fields("null_bias", "bias")),
], { error: "one of the operations add_std, force_max, stimulate, suppress, mask, gain, top_k and null_bias, with its fields" });

/** A deployment's own limits of their number stand with whoever takes them. */
export const interventionsSchema = z.array(interventionSchema satisfies z.ZodType<Intervention>, expected);
