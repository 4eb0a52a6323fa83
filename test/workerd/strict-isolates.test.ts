// Strict mode: one shard may live in an isolate, a second one is refused under three names and the error says what to do. Local workerd
// puts all objects into one isolate, so this is what it always shows.

import { expect, it } from "vitest";
import type { GenerateFailure } from "../../durable/generate.ts";
import { deploy, eventsOf, greedy, orchestrator, packInBucket, statusOf } from "./fleet-fixture.ts";

it("serves from one shard, and refuses two with what to do", async () => {
  await packInBucket("strict");
  deploy({ packId: "strict", shards: 1, isolates: "strict" });
  expect((await eventsOf("strict-1", greedy(3))).at(-1)).toMatchObject({ type: "end", completionTokens: 3 });

  deploy({ packId: "strict", shards: 2, isolates: "strict" });
  const response = await orchestrator("strict-2").fetch("http://orchestrator/generate", { method: "POST", body: JSON.stringify(greedy(3)) });
  expect(response.status).toBe(503);
  const { message } = await response.json<GenerateFailure>();
  expect(message).toMatch(/Shard strict\/[0-9a-f]{12}\/[0-9a-f]{16}\/[01]~2 was refused under 3 names, each time because its isolate holds another shard/);
  expect(message).toMatch(/shares its isolate with shard strict\/[0-9a-f]{12}\/[0-9a-f]{16}\/0/);
  expect(message).toMatch(/Either set ISOLATES = "shared".*or deploy the shards as separate Worker scripts/);
  expect((await statusOf("strict-1")).isolate!.objects.length).toBeGreaterThanOrEqual(4);
});
