// The report of a pass: one record that every pass can fill (docs/formats.md, "Reports of passes"). Owns its schema and how it is put together: sizes come from
// the two models, options from the record the pass left in the new one, and what only the pass knows from what it returned. Refuses to draw: cli/report/ does.

import { z } from "zod";
import type { Checkpoint } from "../formats/checkpoint.ts";
import { modelSizes, modelSizesSchema } from "./model-sizes.ts";

export const REPORT_FORMAT = "workers-moe-report";
export const REPORT_VERSION = 1;

/** Where a pass comes from. */
export interface PassIdentity {
  readonly name: string;
  /** The paper, with its year. */
  readonly source: string;
}

/**
 * What a pass returns, as far as it has it; it may return more. A report takes these and needs nothing else of a pass.
 * `layers`: `error` of what the layer adds, relative; `kept`: former numbers of the experts that stay; `of`: cluster of each expert;
 * `bits`: of each expert as they are planned, of a pass that only plans.
 */
export interface PassFindings {
  readonly calibrationTokens?: number;
  readonly layers?: readonly { readonly layer: number; readonly error?: number; readonly kept?: readonly number[]; readonly of?: readonly number[]; readonly bits?: readonly number[] }[];
  readonly matrices?: readonly { readonly name: string; readonly type: string; readonly rows: number; readonly error: number }[];
}

const modelSchema = z.strictObject({ kind: z.string(), name: z.string(), sha256: z.string() }).readonly();
const error = z.number().min(0);

export const passReportSchema = z.strictObject({
  format: z.literal(REPORT_FORMAT),
  version: z.literal(REPORT_VERSION),
  pass: z.string().min(1),
  source: z.string(),
  /** As the new model's config.json has them; of a pass that writes no model, as they were asked. */
  options: z.record(z.string(), z.unknown()),
  input: modelSchema,
  /** null: the pass writes no model. */
  output: modelSchema.nullable(),
  /** 0: none. */
  calibrationTokens: z.int().min(0),
  seconds: z.number().min(0),
  before: modelSizesSchema,
  after: modelSizesSchema.nullable(),
  layers: z.array(z.strictObject({
    layer: z.int().min(0),
    error: error.nullable(),
    /** Experts by former number that stay; null where the pass takes none out. */
    kept: z.array(z.int().min(0)).readonly().nullable(),
    /** Of each expert the cluster it is one with; null where the pass makes none one. */
    clusters: z.array(z.int().min(0)).readonly().nullable(),
    /** Planned bits of each expert, nominal; null where the pass plans none. What a written model has is in `after`. */
    bits: z.array(z.number().min(0)).readonly().nullable(),
  }).readonly()).readonly(),
  matrices: z.array(z.strictObject({ name: z.string(), type: z.string(), rows: z.int().min(0), error }).readonly()).readonly(),
}).readonly();

export type PassReport = z.infer<typeof passReportSchema>;

export interface ReportedRun {
  readonly pass: PassIdentity;
  readonly input: Checkpoint;
  /** The model as it was written, or what was asked of a pass that writes none. */
  readonly made: Checkpoint | { readonly options: Readonly<Record<string, unknown>> };
  readonly findings: PassFindings;
  readonly seconds: number;
}

/** Sizes are read from the models: every expert of canonical ones, to find those that are equal. */
export async function passReport({ pass, input, made, findings, seconds }: ReportedRun): Promise<PassReport> {
  const output = "places" in made ? made : null;
  const options = "places" in made ? (made.lineage?.passes.at(-1)?.options ?? {}) : made.options;
  const identity = ({ kind, name, sha256 }: Checkpoint): z.infer<typeof modelSchema> => ({ kind, name, sha256 });
  return {
    format: REPORT_FORMAT, version: REPORT_VERSION, pass: pass.name, source: pass.source, options, input: identity(input), output: output === null ? null : identity(output),
    calibrationTokens: findings.calibrationTokens ?? 0, seconds,
    before: await modelSizes(input, { findEqual: input.kind === "canonical" }), after: output === null ? null : await modelSizes(output, { findEqual: true }),
    layers: (findings.layers ?? []).map(({ layer, error: of = null, kept = null, of: clusters = null, bits = null }) => ({ layer, error: of, kept, clusters, bits })),
    matrices: (findings.matrices ?? []).map(({ name, type, rows, error: of }) => ({ name, type, rows, error: of })),
  };
}

/** Reads a report. Throws an Error that names `where` and the field. */
export function parsePassReport(text: string, where: string): PassReport {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw new Error(`${where} is no JSON: ${cause instanceof Error ? cause.message : String(cause)}.`, { cause });
  }
  const parsed = passReportSchema.safeParse(json);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0]!;
  throw new Error(`${where} is no report of version ${REPORT_VERSION}: ${issue.path.join(".") || "the document"}: ${issue.message}.`);
}
