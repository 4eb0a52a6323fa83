// What the API accepts, as zod schemas: OpenAI's request bodies, narrowed to what this server does.
// Unknown fields are ignored as OpenAI does; fields of OpenAI's that would change the answer and are not supported here are refused by name.
// The `error` text of each schema is the expectation; `parseBody` turns the first failure into "field: found X, expected Y".

import { z } from "zod";
import { LIMITS } from "../durable/limits.ts";
import { invalid } from "./errors.ts";
import { EDGE_LIMITS } from "./limits.ts";

const number = (min: number, max: number) => {
  const expected = `a number from ${min} to ${max}`;
  return z.number(expected).min(min, expected).max(max, expected);
};
const integer = (min: number, max: number) => {
  const expected = max === Number.MAX_SAFE_INTEGER ? `an integer of at least ${min}` : `an integer from ${min} to ${max}`;
  return z.number(expected).int(expected).min(min, expected).max(max, expected);
};
const boolean = z.boolean("true or false");

const stopExpected = `a string, or an array of at most ${EDGE_LIMITS.stopStrings} strings, each of 1 to ${EDGE_LIMITS.stopStringChars} characters`;
const stopString = z.string(stopExpected).min(1, stopExpected).max(EDGE_LIMITS.stopStringChars, stopExpected);
const stop = z.union([stopString, z.array(stopString, stopExpected).max(EDGE_LIMITS.stopStrings, stopExpected)], stopExpected);

const date = z.string("a date as YYYY-MM-DD").regex(/^\d{4}-\d\d-\d\d$/, "a date as YYYY-MM-DD")
  .refine((text) => !Number.isNaN(Date.parse(`${text}T00:00:00Z`)), "a date that exists, as YYYY-MM-DD");
const repetitionExpected = "a number above 0 and at most 10";
const biasExpected = "an object from token ids to numbers from -100 to 100, such as {\"42\": -100}";

/** Our extensions, under one key. */
export const moe = z.object({
  /** Streams the experts chosen per token and layer. */
  trace: boolean.nullish(),
  /** The date a chat template may write; today (UTC) when absent. */
  date: date.nullish(),
  /** Most guesses at the next tokens that one step may verify: 0 for none. The answer is the same either way. */
  draft_tokens: integer(0, LIMITS.draftTokens).nullish(),
  /** false: nothing an earlier request of the key evaluated is taken over, and nothing left for later ones. The answer is the same either way. */
  cache: boolean.nullish(),
}, "an object with `trace`, `date`, `draft_tokens` and/or `cache`");

/** How tokens are drawn: every API that takes these takes them alike. */
export const sampling = {
  temperature: number(0, 2).nullish(),
  top_p: z.number("a number above 0 and at most 1").gt(0, "a number above 0 and at most 1").max(1, "a number above 0 and at most 1").nullish(),
  top_k: integer(0, Number.MAX_SAFE_INTEGER).nullish(),
  min_p: number(0, 1).nullish(),
  typical_p: z.number("a number above 0 and at most 1").gt(0, "a number above 0 and at most 1").max(1, "a number above 0 and at most 1").nullish(),
  repetition_penalty: z.number(repetitionExpected).gt(0, repetitionExpected).max(10, repetitionExpected).nullish(),
  presence_penalty: number(-2, 2).nullish(),
  frequency_penalty: number(-2, 2).nullish(),
  logit_bias: z.record(z.string(biasExpected).regex(/^\d{1,9}$/, biasExpected), number(-100, 100), biasExpected)
    .refine((bias) => Object.keys(bias).length <= LIMITS.logitBiases, `at most ${LIMITS.logitBiases} tokens`).nullish(),
  seed: z.number("an integer").int("an integer within ±2^53").nullish(),
  stop: stop.nullish(),
};

const common = {
  model: z.string("the id of a model as a string").min(1, "the id of a model, not an empty string"),
  max_tokens: integer(0, Number.MAX_SAFE_INTEGER).nullish(),
  ...sampling,
  n: integer(1, EDGE_LIMITS.choicesPerPrompt).nullish(),
  stream: boolean.nullish(),
  stream_options: z.object({ include_usage: boolean.nullish() }, "an object such as {\"include_usage\": true}").nullish(),
  moe: moe.nullish(),
};

