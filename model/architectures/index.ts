// The architectures this version runs, by name. Owns the lookup and the error for an unknown one, which names those known
// and the nearest. Refuses guessing: a checkpoint says what it is, or it is not read.

import { ModelError } from "../config.ts";
import type { Architecture } from "./architecture.ts";
import type { ConfigFields } from "./config-fields.ts";
import { mixtral } from "./mixtral.ts";
import { olmoe } from "./olmoe.ts";
import { qwen3Moe } from "./qwen3-moe.ts";

export const ARCHITECTURES: readonly Architecture[] = [olmoe, qwen3Moe, mixtral];

/** The architecture of a config.json. */
export const architectureOfHuggingFace = (config: ConfigFields): Architecture =>
  find(config.file, "model_type", config.string("model_type"), (a) => a.name);

/** The architecture of GGUF metadata. */
export const architectureOfGguf = (metadata: ConfigFields): Architecture =>
  find(metadata.file, "general.architecture", metadata.string("general.architecture"), (a) => a.ggufName);

function find(file: string, key: string, wanted: string, nameOf: (a: Architecture) => string): Architecture {
  const found = ARCHITECTURES.find((a) => nameOf(a) === wanted);
  if (found) return found;
  const names = ARCHITECTURES.map(nameOf);
  const nearest = names.reduce((best, name) => (distance(name, wanted) < distance(best, wanted) ? name : best));
  throw new ModelError(
    `${file} has ${key} = "${wanted}", an architecture this version does not know. Known: ${names.join(", ")}; the nearest is "${nearest}".`,
  );
}

/** Levenshtein distance. */
function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) next[j] = Math.min(row[j]! + 1, next[j - 1]! + 1, row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1));
    row = next;
  }
  return row[b.length]!;
}
