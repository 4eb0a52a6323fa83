// manifest.json of a pack: its schema, its types, and the checks no schema can express (docs/formats.md).
// Owns what a valid pack is. Refuses unknown keys, so that a newer pack is never half understood. Reading parts is
// pack-reader.ts.

import { z } from "zod";
import { checkConfig } from "../model/architectures/common.ts";
import { type ExpertKind, expertInputSize, expertOutputSize, ModelError, moeLayersOf, sharedWidth, trunkTensors } from "../model/config.ts";
import { KV_FORMATS, MATRIX_FORMATS, type MatrixFormat, activationFormatOf, matrixBytes, segmentBytes } from "../model/kernels.ts";
import { ropeTables } from "../model/trunk.ts";
import { configSchema } from "./config-schema.ts";
import { FORMAT_LIMITS } from "./limits.ts";

const SHA256 = /^[0-9a-f]{64}$/;
const count = z.int().min(0);
const size = z.int().min(1);
export const sha256Schema = z.string().regex(SHA256, "expected 64 lower-case hexadecimal digits");

/** [part, offset in the part, bytes, SHA-256]. */
const extentSchema = z.tuple([count, count, size, sha256Schema]).readonly();
const stored = { hash: sha256Schema, bytes: size, extents: z.array(extentSchema).min(1).readonly() };
/** `count` matrices of rows x cols, one after the other. */
const blobSchema = z.strictObject({ format: z.enum([...MATRIX_FORMATS, "f32-vector"]), count: size.optional(), rows: size, cols: size, ...stored }).readonly();
const segmentSchema = z.strictObject({ start: count, end: size, ...stored }).readonly();
const ffn = { layer: count, gateUp: z.enum(MATRIX_FORMATS), down: z.enum(MATRIX_FORMATS), segments: z.array(segmentSchema).min(1).readonly() };
const sharedSchema = z.strictObject(ffn).readonly();
const expertSchema = z.strictObject({ ...ffn, expert: count }).readonly();

/** What packs are made of: two forms that others publish, and the one that passes write (canonical-model.ts). */
export const SOURCE_KINDS = ["huggingface", "gguf", "canonical"] as const;
export type SourceKind = (typeof SOURCE_KINDS)[number];

/** Of the manifest and of the order of bytes in parts. */
export const PACK_VERSION = 2;
export const PACK_ID = /^[a-z0-9][a-z0-9._-]*$/;

/** How documents beside a pack (routing maps, profiles) name it; messages say what was expected. */
export const modelIdSchema = z.string("the id of a model").regex(PACK_ID, "the id of a model");
export const packHashSchema = z.string("64 lower-case hexadecimal digits").regex(SHA256, "64 lower-case hexadecimal digits");

const manifestSchema = z.strictObject({
  format: z.literal("workers-moe-pack"),
  version: z.literal(PACK_VERSION),
  id: z.string().max(128).regex(PACK_ID, "expected lower-case letters, digits, '-', '.', '_'"),
  source: z.strictObject({ kind: z.enum(SOURCE_KINDS), name: z.string(), sha256: sha256Schema }),
  config: configSchema,
  kvFormat: z.enum(KV_FORMATS),
  contextLength: size,
  activations: z.enum(["qa8", "f32"]),
  parts: z.array(z.strictObject({ name: z.string().regex(/^parts\/\d{5,}\.bin$/), bytes: size }).readonly()).min(1).readonly(),
  blobs: z.record(z.string(), blobSchema),
  /** Dense layers and shared experts, by layer: held with the trunk. */
  shared: z.array(sharedSchema).readonly(),
  experts: z.array(expertSchema).readonly(),
  tokenizer: z.strictObject({
    file: z.literal("tokenizer.json"), sha256: sha256Schema, chatTemplate: z.string().nullable(),
    bosToken: z.string().nullable(), eosToken: z.string().nullable(), addBos: z.boolean(),
  }).nullable(),
  quantization: z.strictObject({ requested: z.string(), tensors: z.record(z.string(), count) }),
}).readonly();

