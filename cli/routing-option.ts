// What a command asks of routing: `--profile`, `--prune` with what goes with it (prune-option.ts), `--task` and `--condition`: the very record that requests with those of `moe` make. Owns the
// way from a profile's file to the engine. Refuses, in a sentence, what is no profile of this pack.

import { type Command, InvalidArgumentError } from "commander";
import { readFileSync } from "node:fs";
import type { OpenPack } from "../formats/pack-reader.ts";
import { productMaskOf } from "../formats/product-mask-schema.ts";
import { parseProfile, profileProblem, type RoutingProfile } from "../formats/routing-profile.ts";
import { answersProblem } from "../model/gate-stage.ts";
import type { Intervention } from "../model/interventions.ts";
import type { ProductMask } from "../model/product-mask.ts";
import { answersOf, type RequestRouting, requestRouting } from "../model/request-routing.ts";
import { pruningOf, type PruneOptions, withPruning } from "./prune-option.ts";

export interface ProfileOption {
  readonly profile?: string;
}
/** What a request says to a model that routes by task or by a condition. */
interface AnswerOptions {
  readonly task?: number;
  readonly condition?: readonly number[];
}
export type RoutingOptions = ProfileOption & PruneOptions & AnswerOptions;

export const withProfile = (command: Command): Command => command.option("--profile <file>", "a routing profile, a JSON file (docs/formats.md): what it does to the experts of this pack");
export const withRouting = (command: Command): Command => withPruning(withProfile(command))
  .option("--task <n>", "of a model that routes by task: which one, by number from 0", taskOf)
  .option("--condition <numbers>", "of a model that routes by a condition: its numbers, separated by commas", conditionOf);

function taskOf(text: string): number {
  if (!/^\d+$/.test(text)) throw new InvalidArgumentError("Expected a whole number.");
  return Number(text);
}

function conditionOf(text: string): number[] {
  const numbers = text.split(",").map((part) => (part.trim() === "" ? NaN : Number(part)));
  if (!numbers.every(Number.isFinite)) throw new InvalidArgumentError("Expected numbers separated by commas, such as 0.5,-1,2,0.25.");
  return numbers;
}

/** Undefined where nothing was asked for. Throws a sentence. */
export function routingOf({ manifest: { id, config }, packHash }: ProfiledManifest, { profile: file, task, condition, ...prune }: RoutingOptions): RequestRouting | undefined {
  const said = { ...(task === undefined ? {} : { task }), ...(condition === undefined ? {} : { condition }) };
  const unanswered = answersProblem(config, answersOf(said));
  if (unanswered !== null) throw new Error(unanswered);
  const { interventions, productMask } = file === undefined ? { interventions: [] } : steeringOf(profileOf({ manifest: { id, config }, packHash }, file));
  return requestRouting(pruningOf(config, prune), interventions, { ...said, ...(productMask === undefined ? {} : { productMask }) });
}

/** What a profile does, as the engine takes it. */
export interface ProfileSteering {
  readonly interventions: readonly Intervention[];
  readonly productMask?: ProductMask;
}

export const steeringOf = ({ interventions, maskExperts }: RoutingProfile): ProfileSteering => ({ interventions, ...(maskExperts == null ? {} : { productMask: productMaskOf(maskExperts) }) });

/** The profile of a file, which fits this pack. Throws a sentence. */
export function profileOf({ manifest: { id, config }, packHash }: ProfiledManifest, file: string): RoutingProfile {
  const profile = parseProfile(textOf(file), file);
  const problem = profileProblem(profile, { id, hash: packHash, config });
  if (problem !== null) throw new Error(problem);
  return profile;
}

interface ProfiledManifest {
  readonly manifest: Pick<OpenPack["manifest"], "id" | "config">;
  readonly packHash: string;
}

function textOf(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch (cause) {
    throw new Error(`${file} cannot be read: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
  }
}
