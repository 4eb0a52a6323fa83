// What a model asks a request for, or a request of it, beside interventions: the task it routes by, the condition, product experts that are to be left out. Over the API and real objects: the same text over
// one shard and over three, alone and beside others with other answers; another answer is another text; what is missing or wrong is refused before anything is computed.

import { createExecutionContext, waitOnExecutionContext } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { afterEach, beforeAll, beforeEach, describe, expect, it, vi } from "vitest";
import { openModelFolder } from "../../formats/canonical-model.ts";
import { openHuggingFace } from "../../formats/huggingface.ts";
import { MemorySink, MemorySource } from "../../formats/memory-source.ts";
import type { ModelConfig } from "../../model/config.ts";
import worker, { type EdgeEnv } from "../../worker/index.ts";
import type { ModelObject } from "../../worker/wire-types.ts";
import type { PlainWeights } from "../support/direct-engine.ts";
import { packToMemory } from "../support/pack-to-memory.ts";
import { plainCheckpoint, writePlain } from "../support/plain-checkpoint.ts";
import { productConfig, productWeights } from "../support/product-model.ts";
import { seededConfig, seededWeights } from "../support/seeded-model.ts";
import { tinyChatFiles } from "../support/tiny-chat.ts";
import { deploy, fleetEnv } from "./fleet-fixture.ts";

const MODELS: Readonly<Record<string, { readonly config: (vocabSize: number) => ModelConfig; readonly weights: (config: ModelConfig, seed: number) => PlainWeights }>> = {
  "asked-task": { config: (vocabSize) => ({ ...seededConfig, vocabSize, router: { ...seededConfig.router, gate: { kind: "tasks", nTasks: 3 } } }), weights: seededWeights },
  "asked-condition": { config: (vocabSize) => ({ ...seededConfig, vocabSize, router: { ...seededConfig.router, scope: { kind: "condition", size: 4 } } }), weights: seededWeights },
  "asked-mask": { config: (vocabSize) => productConfig({}, 2, { vocabSize }), weights: productWeights },
};

beforeAll(async () => {
  const chat = await openHuggingFace(new MemorySource(tinyChatFiles(512)), "tiny");
  for (const [id, { config: of, weights }] of Object.entries(MODELS)) {
    const config = of(chat.config.vocabSize);
    const sink = new MemorySink();
    await writePlain(sink, plainCheckpoint(config, weights(config, 6)), id, chat.tokenizer);
    const pack = await packToMemory(await openModelFolder(new MemorySource(sink.files), id), { id, quant: "q8" });
    for (const [name, bytes] of pack.files) await fleetEnv.PACKS!.put(`packs/${id}/${name}`, bytes);
  }
});

const written: string[] = [];
beforeEach(() => {
  written.length = 0;
  vi.spyOn(console, "log").mockImplementation((line: string) => void written.push(line));
});
afterEach(() => vi.restoreAllMocks());

async function ask(call: string, body?: object, key = "owner-key"): Promise<Response> {
  const [method, path] = call.split(" ") as [string, string];
  const context = createExecutionContext();
  const response = await worker.fetch(new Request(`https://edge${path}`, { method, headers: { Authorization: `Bearer ${key}` }, ...(body === undefined ? {} : { body: JSON.stringify(body) }) }),
    { ...(env as unknown as EdgeEnv), LOG: "off", OPEN_ACCESS: "false", API_KEYS: "user-key", ADMIN_KEYS: "owner-key" } as unknown as EdgeEnv, context);
  await waitOnExecutionContext(context);
  return response;
}
const complete = (model: string, moe: object, key?: string): Promise<Response> => ask("POST /v1/completions", { model, prompt: "the cat sat on the mat", max_tokens: 12, temperature: 0, logprobs: 2, moe: { draft_tokens: 0, ...moe } }, key);
async function said(model: string, moe: object): Promise<unknown> {
  const response = await complete(model, moe);
  const text = await response.text();
  expect(response.status, text).toBe(200);
  return (JSON.parse(text) as { choices: { text: string; logprobs: unknown }[] }).choices.map(({ text: own, logprobs }) => ({ own, logprobs }));
}
async function refused(model: string, moe: object, key?: string): Promise<unknown[]> {
  const response = await complete(model, moe, key);
  const { error } = await response.json<{ error: { message: string; param: string | null } }>();
  return [response.status, error.param, error.message];
}
const describedBy = async (): Promise<ModelObject["moe"]> => (await (await ask("GET /v1/models")).json<{ data: [ModelObject] }>()).data[0].moe;

/** Each answer alone, then all of them at once, over one shard and over three. */
async function sameEverywhere(packId: string, answers: readonly object[]): Promise<void> {
  const replies: unknown[][] = [];
  for (const shards of [1, 3]) {
    deploy({ packId, shards });
    const alone: unknown[] = [];
    for (const moe of answers) alone.push(await said(packId, moe));
    expect(await Promise.all(answers.map((moe) => said(packId, { ...moe, cache: false })))).toEqual(alone);
    // What another left of the same prompt is of its own answer: asked again, each says the same.
    for (const [i, moe] of answers.entries()) expect(await said(packId, moe)).toEqual(alone[i]);
    replies.push(alone);
  }
  expect(replies[1]).toEqual(replies[0]);
  expect(new Set(replies[0]!.map((reply) => JSON.stringify(reply))).size).toBe(answers.length);
}

