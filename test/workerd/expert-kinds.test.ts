// Experts without a gate on shards: the same bits as in one place, whole experts on one and on four shards, and their segments, down's bias with the first of them,
// spread over three. Rows cross real sockets inside workerd.

import { describe, expect, it } from "vitest";
import { deploy, eventsOf, greedy, greedyLogits, inProcess, outputOf, overShards, packOf, statusOf } from "./fleet-fixture.ts";

const N_TOKENS = 6;
const bitsOf = (rows: readonly Float32Array[]): Uint32Array[] => rows.map((row) => new Uint32Array(row.buffer, row.byteOffset, row.length));

describe.each(["relu-mlp", "gelu-mlp"] as const)("%s", (expertKind) => {
  it.each(["f32", "q8", "q4"] as const)("%s: the same bits in one place and on shards", async (quant) => {
    const packId = `kinds-${expertKind}-${quant}`;
    const pack = await packOf("olmoe", packId, { quant, segmentWidth: 32, expertKind, config: { intermediate_size: 76, num_experts_per_tok: 3 } });
    expect(pack.summary.manifest.config.expertKind).toBe(expertKind);
    const expected = bitsOf((await greedyLogits(await inProcess(pack), N_TOKENS)).logits);
    const outputs: unknown[][] = [];
    for (const [shards, planUnit, orchestratorHolds] of [[1, "expert", "trunk"], [4, "expert", "trunk"], [3, "segment", "experts"]] as const) {
      deploy({ packId, shards, planUnit, orchestratorHolds });
      expect(bitsOf((await greedyLogits(await overShards(pack), N_TOKENS)).logits), `${shards} shards`).toEqual(expected);
      outputs.push(outputOf(await eventsOf(`${packId}-${shards}`, greedy(N_TOKENS, { trace: true, logprobs: 5 }))));
      expect((await statusOf(`${packId}-${shards}`)).shards.filter((shard) => shard.frames > 0).length).toBe(shards);
    }
    for (const output of outputs.slice(1)) expect(output).toEqual(outputs[0]);
  });
});
