// Routing as an API over a real fleet: `moe.trace` says who computed a token's experts and what the frames took, /v1/traces has the same routing for a
// share of the requests. What a trace says of the shards must be what the plan says, wherever experts live. Out of scope: how long anything took.

import { env, exports } from "cloudflare:workers";
import { beforeAll, describe, expect, it } from "vitest";
import { expertTable, makePlan, slicedExperts, wholeExperts } from "../../fleet/plan.ts";
import { openHuggingFace } from "../../formats/huggingface.ts";
import { MemorySource } from "../../formats/memory-source.ts";
import { openPack } from "../../formats/pack-reader.ts";
import { readTrace } from "../../formats/trace.ts";
import { packToMemory } from "../support/pack-to-memory.ts";
import { tinyChatFiles } from "../support/tiny-chat.ts";
import type { TokenTrace } from "../../worker/wire-types.ts";
import { deploy, eventsOf, fleetEnv, greedy, outputOf, packInBucket, type Deployment } from "./fleet-fixture.ts";

const traced = greedy(4, { trace: true });

describe.each<[string, Pick<Deployment, "shards" | "planUnit" | "orchestratorHolds">]>([
  ["one shard", { shards: 1, planUnit: "expert", orchestratorHolds: "trunk" }],
  ["four shards", { shards: 4, planUnit: "expert", orchestratorHolds: "trunk" }],
  ["experts in slices over three", { shards: 3, planUnit: "segment", orchestratorHolds: "trunk" }],
  ["two shards and the orchestrator", { shards: 2, planUnit: "expert", orchestratorHolds: "experts" }],
])("%s", (label, deployment) => {
  it("names the shards that the plan gives a token's experts to, and a frame to each of them", async () => {
    const packId = `trace-${label.replaceAll(" ", "-")}`;
    const pack = await packInBucket(packId, { segmentWidth: 32 });
    deploy({ packId, ...deployment });
    const { manifest } = await openPack(pack.source);
    const { shards, planUnit, orchestratorHolds } = deployment;
    const plan = makePlan(expertTable(manifest),
      shards + (orchestratorHolds === "experts" ? 1 : 0), planUnit === "segment" ? slicedExperts : wholeExperts);
    const onShard = (part: number): number | null => (part < shards ? part : null);

    const tokens = (await eventsOf(packId, traced)).filter((event) => event.type === "token");
    expect(tokens).toHaveLength(4);
    for (const { experts, served } of tokens) {
      experts!.forEach((ids, layer) => {
        expect(served!.shards[layer]).toEqual(ids.map((expert) => onShard(plan.shardOf(layer, expert, 0))));
        const wanted = new Set(ids.flatMap((expert) => [0, 1].map((segment) => onShard(plan.shardOf(layer, expert, segment)))));
        wanted.delete(null);
        const frames = served!.frames[layer]!;
        expect(frames.map(({ shard }) => shard)).toEqual([...wanted].sort());
        for (const { ms, bytes } of frames) {
          expect(Number.isInteger(ms) && ms >= 0).toBe(true);
          // Header and one row both ways at the least.
          expect(bytes).toBeGreaterThan(2 * 64 + manifest.config.hiddenSize * 4);
        }
      });
    }
    const quiet = await eventsOf(`${packId}-quiet`, greedy(4));
    expect(quiet.some((event) => "served" in event || "experts" in event)).toBe(false);
    const withoutTrace = (events: typeof quiet) => outputOf(events.map((event) => (event.type === "token" ? { type: event.type, index: event.index, id: event.id } : event)));
    expect(withoutTrace(tokens)).toEqual(withoutTrace(quiet.filter((event) => event.type === "token")));
  });
});