export type PackManifest = z.infer<typeof manifestSchema>;
export type PackExtent = z.infer<typeof extentSchema>;
export type PackBlob = z.infer<typeof blobSchema>;
export type PackShared = z.infer<typeof sharedSchema>;
export type PackExpert = z.infer<typeof expertSchema>;
export type PackSegment = z.infer<typeof segmentSchema>;

/** Name of a segment of a dense layer or shared expert in messages and load plans. */
export const sharedSegmentName = (layer: number, segment: number): string => `layers.${layer}.shared.segments.${segment}`;

/** Name of an expert segment in messages and load plans. */
export const segmentName = (layer: number, expert: number, segment: number): string => `layers.${layer}.experts.${expert}.segments.${segment}`;

/** Validates a parsed manifest. `where` names the pack in errors (ModelError). */
export function validateManifest(where: string, json: unknown): PackManifest {
  const parsed = manifestSchema.safeParse(json);
  if (!parsed.success) {
    const issue = parsed.error.issues[0]!;
    const found = issue.path.reduce<unknown>((value, key) => (value as Record<PropertyKey, unknown> | undefined)?.[key], json);
    const shown = found === undefined ? "nothing" : JSON.stringify(found);
    const isShown = issue.code !== "unrecognized_keys";
    throw new ModelError(`${where}, manifest.json: ${issue.path.join(".") || "the document"}: ${issue.message.replace(/, received .*$/s, "")}${isShown ? `, found ${shown.length > 80 ? `${shown.slice(0, 77)}...` : shown}` : ""}.`);
  }
  const m = parsed.data;
  const fail = (message: string): never => { throw new ModelError(`${where}, manifest.json: ${message}.`); };
  checkConfig(`${where}, manifest.json`, m.config);
  checkTrunk(m, fail);
  checkExperts(m, fail);
  checkExtents(m, fail);
  return m;
}

type Fail = (message: string) => never;

function checkTrunk(m: PackManifest, fail: Fail): void {
  const expected = new Map<string, { readonly kind: "vector" | "matrix"; readonly count: number; readonly rows: number; readonly cols: number }>();
  for (const t of trunkTensors(m.config)) {
    expected.set(t.name, t.kind === "vector" ? { kind: t.kind, count: 1, rows: 1, cols: t.length }
      : { kind: "matrix", count: t.kind === "matrices" ? t.count : 1, rows: t.nRows, cols: t.nCols });
  }
  expected.set("rope", { kind: "vector", count: 1, rows: ropeTables(m.config) * m.contextLength, cols: m.config.rope.dim });
  for (const [name, { kind, count: n, rows, cols }] of expected) {
    const blob = m.blobs[name] ?? fail(`blob ${name} is missing`);
    const { count: found = 1 } = blob;
    if (blob.rows !== rows || blob.cols !== cols || found !== n) {
      fail(`blob ${name} has shape [${found > 1 || n > 1 ? `${found}, ` : ""}${blob.rows}, ${blob.cols}], expected [${found > 1 || n > 1 ? `${n}, ` : ""}${rows}, ${cols}]`);
    }
    if ((blob.format === "f32-vector") !== (kind === "vector")) fail(`blob ${name} has format ${blob.format}, but it is a ${kind}`);
    const bytes = blob.format === "f32-vector" ? 4 * rows * cols : n * matrixBytes(blob.format, rows, cols);
    if (blob.bytes !== bytes) fail(`blob ${name} has ${blob.bytes} bytes, but ${blob.format} [${rows}, ${cols}]${n > 1 ? ` x ${n}` : ""} takes ${bytes}`);
  }
  const unknown = Object.keys(m.blobs).find((name) => !expected.has(name));
  if (unknown !== undefined) fail(`blob ${unknown} has no place in a model of architecture ${m.config.architecture}`);
  const { rope } = m.config;
  for (const { inverseFrequencies } of [rope, ...(rope.long === null ? [] : [rope.long])]) {
    if (inverseFrequencies.length !== rope.dim / 2) fail(`config.rope has ${inverseFrequencies.length} frequencies for ${rope.dim} dimensions`);
  }
}

