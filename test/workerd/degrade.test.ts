// A shard that is away, over the API and real objects: who opted in gets a reply that says what is missing in it, streamed or whole, who did not waits and gets the bits it gets
// undisturbed, later ones of the same key too. Where another shard holds the same, nobody notices. Out of scope: every order of it (test/node/wire/degrade.test.ts).

import { env, exports } from "cloudflare:workers";
import { afterEach, expect, it } from "vitest";
import type { GenerateEvent } from "../../durable/generate.ts";
import { orchestratorName } from "../../durable/place-names.ts";
import { ExpertShard } from "../../durable/shard.ts";
import { openHuggingFace } from "../../formats/huggingface.ts";
import { MemorySource } from "../../formats/memory-source.ts";
import type { ReplyCost } from "../../worker/wire-types.ts";
import { packToMemory } from "../support/pack-to-memory.ts";
import { tinyChatFiles } from "../support/tiny-chat.ts";
import { deploy, eventsOf, fleetEnv, greedy, outputOf, shardsOf } from "./fleet-fixture.ts";

const { prepare: realPrepare, webSocketMessage: realMessage } = ExpertShard.prototype;
const restore = (): void => void Object.assign(ExpertShard.prototype, { prepare: realPrepare, webSocketMessage: realMessage });
afterEach(() => {
  restore();
  Object.assign(env, { REPLICAS: "1" });
});

async function fleet(packId: string, replicas: number): Promise<void> {
  const pack = await packToMemory(await openHuggingFace(new MemorySource(tinyChatFiles(512)), "tiny"), { id: packId, contextLength: 512 });
  for (const [name, bytes] of pack.files) await fleetEnv.PACKS!.put(`packs/${packId}/${name}`, bytes);
  deploy({ packId, shards: 2 });
  Object.assign(env, { REPLICAS: String(replicas), OPEN_ACCESS: "true" });
}

/** From now on the second shard cannot be reached, until what is returned is called. */
async function lose(name: string): Promise<() => void> {
  const gone = (await shardsOf(name))[1]!;
  const isGone = (shard: ExpertShard): DurableObjectState | null => {
    const { ctx } = shard as unknown as { ctx: DurableObjectState };
    return ctx.id.toString() === gone.id.toString() ? ctx : null;
  };
  ExpertShard.prototype.prepare = function (this: ExpertShard, ...hello: Parameters<typeof realPrepare>) {
    if (isGone(this) !== null) throw new Error("it is away");
    return realPrepare.apply(this, hello);
  };
  ExpertShard.prototype.webSocketMessage = function (this: ExpertShard, ...message: Parameters<typeof realMessage>) {
    isGone(this)?.abort("the test pulls the plug");
    return realMessage.apply(this, message);
  };
  return restore;
}

const nameOf = (packId: string): string => orchestratorName(packId, { region: null, lane: 0 });
interface Reply { readonly choices: readonly { readonly text: string }[]; readonly moe: ReplyCost }
const post = (packId: string, body: object): Promise<Response> => (exports as unknown as { default: Fetcher }).default.fetch(new Request("https://edge/v1/completions", {
  method: "POST", body: JSON.stringify({ model: packId, prompt: "the cat sat on the mat and", max_tokens: 12, temperature: 0, ...body }),
}));
const whole = async (packId: string, body: object = {}): Promise<Reply> => (await post(packId, body)).json<Reply>();

it("those who opted in go on, flagged, and the others wait for the shard", async () => {
  const PACK = "degrade";
  await fleet(PACK, 1);
  const plain = await whole(PACK, { seed: 1 });
  expect(plain.moe).not.toHaveProperty("degraded");
  expect((await whole(PACK, { seed: 1, moe: { degrade: true } })).choices).toEqual(plain.choices);
  const name = nameOf(PACK);
  const alone = outputOf(await eventsOf(name, greedy(10)));

  const back = await lose(name);
  let waited: GenerateEvent[] | null = null;
  const waiting = eventsOf(name, greedy(10)).then((events) => { waited = events; });
  const [first, streamed, traced] = await Promise.all([
    whole(PACK, { seed: 1, moe: { degrade: true } }),
    post(PACK, { seed: 1, stream: true, moe: { degrade: true } }).then((response) => response.text()),
    whole(PACK, { seed: 1, moe: { degrade: true, trace: true } }),
  ]);
  expect(first.moe.degraded).toMatchObject({ tokens: expect.any(Number) as unknown, expert_rows: expect.any(Number) as unknown });
  expect(first.moe.degraded!.expert_rows).toBeGreaterThanOrEqual(first.moe.degraded!.tokens);
  const chunks = streamed.split("\n").filter((line) => line.startsWith("data: {")).map((line) => JSON.parse(line.slice(6)) as { moe?: Partial<ReplyCost> });
  expect(chunks.at(-1)!.moe!.degraded).toMatchObject({ tokens: expect.any(Number) as unknown });
  const flags = (traced.choices[0] as unknown as { moe: { tokens: { degraded?: number }[] } }).moe.tokens.map(({ degraded }) => degraded ?? 0);
  expect(flags.filter((n) => n > 0)).toHaveLength(traced.moe.degraded!.tokens);
  expect(waited).toBeNull();

  back();
  await waiting;
  expect(outputOf(waited!)).toEqual(alone);
  // Nothing that was evaluated without experts is left for later ones of the same key; and the shard is used again.
  for (const moe of [{}, { degrade: true }]) {
    const later = await whole(PACK, { seed: 1, moe });
    expect([later.choices, later.moe.degraded]).toEqual([plain.choices, undefined]);
  }
});

it("with a second holder nothing is left out", async () => {
  const PACK = "degrade-replicas";
  await fleet(PACK, 2);
  const plain = await whole(PACK, { seed: 1 });
  await lose(nameOf(PACK));
  for (const moe of [{ degrade: true }, { degrade: true, cache: false }]) {
    const reply = await whole(PACK, { seed: 1, moe });
    expect([reply.choices, reply.moe.degraded]).toEqual([plain.choices, undefined]);
  }
});
