// The edge Worker: routes, and the order of checks: key, size, schema, model, prompt; only then is a Durable Object touched.
// Owns nothing that lasts. Errors are thrown anywhere below and rendered here. Shards have no route at all.

import { type Context, Hono } from "hono";
import { bodyLimit } from "hono/body-limit";
import { methodNotAllowed } from "hono/method-not-allowed";
import type { z } from "zod";
import type { DurableEnv } from "../durable/env.ts";
import { profileSchema } from "../formats/routing-profile.ts";
import { planned, requireRate, withinBudget, type AdmissionSettings } from "./admission.ts";
import { audit } from "./audit.ts";
import { presentedKey, requireKey, requireScope, type AuthSettings, type Caller } from "./auth.ts";
import { chatReply, completionReply } from "./completions.ts";
import { embeddingsReply } from "./embeddings.ts";
import { crossOrigin, type CorsSettings } from "./cors.ts";
import { errorBody, errorResponse, RequestError, type RequestErrorInit } from "./errors.ts";
import { changeFleet, fleetReply, planInForce } from "./fleet.ts";
import { warmFleet } from "./fleet-warmth.ts";
import { callerOf, edgeFleet, routerOf } from "./fleets.ts";
import { health } from "./health.ts";
import { lanesOf } from "./lane-states.ts";
import { EDGE_LIMITS } from "./limits.ts";
import type { LogSettings } from "./log.ts";
import { givenId, recorded, type RecordVariables, serverTiming, type WatchedRequest } from "./log-middleware.ts";
import { metricsResponse } from "./metrics.ts";
import { countTokens, messagesReply } from "./messages.ts";
import { messagesError } from "./messages-form.ts";
import { countTokensSchema, messagesSchema } from "./messages-schema.ts";
import { openApiDocument } from "./openapi.ts";
import { edgePack, modelObject, type EdgePack } from "./pack.ts";
import { PAGE_FILES, pageFile, pageHeaders } from "./page.ts";
import { renderedMessages, requireModel, tokenizeText } from "./prompt.ts";
import { propsReply } from "./props.ts";
import type { Reply } from "./reply-form.ts";
import { startOf } from "./reply-start.ts";
import { respond } from "./respond.ts";
import { streamPosition } from "./stream-position.ts";
import { responsesReply } from "./responses.ts";
import { auditChange, deleteProfile, getProfile, listProfiles, putProfile, steered } from "./routing-profiles.ts";
import { routingMap } from "./routing-map.ts";
import { tracesResponse } from "./traces.ts";
import { responsesSchema } from "./responses-schema.ts";
import { applyTemplateSchema, type ChatRequest, chatSchema, completionSchema, detokenizeSchema, embeddingsSchema, fleetChangeSchema, parseBody, tokenizeSchema } from "./schemas.ts";
import type { FleetReply, FleetWarmth, ModelList } from "./wire-types.ts";

export { Orchestrator } from "../durable/orchestrator.ts";
export { ExpertShard } from "../durable/shard.ts";
export { Stage } from "../durable/stage.ts";
export { Directory } from "../durable/directory.ts";
export { TokenBudget } from "../durable/budget.ts";

export type EdgeEnv = DurableEnv & AdmissionSettings & AuthSettings & CorsSettings & LogSettings;

