// A profile of routing: interventions, and product experts to leave out, under a name, with what they are for and how they were found, as one JSON document (docs/formats.md, "The routing profile"). The command line reads it from a file,
// a deployment keeps it for requests with `moe.profile`. Owns the document's schema and which model it is for. Refuses unknown keys, and a profile of another model or pack: experts have no meaning
// but in the model they were found in.

import { z } from "zod";
import { CONFIG_MOST, type ModelConfig } from "../model/config.ts";
import { interventionsProblem, type SteeredConfig } from "../model/interventions.ts";
import { productMaskProblem } from "../model/product-mask.ts";
import { SourceError } from "./byte-source.ts";
import { interventionsSchema } from "./intervention-schema.ts";
import { modelIdSchema, packHashSchema } from "./manifest.ts";
import { maskedExpertsSchema, productMaskOf } from "./product-mask-schema.ts";

export const PROFILE_NAME = /^[a-z0-9][a-z0-9._-]{0,63}$/;
const nameExpected = "1 to 64 lower-case letters, digits, '-', '.', '_', the first a letter or digit";

export const profileSchema = z.strictObject({
  format: z.literal("workers-moe-profile", "\"workers-moe-profile\"").meta({ description: "What the document is." }),
  version: z.literal(1, "1").meta({ description: "Of the format." }),
  name: z.string(nameExpected).regex(PROFILE_NAME, nameExpected).meta({ description: "What requests call it." }),
  description: z.string("a string").max(4000, "at most 4000 characters").meta({ description: "What it does, in words." }),
  model: modelIdSchema.meta({ description: "Id of the model whose experts it names." }),
  packHash: packHashSchema.nullish().meta({ description: "Hash of the pack it was found in: it is refused for any other. Left out: any pack of the model." }),
  access: z.enum(["admin", "infer"], "\"admin\" or \"infer\"").meta({ description: "The scope a key needs to use it; to change it, a key needs admin always." }),
  interventions: interventionsSchema.meta({ description: "What it does, in the form of `moe.interventions`." }),
  maskExperts: maskedExpertsSchema(CONFIG_MOST.productKeys ** 2).nullish().meta({ description: "Product experts that it leaves out, in the form of `moe.mask_experts`. Left out: none." }),
  found: z.record(z.string(), z.unknown(), "an object, or null").nullable().meta({ description: "How it was found, in any form." }),
}, "a profile, an object with `format`, `version`, `name`, `description`, `model`, `access`, `interventions` and `found`");
export type RoutingProfile = Readonly<z.infer<typeof profileSchema>>;

/** A pack, as far as profiles know it. */
export interface ProfiledPack {
  readonly id: string;
  readonly hash: string;
  readonly config: SteeredConfig & Pick<ModelConfig, "productExperts">;
}

/** Why the pack cannot go by the profile, as a sentence; null where it can. */
export function profileProblem({ name, model, packHash, interventions, maskExperts }: RoutingProfile, pack: ProfiledPack): string | null {
  if (model !== pack.id) return `The profile "${name}" is for the model "${model}"; this one is "${pack.id}".`;
  if (packHash != null && packHash !== pack.hash) return `The profile "${name}" was found in the pack ${packHash}; this one is ${pack.hash}.`;
  const problem = interventionsProblem(pack.config, interventions) ?? (maskExperts == null ? null : productMaskProblem(pack.config, productMaskOf(maskExperts)));
  return problem === null ? null : `The profile "${name}" does not fit this model: ${problem}`;
}

/** A document's text as a profile; `source` is for messages. Throws SourceError. */
export function parseProfile(text: string, source: string): RoutingProfile {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw new SourceError(`${source} is no JSON: ${cause instanceof Error ? cause.message : String(cause)}.`);
  }
  const parsed = profileSchema.safeParse(json);
  if (parsed.success) return parsed.data;
  const { path, message } = parsed.error.issues[0]!;
  throw new SourceError(`${source} is no routing profile: ${path.join(".") || "the document"}: expected ${message}.`);
}
