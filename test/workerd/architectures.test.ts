// Every architecture through every way of running it: prompt in one piece or in chunks, token by token over the cache, beside other sequences,
// experts here or on one shard, on four, or their segments spread over three. Every logit must be the same bits. Weights are seeded.

import { describe, expect, it } from "vitest";
import type { ScoredToken } from "../../durable/generate.ts";
import type { Engine } from "../../model/engine.ts";
import { logprobs } from "../../model/sampling.ts";
import { TINY_ARCHITECTURES, type TinyArchitecture } from "../support/tiny-models.ts";
import { deploy, eventsOf, greedy, greedyLogits, inProcess, outputOf, overShards, packOf, PROMPT, statusOf } from "./fleet-fixture.ts";

const N_TOKENS = 12;
const request = greedy(N_TOKENS, { echo: true, trace: true, logprobs: 20 });

/** Sizes that give every expert two segments of 32, under the names that each architecture's config.json has for them. */
const EXPERT_WIDTH_KEYS: Readonly<Partial<Record<TinyArchitecture, string>>> = {
  olmoe: "intermediate_size", granitemoe: "intermediate_size", granitemoeshared: "intermediate_size", phimoe: "intermediate_size",
  qwen2_moe: "moe_intermediate_size", deepseek_v2: "moe_intermediate_size", deepseek_v3: "moe_intermediate_size",
};
const twoSegments = (architecture: TinyArchitecture): Record<string, unknown> => {
  const key = EXPERT_WIDTH_KEYS[architecture];
  return key === undefined ? {} : { [key]: 64 };
};

const bitsOf = (rows: readonly Float32Array[]): Uint32Array[] => rows.map((row) => new Uint32Array(row.buffer, row.byteOffset, row.length));
const rowsOf = (logits: Float32Array, vocab: number): Float32Array[] => Array.from({ length: logits.length / vocab }, (_, i) => logits.slice(i * vocab, (i + 1) * vocab));

/** All logits of `ids`, evaluated in chunks of the given lengths (the last one repeats), beside another sequence that starts one step earlier. */
async function inChunks(engine: Engine, ids: readonly number[], lengths: readonly number[], beside: readonly number[]): Promise<Float32Array[]> {
  const [timeline, other] = [engine.kv.open(ids.length), engine.kv.open(beside.length)];
  await engine.step([{ timeline: other, ids: beside.slice(0, 2), logits: "none" }]);
  const rows: Float32Array[] = [];
  for (let at = 0, step = 0; at < ids.length; step++) {
    const chunk = ids.slice(at, at + (lengths[step] ?? lengths.at(-1)!));
    const more = beside.slice(2 + step, 3 + step);
    const entries = [...(more.length > 0 ? [{ timeline: other, ids: more, logits: "last" as const }] : []), { timeline, ids: chunk, logits: "all" as const }];
    rows.push(...rowsOf((await engine.step(entries)).logits.at(-1)!, engine.config.vocabSize));
    at += chunk.length;
  }
  for (const open of [timeline, other]) engine.kv.close(open);
  return rows;
}

describe.each(TINY_ARCHITECTURES)("%s", (architecture) => {
  it.each([["q8", "f16"], ["q4", "q8"]] as const)("%s weights, %s cache: the same bits in every form", async (quant, kvFormat) => {
    const packId = `forms-${architecture}-${quant}`;
    const pack = await packOf(architecture, packId, { quant, kvFormat, segmentWidth: 32, config: twoSegments(architecture) });
    const dense = pack.summary.manifest.experts.length === 0;
    const here = await inProcess(pack);
    // The prompt at once, then token by token over the cache.
    const local = await greedyLogits(here, N_TOKENS);
    const expected = bitsOf(local.logits);
    const ids = [...PROMPT, ...local.ids.slice(0, -1)];
    expect(expected.length).toBe(ids.length);
    for (const lengths of [[ids.length], [1], [3, 7, 1, 5]]) expect(bitsOf(await inChunks(here, ids, lengths, [9, 4, 33, 70, 2, 5])), `chunks of ${lengths.join(", ")}`).toEqual(expected);

    const outputs: unknown[][] = [];
    for (const [shards, planUnit, orchestratorHolds] of [[1, "expert", "trunk"], [4, "expert", "trunk"], [3, "segment", "experts"]] as const) {
      deploy({ packId, shards, planUnit, orchestratorHolds });
      expect(bitsOf((await greedyLogits(await overShards(pack), N_TOKENS)).logits), `${shards} shards`).toEqual(expected);
      const name = `${packId}-${shards}`;
      const events = await eventsOf(name, request);
      outputs.push(outputOf(events));
      expect((await statusOf(name)).shards.filter((shard) => shard.frames > 0).length).toBe(dense ? 0 : shards);
      const scored = events.flatMap((event): readonly ScoredToken[] =>
        event.type === "prompt" ? event.tokens.slice(event.start === 0 ? 1 : 0) : event.type === "token" ? [{ id: event.id, logprob: event.logprob!, top: event.top! }] : []);
      expect(scored.length).toBe(ids.length);
      scored.forEach((token, i) => expect({ logprob: token.logprob, top: token.top }).toEqual(logprobs(local.logits[i]!, token.id, 20)));
    }
    for (const output of outputs.slice(1)) expect(output).toEqual(outputs[0]);

    // A prompt that an earlier generation left in the cache, whole pages of it and a piece of one.
    const long = [...PROMPT, ...local.ids, ...PROMPT, ...local.ids];
    const again = { ...greedy(6, { trace: true, logprobs: 3, cacheScope: "k" }), promptIds: long };
    const cold = await eventsOf(`${packId}-3`, again);
    const warm = await eventsOf(`${packId}-3`, again);
    expect(outputOf(warm)).toEqual(outputOf(cold));
    expect([cold, warm].map((events) => events.at(-1))).toMatchObject([{ cachedTokens: 0 }, { cachedTokens: long.length - 1 }]);
  });
});
