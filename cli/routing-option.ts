// What a command asks of routing: `--profile` and `--prune` with what goes with it (prune-option.ts), the very interventions and rules that requests with `moe.profile` and `moe.prune` get. Owns the
// way from a profile's file to the engine. Refuses, in a sentence, what is no profile of this pack.

import type { Command } from "commander";
import { readFileSync } from "node:fs";
import type { OpenPack } from "../formats/pack-reader.ts";
import { parseProfile, profileProblem, type RoutingProfile } from "../formats/routing-profile.ts";
import { type RequestRouting, requestRouting } from "../model/request-routing.ts";
import { pruningOf, type PruneOptions, withPruning } from "./prune-option.ts";

export interface ProfileOption {
  readonly profile?: string;
}
export type RoutingOptions = ProfileOption & PruneOptions;

export const withProfile = (command: Command): Command => command.option("--profile <file>", "a routing profile, a JSON file (docs/formats.md): what it does to the experts of this pack");
export const withRouting = (command: Command): Command => withPruning(withProfile(command));

/** Undefined where nothing was asked for. Throws a sentence. */
export function routingOf({ manifest: { id, config }, packHash }: ProfiledManifest, { profile: file, ...prune }: RoutingOptions): RequestRouting | undefined {
  return requestRouting(pruningOf(config, prune), file === undefined ? [] : profileOf({ manifest: { id, config }, packHash }, file).interventions);
}

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
