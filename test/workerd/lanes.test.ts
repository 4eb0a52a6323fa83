// Three orchestrators over the same shards: a beginning finds its prefix cache, unrelated requests spread, a stream goes on where it was, answers are those of one
// orchestrator, and what the API tells covers all of them. Out of scope: the order of lanes in every case (edge-fleet.test.ts).

import { env, exports } from "cloudflare:workers";
import { beforeAll, describe, expect, it } from "vitest";
import { readTrace } from "../../formats/trace.ts";
import { LIMITS } from "../../durable/limits.ts";
import { openHuggingFace } from "../../formats/huggingface.ts";
import { MemorySource } from "../../formats/memory-source.ts";
import { packToMemory } from "../support/pack-to-memory.ts";
import { tinyChatFiles } from "../support/tiny-chat.ts";
import { deploy, fleetEnv, until } from "./fleet-fixture.ts";

const PACK = "lanes";
beforeAll(async () => {
  const pack = await packToMemory(await openHuggingFace(new MemorySource(tinyChatFiles(512)), "tiny"), { id: PACK, contextLength: 512 });
  for (const [name, bytes] of pack.files) await fleetEnv.PACKS!.put(`packs/${PACK}/${name}`, bytes);
  deploy({ packId: PACK, shards: 2 });
  Object.assign(env, { OPEN_ACCESS: "true", LANES: "3", TRACE_SHARE: "1" });
});

interface Reply { readonly choices: readonly { readonly text: string; readonly logprobs: unknown }[]; readonly usage: { readonly prompt_tokens_details: { readonly cached_tokens: number } }; readonly moe: { readonly lane: number; readonly region: string | null; readonly steps: number } }
const fetched = (path: string, body?: object, headers: Readonly<Record<string, string>> = {}): Promise<Response> =>
  (exports as unknown as { default: Fetcher }).default.fetch(new Request(`https://edge${path}`, body === undefined ? {} : { method: "POST", headers, body: JSON.stringify({ model: PACK, ...body }) }));
async function complete(prompt: readonly number[], more: object = {}): Promise<{ reply: Reply; by: string | null }> {
  const response = await fetched("/v1/completions", { prompt, max_tokens: 6, temperature: 0, logprobs: 3, ...more });
  const text = await response.text();
  expect(response.status, text).toBe(200);
  return { reply: JSON.parse(text) as Reply, by: response.headers.get("X-Served-By") };
}
const prompt = (seed: number): number[] => Array.from({ length: 80 }, (_, i) => 5 + ((seed * 31 + i * 7) % 60));

