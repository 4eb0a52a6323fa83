// `moe.interventions` and `moe.profile` over the API and real objects: the same text over one shard and over four, alone and beside others, in every API; who may ask for them, what is stored under which
// name and limits, and what the audit log says of it. Out of scope: the operations themselves (test/node/model/interventions.test.ts).

import { createExecutionContext, waitOnExecutionContext } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { afterEach, beforeAll, beforeEach, describe, expect, it, vi } from "vitest";
import { LIMITS } from "../../durable/limits.ts";
import { openHuggingFace } from "../../formats/huggingface.ts";
import { MemorySource } from "../../formats/memory-source.ts";
import type { RoutingProfile } from "../../formats/routing-profile.ts";
import worker, { type EdgeEnv } from "../../worker/index.ts";
import type { ModelObject, ProfileList } from "../../worker/wire-types.ts";
import { packToMemory } from "../support/pack-to-memory.ts";
import { tinyChatFiles } from "../support/tiny-chat.ts";
import { deploy, fleetEnv } from "./fleet-fixture.ts";

const PACKS = ["steer-1", "steer-4"] as const;
const [PACK] = PACKS;
const SECRET = "the cat sat on the mat and";
beforeAll(async () => {
  const checkpoint = await openHuggingFace(new MemorySource(tinyChatFiles(512)), "tiny");
  for (const id of PACKS) {
    const pack = await packToMemory(checkpoint, { id, contextLength: 512, quant: "q8", segmentWidth: 32 });
    for (const [name, bytes] of pack.files) await fleetEnv.PACKS!.put(`packs/${id}/${name}`, bytes);
  }
});
beforeEach(() => deploy({ packId: PACK, shards: 1 }));

const written: string[] = [];
beforeEach(() => {
  written.length = 0;
  vi.spyOn(console, "log").mockImplementation((line: string) => void written.push(line));
});
afterEach(() => vi.restoreAllMocks());
const audits = (): Readonly<Record<string, unknown>>[] => written.map((line) => JSON.parse(line) as Readonly<Record<string, unknown>>).filter(({ level }) => level === "audit");

const [USER, OWNER] = ["user-key", "owner-key"];
async function ask(call: string, key: string, body?: object, settings: object = {}): Promise<Response> {
  const [method, path] = call.split(" ") as [string, string];
  const context = createExecutionContext();
  const response = await worker.fetch(new Request(`https://edge${path}`, { method, headers: { Authorization: `Bearer ${key}` }, ...(body === undefined ? {} : { body: JSON.stringify(body) }) }),
    { ...(env as unknown as EdgeEnv), LOG: "off", OPEN_ACCESS: "false", API_KEYS: USER, ADMIN_KEYS: OWNER, ...settings } as unknown as EdgeEnv, context);
  await waitOnExecutionContext(context);
  return response;
}
const failed = async (response: Response): Promise<unknown> => {
  const { error } = await response.json<{ error: { message: string; param: string | null; code: string } }>();
  return [response.status, error.code, error.param, error.message];
};
const complete = (model: string, moe: object, key = OWNER): Promise<Response> => ask("POST /v1/completions", key, { model, prompt: SECRET, max_tokens: 16, temperature: 0, seed: 1, moe: { draft_tokens: 0, ...moe } });
interface Completion { readonly choices: readonly { readonly text: string; readonly moe?: { readonly tokens: readonly { readonly experts: number[][] }[] } }[] }
const said = async (model: string, moe: object, key = OWNER): Promise<Completion["choices"]> => {
  const response = await complete(model, moe, key);
  const text = await response.text();
  expect(response.status, text).toBe(200);
  return (JSON.parse(text) as Completion).choices;
};

const profile = (name: string, more: Partial<RoutingProfile> = {}): RoutingProfile =>
  ({ format: "workers-moe-profile", version: 1, name, description: "Not the first experts.", model: PACK, access: "admin", interventions: [{ op: "suppress", experts: { 0: [0, 1, 2, 3], 1: [0, 1, 2, 3] } }], found: { by: "hand" }, ...more });
const put = (name: string, document: object, key = OWNER, settings: object = {}): Promise<Response> => ask(`PUT /v1/profiles/${name}`, key, document, settings);

