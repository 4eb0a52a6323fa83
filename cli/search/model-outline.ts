// What a model will take before it is made: the types its tensors will have after each pass, and from them the bytes of its pack and of the weights a token reads, to the
// byte where they follow from the passes' options, else a least and a most. Owns what each known pass does to types and experts, and nothing of how.
// A pass that is not known here makes the bytes unknown until it has run. Refuses sums of its own: the pack is planned by cli/memory-table.ts.

import type { Checkpoint, MatrixPlace } from "../../formats/checkpoint.ts";
import { formatOf } from "../../formats/pack-formats.ts";
import type { PackManifest } from "../../formats/manifest.ts";
import { type CapacityPack, ffnBytes, packBytes } from "../../fleet/capacity-pack.ts";
import { type ModelConfig, moeLayersOf } from "../../model/config.ts";
import { activationFormatOf, matrixBytes } from "../../model/kernels.ts";
import { parseBitPlan, PLAN_BITS, type PlanBits, typeOfBits } from "../../passes/bit-plan.ts";
import type { Candidate, PassCall } from "../../passes/search-space.ts";
import { plannedPack } from "../memory-table.ts";

/** A type, and the file's own word for it. */
type StoredAs = Pick<MatrixPlace, "type" | "storedType">;

export interface ModelOutline {
  readonly config: ModelConfig;
  /** Types a matrix may have: one where it is known. */
  types(place: Pick<MatrixPlace, "name" | "nRows">): readonly StoredAs[];
  /** Experts of all layers that are different: at least and at most. */
  readonly distinct: readonly [least: number, most: number];
  /** Widths of experts in the rules that a pass before has written, or will write: what "$plan" stands for. */
  readonly planned: readonly PlanBits[];
}

export interface Bounds {
  readonly least: number;
  readonly most: number;
}

export interface OutlinedBytes {
  /** Weights of the pack, equal experts once. */
  readonly bytes: Bounds;
  /** Of the weights a token reads: the trunk, one row of an embedding that is not the head too, and its experts at their layer's mean. */
  readonly activeBytes: Bounds;
  /** The pack as it would be planned; null where it is not known to the byte, or experts are equal. */
  readonly pack: CapacityPack | null;
}

const as = (type: StoredAs["type"]): StoredAs => ({ type, storedType: type });
const EXPERT = /^layers\.(\d+)\.experts\.\d+\./;
const allExperts = (config: ModelConfig): number => moeLayersOf(config).length * config.nExperts;

export const outlineOf = (checkpoint: Checkpoint): ModelOutline => ({
  config: checkpoint.config, distinct: [checkpoint.kind === "canonical" ? 1 : allExperts(checkpoint.config), allExperts(checkpoint.config)], planned: [],
  types({ name }) {
    const { type, storedType } = checkpoint.place(name);
    return [{ type, storedType }];
  },
});

/** What each pass makes of an outline, by its options; null where these do not say. */
const AFTER: Readonly<Record<string, (outline: ModelOutline, options: PassCall["options"]) => ModelOutline | null>> = {
  prune(outline, { keep }) {
    if (typeof keep !== "number") return null;
    const { nExperts } = outline.config;
    const config = { ...outline.config, nExperts: keep };
    const lost = allExperts(outline.config) - allExperts(config);
    return {
      ...outline, config, distinct: [Math.max(1, outline.distinct[0] - lost), Math.min(allExperts(config), outline.distinct[1])],
      // Who stays is not known yet: any of the layer's.
      types: (place) => (EXPERT.test(place.name) ? distinctTypes(Array.from({ length: nExperts }, (_, e) => outline.types({ ...place, name: place.name.replace(/experts\.\d+/, `experts.${e}`) })).flat()) : outline.types(place)),
    };
  },
  merge(outline, { share }) {
    if (typeof share !== "number") return null;
    const left = Math.round(share * allExperts(outline.config));
    if (left >= allExperts(outline.config)) return outline;
    return {
      ...outline, distinct: [Math.min(left, outline.distinct[0]), Math.min(left, outline.distinct[1])],
      types: (place) => (EXPERT.test(place.name) ? distinctTypes([...outline.types(place), as("F32")]) : outline.types(place)),
    };
  },
  bits: (outline, { widths = "2,4" }) => ({ ...outline, planned: PLAN_BITS.filter((width) => String(widths).split(",").includes(String(width))) }),
  nearest: (outline, options) => quantized(outline, options, (types) => types === 1),
  // Equal experts are rounded by the inputs of each, and may part.
  gptq: (outline, options) => quantized(outline, options, () => false),
};

