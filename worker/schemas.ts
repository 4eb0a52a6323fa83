// What the API accepts, as zod schemas: OpenAI's request bodies, narrowed to what this server does.
// Unknown fields are ignored as OpenAI does; fields of OpenAI's that would change the answer and are not supported here are refused by name.
// The `error` text of each schema is the expectation; `parseBody` turns the first failure into "field: found X, expected Y". Its `meta` is what the field means
// and its default: openapi.ts and docs/api.md are made of these very schemas.

import { z } from "zod";
import { maskedExpertsSchema } from "../formats/product-mask-schema.ts";
import { CONFIG_MOST } from "../model/config.ts";
import { PROTECTED_POSITIONS } from "../model/online-pruning-rule.ts";
import { interventionsSchema } from "../formats/intervention-schema.ts";
import { LIMITS } from "../durable/limits.ts";
import { invalid } from "./errors.ts";
import { EDGE_LIMITS } from "./limits.ts";

export const number = (min: number, max: number) => {
  const expected = `a number from ${min} to ${max}`;
  return z.number(expected).min(min, expected).max(max, expected);
};
export const integer = (min: number, max: number) => {
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

const pruneExpected = "\"calibrated\", \"learned\", or an object such as {\"ratio\": 0.4, \"layers\": [1, 2], \"protect_first\": 4}";
const ratio = number(0, 1);
/** Experts left out at run time (docs/compression.md). */
const prune = z.union([
  z.enum(["calibrated", "learned"]),
  z.strictObject({
    ratio: z.union([ratio, z.array(ratio).max(CONFIG_MOST.layers)], "a number from 0 to 1, or an array of them with one for each layer").meta({ description: "An expert is left out where its weight is below so many times that of the token's first; one number, or one for each layer of the model." }),
    layers: z.array(integer(0, CONFIG_MOST.layers - 1)).max(CONFIG_MOST.layers).nullish().meta({ description: "With one ratio: the layers it holds for, by number from 0; all that have experts when absent." }),
    protect_first: integer(0, Number.MAX_SAFE_INTEGER).nullish().meta({ description: `Tokens at so many first positions lose nothing; what the model's calibration says when absent, or ${PROTECTED_POSITIONS}.` }),
    renormalize: boolean.nullish().meta({ description: "Where the model's router brings the weights of a token's experts to a sum: true brings those of the ones that stay to it again, false leaves them as they are. What the model's calibration says when absent, or false." }),
  }, pruneExpected),
], pruneExpected);

/** Our extensions, under one key. */
export const moe = z.object({
  trace: boolean.nullish().meta({ description: "Report the experts chosen for each generated token in each layer, with their weights.", default: false }),
  date: date.nullish().meta({ description: "The date a chat template may write, YYYY-MM-DD; today (UTC) when absent." }),
  draft_tokens: integer(0, LIMITS.draftTokens).nullish().meta({ description: "Most guesses at the next tokens that one step may verify, 0 for none. The answer is the same either way.", default: LIMITS.draftTokens }),
  cache: boolean.nullish().meta({ description: "false: nothing that an earlier request of the key evaluated is taken over, and nothing is left for later ones. The answer is the same either way.", default: true }),
  degrade: boolean.nullish().meta({ description: "true: where experts cannot be computed for a while, go on without them instead of waiting for their shard. Every token that this touches says so (with `trace`), and `moe.degraded` of the reply counts them; the text is another than with all experts.", default: false }),
  prune: prune.nullish().meta({ description: "Leave out experts of a token that count little: by a ratio of weights, by the ratios of the model's calibration (\"calibrated\"), or by its mask router (\"learned\"), where it has them. `moe.pruned` of the reply counts them; the text is another than with all experts, and the same whatever else is served." }),
  interventions: interventionsSchema.max(LIMITS.interventions, `at most ${LIMITS.interventions} interventions`).nullish().meta({ description: "Changes to the routing of every token of prompt and reply, in this order: logits raised, experts forced, stimulated, suppressed, masked or amplified, fewer of them (docs/routing.md, \"Interventions\"). Needs a key with the scope admin. What the model takes, /v1/models says." }),
  profile: z.string("the name of a stored profile").max(64, "the name of a stored profile").nullish().meta({ description: "Interventions, and product experts to leave out, that the deployment keeps under this name (/v1/profiles); those of the request follow them. Needs a key with the scope admin, unless the profile says otherwise." }),
  task: integer(0, CONFIG_MOST.experts).nullish().meta({ description: "Of a model that routes by task: which one it is, by number from 0. /v1/models says how many there are." }),
  condition: z.array(number(-3.4e38, 3.4e38)).min(1).max(LIMITS.conditionNumbers).nullish().meta({ description: "Of a model that routes by a condition: its numbers, such as the embedding of a noise level. /v1/models says how many there are." }),
  mask_experts: maskedExpertsSchema(LIMITS.maskedPairs).nullish().meta({ description: "Of product experts (/v1/models `product_experts`): by layer, experts that are left out: all of a key of the first or second codebook, or pairs of keys. What is masked adds nothing, and the rest counts as it did. Those of `profile` are left out too. Needs a key with the scope admin." }),
  deadline_ms: integer(1, EDGE_LIMITS.deadlineMs).nullish().meta({ description: "How long the reply may take from its arrival, in milliseconds: what is said by then is the reply, with finish_reason \"length\"." }),
}, "an object with `trace`, `date`, `draft_tokens`, `cache`, `degrade`, `prune`, `interventions`, `profile`, `task`, `condition`, `mask_experts` and/or `deadline_ms`");

export const modelId = z.string("the id of a model as a string").min(1, "the id of a model, not an empty string").meta({ description: "Id of the model, as /v1/models lists it." });
/** How tokens are drawn: every API that takes these takes them alike. */
export const sampling = {
  temperature: number(0, 2).nullish().meta({ description: "Logits are divided by it; 0 takes the most likely token.", default: 1 }),
  top_p: z.number("a number above 0 and at most 1").gt(0, "a number above 0 and at most 1").max(1, "a number above 0 and at most 1").nullish().meta({ description: "Keeps the smallest set of most likely tokens whose probability reaches it.", default: 1 }),
  top_k: integer(0, Number.MAX_SAFE_INTEGER).nullish().meta({ description: "Keeps so many of the most likely tokens; 0 keeps all.", default: 0 }),
  min_p: number(0, 1).nullish().meta({ description: "Keeps tokens of at least this share of the largest probability.", default: 0 }),
  typical_p: z.number("a number above 0 and at most 1").gt(0, "a number above 0 and at most 1").max(1, "a number above 0 and at most 1").nullish().meta({ description: "Keeps the tokens whose information is nearest to the expected one, until their probability reaches it.", default: 1 }),
  repetition_penalty: z.number(repetitionExpected).gt(0, repetitionExpected).max(10, repetitionExpected).nullish().meta({ description: "Logits of tokens that the prompt or the reply has are divided by it where positive, multiplied where negative.", default: 1 }),
  presence_penalty: number(-2, 2).nullish().meta({ description: "Subtracted from the logits of tokens that the reply has.", default: 0 }),
  frequency_penalty: number(-2, 2).nullish().meta({ description: "Subtracted from the logits of tokens, once for each time the reply has them.", default: 0 }),
  logit_bias: z.record(z.string(biasExpected).regex(/^\d{1,9}$/, biasExpected), number(-100, 100), biasExpected)
    .refine((bias) => Object.keys(bias).length <= LIMITS.logitBiases, `at most ${LIMITS.logitBiases} tokens`).nullish()
    .meta({ description: `Added to the logits of tokens by their id, before anything else; at most ${LIMITS.logitBiases} tokens.` }),
  seed: z.number("an integer").int("an integer within ±2^53").nullish().meta({ description: "The same request with the same seed gives the same text, whatever else is served. Left out, one is drawn and reported as `moe.seed`." }),
  stop: stop.nullish().meta({ description: "The reply ends before the first of these, wherever tokens meet; never searched for in reasoning." }),
};

const common = {
  model: modelId,
  max_tokens: integer(0, Number.MAX_SAFE_INTEGER).nullish().meta({ description: "Most tokens to generate. Left out: 16 for a completion, as many as the context has room for in a chat. 0 only with `echo`, to score a prompt." }),
  ...sampling,
  n: integer(1, EDGE_LIMITS.choicesPerPrompt).nullish().meta({ description: "Choices per prompt.", default: 1 }),
  stream: boolean.nullish().meta({ description: "Server-sent events instead of one document.", default: false }),
  stream_options: z.object({
    include_usage: boolean.nullish().meta({ description: "A last chunk without choices has the usage; those before have `usage: null`.", default: false }),
  }, "an object such as {\"include_usage\": true}").nullish().meta({ description: "Only with `stream`." }),
  moe: moe.nullish().meta({ description: "Extensions of this server." }),
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
    name: z.string("a string").nullish().meta({ description: "Not used." }), strict: boolean.nullish().meta({ description: "No properties but those the schema names.", default: false }),
    schema: z.record(z.string(), z.unknown(), schemaExpected).meta({ description: "A JSON schema." }),
  }, "an object with `schema`") }),
], formatExpected);
const textLimit = `at most ${LIMITS.constraintChars} characters`;
/** What the text of a reply must look like. */
const shaped = {
  response_format: responseFormat.refine((format) => JSON.stringify(format).length <= LIMITS.constraintChars, textLimit).nullish()
    .meta({ description: `What the reply's text must look like. Tokens that would break it are never sampled. At most ${LIMITS.constraintChars} characters.` }),
  grammar: z.string("a grammar in GBNF as a string").min(1, "a grammar, not an empty string").max(LIMITS.constraintChars, textLimit).nullish()
    .meta({ description: "A grammar in GBNF, as llama.cpp takes it, that the reply follows from `root` on; instead of `response_format`." }),
};

