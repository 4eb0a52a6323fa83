// Keeping a fleet warm: when an orchestrator calls whom, what makes it stop, and one alarm for it and for the journal of replies. With a fake clock; the objects
// themselves are in test/workerd/warmth.test.ts.

import { describe, expect, it } from "vitest";
import { KeepWarm, keepWarmMode, type KeepWarmMode, type KeptObject } from "../../../durable/keep-warm.ts";
import { LIMITS } from "../../../durable/limits.ts";
import { ObjectAlarm } from "../../../durable/object-alarm.ts";
import { KEEP_WARM_SECONDS } from "../../../fleet/prices.ts";
import { FakeClock } from "./fake-clock.ts";

/** A platform's alarm: one at a time, and the last one set counts. */
class Alarm {
  readonly clock = new FakeClock();
  atMs: number | null = null;
  sets = 0;
  async setAlarm(atMs: number | Date): Promise<void> {
    this.atMs = Number(atMs);
    this.sets++;
  }
  /** Lets time pass to the alarm; false where none is set. */
  async next(): Promise<boolean> {
    if (this.atMs === null) return false;
    const inMs = this.atMs - this.clock.nowMs();
    this.atMs = null;
    await this.clock.advance(Math.max(0, inMs));
    return true;
  }
}

function setUp(given: KeepWarmMode) {
  const alarm = new Alarm();
  const { clock } = alarm;
  const state = { mode: given, objects: [] as KeptObject[], isUp: true, current: "one", touched: [] as string[], broughtUp: 0, fails: false };
  const asked: Record<string, number> = {};
  const object = (name: string): KeptObject => ({
    name, get asked() { return asked[name] ?? 0; },
    touch: async () => {
      state.touched.push(name);
      if (state.fails) throw new Error("Network connection lost.");
    },
  });
  state.objects = [object("a"), object("b")];
  const keep = new KeepWarm({
    mode: () => state.mode, clock, limits: LIMITS, wake: (atMs) => void alarm.setAlarm(atMs),
    served: () => (state.isUp ? { packHash: "one", objects: state.objects } : null),
    bringUp: async () => {
      state.broughtUp++;
      if (state.fails) throw new Error("status 503");
      state.isUp = true;
      keep.started();
    },
    isCurrent: async (packHash) => {
      if (state.fails) throw new Error("status 503");
      return packHash === state.current;
    },
  });
  /** Goes from alarm to alarm for so long; milliseconds between them. */
  const run = async (forMs: number): Promise<number[]> => {
    const gaps: number[] = [];
    for (const until = clock.nowMs() + forMs; alarm.atMs !== null && alarm.atMs <= until;) {
      const beforeMs = clock.nowMs();
      await alarm.next();
      gaps.push(clock.nowMs() - beforeMs);
      await keep.due();
    }
    return gaps;
  };
  return { alarm, clock, state, asked, keep, run, object };
}

describe("what is kept warm", () => {
  it("is called more often than the platform hibernates, and the price goes by the same time", async () => {
    const { keep, run, state } = setUp("shards");
    keep.started();
    const gaps = await run(60_000);
    expect([gaps.length, Math.max(...gaps)]).toEqual([7, LIMITS.keepWarmMs]);
    expect(LIMITS.keepWarmMs).toBeLessThan(10_000);
    expect(LIMITS.keepWarmMs).toBe(KEEP_WARM_SECONDS * 1000);
    expect(state.touched).toEqual(Array.from({ length: 7 }, () => ["a", "b"]).flat());
  });

  it("is what is served then: shards of an epoch that is over, or of nothing any more, are not called", async () => {
    const { keep, run, state, object } = setUp("shards");
    keep.started();
    await run(8_000);
    state.objects = [object("b"), object("c")];
    state.touched = [];
    await run(16_000);
    expect(state.touched).toEqual(["b", "c", "b", "c"]);
  });

  it("is passed over where it was asked something meanwhile", async () => {
    const { keep, run, state, asked } = setUp("shards");
    keep.started();
    await run(8_000);
    asked.a = 12;
    state.touched = [];
    await run(8_000);
    expect(state.touched).toEqual(["b"]);
    await run(8_000);
    expect(state.touched).toEqual(["b", "a", "b"]);
  });

  it("goes on where a call fails, or the store does not say which revision is current", async () => {
    const { keep, run, state } = setUp("shards");
    keep.started();
    state.fails = true;
    expect((await run(LIMITS.keepWarmCheckMs + 16_000)).length).toBeGreaterThan(70);
    expect(state.touched.length).toBeGreaterThan(140);
  });
});