function checkExperts(m: PackManifest, fail: Fail): void {
  const { config: c } = m;
  if (c.layerFfns.length !== c.nLayers || c.slidingWindows.length !== c.nLayers) {
    fail(`config lists ${c.layerFfns.length} kinds of layers and ${c.slidingWindows.length} windows for ${c.nLayers} layers`);
  }
  const wantedShared = c.layerFfns.flatMap((_, layer) => (sharedWidth(c, layer) > 0 ? [layer] : []));
  if (m.shared.length !== wantedShared.length) fail(`the list of dense layers and shared experts has ${m.shared.length} entries, expected ${wantedShared.length}`);
  m.shared.forEach((e, i) => {
    const layer = wantedShared[i]!;
    if (e.layer !== layer) fail(`entry ${i} of the list of dense layers and shared experts is for layer ${e.layer}, expected ${layer}`);
    if (activationFormatOf(e.gateUp) !== activationFormatOf(e.down)) fail(`layer ${layer}, shared: formats ${e.gateUp} and ${e.down} take different activations`);
    checkSegments(`layer ${layer}, shared`, e, "swiglu", c.hiddenSize, c.hiddenSize, sharedWidth(c, layer), fail);
  });
  const moeLayers = moeLayersOf(c);
  const nWanted = moeLayers.length * c.nExperts;
  if (m.experts.length !== nWanted) fail(`the expert table has ${m.experts.length} entries, expected ${nWanted}`);
  m.experts.forEach((e, i) => {
    const [layer, expert] = [moeLayers[Math.floor(i / c.nExperts)]!, i % c.nExperts];
    if (e.layer !== layer || e.expert !== expert) fail(`entry ${i} of the expert table is (layer ${e.layer}, expert ${e.expert}), expected (${layer}, ${expert})`);
    const name = `layer ${layer}, expert ${expert}`;
    for (const format of [e.gateUp, e.down]) {
      if (activationFormatOf(format) !== m.activations) fail(`${name} has format ${format}, which does not take ${m.activations} activations`);
    }
    checkSegments(name, e, c.expertKind, expertInputSize(c), expertOutputSize(c), c.expertIntermediateSize, fail);
  });
}

/** Segments must cover the width without gap, each as large as its formats make it. */
function checkSegments(name: string, e: PackShared, kind: ExpertKind, input: number, hidden: number, width: number, fail: Fail): void {
  let at = 0;
  e.segments.forEach((s, n) => {
    if (s.start !== at || s.end <= s.start || s.end > width || s.start % 32 !== 0) {
      fail(`${name}: segment ${n} is [${s.start}, ${s.end}), expected it to start at ${at}, a multiple of 32, and to end by ${width}`);
    }
    const bytes = segmentBytes(kind, e.gateUp, e.down, input, hidden, s.end - s.start);
    if (s.bytes !== bytes) fail(`${name}: segment ${n} has ${s.bytes} bytes, expected ${bytes}`);
    at = s.end;
  });
  if (at !== width) fail(`${name}: segments end at ${at}, but the expert is ${width} wide`);
}

