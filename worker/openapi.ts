// GET /openapi.json: the API as an OpenAPI 3.1 document, made of the schemas that check the requests and of those that describe the replies
// (openapi-replies.ts) and their headers (reply-headers.ts). Owns the list of endpoints and their words. Refuses shapes of its own: what is accepted is said once, where it is checked.

import { z } from "zod";
import { routingMapSchema } from "../formats/routing-map.ts";
import { profileSchema } from "../formats/routing-profile.ts";
import { EDGE_LIMITS } from "./limits.ts";
import { countTokensSchema, messagesSchema } from "./messages-schema.ts";
import * as replies from "./openapi-replies.ts";
import { REPLY_HEADERS } from "./reply-headers.ts";
import { responsesSchema } from "./responses-schema.ts";
import { applyTemplateSchema, chatSchema, completionSchema, detokenizeSchema, embeddingsSchema, fleetChangeSchema, moe, tokenizeSchema } from "./schemas.ts";

/** Schemas by the name they have in the document. */
const SCHEMAS = {
  ChatCompletionRequest: chatSchema, CompletionRequest: completionSchema, ResponseRequest: responsesSchema, MessageRequest: messagesSchema, CountTokensRequest: countTokensSchema,
  EmbeddingRequest: embeddingsSchema, TokenizeRequest: tokenizeSchema, DetokenizeRequest: detokenizeSchema, ApplyTemplateRequest: applyTemplateSchema, FleetChangeRequest: fleetChangeSchema, MoeExtensions: moe, RoutingProfile: profileSchema,
  ChatCompletion: replies.chatCompletion, ChatCompletionChunk: replies.chatCompletionChunk, Completion: replies.completion, CompletionChunk: replies.completionChunk,
  Response: replies.response, ResponseEvent: replies.responseEvent, Message: replies.message, MessageEvent: replies.messageEvent, InputTokens: replies.inputTokens,
  EmbeddingList: replies.embeddingList, TokenList: replies.tokenList, Content: replies.content, PromptText: replies.promptText,
  ModelObject: replies.modelObject, ModelList: replies.modelList, ProfileStored: replies.profileStored, ProfileList: replies.profileList, ProfileDeleted: replies.profileDeleted, RoutingMap: routingMapSchema, Props: replies.props, Health: replies.health, HealthWaiting: replies.healthWaiting, Fleet: replies.fleet, FleetDirectory: replies.fleetDirectory, FleetPlan: replies.fleetPlan, FleetWarmth: replies.fleetWarmth,
  Usage: replies.usage, ReplyCost: replies.replyCost, TokenTrace: replies.tokenTrace, Error: replies.errorReply, MessageError: replies.messagesErrorReply,
} as const satisfies Readonly<Record<string, z.ZodType>>;
export type SchemaName = keyof typeof SCHEMAS;
/** The zod schema of a name, for tests of the document. */
export const schemaOf = (name: SchemaName): z.ZodType => SCHEMAS[name];

export interface Endpoint {
  readonly method: "get" | "post" | "put" | "delete";
  readonly path: string;
  readonly summary: string;
  readonly request?: SchemaName;
  /** Its whole reply: a schema, or another media type. */
  readonly reply: SchemaName | { readonly mediaType: string };
  /** Of its reply; absent: 200. */
  readonly status?: 202;
  /** One event of its stream, where `stream: true` asks for it. */
  readonly event?: SchemaName;
  /** Statuses of its errors beside those that every endpoint has (errorsOf). */
  readonly errors: readonly number[];
  /** Whether no key is needed. */
  readonly isPublic?: true;
  readonly needsAdmin?: true;
}