describe("moe.task", () => {
  it("says which router a model of several tasks goes by, and must be said", { timeout: 60_000 }, async () => {
    await sameEverywhere("asked-task", [{ task: 0 }, { task: 1 }, { task: 2 }]);
    expect(await describedBy()).toMatchObject({ tasks: 3 });
    expect(await refused("asked-task", {})).toEqual([400, "moe.task", expect.stringContaining("the task is not said; expected a whole number from 0 to 2")]);
    expect(await refused("asked-task", { task: 3 })).toEqual([400, "moe.task", expect.stringContaining("the task is 3")]);
    expect(await refused("asked-task", { task: 1.5 })).toEqual([400, "moe.task", expect.stringContaining("expected an integer")]);
  });
});

describe("moe.condition", () => {
  it("is what a model's routers read, and must be given whole", { timeout: 60_000 }, async () => {
    await sameEverywhere("asked-condition", [{ condition: [1, 0, -0.5, 2] }, { condition: [-2, 1, 0.25, 0] }]);
    expect(await describedBy()).toMatchObject({ condition_numbers: 4 });
    expect(await refused("asked-condition", {})).toEqual([400, "moe.condition", expect.stringContaining("none was given; expected 4 numbers")]);
    expect(await refused("asked-condition", { condition: [1, 2] })).toEqual([400, "moe.condition", expect.stringContaining("one of 2 numbers was given")]);
    expect(await refused("asked-condition", { condition: [1, 2, 3, 4], task: 0 })).toEqual([400, "moe.task", expect.stringContaining("know no tasks")]);
  });
});

describe("moe.mask_experts", () => {
  it("leaves product experts out, by admin only, with a line in the audit log", { timeout: 60_000 }, async () => {
    await sameEverywhere("asked-mask", [{}, { mask_experts: { 0: { first_keys: [0, 1, 2, 3] } } }, { mask_experts: { 1: { second_keys: [4, 5, 6, 7], pairs: [[0, 1], [3, 3]] } } }]);
    expect(await describedBy()).toMatchObject({ product_experts: { layers: [0, 1], experts: 64 } });
    expect(written.map((line) => JSON.parse(line) as { level: string }).filter(({ level }) => level === "audit").at(-1)).toMatchObject({ action: "use", profile: null, ops: ["mask_experts"] });
    expect(await refused("asked-mask", { mask_experts: { 0: { first_keys: [0] } } }, "user-key")).toEqual([403, null, expect.stringContaining("admin")]);
    expect(await refused("asked-mask", { mask_experts: { 2: { first_keys: [0] } } })).toEqual([400, "moe.mask_experts", expect.stringContaining("names layer 2")]);
    expect(await refused("asked-mask", { mask_experts: { 0: { first_keys: [8] } } })).toEqual([400, "moe.mask_experts", expect.stringContaining("names key 8")]);
    expect(await refused("asked-mask", { mask_experts: { x: {} } })).toEqual([400, expect.stringContaining("moe.mask_experts"), expect.anything()]);
  });

  it("are kept in a profile, those of the request beside them", { timeout: 60_000 }, async () => {
    await deploy({ packId: "asked-mask", shards: 1 });
    const maskExperts = { 0: { first_keys: [0, 1, 2, 3] } };
    const profile = { format: "workers-moe-profile", version: 1, name: "less", description: "", model: "asked-mask", access: "infer", interventions: [], maskExperts, found: null };
    const put = (document: object): Promise<Response> => ask("PUT /v1/profiles/less", document);
    expect(await (await put(profile)).json()).toMatchObject({ name: "less", ops: ["mask_experts"] });
    expect(await (await ask("GET /v1/profiles/less")).json()).toEqual(profile);
    const masked = await said("asked-mask", { mask_experts: maskExperts });
    expect(await said("asked-mask", { profile: "less" })).toEqual(masked);
    expect(masked).not.toEqual(await said("asked-mask", {}));
    expect(written.map((line) => JSON.parse(line) as { level: string; profile?: string | null }).filter(({ level, profile: name }) => level === "audit" && name === "less").at(-1)).toMatchObject({ action: "use", ops: ["mask_experts"] });
    const more = { 0: { pairs: [[5, 5]] as const }, 1: { second_keys: [4, 5, 6, 7] } };
    expect(await said("asked-mask", { profile: "less", mask_experts: more })).toEqual(await said("asked-mask", { mask_experts: { 0: { ...maskExperts[0], ...more[0] }, 1: more[1] } }));
    // Open to every key, but for what a request adds.
    expect((await complete("asked-mask", { profile: "less" }, "user-key")).status).toBe(200);
    expect(await refused("asked-mask", { profile: "less", mask_experts: more }, "user-key")).toEqual([403, null, expect.stringContaining("admin")]);
    const wrong = async (own: object): Promise<unknown> => (await (await put({ ...profile, maskExperts: own })).json<{ error: { message: string } }>()).error.message;
    expect(await wrong({ 7: { first_keys: [0] } })).toContain("does not fit this model: A mask of experts names layer 7");
    expect(await wrong({ 0: { pairs: Array.from({ length: 5000 }, (_, i) => [i % 8, (i >> 3) % 8]) } })).toContain("`interventions` and `maskExperts` take");
  });
});