function checkExtents(m: PackManifest, fail: Fail): void {
  const seen = new Map<string, { name: string; hash: string }>();
  const ranges: { name: string; part: number; offset: number; bytes: number }[] = [];
  for (const { name, blob } of blobsOf(m)) {
    const total = blob.extents.reduce((n, e) => n + e[2], 0);
    if (total !== blob.bytes) fail(`the extents of ${name} have ${total} bytes, expected ${blob.bytes}`);
    blob.extents.forEach(([part, offset, bytes, hash], i) => {
      const of = m.parts[part] ?? fail(`${name} lies in part ${part}, but there are ${m.parts.length} parts`);
      if (offset % FORMAT_LIMITS.extentAlignment !== 0) {
        fail(`${name} starts at byte ${offset} of ${of.name}, expected a multiple of ${FORMAT_LIMITS.extentAlignment}`);
      }
      if (offset + bytes > of.bytes) fail(`${name} ends at byte ${offset + bytes} of ${of.name}, which has ${of.bytes} bytes`);
      if (bytes > FORMAT_LIMITS.extentBytes || (i < blob.extents.length - 1 && bytes !== FORMAT_LIMITS.extentBytes)) {
        fail(`extent ${i} of ${name} has ${bytes} bytes, expected ${i < blob.extents.length - 1 ? "exactly" : "at most"} ${FORMAT_LIMITS.extentBytes}`);
      }
      if (blob.extents.length === 1 && hash !== blob.hash) fail(`${name} has hash ${blob.hash}, but its only extent has ${hash}`);
      const key = `${part} ${offset} ${bytes}`;
      const same = seen.get(key);
      if (same === undefined) {
        seen.set(key, { name, hash });
        ranges.push({ name, part, offset, bytes });
      } else if (same.hash !== hash) fail(`${name} and ${same.name} share bytes of ${of.name} but not their hash`);
    });
  }
  ranges.sort((a, b) => a.part - b.part || a.offset - b.offset);
  ranges.forEach((r, i) => {
    const before = ranges[i - 1];
    if (before && before.part === r.part && r.offset < before.offset + before.bytes) {
      fail(`${r.name} starts at byte ${r.offset} of ${m.parts[r.part]!.name}, inside ${before.name}, which ends at ${before.offset + before.bytes}`);
    }
  });
}

export interface NamedBlob {
  readonly name: string;
  readonly blob: Pick<PackBlob, "hash" | "bytes" | "extents">;
  /** Where in the first extent the bytes begin: of a run of a blob (stage-blobs.ts); absent = 0. */
  readonly skipBytes?: number;
}

/** What the trunk's holder loads: its tensors, then dense layers and shared experts. */
export function* trunkBlobsOf(m: Pick<PackManifest, "blobs" | "shared">): Iterable<NamedBlob> {
  for (const [name, blob] of Object.entries(m.blobs)) yield { name, blob };
  for (const e of m.shared) for (const [s, blob] of e.segments.entries()) yield { name: sharedSegmentName(e.layer, s), blob };
}

/** All blobs: the trunk, then every expert segment. */
export function* blobsOf(m: PackManifest): Iterable<NamedBlob> {
  yield* trunkBlobsOf(m);
  for (const e of m.experts) for (const [s, blob] of e.segments.entries()) yield { name: segmentName(e.layer, e.expert, s), blob };
}

/** JSON with one blob, part or expert a line: small, and readable with a pager. */
export function formatManifest(m: PackManifest): string {
  const lines = (open: string, items: string[], close: string): string => (items.length === 0 ? open + close : `${open}\n    ${items.join(",\n    ")}\n  ${close}`);
  const fields = Object.entries(m).map(([key, value]) => {
    const text = key === "parts" || key === "shared" || key === "experts" ? lines("[", (value as unknown[]).map((v) => JSON.stringify(v)), "]")
      : key === "blobs" ? lines("{", Object.entries(m.blobs).map(([name, v]) => `${JSON.stringify(name)}: ${JSON.stringify(v)}`), "}")
      : JSON.stringify(value);
    return `  ${JSON.stringify(key)}: ${text}`;
  });
  return `{\n${fields.join(",\n")}\n}\n`;
}

/** The format of a blob that is a matrix. */
export const matrixFormatOf = (blob: PackBlob): MatrixFormat => {
  if (blob.format === "f32-vector") throw new ModelError("A vector has no matrix format.");
  return blob.format;
};