const READS = [400, 404, 413, 429, 503] as const;
const GENERATES = [...READS, 403, 502, 504] as const;
export const ENDPOINTS: readonly Endpoint[] = [
  { method: "post", path: "/v1/chat/completions", summary: "Continues a conversation (OpenAI's chat completions).", request: "ChatCompletionRequest", reply: "ChatCompletion", event: "ChatCompletionChunk", errors: GENERATES },
  { method: "post", path: "/v1/completions", summary: "Continues text or token ids, or scores them (OpenAI's completions).", request: "CompletionRequest", reply: "Completion", event: "CompletionChunk", errors: GENERATES },
  { method: "post", path: "/v1/responses", summary: "Continues a list of items (OpenAI's responses; text, functions and reasoning, nothing stored).", request: "ResponseRequest", reply: "Response", event: "ResponseEvent", errors: GENERATES },
  { method: "post", path: "/v1/messages", summary: "Continues a conversation (Anthropic's messages).", request: "MessageRequest", reply: "Message", event: "MessageEvent", errors: GENERATES },
  { method: "post", path: "/v1/messages/count_tokens", summary: "How many tokens the prompt of a message request has.", request: "CountTokensRequest", reply: "InputTokens", errors: READS },
  { method: "post", path: "/v1/embeddings", summary: "Texts as vectors: the mean of their tokens' states after the final norm, of length 1.", request: "EmbeddingRequest", reply: "EmbeddingList", errors: [...READS, 502, 504] },
  { method: "post", path: "/tokenize", summary: "Text as token ids.", request: "TokenizeRequest", reply: "TokenList", errors: READS },
  { method: "post", path: "/detokenize", summary: "Token ids as text.", request: "DetokenizeRequest", reply: "Content", errors: READS },
  { method: "post", path: "/apply-template", summary: "The prompt that the model's template makes of messages.", request: "ApplyTemplateRequest", reply: "PromptText", errors: READS },
  { method: "get", path: "/v1/models", summary: "The model served, as a list of one.", reply: "ModelList", errors: [503] },
  { method: "get", path: "/v1/models/{id}", summary: "The same by its id.", reply: "ModelObject", errors: [404, 503] },
  { method: "get", path: "/health", summary: "Whether requests are served now. Asking starts the loading; 503 with Retry-After until then.", reply: "Health", errors: [] },
  { method: "get", path: "/ready", summary: "The same without starting anything: a model that sleeps goes on sleeping.", reply: "Health", errors: [] },
  { method: "get", path: "/props", summary: "Context, defaults of sampling, template and special tokens, in llama.cpp's words.", reply: "Props", errors: [503] },
  { method: "get", path: "/v1/fleet", summary: "Orchestrator and shards: state, memory, traffic; the plan in force, and how it changes.", reply: "Fleet", errors: [403], needsAdmin: true },
  { method: "post", path: "/v1/fleet", summary: "Begins a change of the plan: more or fewer shards, replicas, or another placement. Replies under way go on, the same.", request: "FleetChangeRequest", reply: "FleetDirectory", status: 202, errors: [400, 403, 409, 413, 429, 503], needsAdmin: true },
  { method: "post", path: "/v1/fleet/warm", summary: "Loads every shard of every lane and region at once, and says at once how far that has come. Asking again changes nothing.", reply: "FleetWarmth", errors: [403, 413, 429, 503], needsAdmin: true },
  { method: "get", path: "/v1/fleet/plan", summary: "The plan in force: which shard holds what.", reply: "FleetPlan", errors: [403, 409, 503], needsAdmin: true },
  { method: "get", path: "/v1/profiles", summary: "Stored profiles of routing that the key may use (`moe.profile`).", reply: "ProfileList", errors: [503] },
  { method: "get", path: "/v1/profiles/{name}", summary: "One of them, whole.", reply: "RoutingProfile", errors: [403, 404, 503] },
  { method: "put", path: "/v1/profiles/{name}", summary: "Stores a profile under its name, in place of one that has it.", request: "RoutingProfile", reply: "ProfileStored", errors: [400, 403, 409, 413, 503], needsAdmin: true },
  { method: "delete", path: "/v1/profiles/{name}", summary: "Forgets a profile.", reply: "ProfileDeleted", errors: [403, 404, 413, 503], needsAdmin: true },
  { method: "get", path: "/v1/routing-map", summary: "Which experts each domain and language takes, and how differently they are routed, where the pack has been mapped (docs/formats.md).", reply: "RoutingMap", errors: [404, 503] },
  { method: "get", path: "/metrics", summary: "Counters and histograms for Prometheus: of the orchestrator, and of the Worker's isolate that answers.", reply: { mediaType: "text/plain" }, errors: [403], needsAdmin: true },
  { method: "get", path: "/v1/traces", summary: "Routing of a sample of real requests, as a trace file (docs/formats.md).", reply: { mediaType: "application/octet-stream" }, errors: [403, 503], needsAdmin: true },
  { method: "get", path: "/openapi.json", summary: "This document.", reply: { mediaType: "application/json" }, errors: [], isPublic: true },
];

/** All statuses of an endpoint's errors, ascending. */
export const errorsOf = ({ isPublic, errors }: Endpoint): number[] => [...(isPublic ? [] : [401]), 405, 500, ...errors].sort((a, b) => a - b);

/** What each status of an error means, in every endpoint that has it. */
export const ERROR_MEANINGS: Readonly<Record<number, string>> = {
  400: "The request is not valid: `param` names the field, the message what was found and expected.",
  401: "No key, or one that is not of this deployment.",
  403: "The key lacks the scope admin, which this or `moe.interventions` or the profile needs.",
  404: "No such model or profile, or the pack has no routing map.",
  405: "The path does not take this method.",
  409: "Not now: another change is under way, there is no plan yet, the plan is already as wished, or there are as many profiles as the deployment keeps.",
  413: `The body is larger than ${EDGE_LIMITS.bodyBytes} bytes.`,
  429: "Too many requests wait, or the key has had its requests of the minute or its tokens of the day. Retry-After says when to ask again.",
  500: "The server failed.",
  502: "The connection to the orchestrator broke, and could not be taken up again.",
  503: "The model is loading, cannot be loaded, or has no memory for the request. Retry-After says when to ask again where that helps.",
  504: "`moe.deadline_ms` was over before the reply began.",
};

const REF = "#/components/schemas/";
type Json = Record<string, unknown>;
const ref = (name: SchemaName): Json => ({ $ref: REF + name });