export const completionSchema = z.object({
  ...common,
  prompt: prompt.meta({ description: "What is continued: text, several texts, token ids, or several lists of them." }),
  logprobs: integer(0, EDGE_LIMITS.completionLogprobs).nullish().meta({ description: "Log-probabilities of each token and of so many most likely ones, before any sampling step." }),
  echo: boolean.nullish().meta({ description: "Shows the prompt before its continuation; with `logprobs` its tokens are scored.", default: false }),
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
  role: z.enum(["system", "developer", "user", "assistant", "tool"], "\"system\", \"developer\", \"user\", \"assistant\" or \"tool\"").meta({ description: "Who speaks; what becomes of `developer` is the template's to say." }),
  content: z.union([z.string(), z.array(textPart), z.null()], contentExpected).optional().meta({ description: "Text, or parts of it that are joined. May be left out beside `tool_calls`." }),
  name: z.string("a string").max(64, "a string of at most 64 characters").nullish().meta({ description: "The speaker's name, for templates that show it." }),
  reasoning_content: z.string("a string").nullish().meta({ description: "What the model thought before this answer, as a reply gave it." }),
  tool_calls: z.array(call, "an array of calls").min(1, "at least one call, or no such field").nullish().meta({ description: "Calls the assistant made, as a reply gave them." }),
  tool_call_id: z.string("a string").nullish().meta({ description: "Of a tool's message: the call it answers." }),
}, "an object with `role` and `content`").refine(({ content, tool_calls }) => content !== undefined || tool_calls != null, { path: ["content"], error: contentExpected });
const toolExpected = "an object {\"type\": \"function\", \"function\": {\"name\": …}}";
const tool = z.looseObject({
  type: z.literal("function", "\"function\""),
  function: z.looseObject({ name: z.string("a string").min(1, "a name").meta({ description: "Its name." }), parameters: z.record(z.string(), z.unknown(), "a JSON schema as an object").nullish().meta({ description: "A JSON schema of its arguments; any object when absent." }) }, "an object with `name`"),
}, toolExpected);
const choiceExpected = "\"none\", \"auto\", \"required\", or an object {\"type\": \"function\", \"function\": {\"name\": …}}";
const toolChoice = z.union([
  z.enum(["none", "auto", "required"]),
  z.object({ type: z.literal("function"), function: z.object({ name: z.string() }) }),
], choiceExpected);
export const chatSchema = z.object({
  ...common,
  max_completion_tokens: integer(0, Number.MAX_SAFE_INTEGER).nullish().meta({ description: "Most tokens to generate, reasoning included; goes before `max_tokens`." }),
  messages: z.array(message, "an array of messages").min(1, "at least one message").max(EDGE_LIMITS.messages, `at most ${EDGE_LIMITS.messages} messages`).meta({ description: "The conversation, put into text by the model's own template." }),
  logprobs: boolean.nullish().meta({ description: "Log-probabilities of each token, before any sampling step.", default: false }),
  top_logprobs: integer(0, EDGE_LIMITS.chatTopLogprobs).nullish().meta({ description: "And of so many most likely ones; needs `logprobs`.", default: 0 }),
  tools: z.array(tool, "an array of tools").max(EDGE_LIMITS.tools, `at most ${EDGE_LIMITS.tools} tools`).nullish().meta({ description: "Functions the model may call, where its template takes tools." }),
  tool_choice: toolChoice.nullish().meta({ description: "\"auto\": calls or text; \"none\": no calls; \"required\": at least one call; a function: a call of it. Calls that are asked for are forced token by token." }),
  parallel_tool_calls: boolean.nullish().meta({ description: "Whether one reply may hold several calls.", default: true }),
  ...shaped,
  documents: z.array(z.looseObject({}, "an object"), "an array of objects").nullish().meta({ description: "Documents for templates that take them." }),
  reasoning_effort: z.string("a string such as \"low\"").nullish().meta({ description: "A variable of the model's template, where it has one of this name." }),
  chat_template_kwargs: z.record(z.string(), z.unknown(), "an object").nullish().meta({ description: "More variables for the model's template, such as enable_thinking." }),
}, "a JSON object");
export type ChatRequest = z.infer<typeof chatSchema>;