function quantized(outline: ModelOutline, { plan: rules = "all=8; attn=4; dense=4; shared=4; routed=4" }: PassCall["options"], keepsEqual: (expertTypes: number) => boolean): ModelOutline {
  const [text, isPlanned] = [String(rules).replace("$plan", "").trim(), String(rules).includes("$plan")];
  const plan = text.replaceAll(/[;\s]/g, "") === "" ? null : parseBitPlan(text, outline.config);
  const types = (place: Pick<MatrixPlace, "name" | "nRows">): readonly StoredAs[] => {
    if (isPlanned && EXPERT.test(place.name) && place.nRows > 1) return outline.planned.map((width) => as(typeOfBits(width as Exclude<PlanBits, 16>)));
    const type = plan?.typeOf(place) ?? null;
    return type === null ? outline.types(place) : [as(type)];
  };
  const expertTypes = new Set<string>();
  for (const layer of moeLayersOf(outline.config)) for (let e = 0; e < outline.config.nExperts; e++) expertTypes.add(types({ name: `layers.${layer}.experts.${e}.up`, nRows: 2 }).map(({ type }) => type).join());
  const isKept = !isPlanned && keepsEqual(expertTypes.size);
  return { ...outline, types, distinct: isKept ? outline.distinct : [outline.distinct[0], allExperts(outline.config)] };
}

const distinctTypes = (types: readonly StoredAs[]): StoredAs[] => [...new Map(types.map((of) => [`${of.type} ${of.storedType}`, of])).values()];

/** The outline after all of a candidate's passes; null where one of them is not known here. */
export const outlineAfter = (outline: ModelOutline, calls: Candidate): ModelOutline | null =>
  calls.reduce<ModelOutline | null>((before, { pass, options }) => (before === null ? null : AFTER[pass]?.(before, options) ?? null), outline);

/** Bytes of the pack that `workers-moe pack` makes of such a model. */
export function outlinedBytes(outline: ModelOutline, contextLength: number): OutlinedBytes {
  const [small, large] = [packedAs(outline, contextLength, "least"), packedAs(outline, contextLength, "most")];
  const [least, most] = [allOfIt(small, outline.distinct[0], 1), allOfIt(large, outline.distinct[1], -1)];
  const isExact = least === most;
  return {
    bytes: { least, most }, activeBytes: { least: activeBytes(small), most: activeBytes(large) },
    pack: isExact && outline.distinct[0] === allExperts(outline.config) ? small : null,
  };
}

function packedAs({ config, types }: ModelOutline, contextLength: number, which: keyof Bounds): CapacityPack {
  const format = (name: string): ReturnType<typeof formatOf> => {
    const nCols = /\.down$/.test(name) ? config.expertIntermediateSize : config.hiddenSize;
    const formats = types({ name, nRows: 2 }).map((of) => formatOf({ name, nCols, ...of }, "source"));
    const by = (of: ReturnType<typeof formatOf>): number => matrixBytes(of, 32, 256) * (which === "least" ? 1 : -1);
    return formats.toSorted((a, b) => by(a) - by(b))[0]!;
  };
  const first = moeLayersOf(config)[0];
  const activations = first === undefined ? "f32" : activationFormatOf(format(`layers.${first}.experts.0.up`));
  return { ...plannedPack("outline", config, { activations, kvFormat: "f16", formatOf: format }, contextLength), contextLength };
}

/** Trunk and `distinct` experts: the smallest ones, or with -1 the largest. */
function allOfIt(pack: CapacityPack, distinct: number, order: 1 | -1): number {
  const experts = pack.experts.map(ffnBytes).sort((a, b) => order * (a - b)).slice(0, distinct);
  return packBytes(pack).trunkBytes + experts.reduce((sum, bytes) => sum + bytes, 0);
}

/** What every token reads: all of the trunk but the rows of an embedding and of the rotation table that are not its own. */
export function trunkActiveBytes(pack: CapacityPack): number {
  const { trunkBytes, embeddingBytes, ropeBytes } = packBytes(pack);
  const { config } = pack;
  const row = embeddingBytes / config.vocabSize;
  return trunkBytes - ropeBytes + Math.ceil(ropeBytes / pack.contextLength) - (config.tieWordEmbeddings ? 0 : embeddingBytes - Math.ceil(row));
}

function activeBytes(pack: CapacityPack): number {
  const { config } = pack;
  const perToken = (layer: number): number => (config.router.topK * pack.experts.filter((of) => of.layer === layer).reduce((sum, of) => sum + ffnBytes(of), 0)) / config.nExperts;
  return trunkActiveBytes(pack) + moeLayersOf(config).reduce((sum, layer) => sum + perToken(layer), 0);
}

/** Of a pack that is there: weights, equal experts once. */
export function packedBytes(manifest: PackManifest): number {
  const experts = new Map(manifest.experts.flatMap(({ segments }) => segments.map(({ hash, bytes }) => [hash, bytes] as const)));
  return packBytes(manifest).trunkBytes + [...experts.values()].reduce((sum, bytes) => sum + bytes, 0);
}
