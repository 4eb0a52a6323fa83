// The architectures this version runs, by name. Owns the lookup and the error for an unknown one, which names those known, the
// nearest by its config keys, and what differs. Refuses guessing: a checkpoint says what it is, or it is not read.

import { ModelError } from "../config.ts";
import type { Architecture } from "./architecture.ts";
import type { ConfigFields } from "./config-fields.ts";
import { type KeyDifference, ggufDifference, huggingFaceDifference, refuseForeignKeys } from "./config-keys.ts";
import { deepseekV2, deepseekV3 } from "./deepseek.ts";
import { gptOss } from "./gpt-oss.ts";
import { graniteMoePlain, graniteMoeShared } from "./granite-moe.ts";
import { llama } from "./llama.ts";
import { mixtral } from "./mixtral.ts";
import { monet } from "./monet.ts";
import { olmoe } from "./olmoe.ts";
import { phiMoe } from "./phimoe.ts";
import { qwen2, qwen3 } from "./qwen-dense.ts";
import { qwen2Moe, qwen3Moe } from "./qwen-moe.ts";

export const ARCHITECTURES: readonly Architecture[] = [
  olmoe, mixtral, qwen2Moe, qwen3Moe, graniteMoePlain, graniteMoeShared, deepseekV2, deepseekV3, phiMoe, gptOss, monet, llama, qwen2, qwen3,
];

/** The architecture of a config.json. Throws ModelError for an unknown one, and for settings of another architecture than it names. */
export function architectureOfHuggingFace(config: ConfigFields): Architecture {
  const wanted = config.string("model_type");
  const found = ARCHITECTURES.find((a) => a.name === wanted);
  if (!found) throw unknown(config.file, "model_type", wanted, (a) => a.name, (a) => huggingFaceDifference(config, a), (a) => reads(a, config), ARCHITECTURES);
  refuseForeignKeys(config, found, ARCHITECTURES);
  return found;
}

/** The architecture of GGUF metadata. */
export function architectureOfGguf(metadata: ConfigFields): Architecture {
  const wanted = metadata.string("general.architecture");
  const inGguf = ARCHITECTURES.filter((a) => a.hasNoGguf !== true);
  return inGguf.find((a) => a.ggufName === wanted && (a.isGguf?.(metadata) ?? true))
    ?? (() => { throw unknown(metadata.file, "general.architecture", wanted, (a) => a.ggufName, (a) => ggufDifference(metadata, wanted, a), () => false, inGguf); })();
}

/** Whether the architecture would take the config's values, if it were named. */
function reads(a: Architecture, config: ConfigFields): boolean {
  try {
    a.fromHuggingFace(config, null);
    return true;
  } catch (error) {
    if (error instanceof ModelError) return false;
    throw error;
  }
}

function unknown(
  file: string, key: string, wanted: string, nameOf: (a: Architecture) => string, compare: (a: Architecture) => KeyDifference, isReadBy: (a: Architecture) => boolean,
  all: readonly Architecture[],
): ModelError {
  // Names have up to 20 letters; comparing with a megabyte would take its time.
  const compared = wanted.slice(0, 64);
  const byKeys = all.map((a) => ({ name: nameOf(a), keys: compare(a), isRead: isReadBy(a) }));
  // Keys in common count most, then the name; values decide between those that read the same keys.
  const near = ({ name, keys, isRead }: (typeof byKeys)[number]): number => keys.common + 0.5 * (1 - distance(name, compared) / Math.max(name.length, compared.length)) + (isRead ? 0.1 : 0);
  const nearest = byKeys.reduce((best, a) => (near(a) > near(best) ? a : best));
  const { more, fewer } = nearest.keys;
  const differences = [
    ...(more.length > 0 ? [`this one has keys that ${nearest.name} does not know: ${some(more)}`] : []),
    ...(fewer.length > 0 ? [`${nearest.name} reads keys that are missing here: ${some(fewer)}`] : []),
  ];
  return new ModelError(
    `${file} has ${key} = "${compared}${compared === wanted ? "" : "..."}", an architecture this version does not know. Known: ${[...new Set(byKeys.map((a) => a.name))].join(", ")}; the nearest is "${nearest.name}". `
    + (differences.length === 0 ? "Their keys do not differ." : `${differences.join("; ").replace(/^./, (c) => c.toUpperCase())}.`),
  );
}

const some = (keys: readonly string[]): string => keys.slice(0, 12).join(", ") + (keys.length > 12 ? `, and ${keys.length - 12} more` : "");

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
