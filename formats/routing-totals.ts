// Totals of routing that others counted, as JSON: what `trace --json` prints, counts and gate values per layer and expert, or counts alone. docs/formats.md, "Totals of routing".
// Owns the three forms, told apart by their shape. Refuses layers of different experts and counts that are none.

import { z } from "zod";
import { SourceError } from "./byte-source.ts";
import { parseJson } from "./read-bytes.ts";

export interface RoutingTotals {
  readonly moeLayers: readonly number[];
  readonly nExperts: number;
  /** [layers]; null where the file does not say. */
  readonly tokens: readonly number[] | null;
  /** [layers][nExperts]. */
  readonly count: Float64Array<ArrayBuffer>;
  /** What the router gave, [layers][nExperts]; null where the file does not say. */
  readonly weight: Float64Array<ArrayBuffer> | null;
}

const count = z.number().nonnegative();
const number = z.string().regex(/^(0|[1-9]\d*)$/);
const tracedSchema = z.looseObject({ experts: z.int().positive(), layers: z.array(z.looseObject({ layer: z.int().nonnegative(), tokens: count, chosen: z.array(count) })).min(1) });
const layerSchema = z.object({ total_tokens: count }).catchall(z.object({ activation_tokens: count, gate_values_sum: count.optional() }));
const gatedSchema = z.record(number, layerSchema);
const countsSchema = z.array(z.record(number, count)).min(1);

/** Throws SourceError on what is none of the three; `name` is for messages. */
export function parseRoutingTotals(bytes: Uint8Array, name: string): RoutingTotals {
  const json = parseJson({ description: name }, "totals of routing", bytes);
  const refuse = (error: z.ZodError, form: string): never => {
    throw new SourceError(`${name} has no totals of routing (${form}): ${error.issues[0]!.path.join(".")}: ${error.issues[0]!.message}.`);
  };
  if (Array.isArray(json)) {
    const parsed = countsSchema.safeParse(json);
    return parsed.success ? ofCounts(parsed.data) : refuse(parsed.error, "a list of layers");
  }
  if (typeof json === "object" && json !== null && "layers" in json) {
    const parsed = tracedSchema.safeParse(json);
    return parsed.success ? ofTraced(parsed.data, name) : refuse(parsed.error, "what trace --json prints");
  }
  const parsed = gatedSchema.safeParse(json);
  if (!parsed.success) refuse(parsed.error, "layers by number");
  return ofGated(parsed.data!, name);
}

function ofTraced({ experts, layers }: z.infer<typeof tracedSchema>, name: string): RoutingTotals {
  const odd = layers.find(({ chosen }) => chosen.length !== experts);
  if (odd !== undefined) throw new SourceError(`${name} has counts of ${odd.chosen.length} experts in layer ${odd.layer}; expected ${experts}.`);
  return { moeLayers: layers.map(({ layer }) => layer), nExperts: experts, tokens: layers.map(({ tokens }) => tokens), count: Float64Array.from(layers.flatMap(({ chosen }) => chosen)), weight: null };
}

function ofGated(json: z.infer<typeof gatedSchema>, name: string): RoutingTotals {
  const moeLayers = Object.keys(json).map(Number).sort((a, b) => a - b);
  if (moeLayers.length === 0) throw new SourceError(`${name} has totals of no layer.`);
  const layers = moeLayers.map((layer) => {
    const { total_tokens: tokens, ...experts } = json[String(layer)]!;
    const ids = Object.keys(experts).map(Number).sort((a, b) => a - b);
    if (ids.some((id, i) => id !== i)) throw new SourceError(`${name} has experts ${ids.join(", ")} in layer ${layer}; expected every number from 0 on.`);
    return { tokens: tokens as number, experts: ids.map((id) => experts[String(id)]!) };
  });
  const nExperts = layers[0]!.experts.length;
  const odd = layers.findIndex(({ experts }) => experts.length !== nExperts);
  if (odd >= 0) throw new SourceError(`${name} has ${layers[odd]!.experts.length} experts in layer ${moeLayers[odd]}, and ${nExperts} in layer ${moeLayers[0]}; expected as many in each.`);
  const cells = layers.flatMap(({ experts }) => experts);
  return {
    moeLayers, nExperts, tokens: layers.map(({ tokens }) => tokens), count: Float64Array.from(cells, ({ activation_tokens: n }) => n),
    weight: cells.every(({ gate_values_sum: sum }) => sum !== undefined) ? Float64Array.from(cells, ({ gate_values_sum: sum }) => sum!) : null,
  };
}

/** Experts that were never chosen may be missing: there are as many as the highest number says. */
function ofCounts(layers: z.infer<typeof countsSchema>): RoutingTotals {
  const nExperts = Math.max(-1, ...layers.flatMap((of) => Object.keys(of).map(Number))) + 1;
  return { moeLayers: layers.map((_, layer) => layer), nExperts, tokens: null, count: Float64Array.from(layers.flatMap((of) => Array.from({ length: nExperts }, (_, expert) => of[String(expert)] ?? 0))), weight: null };
}
