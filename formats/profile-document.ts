// The profile: experts of one pack and what is to be done with them. docs/formats.md, "The profile". Owns the schema, and that a profile fits the model it is read for.
// Refuses unknown keys, and to do anything: interventions are the engine's.

import { z } from "zod";
import { SourceError } from "./byte-source.ts";
import { parseJson } from "./read-bytes.ts";

export const PROFILE_OPS = ["suppress", "stimulate", "gain", "mask", "force_max", "add_std"] as const;
export type ProfileOp = (typeof PROFILE_OPS)[number];

/** Experts of layers, ascending: {"1": [3, 17]}. */
const expertsSchema = z.record(z.string().regex(/^(0|[1-9]\d*)$/), z.array(z.int().nonnegative()).min(1).refine((ids) => ids.every((id, i) => i === 0 || id > ids[i - 1]!), "experts are not ascending"))
  .refine((layers) => Object.keys(layers).length > 0, "there is no expert");

const interventionSchema = z.discriminatedUnion("op", [
  z.strictObject({ op: z.enum(["suppress", "stimulate", "mask", "force_max"]), experts: expertsSchema }),
  z.strictObject({ op: z.literal("gain"), experts: expertsSchema, gain: z.number() }),
  z.strictObject({ op: z.literal("add_std"), experts: expertsSchema, lambda: z.number() }),
]);
export type ProfileIntervention = Readonly<z.infer<typeof interventionSchema>>;

const profileSchema = z.strictObject({
  format: z.literal("workers-moe-profile"),
  version: z.literal(1),
  name: z.string().min(1),
  description: z.string(),
  model: z.string(),
  packHash: z.string(),
  access: z.literal("admin"),
  interventions: z.array(interventionSchema).min(1),
  /** How it was found: said, not acted on. */
  found: z.record(z.string(), z.unknown()),
});
export type ProfileDocument = Readonly<z.infer<typeof profileSchema>>;

/** What a profile is read for. */
export interface ProfiledModel {
  readonly id: string;
  readonly packHash: string;
  readonly moeLayers: readonly number[];
  readonly nExperts: number;
}

export const profileText = (document: ProfileDocument): string => `${JSON.stringify(profileSchema.parse(document), null, 1)}\n`;

/** Throws SourceError on what is no profile, or one of another revision or of experts that the model does not have; `name` is for messages. */
export function parseProfile(bytes: Uint8Array, name: string, { id, packHash, moeLayers, nExperts }: ProfiledModel): ProfileDocument {
  const parsed = profileSchema.safeParse(parseJson({ description: name }, "the profile", bytes));
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    throw new SourceError(`${name} is no profile: ${issue!.path.length === 0 ? "" : `${issue!.path.join(".")}: `}${issue!.message}.`);
  }
  const profile = parsed.data;
  if (profile.packHash !== packHash) throw new SourceError(`${name} is a profile of "${profile.model}", revision ${profile.packHash.slice(0, 12)}; expected "${id}", ${packHash.slice(0, 12)}.`);
  for (const { op, experts } of profile.interventions) {
    for (const [layer, ids] of Object.entries(experts)) {
      if (!moeLayers.includes(Number(layer))) throw new SourceError(`${name}: ${op} names layer ${layer}; "${id}" has experts in layers ${moeLayers.join(", ")}.`);
      const unknown = ids.find((expert) => expert >= nExperts);
      if (unknown !== undefined) throw new SourceError(`${name}: ${op} names expert ${unknown} of layer ${layer}; "${id}" has ${nExperts}.`);
    }
  }
  return profile;
}
