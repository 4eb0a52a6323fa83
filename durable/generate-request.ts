// Checks the body of POST /generate before anything is reserved. Owns the schema of generate.ts's GenerateRequest.
// Refuses unknown keys, ids outside the vocabulary and work beyond the context; the failure says what was found and expected.

import { z } from "zod";
import { interventionsSchema } from "../formats/intervention-schema.ts";
import { CONFIG_MOST } from "../model/config.ts";
import { type RoutedConfig, routingProblem } from "../model/request-routing.ts";
import type { GenerateFailure, GenerateRequest } from "./generate.ts";
import { LIMITS } from "./limits.ts";

const id = z.int().min(0).max(0xffffffff);
const constraintText = z.string().min(1).max(LIMITS.constraintChars);
const schema = z.strictObject({
  promptIds: z.array(id).min(1),
  emittedIds: z.array(id).optional(),
  maxTokens: z.int().min(0),
  sampling: z.strictObject({
    temperature: z.number().min(0), topK: z.int().min(0), typicalP: z.number().gt(0).max(1), topP: z.number().min(0).max(1), minP: z.number().min(0).max(1), seed: z.int(),
    adjustments: z.strictObject({
      bias: z.array(z.tuple([id, z.number()])).max(LIMITS.logitBiases), repetitionPenalty: z.number().gt(0), frequencyPenalty: z.number(), presencePenalty: z.number(),
    }).nullable(),
  }),
  choice: z.int().min(0).optional(),
  stopIds: z.array(id).max(LIMITS.stopIds),
  logprobs: z.int().min(0).max(LIMITS.topLogprobs).optional(),
  echo: z.boolean().optional(),
  embedding: z.boolean().optional(),
  degrade: z.boolean().optional(),
  routing: z.strictObject({
    pruning: z.discriminatedUnion("by", [
      z.strictObject({ by: z.literal("ratio"), ratios: z.array(z.number().min(0).max(1)).max(CONFIG_MOST.layers), protectFirst: z.int().min(0), renormalize: z.boolean() }),
      z.strictObject({ by: z.literal("learned"), protectFirst: z.int().min(0), renormalize: z.boolean() }),
    ]).optional(),
    interventions: interventionsSchema.max(LIMITS.interventions).optional(),
  }).refine((routing) => JSON.stringify(routing).length <= LIMITS.routingChars, `What is asked of routing takes more than ${LIMITS.routingChars} characters`).optional(),
  draftTokens: z.int().min(0).max(LIMITS.draftTokens).optional(),
  constraint: z.discriminatedUnion("kind", [
    z.strictObject({ kind: z.literal("json") }), z.strictObject({ kind: z.literal("json-schema"), schema: constraintText, strict: z.boolean() }),
    z.strictObject({ kind: z.literal("grammar"), grammar: constraintText }), z.strictObject({ kind: z.literal("tags"), tag: constraintText }),
  ]).optional(),
  journal: z.strictObject({ name: z.string().min(1).max(LIMITS.cacheScopeChars), resume: z.boolean() }).optional(),
  caller: z.string().min(1).max(LIMITS.cacheScopeChars).optional(),
  deadlineAtMs: z.number().min(0).optional(),
  cacheScope: z.string().min(1).max(LIMITS.cacheScopeChars).optional(),
  trace: z.union([z.boolean(), z.strictObject({ layer: z.int().min(0) })]).optional(),
});

/** What limits a request, known once the model is. */
export interface RequestBounds {
  readonly vocabSize: number;
  readonly contextLength: number;
  /** What its routing is checked against. */
  readonly config: RoutedConfig;
}

const invalid = (message: string): GenerateFailure => ({ type: "error", code: "invalid-request", message, retryable: false });

/** The request, or why it is none. */
export function parseGenerateRequest(text: string): GenerateRequest | GenerateFailure {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    return invalid(`The body of /generate is no JSON: ${cause instanceof Error ? cause.message : String(cause)}.`);
  }
  const parsed = schema.safeParse(json);
  if (parsed.success) return parsed.data as GenerateRequest;
  const issue = parsed.error.issues[0]!;
  return invalid(`The body of /generate: ${issue.path.join(".") || "the document"}: ${issue.message}.`);
}

/** Null when the model can serve the request. */
export function refusalOf(request: GenerateRequest, bounds: RequestBounds): GenerateFailure | null {
  for (const [field, ids] of [["promptIds", request.promptIds], ["emittedIds", request.emittedIds ?? []]] as const) {
    const at = ids.findIndex((value) => value >= bounds.vocabSize);
    if (at >= 0) return invalid(`${field}[${at}] is ${ids[at]}; the vocabulary has ${bounds.vocabSize} tokens.`);
  }
  const emitted = request.emittedIds?.length ?? 0;
  if (emitted > request.maxTokens) return invalid(`emittedIds has ${emitted} tokens; maxTokens is ${request.maxTokens}.`);
  if (request.embedding === true && (request.maxTokens !== 0 || request.echo === true)) return invalid("embedding is asked for with maxTokens above 0 or with echo; expected neither.");
  if (request.maxTokens === 0 && request.echo !== true && request.embedding !== true) return invalid("maxTokens is 0 without echo: nothing would be answered.");
  const problem = request.routing === undefined ? null : routingProblem(bounds.config, request.routing);
  if (problem !== null) return invalid(problem);
  const total = request.promptIds.length + request.maxTokens;
  if (total > bounds.contextLength) {
    return {
      type: "error", code: "context-exceeded", retryable: false,
      message: `The prompt has ${request.promptIds.length} tokens and ${request.maxTokens} more were asked for; the context of this pack is ${bounds.contextLength}.`,
    };
  }
  return null;
}

export const isFailure = (value: GenerateRequest | GenerateFailure): value is GenerateFailure => "type" in value;