const promptExpected = `a string, an array of 1 to ${EDGE_LIMITS.promptsPerRequest} strings, an array of token ids, or an array of arrays of token ids`;
const tokenIdExpected = "a token id, an integer of at least 0";
const tokenIds = z.array(z.number(promptExpected).int(tokenIdExpected).nonnegative(tokenIdExpected), promptExpected).min(1, promptExpected);
const prompt = z.union([
  z.string(),
  z.array(z.string()).min(1, promptExpected).max(EDGE_LIMITS.promptsPerRequest, promptExpected),
  tokenIds,
  z.array(tokenIds).min(1, promptExpected).max(EDGE_LIMITS.promptsPerRequest, promptExpected),
], promptExpected);

const formatExpected = "{\"type\": \"text\"}, {\"type\": \"json_object\"} or {\"type\": \"json_schema\", \"json_schema\": {\"schema\": …}}";
const schemaExpected = "a JSON schema as an object";
const responseFormat = z.discriminatedUnion("type", [
  z.object({ type: z.literal("text") }),
  z.object({ type: z.literal("json_object") }),
  z.object({ type: z.literal("json_schema"), json_schema: z.object({
    name: z.string("a string").nullish(), strict: boolean.nullish(), schema: z.record(z.string(), z.unknown(), schemaExpected),
  }, "an object with `schema`") }),
], formatExpected);
const textLimit = `at most ${LIMITS.constraintChars} characters`;
/** What the text of a reply must look like. */
const shaped = {
  response_format: responseFormat.refine((format) => JSON.stringify(format).length <= LIMITS.constraintChars, textLimit).nullish(),
  /** GBNF, as llama.cpp takes it. */
  grammar: z.string("a grammar in GBNF as a string").min(1, "a grammar, not an empty string").max(LIMITS.constraintChars, textLimit).nullish(),
};

export const completionSchema = z.object({
  ...common,
  prompt,
  logprobs: integer(0, EDGE_LIMITS.completionLogprobs).nullish(),
  echo: boolean.nullish(),
  ...shaped,
}, "a JSON object");
export type CompletionRequest = z.infer<typeof completionSchema>;

const contentExpected = "a string, or an array of parts {\"type\": \"text\", \"text\": \"…\"}";
const textPart = z.object({ type: z.literal("text", "\"text\" (this server reads text only)"), text: z.string("a string") });
const call = z.object({
  id: z.string("a string").nullish(),
  type: z.literal("function", "\"function\"").default("function"),
  function: z.object({ name: z.string("the name of a function"), arguments: z.string("the arguments as a JSON text") }, "an object with `name` and `arguments`"),
}, "an object with `function`");
const message = z.object({
  role: z.enum(["system", "developer", "user", "assistant", "tool"], "\"system\", \"developer\", \"user\", \"assistant\" or \"tool\""),
  content: z.union([z.string(), z.array(textPart), z.null()], contentExpected).optional(),
  name: z.string("a string").max(64, "a string of at most 64 characters").nullish(),
  /** What the model thought before this answer, as a reply gave it. */
  reasoning_content: z.string("a string").nullish(),
  tool_calls: z.array(call, "an array of calls").min(1, "at least one call, or no such field").nullish(),
  tool_call_id: z.string("a string").nullish(),
}, "an object with `role` and `content`").refine(({ content, tool_calls }) => content !== undefined || tool_calls != null, { path: ["content"], error: contentExpected });
const toolExpected = "an object {\"type\": \"function\", \"function\": {\"name\": …}}";
const tool = z.looseObject({
  type: z.literal("function", "\"function\""),
  function: z.looseObject({ name: z.string("a string").min(1, "a name"), parameters: z.record(z.string(), z.unknown(), "a JSON schema as an object").nullish() }, "an object with `name`"),
}, toolExpected);
const choiceExpected = "\"none\", \"auto\", \"required\", or an object {\"type\": \"function\", \"function\": {\"name\": …}}";
const toolChoice = z.union([
  z.enum(["none", "auto", "required"]),
  z.object({ type: z.literal("function"), function: z.object({ name: z.string() }) }),
], choiceExpected);
export const chatSchema = z.object({
  ...common,
  max_completion_tokens: integer(0, Number.MAX_SAFE_INTEGER).nullish(),
  messages: z.array(message, "an array of messages").min(1, "at least one message").max(EDGE_LIMITS.messages, `at most ${EDGE_LIMITS.messages} messages`),
  logprobs: boolean.nullish(),
  top_logprobs: integer(0, EDGE_LIMITS.chatTopLogprobs).nullish(),
  tools: z.array(tool, "an array of tools").max(EDGE_LIMITS.tools, `at most ${EDGE_LIMITS.tools} tools`).nullish(),
  tool_choice: toolChoice.nullish(),
  parallel_tool_calls: boolean.nullish(),
  ...shaped,
  documents: z.array(z.looseObject({}, "an object"), "an array of objects").nullish(),
  reasoning_effort: z.string("a string such as \"low\"").nullish(),
  /** More variables for the model's template, such as enable_thinking. */
  chat_template_kwargs: z.record(z.string(), z.unknown(), "an object").nullish(),
}, "a JSON object");
export type ChatRequest = z.infer<typeof chatSchema>;

