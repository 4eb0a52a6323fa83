// Which experts kinds of text take, for people to look at: routing-map.json beside a pack's manifest (docs/formats.md, "The routing map"). `workers-moe profile --map` writes it, GET /v1/routing-map
// serves it, the page draws it; nothing computes with it, and it is no part of the pack's hash. Owns the document's schema, and what no schema says: lengths, sums, and which pack it is of.
// Refuses unknown keys, a map of another pack, and shares that are none.

import { z } from "zod";
import { type ModelConfig, moeLayersOf } from "../model/config.ts";
import { type ByteSource, SourceError } from "./byte-source.ts";
import { FORMAT_LIMITS } from "./limits.ts";
import { modelIdSchema, packHashSchema } from "./manifest.ts";
import { parseJson, readFileOrNull } from "./read-bytes.ts";

export const ROUTING_MAP_FILE = "routing-map.json";
export const CLASS_KINDS = ["domain", "language"] as const;
export type ClassKind = (typeof CLASS_KINDS)[number];

/** Digits behind the point of a share: a page shows percent, and a map of 48 layers should stay small. */
export const SHARE_DIGITS = 4;

const labelExpected = "a label of 1 to 64 characters";
const label = z.string(labelExpected).min(1, labelExpected).max(64, labelExpected);
const kind = z.enum(CLASS_KINDS, "\"domain\" or \"language\"");
const share = z.number("a share from 0 to 1").min(0, "a share from 0 to 1").max(1, "a share from 0 to 1");

export const routingMapSchema = z.strictObject({
  format: z.literal("workers-moe-routing-map", "\"workers-moe-routing-map\"").meta({ description: "What the document is." }),
  version: z.literal(1, "1").meta({ description: "Of the format." }),
  model: modelIdSchema.meta({ description: "Id of the model." }),
  packHash: packHashSchema.meta({ description: "Hash of the pack whose routing it is." }),
  by: z.enum(["count", "weight", "score"], "\"count\", \"weight\" or \"score\"").meta({ description: "What shares are of: the router's weights of the experts chosen, choices, or the softmax of its logits." }),
  layers: z.array(z.int("the number of a layer").min(0, "the number of a layer"), "an array of layers").meta({ description: "Layers with experts, ascending: the rows of `share` and of `layers` below." }),
  classes: z.array(z.strictObject({
    label: label.meta({ description: "Its name; once in its kind." }),
    kind: kind.meta({ description: "What sort of class it is; classes compare with those of their kind." }),
    tokens: z.int("how many tokens it has").min(1, "how many tokens it has").meta({ description: "Tokens that were routed." }),
    share: z.array(z.array(share, "an array of shares"), "an array of layers").meta({ description: "Of each layer and expert; a layer's sum is 1, but for rounding." }),
  }, "a class, an object with `label`, `kind`, `tokens` and `share`"), "an array of classes").min(1, "at least one class").meta({ description: "Kinds of text." }),
  divergence: z.array(z.strictObject({
    kind: kind.meta({ description: "Of both." }),
    a: label.meta({ description: "A class." }), b: label.meta({ description: "Another." }),
    layers: z.array(share, "an array of numbers from 0 to 1").meta({ description: "Of each layer the Jensen-Shannon divergence of the two, divided by the most it could be at their entropies: from 0, routed alike, to 1." }),
  }, "a pair, an object with `kind`, `a`, `b` and `layers`"), "an array of pairs").meta({ description: "How differently every two classes of one kind are routed." }),
}, "a routing map, an object with `format`, `version`, `model`, `packHash`, `by`, `layers`, `classes` and `divergence`");
export type RoutingMap = Readonly<z.infer<typeof routingMapSchema>>;

/** A pack, as far as maps know it. */
export interface MappedPack {
  readonly id: string;
  readonly hash: string;
  readonly config: Pick<ModelConfig, "nExperts" | "layerFfns">;
}

/** Why the map is not this pack's, as a sentence; null where it is. */
export function routingMapProblem({ model, packHash, layers, classes, divergence }: RoutingMap, { id, hash, config }: MappedPack): string | null {
  if (model !== id) return `The routing map is of the model "${model}"; this one is "${id}".`;
  if (packHash !== hash) return `The routing map is of the pack ${packHash}; this one is ${hash}. \`workers-moe profile --map\` makes one of it.`;
  const moeLayers = moeLayersOf(config);
  if (layers.join() !== moeLayers.join()) return `The routing map has layers ${layers.join(", ")}; those with experts are ${moeLayers.join(", ")}.`;
  for (const [i, { label: name, kind: of, share: rows }] of classes.entries()) {
    const where = `The ${of} "${name}" of the routing map`;
    if (classes.findIndex((other) => other.kind === of && other.label === name) < i) return `${where} is there twice.`;
    if (rows.length !== layers.length) return `${where} has shares of ${rows.length} layers; expected ${layers.length}.`;
    for (const [at, row] of rows.entries()) {
      if (row.length !== config.nExperts) return `${where} has ${row.length} shares in layer ${layers[at]}; expected ${config.nExperts}.`;
      const sum = row.reduce((all, x) => all + x, 0);
      // Each may be off by half of its last digit.
      if (Math.abs(sum - 1) > (row.length / 2) * 10 ** -SHARE_DIGITS + 1e-9) return `${where} has shares in layer ${layers[at]} whose sum is ${sum.toFixed(SHARE_DIGITS)}; expected 1.`;
    }
  }
  for (const { kind: of, a, b, layers: values } of divergence) {
    const missing = [a, b].find((name) => !classes.some((other) => other.kind === of && other.label === name));
    if (missing !== undefined) return `The routing map has a divergence of the ${of} "${missing}", which is none of its classes.`;
    if (values.length !== layers.length) return `The routing map has a divergence of "${a}" and "${b}" in ${values.length} layers; expected ${layers.length}.`;
  }
  return null;
}

/** The map beside a pack, null where there is none. Throws SourceError where what lies there is no map, or one of another pack. */
export async function readRoutingMap(source: ByteSource, pack: MappedPack): Promise<RoutingMap | null> {
  const bytes = await readFileOrNull(source, ROUTING_MAP_FILE, FORMAT_LIMITS.routingMapBytes);
  if (bytes === null) return null;
  const parsed = routingMapSchema.safeParse(parseJson(source, ROUTING_MAP_FILE, bytes));
  const where = `${source.description}, ${ROUTING_MAP_FILE}`;
  if (!parsed.success) {
    const { path, message } = parsed.error.issues[0]!;
    throw new SourceError(`${where} is no routing map: ${path.join(".") || "the document"}: expected ${message}.`);
  }
  const problem = routingMapProblem(parsed.data, pack);
  if (problem !== null) throw new SourceError(`${where}: ${problem}`);
  return parsed.data;
}
