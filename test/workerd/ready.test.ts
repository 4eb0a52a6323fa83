// GET /ready and GET /props: what probes and clients of llama.cpp's server ask. A probe must not wake a model that sleeps; /health does.

import { env, exports } from "cloudflare:workers";
import { beforeAll, expect, it } from "vitest";
import { LIMITS } from "../../durable/limits.ts";
import { openHuggingFace } from "../../formats/huggingface.ts";
import { MemorySource } from "../../formats/memory-source.ts";
import { packToMemory } from "../support/pack-to-memory.ts";
import { tinyChatFiles } from "../support/tiny-chat.ts";
import { deploy, eventsOf, fleetEnv, greedy, packInBucket, statusOf, until } from "./fleet-fixture.ts";

const PACK = "ready";
beforeAll(async () => {
  const pack = await packToMemory(await openHuggingFace(new MemorySource(tinyChatFiles(512)), "tiny"), { id: PACK, contextLength: 512 });
  for (const [name, bytes] of pack.files) await fleetEnv.PACKS!.put(`packs/${PACK}/${name}`, bytes);
  deploy({ packId: PACK, shards: 2 });
  Object.assign(env, { OPEN_ACCESS: "true" });
});
const ask = async (path: string, body?: object): Promise<Response> =>
  (exports as unknown as { default: Fetcher }).default.fetch(new Request(`https://edge${path}`, body === undefined ? {} : { method: "POST", body: JSON.stringify({ model: PACK, ...body }) }));

it("/ready says whether requests are served, and leaves a model asleep; /health wakes it", async () => {
  for (let i = 0; i < 3; i++) {
    const response = await ask("/ready");
    expect([response.status, response.headers.get("Retry-After"), (await response.json<{ status: string }>()).status]).toEqual([503, "1", "cold"]);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  expect((await statusOf(PACK)).status).toBe("cold");
  expect((await ask("/health")).status).toBe(503);
  await until(async () => (await ask("/ready")).status === 200);
  expect(await (await ask("/ready")).json()).toMatchObject({ status: "ready", model: PACK });
});

it("/props has what requests get when they leave it out", async () => {
  const props = await (await ask("/props")).json<{ chat_template: string; default_generation_settings: { params: Record<string, unknown> } }>();
  expect(props).toMatchObject({
    default_generation_settings: { n_ctx: 512, params: { temperature: 1, top_p: 1, top_k: 0, min_p: 0, typical_p: 1, repetition_penalty: 1, presence_penalty: 0, frequency_penalty: 0 } },
    total_slots: LIMITS.activeGenerations, model_alias: PACK, modalities: { vision: false, audio: false },
  });
  expect(props.chat_template).toContain("{%");
  const said = async (more: object): Promise<unknown> => (await (await ask("/v1/completions", { prompt: "abc", max_tokens: 12, seed: 7, ...more })).json<{ choices: { text: string }[] }>()).choices[0]!.text;
  expect(await said({})).toBe(await said(props.default_generation_settings.params));
  expect(await said({})).not.toBe(await said({ ...props.default_generation_settings.params, temperature: 0 }));
});

it("a reply says how many objects came up for it: the first wakes the orchestrator and its shards, the next finds them awake", async () => {
  await packInBucket("cold"); // with weights of its own: others may be in this isolate's memory
  deploy({ packId: "cold", shards: 3 });
  const coldStarts = async (): Promise<number> => {
    const end = (await eventsOf("cold", greedy(2))).at(-1)!;
    return end.type === "end" ? end.coldStarts ?? 0 : NaN;
  };
  expect([await coldStarts(), await coldStarts()]).toEqual([4, 0]);
  deploy({ packId: PACK, shards: 2 });
  const { moe } = await (await ask("/v1/completions", { prompt: "abc", max_tokens: 2 })).json<{ moe: object }>();
  expect(moe).toMatchObject({ cold_starts: 0, timings: { queue_ms: expect.any(Number), prompt_ms: expect.any(Number), completion_ms: expect.any(Number) } });
});
