// stories260K through the real fan-out: its FFN as four experts on four shards, f32, greedy for 200 steps, against its known text.
// The pack comes as static assets (test/support/workerd-packs.ts); the test skips, saying why, where the data folder is absent.

import { describe, expect, inject, it } from "vitest";
import { BOS, decodePieces, STORIES_STEPS, STORIES_TEXT } from "../support/llama2c-text.ts";
import "../support/provided-context.ts";
import { deploy, eventsOf, greedy } from "./fleet-fixture.ts";

const stories = inject("stories");

describe.skipIf("skip" in stories)("skip" in stories ? `stories260K: ${stories.skip}` : "stories260K", () => {
  it("writes its known text through four shards", async () => {
    deploy({ packId: "stories", shards: 4, source: "assets" });
    const events = await eventsOf("stories", greedy(STORIES_STEPS, { promptIds: [BOS] }));
    const ids = events.flatMap((event) => (event.type === "token" ? [event.id] : []));
    const end = events.at(-1)!;
    expect(end).toMatchObject({ type: "end", reason: "length" });
    // Four experts of one layer lie on four shards: every layer of every step is a round to all of them.
    expect(end.type === "end" && end.moe.frames).toBe(STORIES_STEPS * 5 * 4);
    expect("pieces" in stories && decodePieces(stories.pieces, [BOS, ...ids])).toBe(STORIES_TEXT);
  });
});