describe("moe.interventions", () => {
  it("say the same over any shards and beside anybody, in every API, and /v1/models says which there are", async () => {
    const replies: Completion["choices"][][] = [];
    for (const [packId, shards] of [["steer-1", 1], ["steer-4", 4]] as const) {
      deploy({ packId, shards });
      const { data: [{ moe }] } = await (await ask("GET /v1/models", USER)).json<{ data: [ModelObject] }>();
      expect(moe.interventions).toEqual(["add_std", "force_max", "stimulate", "suppress", "mask", "gain", "top_k", "null_bias"]);
      const LISTS = [
        [], [{ op: "add_std", experts: { 0: [1, 2], 1: [3] }, lambda: 2 }], [{ op: "force_max", experts: { 0: [1], 1: [2] } }], [{ op: "stimulate", experts: { 1: [0] } }, { op: "gain", experts: { 1: [0] }, gain: 2 }],
        [{ op: "suppress", experts: { 0: [0, 1, 2, 3, 4, 5, 6, 7].slice(0, moe.experts) } }], [{ op: "mask", experts: { 0: [0], 1: [1] } }], [{ op: "top_k", k: 1 }], [{ op: "null_bias", bias: 0 }],
      ];
      const alone: Completion["choices"][] = [];
      for (const interventions of LISTS) alone.push(await said(packId, { interventions }));
      expect(alone[0]).toEqual(await said(packId, {}));
      const beside = await Promise.all(LISTS.map((interventions) => said(packId, { interventions, cache: false })));
      expect(beside).toEqual(alone);
      replies.push(alone);
      const forced = await said(packId, { interventions: LISTS[2], trace: true });
      for (const { experts } of forced[0]!.moe!.tokens) expect([experts[0]!.includes(1), experts[1]!.includes(2)]).toEqual([true, true]);
      const lost = await said(packId, { interventions: LISTS[4], trace: true });
      for (const { experts } of lost[0]!.moe!.tokens) expect([experts[0], experts[1]!.length > 0]).toEqual([[], true]);
    }
    expect(replies[1]).toEqual(replies[0]);
    expect(new Set(replies[0]!.map(([choice]) => choice!.text)).size).toBeGreaterThan(2);
    deploy({ packId: PACK, shards: 1 });
    const messages = [{ role: "user", content: SECRET }];
    const moe = { interventions: [{ op: "top_k", k: 1 }], draft_tokens: 0 };
    const texts: string[] = [];
    for (const [path, body] of [["/v1/chat/completions", { messages, max_tokens: 12 }], ["/v1/messages", { messages, max_tokens: 12 }], ["/v1/responses", { input: messages, max_output_tokens: 12 }]] as const) {
      const of = async (more: object): Promise<string> => {
        const response = await ask(`POST ${path}`, OWNER, { model: PACK, temperature: 0, ...body, ...more });
        expect(response.status).toBe(200);
        const reply = await response.json<Record<string, never>>();
        return JSON.stringify(reply["choices"] ?? reply["content"] ?? reply["output"]).replaceAll(/"id":"[^"]*"/g, "");
      };
      expect(await of({ moe })).not.toBe(await of({}));
      texts.push(await of({ moe: { ...moe, cache: false } }));
      expect(texts.at(-1)).toBe(await of({ moe }));
    }
    expect(texts.length).toBe(3);
  });

  it("need the scope admin, and leave one line in the audit log without what was said", async () => {
    const list = [{ op: "mask", experts: { 0: [1] } }, { op: "gain", experts: { 0: [2] }, gain: 2 }];
    expect(await failed(await complete(PACK, { interventions: list }, USER))).toEqual([403, "insufficient_permissions", null, expect.stringContaining("scope \"admin\"")]);
    expect(await failed(await complete(PACK, { interventions: [] }, USER))).toEqual([403, "insufficient_permissions", null, expect.any(String)]);
    expect(audits()).toEqual([]);
    const response = await complete(PACK, { interventions: list });
    expect(response.status).toBe(200);
    expect(audits()).toEqual([{ level: "audit", time: expect.stringMatching(/^\d{4}-\d\d-\d\dT.*Z$/), id: response.headers.get("x-request-id"), caller: expect.stringMatching(/^[0-9a-f]{32}$/), method: "POST", endpoint: "/v1/completions", action: "use", profile: null, ops: ["mask", "gain"] }]);
    expect(written.join("")).not.toMatch(/cat sat|owner-key/);
    // LOG "off" holds back the line of the request, and no line of the audit log; a request without leaves none.
    await complete(PACK, { interventions: null });
    expect(written.length).toBe(1);
  });

  it("that this model cannot do are refused with 400, and nothing is noted", async () => {
    for (const [interventions, sentence] of [
      [[{ op: "melt", experts: {} }], "one of the operations add_std"], [[{ op: "mask", experts: { 0: [1] }, gain: 2 }], "an intervention {\"op\": \"mask\"} with `experts`, and no other fields"],
      [[{ op: "mask", experts: { 9: [1] } }], "`mask` names layer 9"], [[{ op: "add_std", experts: { 0: [1] }, lambda: 1e4 }], "a number from -1000 to 1000"], [{ op: "mask" }, "an array of interventions"],
      [Array.from({ length: LIMITS.interventions + 1 }, () => ({ op: "top_k", k: 1 })), `at most ${LIMITS.interventions} interventions`],
    ] as const) expect(await failed(await complete(PACK, { interventions }))).toEqual([400, "invalid_value", expect.stringMatching(/^moe\.interventions/), expect.stringContaining(sentence)]);
    expect(audits()).toEqual([]);
  });
});

