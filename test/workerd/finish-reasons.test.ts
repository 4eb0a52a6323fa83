// Why a reply ended, in every API, whole and streamed: an end token, a stop string, a call of a tool, the length asked for, a deadline; and what a broken
// generation becomes. The orchestrator is one that says a given text; that the real one gives these reasons is orchestrator.test.ts.

import { createExecutionContext } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { beforeAll, describe, expect, it } from "vitest";
import { openHuggingFace } from "../../formats/huggingface.ts";
import { MemorySource } from "../../formats/memory-source.ts";
import type { GenerateEvent } from "../../durable/generate.ts";
import worker, { type EdgeEnv } from "../../worker/index.ts";
import { packToMemory } from "../support/pack-to-memory.ts";
import { tinyChatFiles } from "../support/tiny-chat.ts";
import { deploy, fleetEnv } from "./fleet-fixture.ts";

const PACK = "finish";
beforeAll(async () => {
  const pack = await packToMemory(await openHuggingFace(new MemorySource(tinyChatFiles(512)), "tiny"), { id: PACK, contextLength: 512 });
  for (const [name, bytes] of pack.files) await fleetEnv.PACKS!.put(`packs/${PACK}/${name}`, bytes);
  deploy({ packId: PACK, shards: 2 });
});

const send = async (path: string, body: object, settings: object = {}): Promise<string> => {
  const response = await worker.fetch(new Request(`https://edge${path}`, { method: "POST", body: JSON.stringify({ model: PACK, ...body }) }), { ...env, OPEN_ACCESS: "true", ...settings } as unknown as EdgeEnv, createExecutionContext());
  const text = await response.text();
  expect(response.status, text).toBe(200);
  return text;
};
type Reason = "stop" | "length" | "deadline";
/** Settings of a Worker whose orchestrator says this text, one character a token, and ends like this. */
async function saying(text: string, reason: Reason): Promise<object> {
  const { tokens } = JSON.parse(await send("/tokenize", { content: text })) as { tokens: number[] };
  const events: GenerateEvent[] = [...tokens.map((id, index) => ({ type: "token", index, id }) as const), { type: "end", reason, stopId: null, promptTokens: 3, cachedTokens: 0, completionTokens: tokens.length, moe: { steps: 1, frames: 0, bytes: 0, retries: 0, hedges: 0 }, timings: { queueMs: 0, promptMs: 1, completionMs: 2 } }];
  const fetch = async (): Promise<Response> => new Response(events.map((event) => `${JSON.stringify(event)}\n`).join(""));
  return { ORCHESTRATOR: { getByName: () => ({ fetch }) } };
}