export const tokenizeSchema = z.object({
  content: z.string("a string"),
  add_special: boolean.nullish(),
}, "a JSON object");
export const detokenizeSchema = z.object({
  tokens: z.array(z.number("an array of token ids").int("an array of token ids").nonnegative("an array of token ids"), "an array of token ids"),
}, "a JSON object");
export const applyTemplateSchema = z.object({
  ...chatSchema.pick({ messages: true, tools: true, tool_choice: true, documents: true, reasoning_effort: true, chat_template_kwargs: true }).shape,
  moe: moe.nullish(),
}, "a JSON object");

/** Fields that would change the answer and are not served here, each with the values that mean "not used". */
const NOT_SUPPORTED: Readonly<Record<string, (value: unknown) => boolean>> = {
  functions: (value) => Array.isArray(value) && value.length === 0,
  function_call: (value) => value === "none" || value === "auto",
  best_of: (value) => value === 1,
  suffix: (value) => value === "",
  audio: () => false,
  modalities: (value) => Array.isArray(value) && value.every((kind) => kind === "text"),
  web_search_options: () => false,
};

/** Reads a body as JSON and checks it; throws a RequestError 400 that says what was found and expected. */
export async function parseBody<Schema extends z.ZodType>(request: Request, schema: Schema): Promise<z.infer<Schema>> {
  const text = await request.text();
  let body: unknown;
  try {
    body = JSON.parse(text);
  } catch (cause) {
    throw invalid(null, `The body is not JSON: ${cause instanceof Error ? cause.message : String(cause)}. Expected a JSON object.`, "invalid_json");
  }
  const parsed = schema.safeParse(body);
  if (!parsed.success) throw describeIssue(parsed.error.issues[0]!, body);
  for (const [field, isNeutral] of Object.entries(NOT_SUPPORTED)) {
    const value = (body as Record<string, unknown>)[field];
    if (value !== undefined && value !== null && !isNeutral(value)) {
      throw invalid(field, `\`${field}\` is not supported by this server: found ${show(value)}, expected the field to be absent.`, "unsupported_parameter");
    }
  }
  return parsed.data;
}

function describeIssue(issue: z.core.$ZodIssue, body: unknown): Error {
  const path = issue.path.map((key, i) => (typeof key === "number" ? `[${key}]` : `${i === 0 ? "" : "."}${String(key)}`)).join("");
  const found = issue.path.reduce<unknown>((value, key) => (value as Record<PropertyKey, unknown> | undefined)?.[key], body);
  const where = path === "" ? "The body" : `\`${path}\``;
  const expected = `expected ${issue.message}`;
  if (path !== "" && found === undefined) return invalid(path, `${where} is missing: ${expected}.`, "missing_required_parameter");
  return invalid(path === "" ? null : path, `${where} is not valid: found ${show(found)}, ${expected}.`, "invalid_value");
}

/** A value for an error message: short, with its type where that helps. */
function show(value: unknown): string {
  if (value === null) return "null";
  if (Array.isArray(value)) return value.length <= 4 && JSON.stringify(value).length <= 60 ? JSON.stringify(value) : `an array of ${value.length} entries`;
  const text = JSON.stringify(value);
  return text.length <= 60 ? text : `${text.slice(0, 56)}…`;
}