export const embeddingsSchema = z.object({
  model: modelId,
  input: prompt.meta({ description: "What becomes vectors: text, several texts, token ids, or several lists of them." }),
  encoding_format: z.enum(["float", "base64"], "\"float\" or \"base64\"").nullish().meta({ description: "\"base64\": the vector's f32 values, little-endian.", default: "float" }),
  dimensions: integer(1, Number.MAX_SAFE_INTEGER).nullish().meta({ description: "Only the model's own number is taken." }),
}, "a JSON object");
export type EmbeddingsRequest = z.infer<typeof embeddingsSchema>;

export const tokenizeSchema = z.object({
  content: z.string("a string").meta({ description: "The text." }),
  add_special: boolean.nullish().meta({ description: "Puts the beginning-of-text token first where the model's tokenizer does.", default: false }),
}, "a JSON object");
export const detokenizeSchema = z.object({
  tokens: z.array(z.number("an array of token ids").int("an array of token ids").nonnegative("an array of token ids"), "an array of token ids").meta({ description: "Token ids." }),
}, "a JSON object");
export const applyTemplateSchema = z.object({
  ...chatSchema.pick({ messages: true, tools: true, tool_choice: true, documents: true, reasoning_effort: true, chat_template_kwargs: true }).shape,
  moe: moe.nullish().meta({ description: "Extensions of this server; `date` matters here." }),
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
const wishExpected = "an object with `shards`, `replicas` and/or `plan`";
export const fleetChangeSchema = z.object({
  shards: integer(1, 1024).nullish().meta({ description: "How many shards are to hold experts. Left out: as many as now." }),
  replicas: integer(1, 16).nullish().meta({ description: "On how many different shards each expert is to lie. Left out: as now." }),
  plan: z.record(z.string(), z.unknown(), "a plan as GET /v1/fleet/plan gives it").nullish().meta({ description: "A placement of your own, in the form of GET /v1/fleet/plan (docs/formats.md, \"The plan\"), in place of the other two; its epoch is not read." }),
  region: z.string("a region of this deployment").nullish().meta({ description: "Whose fleet changes; to be named where the deployment has several regions." }),
}, wishExpected);

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
