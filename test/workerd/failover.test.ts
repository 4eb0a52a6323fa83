// Regions, which are names here: a request runs in the nearest, and where that goes away in mid-stream another says the rest, the same bits; each has objects
// and a plan of its own; round trips are shown; and with a jurisdiction no object is ever taken but from its sub-namespace, donors included.
// Out of scope: orders and retries in every case (edge-fleet.test.ts, test/node/wire/generate-ways.test.ts).

import { createExecutionContext, runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { afterEach, beforeAll, describe, expect, it } from "vitest";
import { Isolate } from "../../durable/isolate.ts";
import type { Donor, Hello } from "../../durable/handshake.ts";
import { PROTOCOL_VERSION } from "../../durable/handshake.ts";
import { ShardCore } from "../../durable/shard-core.ts";
import { openHuggingFace } from "../../formats/huggingface.ts";
import { MemorySource } from "../../formats/memory-source.ts";
import { openPack } from "../../formats/pack-reader.ts";
import worker, { type EdgeEnv } from "../../worker/index.ts";
import { packToMemory, type MemoryPack } from "../support/pack-to-memory.ts";
import { tinyChatFiles } from "../support/tiny-chat.ts";
import { deploy, fleetEnv, until } from "./fleet-fixture.ts";

const PACK = "failover";
/** The same where a jurisdiction is set: here its objects would be those outside. */
const INSIDE = "failover-inside";
let pack: MemoryPack;
beforeAll(async () => {
  for (const id of [INSIDE, PACK]) {
    pack = await packToMemory(await openHuggingFace(new MemorySource(tinyChatFiles(512)), "tiny"), { id, contextLength: 512 });
    for (const [name, bytes] of pack.files) await fleetEnv.PACKS!.put(`packs/${id}/${name}`, bytes);
  }
});

interface Asked { readonly body?: object; readonly continent?: string; readonly settings?: object; readonly key?: string }
const ask = (path: string, { body, continent = "EU", settings = {}, key = "root" }: Asked = {}): Promise<Response> => {
  const request = new Request(`https://edge${path}`, { headers: new Headers({ Authorization: `Bearer ${key}` }), ...(body === undefined ? {} : { method: "POST", body: JSON.stringify(path === "/v1/fleet" ? body : { model: fleetEnv.PACK_ID, ...body }) }), cf: { continent } } as RequestInit);
  return Promise.resolve(worker.fetch(request, { ...env, OPEN_ACCESS: "false", ADMIN_KEYS: "root", ...settings } as unknown as EdgeEnv, createExecutionContext()));
};

describe("regions", () => {
  beforeAll(() => {
    deploy({ packId: PACK, shards: 2 });
    Object.assign(env, { REGIONS: "enam,weur" });
  });
  /** Orchestrators as the Worker sees them: America is a little further, and those of regions that are down cannot be called. */
  const isDown = new Set<string>();
  const hints = new Map<string, unknown>();
  const settings = { ORCHESTRATOR: { getByName: (name: string, options: object) => {
    hints.set(name, options);
    const region = name.split("@")[1]!;
    return { fetch: async (url: string, init: RequestInit<CfProperties>): Promise<Response> => {
      if (isDown.has(region)) throw new Error("no route");
      if (region === "enam") await new Promise((resolve) => setTimeout(resolve, 30));
      return fleetEnv.ORCHESTRATOR.getByName(name, options as DurableObjectNamespaceGetDurableObjectOptions).fetch(new Request(url, init));
    } };
  } } };
  beforeAll(async () => {
    for (const region of ["weur", "enam"]) await until(async () => (await (await fleetEnv.ORCHESTRATOR.getByName(`${PACK}@${region}`).fetch("https://orchestrator/status?warm=1")).json<{ status: string }>()).status === "ready");
  });
  afterEach(() => isDown.clear());
  const body = { prompt: "abcdef", max_tokens: 300, temperature: 1.1, seed: 11, logprobs: 2, moe: { cache: false } };
  interface Choice { readonly text: string; readonly logprobs: { readonly tokens: string[]; readonly token_logprobs: number[] } }
  interface Moe { readonly region: string; readonly lane: number }
  interface Chunk { readonly choices: readonly Choice[]; readonly moe?: Moe; readonly error?: { readonly message: string } }
  const whole = async (continent: string, more: object = {}): Promise<{ choices: readonly Choice[]; moe: Moe; by: string }> => {
    const response = await ask("/v1/completions", { body, continent, settings: { ...settings, ...more } });
    expect(response.status).toBe(200);
    return { ...await response.json<{ choices: readonly Choice[]; moe: Moe }>(), by: response.headers.get("X-Served-By")! };
  };

  it("answer who is near them, with objects of their own and the same bits", async () => {
    // Other words for the same regions, of which this isolate knows nothing yet: where nothing was measured, the caller's place decides.
    const [europe, america] = [await whole("EU"), await whole("NA", { REGIONS: "weur,enam" })];
    expect([europe.by, europe.moe.region, america.by, america.moe.region]).toEqual(["weur/0", "weur", "enam/0", "enam"]);
    expect(america.choices).toEqual(europe.choices);
    expect(Object.fromEntries(hints)).toMatchObject({ [`${PACK}@weur`]: { locationHint: "weur" }, [`${PACK}@enam`]: { locationHint: "enam" } });
  });

  it("that go away in mid-stream are followed by another, without a token lost or said twice", async () => {
    const { choices: [undisturbed] } = await whole("EU");
    const response = await ask("/v1/completions", { body: { ...body, stream: true }, settings });
    expect(response.headers.get("X-Served-By")).toBe("weur/0");
    const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
    let text = (await reader.read()).value!;
    isDown.add("weur");
    await runInDurableObject(fleetEnv.ORCHESTRATOR.getByName(`${PACK}@weur`), (_, state) => { state.abort("the region goes dark"); }).catch(() => undefined);
    for (let next = await reader.read(); !next.done; next = await reader.read()) text += next.value;
    const events = text.split("\n\n").filter((block) => block.includes("data: {"));
    const chunks = events.map((block) => JSON.parse(/^data: (.*)$/m.exec(block)![1]!) as Chunk);
    expect(chunks.map(({ error }) => error).filter((error) => error !== undefined)).toEqual([]);
    expect(chunks.at(-1)!.moe).toMatchObject({ region: "enam", lane: 0 });
    const said = chunks.flatMap(({ choices }) => choices);
    expect(said.map((choice) => choice.text).join("")).toBe(undisturbed!.text);
    for (const field of ["tokens", "token_logprobs"] as const) expect(said.flatMap(({ logprobs }): readonly unknown[] => logprobs?.[field] ?? [])).toEqual(undisturbed!.logprobs[field]);
    expect(events.map((block) => /^id: .*\.(\w+\/0)$/m.exec(block)?.[1]).filter((by, i, all) => by !== all[i - 1])).toEqual(["weur/0", "enam/0"]);
    // A region that failed lately comes last, also once it is back.
    isDown.clear();
    expect((await whole("EU")).by).toBe("enam/0");
  });

  it("that are all down end a request in one clear error", async () => {
    for (const region of ["weur", "enam"]) isDown.add(region);
    const response = await ask("/v1/completions", { body, settings });
    expect([response.status, await response.json()]).toEqual([502, { error: expect.objectContaining({ code: "stream_broken", message: expect.stringContaining("no route") as unknown }) as unknown }]);
    expect(await (await ask("/health", { settings })).json()).toMatchObject({ error: { code: "fleet_unreachable" } });
  });

  it("have plans of their own, which must be named", async () => {
    expect(await (await ask("/v1/fleet", { body: { shards: 3 } })).json()).toMatchObject({ error: { param: "region", message: expect.stringContaining("`region` is missing; expected one of enam, weur") as unknown } });
    expect((await ask("/v1/fleet/plan?region=oc")).status).toBe(400);
    expect((await ask("/v1/fleet", { body: { shards: 3, region: "weur" } })).status).toBe(202);
    interface Fleet { readonly regions: readonly { readonly region: string; readonly directory: { readonly plan: { readonly epoch: number; readonly fleet: string; readonly shards: readonly { readonly region: string }[] }; readonly change: object | null }; readonly lanes: readonly { readonly status: { readonly shards: readonly { readonly name: string }[] } }[] }[]; readonly roundTrips: readonly { readonly from: string; readonly to: string; readonly ageMs: number }[] }
    let fleet: Fleet;
    await until(async () => {
      fleet = await (await ask("/v1/fleet")).json<Fleet>();
      const of = fleet.regions.find(({ region }) => region === "weur")!.directory;
      return of.change === null && of.plan.epoch === 2 && fleet.roundTrips.length === 4;
    });
    const of = (name: string) => fleet.regions.find(({ region }) => region === name)!;
    expect([of("weur").directory.plan.shards, of("enam").directory.plan.shards].map((shards) => shards.map(({ region }) => region))).toEqual([["weur", "weur", "weur"], ["enam", "enam"]]);
    expect(of("enam").directory.plan.epoch).toBe(1);
    const names = ["weur", "enam"].map((region) => of(region).lanes[0]!.status.shards.map(({ name }) => name));
    expect(names[0]!.every((name) => name.endsWith("@weur"))).toBe(true);
    expect(names[0]!.filter((name) => names[1]!.includes(name))).toEqual([]);
    // The matrix: from the Worker to each, and from each to the other.
    expect(fleet!.roundTrips.map(({ from, to }) => `${from} ${to}`).sort()).toEqual(["edge enam", "edge weur", "enam weur", "weur enam"]);
    expect(fleet!.roundTrips.every(({ ageMs }) => ageMs >= 0)).toBe(true);
    expect(await (await ask("/v1/fleet/plan?region=weur")).json()).toMatchObject({ epoch: 2, jurisdiction: null });
  });
});

describe("a jurisdiction", () => {
  const { resident } = Isolate.prototype;
  const { read } = ShardCore.prototype;
  afterEach(() => Object.assign(Isolate.prototype, { resident }) && Object.assign(ShardCore.prototype, { read }));

  it("is never left: not by orchestrators, shards, directories, budgets or donors", async () => {
    const inside = new Map<string, number>();
    const outside: string[] = [];
    const bindings = ["ORCHESTRATOR", "SHARDS", "DIRECTORY", "BUDGETS", "STAGES"] as const;
    const real = Object.fromEntries(bindings.map((binding) => [binding, (env as unknown as Record<string, DurableObjectNamespace>)[binding]]));
    // Local workerd has no jurisdictions (2026-11): whatever is not asked of the sub-namespace is outside.
    const watched = Object.fromEntries(bindings.map((binding) => [binding, new Proxy(real[binding]!, { get: (target, key) => {
      if (key === "jurisdiction") return (name: string) => {
        if (name !== "eu") outside.push(`${binding} in ${name}`);
        inside.set(binding, (inside.get(binding) ?? 0) + 1);
        return target;
      };
      if (typeof key === "string") outside.push(`${binding}.${key}`);
      return (target as unknown as Record<PropertyKey, unknown>)[key];
    } })]));
    deploy({ packId: INSIDE, shards: 2 });
    Object.assign(env, { REGIONS: "weur,eeur", JURISDICTION: "eu", LANES: "2", ...watched });
    const settings = { KEY_SETTINGS: { "*": { tokensPerDay: 100_000 } } };
    try {
      const regions = new Set<string>();
      for (const prompt of ["abc", "abcd", "x".repeat(90), "y".repeat(90)]) for (const continent of ["EU", "NA"]) {
        const response = await ask("/v1/completions", { body: { prompt, max_tokens: 4 }, continent, settings });
        expect(response.status, await response.clone().text()).toBe(200);
        const [, region] = /^(weur|eeur)\/[01]$/.exec(response.headers.get("X-Served-By")!)!;
        regions.add(region!);
      }
      for (const path of ["/health", "/ready", "/metrics", "/v1/fleet"]) expect((await ask(path)).status, path).toBe(200);
      // A change: the directory asks shards of both plans, and tells orchestrators.
      const [region] = regions;
      const plan = async () => (await ask(`/v1/fleet/plan?region=${region}`)).json<{ epoch: number; jurisdiction: string; packHash: string; shards: { slots: Hello["slots"]; region: string }[] }>();
      const begun = await ask("/v1/fleet", { body: { shards: 3, region } });
      expect(begun.status, await begun.clone().text()).toBe(202);
      await until(async () => (await (await ask("/v1/fleet")).json<{ regions: { region: string; directory: { change: object | null; plan: { epoch: number } | null } }[] }>()).regions.some((of) => of.region === region && of.directory.change === null && of.directory.plan?.epoch === 2));
      const { jurisdiction, packHash, shards, ...first } = await plan();
      expect([jurisdiction, shards.map(({ region }) => region)]).toEqual(["eu", [region, region, region]]);
      const escaping = { plan: { jurisdiction, packHash, ...first, shards: shards.map((shard) => ({ ...shard, region: "enam" })) }, region };
      const refused = await ask("/v1/fleet", { body: escaping });
      expect([refused.status, await refused.json()]).toMatchObject([400, { error: { code: "impossible_plan", message: "The plan asks for shard 0 in enam, outside its jurisdiction eu; expected weur, eeur." } }]);

      // A donor: the isolate's memory is hidden from the shard that loads, so that it must ask.
      const slots = shards[0]!.slots;
      const [one, two] = ["jurisdiction-one", "jurisdiction-two"].map((name) => real["SHARDS"]!.getByName(name) as unknown as DurableObjectStub<import("../../durable/shard.ts").ExpertShard>);
      const hello = (donors: readonly Donor[]): Hello => ({ protocolVersion: PROTOCOL_VERSION, packHash, epoch: 1, slots, strictIsolates: false, donors });
      await until(async () => (await one!.prepare(hello([]))).state === "ready");
      let reading = false;
      Isolate.prototype.resident = function (hash) {
        const blob = resident.call(this, hash);
        return reading || blob === undefined || [...blob.holders].some(({ name }) => name === "shard jurisdiction-two") ? blob : undefined;
      };
      ShardCore.prototype.read = function (...of) {
        reading = true;
        try { return read.apply(this, of); } finally { reading = false; }
      };
      const before = inside.get("SHARDS")!;
      await until(async () => (await two!.prepare(hello([{ shard: 0, name: "jurisdiction-one", slots }]))).state === "ready");
      expect((await two!.report()).moved.donors).toBeGreaterThan(0);
      expect(inside.get("SHARDS")!).toBeGreaterThan(before);

      expect(outside).toEqual([]);
      for (const binding of ["ORCHESTRATOR", "SHARDS", "DIRECTORY", "BUDGETS"]) expect(inside.get(binding), binding).toBeGreaterThan(0);
    } finally {
      Object.assign(env, real, { REGIONS: "", JURISDICTION: "", LANES: "" });
    }
  });

  it.each([
    [{ REGIONS: "weur,enam", JURISDICTION: "eu" }, 'The variable REGIONS is "weur,enam", and enam lies outside the jurisdiction eu; expected weur, eeur.'],
    [{ REGIONS: "weur", JURISDICTION: "moon" }, 'The variable JURISDICTION is "moon"; expected one of eu, us, fedramp, fedramp-high, or nothing.'],
    [{ REGIONS: "weur,weur", JURISDICTION: "" }, 'The variable REGIONS is "weur,weur"; expected each region once.'],
    [{ REGIONS: "moon", JURISDICTION: "" }, 'The variable REGIONS is "moon", and "moon" is no region;'],
  ])("that cannot be is refused at the start: %o", async (settings, message) => {
    const untouchable = new Proxy({}, { get: () => { throw new Error("An object was touched."); } });
    for (const path of ["/v1/completions", "/health", "/v1/fleet"]) {
      const response = await ask(path, { settings: { ...settings, ORCHESTRATOR: untouchable, DIRECTORY: untouchable }, ...(path.endsWith("completions") ? { body: { prompt: "abc" } } : {}) });
      expect([response.status, await response.json()]).toMatchObject([500, { error: { code: "bad_configuration", message: expect.stringContaining(message) as unknown } }]);
    }
  });

  it("holds for the regions of shards and for a given plan too", async () => {
    const { shardRegion } = await import("../../durable/env.ts");
    const { planAtPlace } = await import("../../durable/places.ts");
    const { defaultPlan } = await import("../../durable/fan-out.ts");
    expect(() => shardRegion({ SHARD_REGIONS: "weur,oc", JURISDICTION: "eu" }, 0)).toThrow('The variable SHARD_REGIONS is "weur,oc", and oc lies outside the jurisdiction eu; expected weur, eeur.');
    const { manifest, packHash } = await openPack(pack.source);
    const plan = defaultPlan({ ...fleetEnv, REGIONS: "", SHARD_REGIONS: "oc" }, manifest, packHash);
    expect(() => planAtPlace({ JURISDICTION: "eu" }, plan, "f")).toThrow('The plan is of no jurisdiction, and the variable JURISDICTION is "eu"; expected the same.');
    expect(() => planAtPlace({ JURISDICTION: "eu" }, { ...plan, jurisdiction: "eu" }, "f")).toThrow("The plan asks for shard 0 in oc, outside its jurisdiction eu; expected weur, eeur.");
    expect(() => planAtPlace({ LANES: "2" }, plan, "f")).toThrow("The plan has 1 lanes, and the variable LANES says 2; expected the same, or no such variable.");
    expect(planAtPlace({ REGION: "sam" }, plan, "f.sam")).toMatchObject({ fleet: "f.sam", shards: plan.shards.map(() => ({ region: "sam" })) });
  });
});
