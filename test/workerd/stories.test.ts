// stories260K through the real fan-out: its FFN as four experts on four shards, f32, greedy for 200 steps, against its known text.
// The pack comes as static assets (test/support/workerd-packs.ts); the test skips, saying why, where the data folder is absent.

import { describe, expect, inject, it } from "vitest";
import { BOS, decodePieces, STORIES_STEPS, STORIES_TEXT } from "../support/llama2c-text.ts";
import "../support/provided-context.ts";
import { deploy, eventsOf, greedy, statusOf } from "./fleet-fixture.ts";

const stories = inject("stories");

describe.skipIf("skip" in stories)("skip" in stories ? `stories260K: ${stories.skip}` : "stories260K", () => {
  it("writes its known text through four shards", async () => {
    deploy({ packId: "stories", shards: 4, source: "assets" });
    const write = async (draftTokens: number) => {
      const events = await eventsOf("stories", greedy(STORIES_STEPS, { promptIds: [BOS], draftTokens }));
      const ids = events.flatMap((event) => (event.type === "token" ? [event.id] : []));
      const end = events.at(-1)!;
      expect(end).toMatchObject({ type: "end", reason: "length" });
      expect("pieces" in stories && decodePieces(stories.pieces, [BOS, ...ids])).toBe(STORIES_TEXT);
      return end.type === "end" ? end.moe.frames : NaN;
    };
    // Four experts of one layer lie on four shards: every layer of every step is a round to all of them.
    expect(await write(0)).toBe(STORIES_STEPS * 5 * 4);
    // A story repeats itself: guesses that hold save rounds.
    expect(await write(7)).toBeLessThan(STORIES_STEPS * 5 * 4);
    expect((await statusOf("stories")).drafts.held).toBeGreaterThan(0);
  });
});