const messages = [{ role: "user", content: "hi" }];
const parameters = { type: "object" };
const CALL = "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"b\"}}</tool_call>";
const openTool = { type: "function", function: { name: "f", parameters } };
/** How each API is asked for a reply with these stops and tools, and where its reasons stand, whole and in a stream. */
const APIS: Readonly<Record<string, { readonly body: (stop: readonly string[], withTools: boolean) => object; readonly whole: (reply: never) => unknown; readonly streamed: (events: never[]) => unknown }>> = {
  "/v1/chat/completions": {
    body: (stop, withTools) => ({ messages, stop, ...(withTools ? { tools: [openTool] } : {}) }),
    whole: (reply: { choices: [{ finish_reason: string }] }) => reply.choices[0].finish_reason,
    streamed: (events: { choices: [{ finish_reason: string | null }] }[]) => events.map(({ choices }) => choices[0].finish_reason).filter((reason) => reason !== null).join(),
  },
  "/v1/completions": {
    body: (stop) => ({ prompt: "abc", max_tokens: 100, stop }),
    whole: (reply: { choices: [{ finish_reason: string }] }) => reply.choices[0].finish_reason,
    streamed: (events: { choices: [{ finish_reason: string | null }] }[]) => events.map(({ choices }) => choices[0].finish_reason).filter((reason) => reason !== null).join(),
  },
  "/v1/messages": {
    body: (stop, withTools) => ({ messages, max_tokens: 100, stop_sequences: stop, ...(withTools ? { tools: [{ name: "f", input_schema: parameters }] } : {}) }),
    whole: (reply: { stop_reason: string; stop_sequence: string | null }) => [reply.stop_reason, reply.stop_sequence],
    streamed: (events: { type: string; delta: { stop_reason: string; stop_sequence: string | null } }[]) => events.filter(({ type }) => type === "message_delta").flatMap(({ delta }) => [delta.stop_reason, delta.stop_sequence]),
  },
  "/v1/responses": {
    body: (stop, withTools) => ({ input: "hi", stop, ...(withTools ? { tools: [{ type: "function", name: "f", parameters }] } : {}) }),
    whole: (reply: { status: string; incomplete_details: { reason: string } | null; output: { status: string }[] }) => [reply.status, reply.incomplete_details?.reason ?? null, reply.output.map(({ status }) => status).at(-1)],
    streamed: (events: { type: string; response: { status: string; incomplete_details: { reason: string } | null; output: { status: string }[] } }[]) =>
      events.filter(({ type }) => /^response\.(completed|incomplete|failed)$/.test(type)).flatMap(({ response }) => [response.status, response.incomplete_details?.reason ?? null, response.output.map(({ status }) => status).at(-1)]),
  },
};
const [chat, completion, message, response] = ["/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses"] as const;
const CASES: readonly (readonly [string, string, Reason, readonly string[], boolean, Readonly<Record<string, unknown>>])[] = [
  ["an end token", "hello", "stop", [], false, { [chat]: "stop", [completion]: "stop", [message]: ["end_turn", null], [response]: ["completed", null, "completed"] }],
  ["the length asked for", "hello", "length", [], false, { [chat]: "length", [completion]: "length", [message]: ["max_tokens", null], [response]: ["incomplete", "max_output_tokens", "incomplete"] }],
  ["a deadline", "hello", "deadline", [], false, { [chat]: "length", [completion]: "length", [message]: ["max_tokens", null], [response]: ["incomplete", "max_output_tokens", "incomplete"] }],
  ["a stop string", "hello there", "length", ["zzz", "lo t"], false, { [chat]: "stop", [completion]: "stop", [message]: ["stop_sequence", "lo t"], [response]: ["completed", null, "completed"] }],
  ["a stop string that is the reply's last", "hello", "length", ["lo"], false, { [chat]: "stop", [completion]: "stop", [message]: ["stop_sequence", "lo"], [response]: ["completed", null, "completed"] }],
  ["the beginning of a stop string", "hello", "length", ["lot"], false, { [chat]: "length", [completion]: "length", [message]: ["max_tokens", null], [response]: ["incomplete", "max_output_tokens", "incomplete"] }],
  ["a call", CALL, "stop", [], true, { [chat]: "tool_calls", [message]: ["tool_use", null], [response]: ["completed", null, "completed"] }],
  ["a call, and text after it", `${CALL} Done.`, "stop", [], true, { [chat]: "tool_calls", [message]: ["tool_use", null], [response]: ["completed", null, "completed"] }],
  ["a call that broke off", CALL.slice(0, -20), "stop", [], true, { [chat]: "tool_calls", [message]: ["tool_use", null], [response]: ["completed", null, "completed"] }],
  ["a call that was cut", CALL.slice(0, -20), "length", [], true, { [chat]: "length", [message]: ["max_tokens", null], [response]: ["incomplete", "max_output_tokens", "incomplete"] }],
  ["what looks like a call where there are no tools", CALL, "stop", [], false, { [chat]: "stop", [completion]: "stop", [message]: ["end_turn", null], [response]: ["completed", null, "completed"] }],
];

describe.each(CASES)("%s", (_, text, reason, stop, withTools, expected) => {
  it.each(Object.entries(expected))("ends %s as %j, whole and streamed", async (path, reasons) => {
    const { body, whole, streamed } = APIS[path]!;
    const settings = await saying(text, reason);
    expect(whole(JSON.parse(await send(path, body(stop, withTools), settings)) as never)).toEqual(reasons);
    const events = [...(await send(path, { ...body(stop, withTools), stream: true }, settings)).matchAll(/^data: (\{.*)$/gm)].map(([, data]) => JSON.parse(data!) as never);
    expect(streamed(events)).toEqual(reasons);
  });
});

describe("a stop string", () => {
  interface Said { readonly choices: readonly { readonly message: { readonly content: string | null; readonly tool_calls?: readonly { readonly function: { readonly arguments: string } }[] } }[] }
  it("across tokens ends a chat too, whole and streamed, and never inside a call", async () => {
    const settings = await saying("one two three", "length");
    const body = { messages, stop: ["wo th", "three"] };
    const { choices } = JSON.parse(await send(chat, body, settings)) as Said;
    expect(choices[0]!.message.content).toBe("one t");
    const deltas = [...(await send(chat, { ...body, stream: true }, settings)).matchAll(/"content":"([^"]+)"/g)].map(([, text]) => text);
    expect(deltas.join("")).toBe("one t");
    const called = JSON.parse(await send(chat, { messages, tools: [openTool], stop: ["\"a\""] }, await saying(CALL, "stop"))) as Said;
    expect(called.choices[0]!.message.tool_calls![0]!.function.arguments).toBe("{\"a\": \"b\"}");
  });
});