interface AppEnv { Bindings: EdgeEnv; Variables: RecordVariables & { caller: Caller } }
const app = new Hono<AppEnv>();
/** Errors have the shape of the API that was asked. */
const shown = (cause: unknown, path: string): Response => errorResponse(cause, path.startsWith("/v1/messages") ? messagesError : errorBody);
app.use("*", givenId, recorded);
/** A refusal that is returned and not thrown is noted here. */
const refused = (c: Context<AppEnv>, init: RequestErrorInit): Response => {
  const error = new RequestError(init);
  c.var.record.failed(error, null);
  return shown(error, c.req.path);
};
app.onError((cause, c) => shown(cause, c.req.path));
app.notFound((c) => refused(c, { status: 404, code: "unknown_url", message: `There is nothing at ${c.req.method} ${c.req.path}. See /v1/models, /v1/chat/completions, /v1/completions, /v1/responses, /v1/messages, /health, /openapi.json.` }));
app.use(methodNotAllowed({
  app,
  onMethodNotAllowed: (c, methods) => {
    const response = refused(c, { status: 405, code: "method_not_allowed", message: `${c.req.path} does not take ${c.req.method}; expected ${methods.join(" or ")}.` });
    response.headers.set("Allow", methods.join(", "));
    return response;
  },
}));

for (const file of PAGE_FILES) app.get(file, pageHeaders, (c) => pageFile(c.env.ASSETS, c.req.raw));

app.use("*", crossOrigin, ...serverTiming);
// Public: it says what this program takes and nothing about this deployment.
app.get("/openapi.json", (c) => c.json(openApiDocument()));
app.use("*", async (c, next) => {
  c.set("caller", await c.var.record.timed("auth", () => requireKey(presentedKey(c.req.raw.headers), c.env)));
  c.var.record.caller = c.var.caller.id;
  if (c.req.method === "POST") await requireRate(c.var.caller, c.env);
  await next();
});
app.use("*", bodyLimit({
  maxSize: EDGE_LIMITS.bodyBytes,
  onError: (c) => refused(c, { status: 413, code: "request_too_large", message: `The body is larger than ${EDGE_LIMITS.bodyBytes} bytes, the most this server reads.` }),
}));

app.get("/health", (c) => health(c.env, c.req.raw, true));
// For whoever only wants to know: a model that sleeps goes on sleeping.
app.get("/ready", (c) => health(c.env, c.req.raw, false));
app.get("/metrics", async (c) => {
  requireScope(c.var.caller, "admin");
  const fleet = await edgeFleet(c.env);
  return metricsResponse(lanesOf(c.env, fleet, callerOf(c.req.raw)), fleet.isPlural);
});
app.get("/v1/traces", async (c) => {
  requireScope(c.var.caller, "admin");
  const fleet = await edgeFleet(c.env);
  return tracesResponse(lanesOf(c.env, fleet, callerOf(c.req.raw)), fleet.isPlural);
});
app.get("/v1/fleet", async (c) => {
  requireScope(c.var.caller, "admin");
  return c.json(await fleetReply(c.env, c.req.raw) satisfies FleetReply);
});
app.post("/v1/fleet", async (c) => {
  requireScope(c.var.caller, "admin");
  return c.json(await changeFleet(await parseBody(c.req.raw, fleetChangeSchema), c.env), 202);
});
app.post("/v1/fleet/warm", async (c) => {
  requireScope(c.var.caller, "admin");
  return c.json(await warmFleet(c.env, c.req.raw) satisfies FleetWarmth);
});
app.get("/v1/fleet/plan", async (c) => {
  requireScope(c.var.caller, "admin");
  return c.json(await planInForce(c.env, c.req.query("region") ?? null));
});

app.get("/v1/models", async (c) => c.json({ object: "list", data: [modelObject(await edgePack(c.env))] } satisfies ModelList));
app.get("/v1/models/:id", async (c) => {
  const pack = await edgePack(c.env);
  requireModel(pack, c.req.param("id"));
  return c.json(modelObject(pack));
});

app.get("/v1/routing-map", async (c) => c.json(await routingMap(c.env, await edgePack(c.env))));

