// The same bits wherever experts live: in one place, on one shard, on four, in slices, in f32 and int8, reading whole rows or latent ones. Raw logits are compared with an engine
// of the test's own over the real shards; what the API reports (log-probabilities, experts, weights) with the orchestrator's.

import { describe, expect, it } from "vitest";
import type { ScoredToken } from "../../durable/generate.ts";
import { logprobs } from "../../model/sampling.ts";
import { deploy, eventsOf, greedy, greedyLogits, inProcess, outputOf, overShards, packInBucket, PROMPT, statusOf } from "./fleet-fixture.ts";

const N_TOKENS = 12;
const request = greedy(N_TOKENS, { echo: true, trace: true, logprobs: 20 });

describe.each([
  ["q8", { quant: "q8" as const }],
  ["f32", { quant: "f32" as const }],
  ["q8 in two segments", { quant: "q8" as const, segmentWidth: 32 }],
  ["latent q8 in two segments", { quant: "q8" as const, segmentWidth: 32, latentExperts: { rank: 32, nGroups: 1 } }],
  ["latent f32 of two groups", { quant: "f32" as const, latentExperts: { rank: 32, nGroups: 2 } }],
])("%s", (label, options) => {
  it("gives the same log-probabilities in one place, on one shard, on four, and sliced", async () => {
    const packId = `placement-${label.replaceAll(" ", "-")}`;
    const pack = await packInBucket(packId, options);
    const local = await greedyLogits(await inProcess(pack), N_TOKENS);
    const outputs: unknown[][] = [];
    for (const [shards, planUnit, orchestratorHolds] of [
      [1, "expert", "trunk"], [4, "expert", "trunk"], [4, "segment", "trunk"], [2, "expert", "experts"], [3, "segment", "experts"],
    ] as const) {
      deploy({ packId, shards, planUnit, orchestratorHolds });
      const name = `${packId}-${shards}-${planUnit}-${orchestratorHolds}`;
      const events = await eventsOf(name, request);
      outputs.push(outputOf(events));
      const status = await statusOf(name);
      expect(status.shards.filter((shard) => shard.frames > 0).length).toBe(shards);
      const scored = events.flatMap((event): readonly ScoredToken[] => event.type === "prompt" ? event.tokens.slice(event.start === 0 ? 1 : 0) : event.type === "token" ? [{ id: event.id, logprob: event.logprob!, top: event.top! }] : []);
      expect(scored.length).toBe(PROMPT.length - 1 + N_TOKENS);
      scored.forEach((token, i) => {
        const expected = logprobs(local.logits[i]!, token.id, 20);
        expect(Object.is(token.logprob, expected.logprob)).toBe(true);
        expect(token.top).toEqual(expected.top);
      });
      expect(events.flatMap((event) => event.type === "token" ? [event.id] : [])).toEqual(local.ids);
      const raw = await greedyLogits(await overShards(pack), N_TOKENS);
      raw.logits.forEach((row, i) => expect(new Uint32Array(row.buffer, row.byteOffset, row.length)).toEqual(new Uint32Array(local.logits[i]!.buffer, local.logits[i]!.byteOffset, row.length)));
    }
    for (const output of outputs.slice(1)) expect(output).toEqual(outputs[0]);
  });
});
