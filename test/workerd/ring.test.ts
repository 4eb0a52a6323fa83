// A ring of stages as objects: the same events as one orchestrator with everything, whatever the cut; stages that are evicted, or reset, at any time change nothing;
// requests of several readers are under way in several stages at once.

import { evictDurableObject, runInDurableObject } from "cloudflare:test";
import { afterEach, describe, expect, it } from "vitest";
import type { LatentExpertsConfig } from "../../model/config.ts";
import type { StageSpan } from "../../model/stage-span.ts";
import { PLAIN_SAMPLING } from "../../model/sampling.ts";
import { StageCore } from "../../durable/stage-core.ts";
import { deploy, eventsOf, greedy, outputOf, packOf, statusOf } from "./fleet-fixture.ts";
import { deployRing, RING_VOCAB, stageOf, withoutRing } from "./ring-fixture.ts";

const realTake = StageCore.prototype.take;
afterEach(() => {
  StageCore.prototype.take = realTake;
  withoutRing();
});

const NONE = [0, 0] as const;
const ALL = [0, RING_VOCAB] as const;
const THREE: readonly StageSpan[] = [
  { embeddingRows: ALL, layers: [0, 1], headRows: NONE }, { embeddingRows: NONE, layers: [1, 2], headRows: NONE }, { embeddingRows: NONE, layers: [2, 3], headRows: ALL },
];
const FIVE: readonly StageSpan[] = [
  { embeddingRows: [0, 512], layers: NONE, headRows: NONE }, { embeddingRows: [512, RING_VOCAB], layers: [0, 1], headRows: NONE }, { embeddingRows: NONE, layers: [1, 3], headRows: NONE },
  { embeddingRows: NONE, layers: NONE, headRows: [0, 512] }, { embeddingRows: NONE, layers: NONE, headRows: [512, RING_VOCAB] },
];
const requests = [greedy(6, { trace: true }), greedy(5, { promptIds: [400, 1000, 7, 600], logprobs: 20 }), greedy(7, { promptIds: [1, 2, 3], sampling: { ...PLAIN_SAMPLING, temperature: 0.9, topP: 0.95, seed: 5 } })];
const all = async (name: string): Promise<unknown[]> => Promise.all(requests.map(async (request) => outputOf(await eventsOf(name, request))));

async function packed(packId: string, latentExperts?: LatentExpertsConfig): Promise<{ pack: Awaited<ReturnType<typeof packOf>>; expected: unknown[] }> {
  const pack = await packOf("olmoe", packId, { config: { num_hidden_layers: 3, intermediate_size: 64, num_experts_per_tok: 3, vocab_size: RING_VOCAB }, ...(latentExperts === undefined ? {} : { latentExperts }) });
  deploy({ packId, shards: 2 });
  return { pack, expected: await all(`${packId}-sole`) };
}

describe("a ring", () => {
  it.each([["three", THREE], ["five", FIVE]] as const)("of %s stages says what one orchestrator says", async (word, spans) => {
    const { pack, expected } = await packed(`ring-${word}`);
    await deployRing(pack, `ring-${word}`, spans);
    expect(await all(`ring-${word}`)).toEqual(expected);
    const status = await statusOf(`ring-${word}`);
    expect(status.status).toBe("ready");
    expect(status.stages.map(({ isReady }) => isReady)).toEqual(spans.slice(1).map(() => true));
    expect(status.stages.every(({ totalBytes }) => totalBytes > 0)).toBe(true);
  });

  it.each([["three", THREE], ["five", FIVE]] as const)("of %s stages that hold the experts of their layers says the same, and sends nothing for them", async (word, spans) => {
    const { pack, expected } = await packed(`ring-whole-${word}`);
    const { stages } = await deployRing(pack, `ring-whole-${word}`, spans, { holdsExperts: true });
    const found = await all(`ring-whole-${word}`);
    expect(found).toEqual(expected);
    const { shards, stages: told } = await statusOf(`ring-whole-${word}`);
    expect(shards).toEqual([]);
    const experts = stages.slice(1).map(({ slots }) => slots.length > 0);
    expect(told.map(({ isReady }) => isReady)).toEqual(experts.map(() => true));
    const end = (await eventsOf(`ring-whole-${word}`, requests[0]!)).at(-1);
    expect(end).toMatchObject({ type: "end", moe: { frames: 0 } });
  });

  it.each([false, true])("of stages with latent experts says what one orchestrator says, whether it holds them itself: %s", async (holdsExperts) => {
    const name = `ring-latent-${holdsExperts}`;
    const { pack, expected } = await packed(name, { rank: 32, nGroups: 2 });
    await deployRing(pack, name, THREE, { holdsExperts });
    expect(await all(name)).toEqual(expected);
  });

  it("goes on where it was when a stage is evicted or reset between two frames", async () => {
    const { pack, expected } = await packed("ring-lost");
    await deployRing(pack, "ring-lost", THREE);
    expect(await all("ring-lost")).toEqual(expected);
    let lost = 0;
    for (const [stage, how] of [[1, "evicted"], [2, "evicted"], [1, "reset"], [2, "reset"]] as const) {
      let frames = 0;
      StageCore.prototype.take = function (...of) {
        if (++frames === 12) {
          lost++;
          // Not awaited: one object must not wait for another's promise.
          if (how === "evicted") void evictDurableObject(stageOf("ring-lost", stage)).catch(() => undefined);
          else void runInDurableObject(stageOf("ring-lost", stage), (_, state) => state.abort("reset by a test")).catch(() => undefined);
        }
        return realTake.apply(this, of);
      };
      expect(await all("ring-lost"), `stage ${stage} ${how}`).toEqual(expected);
    }
    expect(lost).toBe(4);
  });
});