app.get("/v1/profiles", async (c) => c.json(await listProfiles(c.env, c.var.caller)));
app.get("/v1/profiles/:name", async (c) => c.json(await getProfile(c.env, c.var.caller, c.req.param("name"))));
app.put("/v1/profiles/:name", async (c) => {
  requireScope(c.var.caller, "admin");
  const profile = await parseBody(c.req.raw, profileSchema);
  const summary = await putProfile(c.env, await edgePack(c.env), c.req.param("name"), profile);
  auditChange(c.var.record, c.var.caller, "profile_stored", summary.name, summary.ops);
  return c.json(summary);
});
app.delete("/v1/profiles/:name", async (c) => {
  requireScope(c.var.caller, "admin");
  const deleted = await deleteProfile(c.env, c.req.param("name"));
  auditChange(c.var.record, c.var.caller, "profile_deleted", deleted.name);
  return c.json(deleted);
});

/** A POST whose body becomes a reply of generations. */
const generating = <Schema extends z.ZodType<{ readonly moe?: ChatRequest["moe"] }>>(schema: Schema, replyOf: (pack: EdgePack, request: z.infer<Schema>, caller: Caller) => Reply) =>
  async (request: Request, env: EdgeEnv, caller: Caller, record: WatchedRequest): Promise<Response> => {
    const asked = await parseBody(request, schema);
    const pack = await edgePack(env);
    const { body, use } = await steered(asked, pack, caller, env);
    const position = streamPosition(request.headers.get("Last-Event-ID"));
    const reply = await record.timed("tokenise", () => replyOf(pack, position === null ? body : { ...body, moe: { date: new Date(position.created * 1000).toISOString().slice(0, 10), ...body.moe } }, caller));
    if (use !== null) audit(record, new URL(request.url).pathname, caller, use);
    const plan = planned(reply, caller, body.moe?.deadline_ms ?? null);
    const start = await startOf(plan, caller, position);
    const router = await routerOf(env, request, position?.place ?? null, (target) => record.queued(target));
    return withinBudget(plan, start, caller, env, (counted, onLeave) =>
      record.timed("first_token", () => respond(router, pack.tokenizer, record.watched(counted), {
        start, signal: request.signal,
        left: () => {
          record.left();
          onLeave();
        },
      })));
  };
const completions = generating(completionSchema, completionReply);
const chatCompletions = generating(chatSchema, chatReply);
app.post("/v1/completions", (c) => completions(c.req.raw, c.env, c.var.caller, c.var.record));
app.post("/v1/chat/completions", (c) => chatCompletions(c.req.raw, c.env, c.var.caller, c.var.record));

const messages = generating(messagesSchema, messagesReply);
app.post("/v1/messages", (c) => messages(c.req.raw, c.env, c.var.caller, c.var.record));
const responses = generating(responsesSchema, responsesReply);
app.post("/v1/responses", (c) => responses(c.req.raw, c.env, c.var.caller, c.var.record));
app.post("/v1/messages/count_tokens", async (c) => {
  const request = await parseBody(c.req.raw, countTokensSchema);
  return c.json(countTokens(await edgePack(c.env), request));
});

app.post("/v1/embeddings", async (c) => {
  const request = await parseBody(c.req.raw, embeddingsSchema);
  return embeddingsReply(await routerOf(c.env, c.req.raw, null, (target) => c.var.record.queued(target)), await edgePack(c.env), request, { caller: c.var.caller, settings: c.env, signal: c.req.raw.signal, record: c.var.record });
});

app.get("/props", async (c) => c.json(propsReply(await edgePack(c.env), (await edgeFleet(c.env)).nOrchestrators)));
app.post("/tokenize", async (c) => {
  const { content, add_special } = await parseBody(c.req.raw, tokenizeSchema);
  return c.json({ tokens: tokenizeText(await edgePack(c.env), content, add_special ?? false) });
});
app.post("/detokenize", async (c) => {
  const { tokens } = await parseBody(c.req.raw, detokenizeSchema);
  return c.json({ content: (await edgePack(c.env)).tokenizer.decode(tokens) });
});
app.post("/apply-template", async (c) => {
  const request = await parseBody(c.req.raw, applyTemplateSchema);
  return c.json({ prompt: renderedMessages(await edgePack(c.env), request) });
});

export default app;
