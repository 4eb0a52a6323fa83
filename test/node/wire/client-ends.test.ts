// How frames end other than by a reply: those that nobody reads any more, and those of a line that is closed. Each ends at once and is heard of once, gives back what it
// held, and is never sent again. Time is the test's own. docs/protocol.md section 3. Out of scope: hedges that are too late (client-hedge.test.ts).

import { describe, expect, it } from "vitest";
import type { ShardClient } from "../../../durable/client.ts";
import { InFlightBudget } from "../../../durable/in-flight-budget.ts";
import { LIMITS } from "../../../durable/limits.ts";
import type { OutgoingFrame } from "../../../durable/outgoing-frame.ts";
import { replyFrameBytes } from "../../../durable/protocol.ts";
import { ShardError } from "../../../durable/shard-error.ts";
import { FakeClock } from "./fake-clock.ts";
import { ScriptedShard, type Action, type ConnectAction } from "./scripted-shard.ts";
import { clientFor, fixture, frameOf, HIDDEN } from "./wire-fixture.ts";

/** What one frame and its expected reply take of the bytes in flight. */
const FRAME_BYTES = frameOf(0).byteLength + replyFrameBytes(2, HIDDEN);

interface Handed {
  readonly frame: OutgoingFrame;
  /** Every end its reader was told of: "reply", or the error. */
  readonly heard: (string | ShardError)[];
}

function hand(client: ShardClient, layer: number, onFailure: () => void = () => {}): Handed {
  const heard: Handed["heard"] = [];
  const frame = client.submit(frameOf(layer), { layer, nGroups: 2, nTokens: 2, hidden: HIDDEN }, {
    reply: () => { heard.push("reply"); return null; },
    failed: (error) => { heard.push(error); onFailure(); },
  });
  return { frame, heard };
}

const layersOf = (shard: ScriptedShard): number[] => shard.frames.map(({ layer }) => layer);

async function connected(script: readonly Action[], limitBytes = LIMITS.inFlightBytes) {
  const clock = new FakeClock();
  const shard = new ScriptedShard(clock, "shard-0", script);
  const budget = new InFlightBudget(limitBytes);
  const client = clientFor(clock, shard, LIMITS, budget);
  await clock.until(client.connect());
  return { clock, shard, budget, client };
}