function componentSchemas(): Json {
  const registry = z.registry<{ id: string }>();
  for (const [id, schema] of Object.entries(SCHEMAS)) registry.add(schema, { id });
  const { schemas } = z.toJSONSchema(registry, {
    uri: (id) => REF + id, io: "input",
    // Ends of what a JSON number can count exactly are nobody's choice.
    override: ({ jsonSchema }) => {
      if (jsonSchema.maximum === Number.MAX_SAFE_INTEGER) delete jsonSchema.maximum;
      if (jsonSchema.minimum === Number.MIN_SAFE_INTEGER) delete jsonSchema.minimum;
    },
  });
  return Object.fromEntries(Object.entries(schemas).map(([name, { $schema: _, $id: __, ...schema }]) => [name, schema]));
}

const headersOf = (status: number, endpoint: Endpoint): Json => ({
  headers: Object.fromEntries(Object.entries(REPLY_HEADERS).filter(([, { isSent }]) => isSent(status, endpoint)).map(([name]) => [name, { $ref: `#/components/headers/${name}` }])),
});

/** What a media type other than our JSON holds. */
const BODIES: Readonly<Record<string, Json>> = { "application/json": { type: "object" }, "text/plain": { type: "string" }, "application/octet-stream": {} };

function operation(endpoint: Endpoint): Json {
  const { method, path, summary, request, reply, event, isPublic, needsAdmin } = endpoint;
  const error = { "application/json": { schema: ref(path.startsWith("/v1/messages") ? "MessageError" : "Error") } };
  const whole = typeof reply === "string" ? { "application/json": { schema: ref(reply) } } : { [reply.mediaType]: { schema: BODIES[reply.mediaType] } };
  const failures = Object.fromEntries(errorsOf(endpoint).map((status): [string, Json] => [String(status), { description: ERROR_MEANINGS[status], ...headersOf(status, endpoint), content: error }]));
  if (reply === "Health") failures["503"] = { description: "Not loaded yet.", ...headersOf(503, endpoint), content: { "application/json": { schema: ref("HealthWaiting") } } };
  return {
    operationId: `${method}${path.replace(/[^A-Za-z0-9]+(.)?/g, (_, letter: string | undefined) => (letter ?? "").toUpperCase())}`,
    summary, ...(needsAdmin ? { description: "Needs a key with the scope admin." } : {}), ...(isPublic ? { security: [] } : {}),
    parameters: [
      { $ref: "#/components/parameters/X-Request-Id" }, ...(event === undefined ? [] : [{ $ref: "#/components/parameters/Last-Event-ID" }]),
      ...(path.includes("{id}") ? [{ name: "id", in: "path", required: true, schema: { type: "string" }, description: "Id of a model." }] : []),
      ...(path.includes("{name}") ? [{ name: "name", in: "path", required: true, schema: { type: "string" }, description: "Name of a profile." }] : []),
    ],
    ...(request === undefined ? {} : { requestBody: { required: true, content: { "application/json": { schema: ref(request) } } } }),
    responses: {
      [endpoint.status ?? 200]: {
        description: event === undefined ? "The reply." : "The whole reply; with `stream: true` server-sent events, the data of each a JSON document or the word [DONE].",
        ...headersOf(endpoint.status ?? 200, endpoint),
        content: { ...whole, ...(event === undefined ? {} : { "text/event-stream": { schema: { type: "string" }, "x-event-schema": ref(event) } }) },
      },
      ...failures,
    },
  };
}

function build(): Json {
  const paths: Record<string, Json> = {};
  for (const endpoint of ENDPOINTS) (paths[endpoint.path] ??= {})[endpoint.method] = operation(endpoint);
  return {
    openapi: "3.1.0",
    info: {
      title: "workers-moe", version: "1", description: "Mixture-of-experts models on Cloudflare Workers, behind the APIs of OpenAI and Anthropic. Unknown fields of a request are ignored; null means absent.",
    },
    servers: [{ url: "/" }],
    security: [{ bearer: [] }, { apiKey: [] }],
    paths,
    components: {
      schemas: componentSchemas(),
      securitySchemes: { bearer: { type: "http", scheme: "bearer" }, apiKey: { type: "apiKey", in: "header", name: "x-api-key" } },
      parameters: {
        "X-Request-Id": { name: "X-Request-Id", in: "header", required: false, schema: { type: "string", pattern: "^[\\w\\-=]+$", maxLength: 128 }, description: "A name for the request, repeated in the reply and in the log; another is made where it is not of this form." },
        "Last-Event-ID": { name: "Last-Event-ID", in: "header", required: false, schema: { type: "string" }, description: "With the same request: goes on after the event of this id, where a stream of one choice has dropped." },
      },
      headers: Object.fromEntries(Object.entries(REPLY_HEADERS).map(([name, { type, description }]) => [name, { schema: { type }, description }])),
    },
  };
}

let document: Json | null = null;
/** Made at the first call: most isolates never need it. */
export const openApiDocument = (): Json => (document ??= build());