describe("a profile", () => {
  it("is stored, shown, used, replaced and deleted by admin, with a line in the audit log for each change and use", async () => {
    expect(await (await ask("GET /v1/profiles", OWNER)).json()).toEqual({ object: "list", data: [] });
    const document = profile("quiet");
    const stored = await put("quiet", document);
    expect(await stored.json()).toEqual({ name: "quiet", description: "Not the first experts.", model: PACK, packHash: null, access: "admin", ops: ["suppress"] });
    expect(await (await ask("GET /v1/profiles/quiet", OWNER)).json()).toEqual(document);
    const used = await said(PACK, { profile: "quiet" });
    expect(used).toEqual(await said(PACK, { interventions: document.interventions }));
    expect(used).not.toEqual(await said(PACK, {}));
    // Those of the request follow those of the profile.
    const both = await said(PACK, { profile: "quiet", interventions: [{ op: "gain", experts: { 0: [1] }, gain: 3 }] });
    expect(both).toEqual(await said(PACK, { interventions: [...document.interventions, { op: "gain", experts: { 0: [1] }, gain: 3 }] }));
    expect(audits().map(({ action, profile: name, ops }) => [action, name, ops])).toEqual([
      ["profile_stored", "quiet", ["suppress"]], ["use", "quiet", ["suppress"]], ["use", null, ["suppress"]], ["use", "quiet", ["suppress", "gain"]], ["use", null, ["suppress", "gain"]],
    ]);
    expect(audits()[0]).toMatchObject({ method: "PUT", endpoint: "/v1/profiles/:name", id: stored.headers.get("x-request-id") });
    await put("quiet", profile("quiet", { interventions: [{ op: "top_k", k: 1 }] }));
    expect(await said(PACK, { profile: "quiet" })).toEqual(await said(PACK, { interventions: [{ op: "top_k", k: 1 }] }));
    expect(await (await ask("DELETE /v1/profiles/quiet", OWNER)).json()).toEqual({ name: "quiet", deleted: true });
    expect(audits().at(-1)).toMatchObject({ action: "profile_deleted", profile: "quiet", method: "DELETE" });
    expect(await failed(await ask("DELETE /v1/profiles/quiet", OWNER))).toEqual([404, "profile_not_found", null, expect.stringContaining("There is no profile \"quiet\"")]);
    expect(await failed(await complete(PACK, { profile: "quiet" }))).toEqual([404, "profile_not_found", "moe.profile", expect.any(String)]);
  });

  it("opens itself to other keys only where it says so, and to change one always needs admin", async () => {
    await put("closed", profile("closed"));
    await put("open", profile("open", { access: "infer", interventions: [{ op: "top_k", k: 1 }] }));
    expect((await (await ask("GET /v1/profiles", USER)).json<ProfileList>()).data.map(({ name }) => name)).toEqual(["open"]);
    expect((await (await ask("GET /v1/profiles", OWNER)).json<ProfileList>()).data.map(({ name }) => name)).toEqual(["closed", "open"]);
    expect(await said(PACK, { profile: "open" }, USER)).toEqual(await said(PACK, { interventions: [{ op: "top_k", k: 1 }] }));
    for (const refused of [
      await complete(PACK, { profile: "closed" }, USER), await complete(PACK, { profile: "open", interventions: [{ op: "top_k", k: 1 }] }, USER), await ask("GET /v1/profiles/closed", USER),
      await put("open", profile("open"), USER), await ask("DELETE /v1/profiles/open", USER),
    ]) expect(await failed(refused)).toEqual([403, "insufficient_permissions", null, expect.any(String)]);
    expect((await ask("GET /v1/profiles/open", USER)).status).toBe(200);
  });

  it("is of one model, and of one pack where it says so", async () => {
    const { data: [{ moe }] } = await (await ask("GET /v1/models", USER)).json<{ data: [ModelObject] }>();
    expect((await put("mine", profile("mine", { packHash: moe.pack_hash }))).status).toBe(200);
    for (const [document, param, sentence] of [
      [profile("mine", { model: "other" }), "interventions", "is for the model \"other\"; this one is \"steer-1\""], [profile("mine", { packHash: "0".repeat(64) }), "interventions", `this one is ${moe.pack_hash}`],
      [profile("mine", { interventions: [{ op: "mask", experts: { 7: [0] } }] }), "interventions", "does not fit this model: `mask` names layer 7"], [profile("yours"), "name", "the path says \"mine\""],
      [{ ...profile("mine"), colour: "red" }, null, "a profile, an object with `format`"], [{ ...profile("mine"), version: 2 }, "version", "expected 1"], [{ ...profile("mine"), access: "all" }, "access", "\"admin\" or \"infer\""],
    ] as const) expect(await failed(await put("mine", document))).toEqual([400, "invalid_value", param, expect.stringContaining(sentence)]);
    // One that no longer fits, because another pack is served under the name, is refused where it is used.
    const stale = { getByName: () => ({ profile: async () => JSON.stringify(profile("mine", { packHash: "0".repeat(64) })) }) };
    expect(await failed(await ask("POST /v1/completions", OWNER, { model: PACK, prompt: "a", moe: { profile: "mine" } }, { DIRECTORY: stale }))).toEqual([400, "invalid_value", "moe.profile", expect.stringContaining("was found in the pack 0000")]);
  });

  it("has limits: of bytes, of their number, of a request's interventions together", async () => {
    expect(await failed(await put("large", profile("large", { found: { map: "x".repeat(LIMITS.profileBytes) } })))).toEqual([400, "profile_too_large", null, expect.stringContaining(`expected at most ${LIMITS.profileBytes}`)]);
    const { data } = await (await ask("GET /v1/profiles", OWNER)).json<ProfileList>();
    for (let i = data.length; i < LIMITS.profiles; i++) expect((await put(`p${i}`, profile(`p${i}`))).status).toBe(200);
    expect(await failed(await put("another", profile("another")))).toEqual([409, "too_many_profiles", null, expect.stringContaining(`keeps ${LIMITS.profiles} profiles`)]);
    expect((await put("p63", profile("p63", { description: "replaced" }))).status).toBe(200);
    const full = Array.from({ length: LIMITS.interventions }, () => ({ op: "gain", experts: { 0: [1] }, gain: 1.01 }));
    expect(await failed(await complete(PACK, { profile: "p63", interventions: full }))).toEqual([400, "invalid_value", "moe.interventions", expect.stringContaining("those of the profile included")]);
  });

  it("needs a directory, and a deployment without says so", async () => {
    for (const response of [await ask("GET /v1/profiles", OWNER, undefined, { DIRECTORY: undefined }), await complete(PACK, { profile: "quiet" }).then(() => ask("POST /v1/completions", OWNER, { model: PACK, prompt: "a", moe: { profile: "p63" } }, { DIRECTORY: undefined }))]) {
      expect(await failed(response)).toEqual([500, "bad_configuration", null, expect.stringContaining("no binding DIRECTORY, so it keeps no profiles")]);
    }
    const deaf = { getByName: () => ({ profiles: () => { throw new Error("It is gone."); } }) };
    expect(await failed(await ask("GET /v1/profiles", OWNER, undefined, { DIRECTORY: deaf }))).toEqual([503, "profiles_unreachable", null, expect.stringContaining("It is gone.")]);
  });
});