describe("a frame that nobody reads any more", () => {
  // What its shard does after the reader has left, and whether that costs the line its socket.
  const cases: [string, Action, reconnects: boolean][] = [
    ["fails inside", { refuse: "internal" }, false],
    ["saw it damaged", { refuse: "bad-checksum" }, false],
    ["says that it is loading", { refuse: "warming" }, false],
    ["has another epoch", { refuse: "wrong-epoch" }, true],
    ["damages a header", "corrupt-header", true],
    ["answers with another shape", "wrong-shape", true],
    ["closes", "close", true],
  ];
  for (const [what, action, reconnects] of cases) {
    it(`is dropped where its shard ${what}, and those behind it are answered`, async () => {
      const { clock, shard, budget, client } = await connected([{ afterMs: 40, then: action }, { slowMs: 80 }]);
      const [unread, ...read] = [0, 1, 2].map((layer) => hand(client, layer));
      client.withdraw(unread!.frame);
      // It keeps its credit, and its bytes, until the shard has said something.
      expect([layersOf(shard), client.hasRoom, budget.usedBytes]).toEqual([[0, 1], false, 2 * FRAME_BYTES]);
      await clock.advance(10_000);
      expect(layersOf(shard).filter((layer) => layer === 0)).toHaveLength(1);
      expect([unread!.heard, ...read.map(({ heard }) => heard)]).toEqual([[], ["reply"], ["reply"]]);
      expect([shard.opened, client.retries, budget.usedBytes, client.hasRoom]).toEqual([reconnects ? 2 : 1, reconnects ? 1 : 0, 0, true]);
    });
  }

  it("is dropped by its deadline: the line is lost, and nobody opens it again for what nobody reads", async () => {
    const { clock, shard, budget, client } = await connected(["drop", "drop"]);
    const unread = [0, 1].map((layer) => hand(client, layer));
    for (const { frame } of unread) client.withdraw(frame);
    await clock.advance(60_000);
    expect([layersOf(shard), shard.opened, client.state, client.retries, budget.usedBytes, clock.pendingTimers]).toEqual([[0, 1], 1, "idle", 0, 0, 0]);
    const read = hand(client, 2);
    await clock.advance(1_000);
    expect([read.heard, layersOf(shard)]).toEqual([["reply"], [0, 1, 2]]);
  });

  it("never leaves where it waited for a credit; the next in order has its place", async () => {
    const { clock, shard, client } = await connected([{ slowMs: 10 }, { slowMs: 10 }]);
    const handed = [0, 1, 2, 3].map((layer) => hand(client, layer));
    client.withdraw(handed[2]!.frame);
    await clock.advance(1_000);
    expect(layersOf(shard)).toEqual([0, 1, 3]);
    expect(handed.map(({ heard }) => heard)).toEqual([["reply"], ["reply"], [], ["reply"]]);
  });

  it("never leaves where it waited for the line, whose opening is given up when nobody else waits", async () => {
    const { clock, shard, budget, client } = await connected([{ afterMs: 10, then: "close" }]);
    const unread = hand(client, 0);
    shard.downUntilMs = Infinity;
    await clock.advance(5_000);
    expect([client.state, client.retries]).toEqual(["connecting", 1]);
    client.withdraw(unread.frame);
    await clock.advance(LIMITS.backoffMostMs);
    const asked = shard.hellos.length;
    shard.downUntilMs = 0;
    await clock.advance(LIMITS.outageMs);
    expect([client.state, shard.hellos.length, layersOf(shard), budget.usedBytes, clock.pendingTimers]).toEqual(["idle", asked, [0], 0, 0]);
    const read = hand(client, 1);
    await clock.advance(LIMITS.backoffMostMs);
    expect([unread.heard, read.heard, layersOf(shard)]).toEqual([[], ["reply"], [0, 1]]);
  });

  // Both are in flight; the one that fails for good, by its fourth wrong answer, takes the other with it, which came back from the same socket before it or behind it.
  // One that came back before it has cost another attempt by then.
  for (const [where, script, order, retries] of [
    ["before", [{ refuse: "internal" }, "drop", { refuse: "internal" }, { refuse: "internal" }, { afterMs: 30, then: "wrong-shape" }], [0, 1, 0, 0, 0], 4],
    ["behind", [{ refuse: "internal" }, { slowMs: 5 }, { refuse: "internal" }, { refuse: "internal" }, { afterMs: 30, then: "wrong-shape" }, "drop"], [0, 2, 0, 0, 0, 1], 3],
  ] as [string, Action[], number[], number][]) {
    it(`is dropped where another of its round fails for good in the same moment, and it came back ${where} that one`, async () => {
      const { clock, shard, budget, client } = await connected(script);
      const handed: Handed[] = [];
      handed.push(hand(client, 0, () => client.withdraw(handed.at(-1)!.frame)));
      if (where === "behind") hand(client, 2);
      handed.push(hand(client, 1));
      await clock.advance(10_000);
      expect(handed[0]!.heard).toEqual([expect.objectContaining({ name: "ShardError", message: expect.stringMatching(/^Layer 0 failed on shard shard-0 after 4 wrong answers; last: a reply of layer 0 /) as unknown })]);
      expect([handed[1]!.heard, layersOf(shard)]).toEqual([[], order]);
      expect([client.retries, shard.opened, client.state, budget.usedBytes, clock.pendingTimers]).toEqual([retries, 1, "idle", 0, 0]);
    });
  }

  it("is dropped where another of its round has waited too long for the line: it asks for nothing any more", async () => {
    const { clock, shard, client } = await connected([{ afterMs: 10, then: "close" }]);
    const handed: Handed[] = [];
    handed.push(hand(client, 0, () => client.withdraw(handed[1]!.frame)));
    shard.downUntilMs = Infinity;
    await clock.advance(20_000);
    handed.push(hand(client, 1));
    await clock.advance(LIMITS.outageMs - 20_000 + LIMITS.backoffMostMs + 10);
    expect(handed[0]!.heard).toEqual([expect.objectContaining({ message: expect.stringMatching(/no answer for 6\d{4} ms, attempts: 1; last: connecting failed/) as unknown })]);
    const asked = shard.hellos.length;
    shard.downUntilMs = 0;
    await clock.advance(LIMITS.outageMs);
    expect([handed[1]!.heard, shard.hellos.length, layersOf(shard), client.state]).toEqual([[], asked, [0], "idle"]);
  });
});

