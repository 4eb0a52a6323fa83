// What a model's tensors take as they are stored, to the byte: by part (embedding, attention, router, shared, experts), and the bits of every expert.
// Owns the parts and the sums. Equal experts are told by their bytes, since a pack and an isolate hold them once. Refuses the sizes of packs, whose tiles are
// padded and whose routers are f32: fleet/capacity-pack.ts has those.

import { z } from "zod";
import { type Checkpoint, type MatrixPlace, expertName } from "../formats/checkpoint.ts";
import { sha256Hex } from "../formats/read-bytes.ts";
import { moeLayersOf } from "../model/config.ts";
import { expertMatrices } from "../model/expert-kinds.ts";

export const MODEL_PARTS = ["embed", "head", "attention", "router", "shared", "experts", "other"] as const;
export type ModelPart = (typeof MODEL_PARTS)[number];

export const partSizeSchema = z.strictObject({
  part: z.enum(MODEL_PARTS),
  weights: z.int().min(0),
  bytes: z.int().min(0),
}).readonly();

export const modelSizesSchema = z.strictObject({
  weights: z.int().min(0),
  /** Of all tensors' rows; headers of files are none of them. */
  bytes: z.int().min(0),
  /** With equal experts counted once. */
  distinctBytes: z.int().min(0),
  /** Parts the model has. */
  parts: z.array(partSizeSchema).readonly(),
  /** Of every layer with experts: bits per weight of each expert, scales included, and how many are different. */
  experts: z.array(z.strictObject({ layer: z.int().min(0), distinct: z.int().min(0), bits: z.array(z.number().min(0)).readonly() }).readonly()).readonly(),
}).readonly();

export type ModelSizes = z.infer<typeof modelSizesSchema>;

/** Of a canonical name. Norms, sinks and what later passes add are "other". */
export function modelPart(name: string): ModelPart {
  const [, rest] = /^layers\.\d+\.(.+)$/.exec(name) ?? [];
  if (rest === undefined) return name === "embed" ? "embed" : name === "head" || name === "headBias" ? "head" : "other";
  if (rest.startsWith("experts.")) return "experts";
  if (rest.startsWith("shared.")) return "shared";
  if (/^(router(Bias|Hidden|HiddenBias|Spread|Table)?|taskRouter\.\d+|selectionBias|sharedGate|auxiliaryScales|keepRouter)$/.test(rest)) return "router";
  return /^(q|k|v|o|qA|qB|kvA|kB|vB|qBias|kBias|vBias|oBias)(\.\d+)?$/.test(rest) ? "attention" : "other";
}

const storedBytes = ({ nRows, rowBytes }: MatrixPlace): number => nRows * rowBytes;

/** `findEqual` reads every expert to find equal ones: of a published model none are expected, and reading it again may take long. */
export async function modelSizes(checkpoint: Checkpoint, { findEqual }: { readonly findEqual: boolean }): Promise<ModelSizes> {
  const parts = new Map<ModelPart, { weights: number; bytes: number }>();
  const known = new Set<string>();
  for (const place of checkpoint.places()) {
    known.add(place.name);
    const of = parts.get(modelPart(place.name)) ?? { weights: 0, bytes: 0 };
    parts.set(modelPart(place.name), { weights: of.weights + place.nRows * place.nCols, bytes: of.bytes + storedBytes(place) });
  }
  let equalBytes = 0;
  const experts: { layer: number; distinct: number; bits: number[] }[] = [];
  for (const layer of moeLayersOf(checkpoint.config)) {
    const bits: number[] = [];
    const seen = new Set<string>();
    for (let expert = 0; expert < checkpoint.config.nExperts; expert++) {
      const names = expertMatrices(checkpoint.config).map((matrix) => expertName(layer, expert, matrix));
      if (!names.every((name) => known.has(name))) break; // kinds without matrices of their own
      const places = names.map((name) => checkpoint.place(name));
      const bytes = places.reduce((sum, place) => sum + storedBytes(place), 0);
      bits.push((8 * bytes) / places.reduce((sum, { nRows, nCols }) => sum + nRows * nCols, 0));
      const content = findEqual ? (await Promise.all(places.map((place) => contentHash(checkpoint, place)))).join() : String(expert);
      if (seen.has(content)) equalBytes += bytes;
      seen.add(content);
    }
    if (bits.length > 0) experts.push({ layer, distinct: seen.size, bits });
  }
  const all = MODEL_PARTS.flatMap((part) => (parts.has(part) ? [{ part, ...parts.get(part)! }] : []));
  const bytes = all.reduce((sum, of) => sum + of.bytes, 0);
  return { weights: all.reduce((sum, of) => sum + of.weights, 0), bytes, distinctBytes: bytes - equalBytes, parts: all, experts };
}

async function contentHash(checkpoint: Checkpoint, place: MatrixPlace): Promise<string> {
  return `${place.type} ${await sha256Hex(await checkpoint.readRows(place, 0, place.nRows))}`;
}