describe("the API", () => {
  const PACK = "trace-api";
  const ask = async (path: string, body?: object, headers: HeadersInit = {}): Promise<Response> =>
    (exports as unknown as { default: Fetcher }).default.fetch(new Request(`https://edge${path}`, body === undefined ? { headers } : { method: "POST", headers, body: JSON.stringify({ model: PACK, ...body }) }));
  const completion = { prompt: "abcdef", max_tokens: 5, temperature: 0, moe: { trace: true, cache: false, draft_tokens: 0 } };
  beforeAll(async () => {
    const pack = await packToMemory(await openHuggingFace(new MemorySource(tinyChatFiles(512)), "tiny"), { id: PACK, contextLength: 512 });
    for (const [name, bytes] of pack.files) await fleetEnv.PACKS!.put(`packs/${PACK}/${name}`, bytes);
    deploy({ packId: PACK, shards: 2 });
    Object.assign(env, { OPEN_ACCESS: "true", TRACE_SHARE: "1" });
  });
  type Traced = { moe?: { token?: TokenTrace } };

  it("says that nothing is kept while no model is awake", async () => {
    const response = await ask("/v1/traces");
    expect([response.status, (await response.json<{ error: { code: string } }>()).error.code]).toEqual([503, "model_warming"]);
  });

  it("gives each token of a stream, and of a whole reply, its experts, shards and frames", async () => {
    const whole = await (await ask("/v1/completions", completion)).json<{ choices: { moe: { tokens: TokenTrace[] } }[]; moe: { bytes: number; frames: number } }>();
    const { tokens } = whole.choices[0]!.moe;
    expect(tokens).toHaveLength(5);
    const stream = await (await ask("/v1/completions", { ...completion, stream: true })).text();
    const streamed = [...stream.matchAll(/^data: (\{.*)$/gm)].flatMap(([, json]) => (JSON.parse(json!) as Traced).moe?.token ?? []);
    const lasting = ({ id, experts, weights, shards, frames }: TokenTrace): object => ({ id, experts, weights, shards, frames: frames!.map((layer) => layer.map(({ shard, bytes }) => [shard, bytes])) });
    expect(streamed.map(lasting)).toEqual(tokens.map(lasting));
    for (const token of tokens) {
      expect(token.shards!.map((layer) => layer.length)).toEqual(token.experts.map((layer) => layer.length));
      token.frames!.forEach((layer, i) => expect(new Set(layer.map(({ shard }) => shard))).toEqual(new Set(token.shards![i])));
    }
    // The four steps of single tokens sent nothing but these frames; the step of the prompt sent more.
    const sum = (of: (frame: { bytes: number }) => number): number => tokens.slice(1).flatMap(({ frames }) => frames!.flat()).reduce((total, frame) => total + of(frame), 0);
    expect(sum(() => 1)).toBeLessThan(whole.moe.frames);
    expect(whole.moe.bytes).toBeGreaterThan(sum(({ bytes }) => bytes));
  });

  it("keeps the same routing of every token of sampled requests, prompts included, as a trace file", async () => {
    const { tokens } = (await (await ask("/v1/completions", completion)).json<{ choices: { moe: { tokens: TokenTrace[] } }[] }>()).choices[0]!.moe;
    const response = await ask("/v1/traces");
    expect([response.status, response.headers.get("Content-Type")]).toEqual([200, "application/octet-stream"]);
    const trace = readTrace(new Uint8Array(await response.arrayBuffer()), "/v1/traces");
    expect(trace.header).toMatchObject({ model: PACK, moeLayers: [0, 1] });
    const records = Array.from({ length: trace.length }, (_, i) => trace.record(i));
    const last = Math.max(...records.map(({ request }) => request));
    const mine = records.filter(({ request }) => request === last);
    const { tokens: promptIds } = await (await ask("/tokenize", { content: completion.prompt })).json<{ tokens: number[] }>();
    // The last token is never evaluated.
    const nEvaluated = promptIds.length + tokens.length - 1;
    expect(mine.map(({ token, layer }) => [token, layer])).toEqual(Array.from({ length: nEvaluated }, (_, token) => [[token, 0], [token, 1]]).flat());
    // A token was chosen by the evaluation of the position before it.
    tokens.forEach(({ experts, weights }, i) => experts.forEach((ids, layer) => {
      const record = mine.find((one) => one.token === promptIds.length - 1 + i && one.layer === layer)!;
      expect([record.ids, record.weights]).toEqual([ids, weights![layer]]);
    }));
  });

  it("is for keys with the scope admin", async () => {
    Object.assign(env, { OPEN_ACCESS: "false", API_KEYS: "a-key-that-may-infer-0123456789", ADMIN_KEYS: "a-key-that-may-do-all-0123456789" });
    try {
      expect((await ask("/v1/traces", undefined, { Authorization: "Bearer a-key-that-may-infer-0123456789" })).status).toBe(403);
      expect((await ask("/v1/traces", undefined, { Authorization: "Bearer a-key-that-may-do-all-0123456789" })).status).toBe(200);
      expect((await ask("/v1/traces")).status).toBe(401);
    } finally {
      Object.assign(env, { OPEN_ACCESS: "true" });
    }
  });
});