const CLOSED = "The line to shard shard-0 was closed: the test is over";

describe("a line that is closed", () => {
  const ended = ({ heard }: Handed): unknown => heard.map((end) => (end instanceof ShardError ? [end.message, end.shard, end.retryable] : end));

  it("ends what is in flight and what waits before `close` returns; neighbours get the bytes, and what the shard says later touches nobody", async () => {
    const { clock, shard, budget, client } = await connected([{ slowMs: 30 }, { slowMs: 40 }], 2 * FRAME_BYTES);
    const neighbour = new ScriptedShard(clock, "shard-1");
    const other = clientFor(clock, neighbour, LIMITS, budget);
    await clock.until(other.connect());
    const handed = [0, 1, 2, 3].map((layer) => hand(client, layer));
    const waiting = hand(other, 9);
    expect([layersOf(shard), layersOf(neighbour), budget.usedBytes]).toEqual([[0, 1], [], 2 * FRAME_BYTES]);
    const { frames, bytes } = client;
    client.close("the test is over");
    // All this without a turn of the event loop.
    expect(handed.map(ended)).toEqual(Array(4).fill([[CLOSED, "shard-0", false]]));
    expect([client.state, client.hasRoom, layersOf(neighbour), budget.usedBytes]).toEqual(["closed", false, [9], FRAME_BYTES]);
    await clock.advance(LIMITS.outageMs);
    expect(waiting.heard).toEqual(["reply"]);
    expect(handed.map(({ heard }) => heard.length)).toEqual([1, 1, 1, 1]);
    expect([client.frames, client.bytes, client.retries, client.lastFault]).toEqual([frames, bytes, 0, null]);
    expect([layersOf(shard), shard.hellos.length, shard.opened, shard.live, budget.usedBytes, clock.pendingTimers]).toEqual([[0, 1], 1, 1, null, 0, 0]);
  });

  it("ends what its shard has refused because it is loading, and sends nothing when the pause would be over", async () => {
    const { clock, shard, budget, client } = await connected([{ refuse: "warming" }, { refuse: "warming" }]);
    const handed = [0, 1, 2].map((layer) => hand(client, layer));
    await clock.advance(10);
    expect([layersOf(shard), budget.usedBytes, handed.flatMap(({ heard }) => heard)]).toEqual([[0, 1], 0, []]);
    client.close("the test is over");
    expect(handed.map(ended)).toEqual(Array(3).fill([[CLOSED, "shard-0", false]]));
    expect(clock.pendingTimers).toBe(0);
    await clock.advance(1_000);
    expect(layersOf(shard)).toEqual([0, 1]);
  });

  const opening: [string, ConnectAction, setUp: (shard: ScriptedShard) => void][] = [
    ["nobody answers `prepare`", "hang", () => {}],
    ["its shard is loading", "loading", () => {}],
    ["it waits to try again", "throw", () => {}],
    ["its socket is not open yet", "ready", (shard) => { shard.opensAfterMs = 1_000; }],
  ];
  for (const [what, action, setUp] of opening) {
    it(`ends what waits while ${what}, and is not opened afterwards`, async () => {
      const clock = new FakeClock();
      const shard = new ScriptedShard(clock, "shard-0", [], [action]);
      setUp(shard);
      const client = clientFor(clock, shard);
      let rejected: unknown = null;
      client.connect().catch((error: unknown) => { rejected = error; });
      const handed = [0, 1].map((layer) => hand(client, layer));
      await clock.advance(0);
      expect([client.state, shard.hellos.length, handed.flatMap(({ heard }) => heard)]).toEqual(["connecting", 1, []]);
      client.close("the test is over");
      expect(handed.map(ended)).toEqual(Array(2).fill([[CLOSED, "shard-0", false]]));
      await clock.settle();
      expect(rejected).toMatchObject({ name: "ShardError", message: CLOSED, retryable: false });
      await clock.advance(LIMITS.outageMs);
      expect([client.state, client.wasOpen, shard.hellos.length, shard.frames.length, shard.live, clock.pendingTimers]).toEqual(["closed", false, 1, 0, null, 0]);
    });
  }

  it("ends what waits between a lost socket and the next, at once", async () => {
    const { clock, shard, budget, client } = await connected(["close"]);
    const handed = [0, 1, 2].map((layer) => hand(client, layer));
    await clock.advance(0);
    expect([client.state, budget.usedBytes]).toEqual(["connecting", 0]);
    client.close("the test is over");
    expect(handed.map(ended)).toEqual(Array(3).fill([[CLOSED, "shard-0", false]]));
    await clock.advance(LIMITS.outageMs);
    expect([shard.hellos.length, layersOf(shard), handed.map(({ heard }) => heard.length)]).toEqual([1, [0, 1], [1, 1, 1]]);
  });

  it("refuses frames and `connect` from then on, each at once, and is closed once", async () => {
    const { clock, shard, client } = await connected([]);
    client.close("the test is over");
    client.close("another reason");
    expect(ended(hand(client, 0))).toEqual([["The line to shard shard-0 is closed.", "shard-0", false]]);
    await expect(client.connect()).rejects.toThrow("The line to shard shard-0 is closed.");
    client.wake();
    client.rest();
    await client.touch();
    await clock.advance(LIMITS.outageMs);
    expect([client.state, shard.hellos.length, shard.frames.length]).toEqual(["closed", 1, 0]);
  });

  it("tells nobody who has left: unread frames in flight give their bytes back without a word", async () => {
    const { clock, budget, client } = await connected(["drop", { slowMs: 20 }]);
    const [unread, read] = [hand(client, 0), hand(client, 1)];
    client.withdraw(unread.frame);
    client.close("the test is over");
    expect([unread.heard, ended(read), budget.usedBytes]).toEqual([[], [[CLOSED, "shard-0", false]], 0]);
    await clock.advance(LIMITS.outageMs);
    expect([unread.heard, read.heard.length]).toEqual([[], 1]);
  });

  it("hands its frames to others that hold the same, at once: the rows are right, and nothing counts as tried again", async () => {
    const clock = new FakeClock();
    const shards = [new ScriptedShard(clock, "shard-0", ["drop"]), new ScriptedShard(clock, "shard-1", [{ slowMs: 5 }, { slowMs: 5 }])];
    const f = fixture(clock, shards, "qa8", LIMITS, 2);
    await clock.until(Promise.all(f.clients.map((client) => client.connect())));
    const batch = f.batch(1, 6, 1);
    f.clear(batch);
    const startMs = clock.nowMs();
    const run = Promise.resolve(f.experts.run(1, batch));
    expect(shards.map(({ frames }) => frames.length)).toEqual([1, 1]);
    f.clients[0]!.close("the test is over");
    expect(shards.map(({ frames }) => frames.length)).toEqual([1, 2]);
    expect(await clock.until(run)).toMatchObject({ status: "fulfilled", value: { frames: 2, retries: 0, hedges: 0 } });
    expect([f.wrongWords(batch), clock.nowMs() - startMs, f.budget.usedBytes]).toEqual([0, 5, 0]);
  });

  it("that is to end when nothing is in flight waits for what is, and for what waits behind it, then opens no more", async () => {
    const { clock, shard, budget, client } = await connected([{ slowMs: 20 }, { slowMs: 20 }, { afterMs: 5, then: "close" }]);
    const handed = [0, 1, 2].map((layer) => hand(client, layer));
    client.finish("the test is over");
    await clock.advance(20);
    expect([client.state, handed.map(({ heard }) => heard.length)]).toEqual(["open", [1, 1, 0]]);
    await clock.advance(1_000);
    expect([client.state, shard.opened, handed.map(({ heard }) => heard), layersOf(shard)]).toEqual(["closed", 2, [["reply"], ["reply"], ["reply"]], [0, 1, 2, 2]]);
    expect([budget.usedBytes, clock.pendingTimers]).toEqual([0, 0]);
  });
});