describe("it ends", () => {
  it("where the variable is off: nothing is called, and no alarm is set again", async () => {
    const { keep, run, state, alarm } = setUp("off");
    keep.started();
    expect(alarm.sets).toBe(0);
    state.mode = "shards";
    keep.started();
    state.mode = "off"; // another deployment
    expect([await run(60_000), state.touched, alarm.atMs]).toEqual([[LIMITS.keepWarmMs], [], null]);
  });

  it("with `shards` where the orchestrator has lost its model; with `all` that comes back", async () => {
    const shards = setUp("shards");
    shards.keep.started();
    shards.state.isUp = false;
    await shards.run(60_000);
    expect([shards.state.broughtUp, shards.alarm.atMs]).toEqual([0, null]);
    const all = setUp("all");
    all.keep.started();
    all.state.isUp = false;
    await all.run(17_000);
    expect([all.state.broughtUp, all.state.touched]).toEqual([1, ["a", "b"]]);
    // A pack that cannot be read is tried again, and not more often than a request would.
    all.state.isUp = false;
    all.state.fails = true;
    const gaps = await all.run(60_000);
    expect(gaps.slice(1).every((gap) => gap >= LIMITS.loadRetryMs)).toBe(true);
    expect(all.state.broughtUp).toBeGreaterThan(4);
  });

  it("where the store has another revision, for long enough to forget this one", async () => {
    const { keep, run, state } = setUp("all");
    keep.started();
    state.current = "two";
    const gaps = await run(LIMITS.keepWarmCheckMs + LIMITS.keepWarmRestMs);
    expect(Math.max(...gaps)).toBe(LIMITS.keepWarmRestMs);
    expect(LIMITS.keepWarmRestMs).toBeGreaterThan(140_000);
  });
});

it("the variable is off, shards or all, and nothing else", () => {
  expect([{}, { KEEP_WARM: "" }, { KEEP_WARM: "off" }, { KEEP_WARM: "shards" }, { KEEP_WARM: "all" }].map(keepWarmMode)).toEqual(["off", "off", "off", "shards", "all"]);
  expect(() => keepWarmMode({ KEEP_WARM: "yes" })).toThrow('The variable KEEP_WARM is "yes"; expected "off", "shards" or "all".');
});

describe("one alarm for several", () => {
  it("goes off for the first, and then for the others", async () => {
    const alarm = new Alarm();
    const shared = new ObjectAlarm<"often" | "late">(alarm, alarm.clock);
    expect(shared.fired()("late")).toBe(true); // its former self may have wanted it
    shared.at("late", alarm.clock.nowMs() + 20_000);
    shared.at("often", alarm.clock.nowMs() + 8_000);
    const heard: string[] = [];
    while (await alarm.next()) {
      const isDue = shared.fired();
      for (const whose of ["often", "late"] as const) if (isDue(whose)) heard.push(whose);
      if (isDue("often") && heard.length < 5) shared.at("often", alarm.clock.nowMs() + 8_000);
    }
    expect(heard).toEqual(["often", "often", "late", "often", "often"]);
  });

  it("is set earlier and never later by another wish", () => {
    const alarm = new Alarm();
    const shared = new ObjectAlarm<"a" | "b">(alarm, alarm.clock);
    shared.at("a", 5_000);
    shared.at("b", 600_000);
    expect([alarm.atMs, alarm.sets]).toEqual([5_000, 1]);
    shared.at("b", 1_000);
    expect(alarm.atMs).toBe(1_000);
  });
});
