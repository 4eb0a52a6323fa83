// Any script of faults, with and without replicas: the rows are right or the step fails with one clean error, every frame ends once, and budget and
// credits come back. Enough quiet rounds come first and between for hedges to begin. Time is the test's own. docs/protocol.md section 3.

import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { ShardClient } from "../../../durable/client.ts";
import { LIMITS } from "../../../durable/limits.ts";
import type { ReplySink } from "../../../durable/outgoing-frame.ts";
import { ShardError } from "../../../durable/shard-error.ts";
import { FakeClock } from "./fake-clock.ts";
import { ScriptedShard, type Action, type ConnectAction } from "./scripted-shard.ts";
import { fixture } from "./wire-fixture.ts";

describe("any script", () => {
  const action: fc.Arbitrary<Action> = fc.oneof(
    { weight: 4, arbitrary: fc.constant<Action>("answer") },
    fc.constantFrom<Action>("drop", "duplicate", "hold", "corrupt-payload", "corrupt-header", "truncate", "stale-epoch", "other-connection", "wrong-shape", "close", "close-after-answer",
      { slowMs: 3_000 }, { slowMs: 8_000 }, { refuse: "warming" }, { refuse: "bad-checksum" }, { refuse: "internal" }, { refuse: "wrong-epoch" }),
  );
  /** Late and lost by turns, and little else. */
  const late = fc.constantFrom<Action>("answer", "answer", { slowMs: 40 }, { slowMs: 300 }, { slowMs: 700 }, { refuse: "internal" }, "corrupt-header", "close");
  const connect = fc.constantFrom<ConnectAction>("ready", "ready", "loading", "throw", "hang", "open-throws", "open-closes");

  // With three holders what one lost is divided among two; lines that know how long frames take ask others soon.
  for (const [nReplicas, nQuiet] of [[1, 0], [2, 0], [3, 240]] as const) it(`gives the right rows or a ShardError for each of two rounds that overlap, every frame's end once, every byte back, and no hang (replicas: ${nReplicas}, after ${nQuiet} quiet rounds)`, async () => {
    await fc.assert(fc.asyncProperty(
      fc.array(fc.record({ script: fc.array(nQuiet > 0 ? late : action, { maxLength: 12 }), connects: fc.array(connect, { maxLength: 5 }) }), { minLength: nReplicas, maxLength: 3 }),
      async (scripts) => {
        const clock = new FakeClock();
        const shards = scripts.map((_, i) => new ScriptedShard(clock, `shard-${i}`));
        const f = fixture(clock, shards, "qa8", LIMITS, nReplicas);
        for (let round = 0; round < nQuiet; round++) await clock.until(Promise.resolve(f.experts.run(3, f.batch(3, 1 + (round % 16), round))));
        scripts.forEach(({ script, connects }, i) => {
          shards[i]!.nextFrames(...script);
          shards[i]!.nextConnects(...connects);
        });
        const ends = countEnds(f.clients);
        for (let step = 0; step < 24; step++) {
          // From the third step on the engine has two rounds out, as for the halves of a long step.
          const batches = (step < 2 ? [0 as const] : [0 as const, 1 as const]).map((round) => f.batch(step % 4, 1 + step + round, step + 10 * round, round));
          batches.forEach((batch) => f.clear(batch));
          const results = await clock.until(Promise.allSettled(batches.map((batch) => Promise.resolve(f.experts.run(batch.layer, batch)))));
          if (results.status === "rejected") throw results.reason;
          results.value.forEach((result, i) => {
            if (result.status === "fulfilled") expect(f.wrongWords(batches[i]!)).toBe(0);
            else expect(result.reason).toBeInstanceOf(ShardError);
          });
        }
        // What was dropped is still in flight, until it is answered or its line is given up.
        await clock.advance(200_000);
        expect(f.budget.usedBytes).toBe(0);
        for (const client of f.clients) client.close("the test is over");
        expect([f.budget.usedBytes, ends.twice, clock.pendingTimers]).toEqual([0, 0, 0]);
      },
    ), { numRuns: 80, seed: 20261122 });
  });
});

/** Counts sinks that hear of a second end. */
function countEnds(clients: readonly ShardClient[]): { twice: number } {
  const seen = { twice: 0 };
  for (const client of clients) {
    const submit = client.submit.bind(client);
    client.submit = (buffer, shape, sink, lost) => {
      let ended = false;
      const end = (): void => {
        if (ended) seen.twice++;
        ended = true;
      };
      const counted: ReplySink = {
        elsewhere: sink.elsewhere == null ? null : {
          late: () => sink.elsewhere!.late(),
          moved: (frame) => {
            const moved = sink.elsewhere!.moved(frame);
            if (moved) end();
            return moved;
          },
        },
        reply: (header, reply) => {
          const damage = sink.reply(header, reply);
          if (damage === null) end();
          return damage;
        },
        failed: (error) => {
          end();
          sink.failed(error);
        },
      };
      return submit(buffer, shape, counted, lost);
    };
  }
  return seen;
}