describe("lanes", () => {
  it("find a beginning where it was read, and share unrelated ones out; the answers are one orchestrator's", async () => {
    const first = await Promise.all(Array.from({ length: 9 }, (_, seed) => complete(prompt(seed))));
    expect(new Set(first.map(({ by }) => by))).toEqual(new Set(["0", "1", "2"]));
    for (const { reply, by } of first) expect([String(reply.moe.lane), reply.moe.region]).toEqual([by, null]);
    for (let seed = 0; seed < 9; seed++) {
      const again = await complete([...prompt(seed), 9, 8]);
      expect(again.by).toBe(first[seed]!.by);
      expect(again.reply.usage.prompt_tokens_details.cached_tokens).toBeGreaterThanOrEqual(64);
    }
    Object.assign(env, { LANES: "1" });
    try {
      for (let seed = 0; seed < 9; seed++) {
        const { reply, by } = await complete(prompt(seed), { moe: { cache: false } });
        expect([by, reply.choices]).toEqual(["0", first[seed]!.reply.choices]);
      }
    } finally {
      Object.assign(env, { LANES: "3" });
    }
  });

  it("are told by the API, one by one and together", async () => {
    await until(async () => (await (await fetched("/ready")).json<{ lanes: { status: string }[] }>()).lanes.every(({ status }) => status === "ready"));
    expect(await (await fetched("/health")).json()).toMatchObject({ status: "ready", model: PACK, lanes: [0, 1, 2].map((lane) => ({ region: null, lane, status: "ready" })) });
    expect(await (await fetched("/props")).json()).toMatchObject({ total_slots: 3 * LIMITS.activeGenerations });
    const fleet = await (await fetched("/v1/fleet")).json<{ shards: { name: string }[]; directory: { plan: { lanes: number }; lanes: { name: string }[] }; regions: { region: null; lanes: { lane: number; name: string; status: { shards: { name: string }[] } }[] }[]; roundTrips: unknown[] }>();
    expect(fleet.directory.plan.lanes).toBe(3);
    expect(fleet.directory.lanes.map(({ name }) => name).sort()).toEqual([PACK, `${PACK}/lane-1`, `${PACK}/lane-2`]);
    expect(fleet.regions.map(({ region, lanes }) => [region, lanes.map(({ name }) => name)])).toEqual([[null, [PACK, `${PACK}/lane-1`, `${PACK}/lane-2`]]]);
    // One set of shards behind all.
    const [names, ...others] = fleet.regions[0]!.lanes.map(({ status }) => status.shards.map(({ name }) => name));
    expect(names).toHaveLength(2);
    expect(others).toEqual([names, names]);
    expect(fleet.roundTrips).toEqual([]);
    const metrics = await (await fetched("/metrics")).text();
    for (const lane of [0, 1, 2]) expect(metrics).toContain(`workers_moe_orchestrator_up{lane="${lane}"} 1\n`);
    expect(metrics.match(/^# TYPE workers_moe_orchestrator_up /gm)).toHaveLength(1);
    const families = [...metrics.matchAll(/^# TYPE (\S+)/gm)].map(([, name]) => name);
    expect(new Set(families).size).toBe(families.length);
    const trace = readTrace(new Uint8Array(await (await fetched("/v1/traces")).arrayBuffer()), "the trace");
    const requests = new Map<number, Set<number>>();
    for (let i = 0; i < trace.length; i++) {
      const { request, token, layer } = trace.record(i);
      const seen = requests.get(request) ?? new Set();
      expect(seen.has(token * 64 + layer), `request ${request} has token ${token} twice`).toBe(false);
      requests.set(request, seen.add(token * 64 + layer));
    }
    expect(requests.size).toBeGreaterThanOrEqual(18);
  });

  it("take a stream up again where it was said, by the id of its events", async () => {
    const body = { prompt: prompt(100), max_tokens: 40, temperature: 1, stream: true, moe: { cache: false } };
    const stream = async (lastEventId: string | null) => {
      const response = await fetched("/v1/completions", body, lastEventId === null ? {} : { "Last-Event-ID": lastEventId });
      const text = await response.text();
      expect(response.status, text).toBe(200);
      const events = text.split("\n\n").filter((block) => block !== "");
      return { by: response.headers.get("X-Served-By"), ids: events.map((block) => /^id: (.*)$/m.exec(block)![1]!), texts: events.map((block) => /"text":("[^"]*")/.exec(block)?.[1]), steps: Number(/"steps":(\d+)/.exec(text)?.[1]) };
    };
    const whole = await stream(null);
    expect(whole.ids.every((id) => id.endsWith(`.${whole.by}`))).toBe(true);
    const rest = await stream(whole.ids[30]!);
    expect([rest.by, rest.ids, rest.texts]).toEqual([whole.by, whole.ids.slice(31), whole.texts.slice(31)]);
    expect(rest.steps).toBeLessThan(whole.steps / 2);
    // Somewhere else it is said anew, the same; a place there is not is passed over.
    const other = (Number(whole.by) + 1) % 3;
    const moved = await stream(whole.ids[30]!.replace(/\d+$/, String(other)));
    expect([moved.by, moved.texts]).toEqual([String(other), rest.texts]);
    expect((await stream(whole.ids[30]!.replace(/\.\d+$/, ".weur/77"))).texts).toEqual(rest.texts);
  });
});

it("a number of lanes that is none is said", async () => {
  Object.assign(env, { LANES: "many" });
  const response = await fetched("/v1/completions", { prompt: "abc" });
  expect([response.status, await response.json()]).toEqual([500, { error: expect.objectContaining({ code: "bad_configuration", message: 'The variable LANES is "many"; expected a number from 1 to 64.' }) as unknown }]);
  Object.assign(env, { LANES: "3" });
});
