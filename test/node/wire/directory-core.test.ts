// The directory's state machine: every transition, with its death at every write, with messages lost, repeated and refused, and all of it at once from seeds.
// The laws are those of directory-world.ts. Out of scope: plans (test/node/fleet) and real objects (test/workerd/directory.test.ts).

import { describe, expect, it } from "vitest";
import { SeededRandom } from "../../../durable/clock.ts";
import { WishConflict } from "../../../durable/directory-core.ts";
import { LIMITS } from "../../../durable/limits.ts";
import { planOver, World, type Faults } from "./directory-world.ts";

const MINUTE_MS = 60_000;
const FOUR = planOver([0, 1, 2, 3]);
const CHANGES = { "4 to 6": planOver([0, 1, 2, 3, 4, 5]), "4 to 3": planOver([0, 2, 3], 4), "4 to others": planOver([1, 4, 5, 6]) } as const;

/** A fleet of four shards whose orchestrators have registered. */
async function fleet(options: ConstructorParameters<typeof World>[1]): Promise<World> {
  const world = new World(FOUR, options);
  for (const { name } of world.orchestrators) world.directory().register(name, FOUR);
  world.live();
  return world;
}

/** Asks until the change has begun; a directory that died in between may have begun it. */
async function wish(world: World, plan = CHANGES["4 to 6"]): Promise<void> {
  for (;;) {
    try {
      await world.directory().desire({ plan });
      return;
    } catch (cause) {
      if (cause instanceof WishConflict) return;
    }
  }
}

async function settled(world: World, limitMs = 30 * MINUTE_MS): Promise<void> {
  expect(await world.clock.runUntil(() => world.isSteady || world.violations.length > 0, limitMs), JSON.stringify(world.stored.change?.message ?? world.orchestrators.map(({ plan }) => plan.epoch))).toBe(true);
  // Messages that were repeated arrive later.
  await world.clock.runUntil(() => false, MINUTE_MS);
  expect(world.violations).toEqual([]);
}

const FIRST_WRITES = 2; // two orchestrators register

describe("a change without faults", () => {
  it.each(Object.entries(CHANGES))("%s goes through its states, moves what it must and leaves nothing behind", async (_, plan) => {
    const world = await fleet({});
    await wish(world, plan);
    await settled(world);
    const { plan: now, history: [past] } = world.stored;
    expect(now).toEqual({ ...plan, epoch: 2 });
    expect(past).toMatchObject({ epoch: 2, outcome: "steady", plannedBytes: 7, retries: 0, message: null });
    expect(Object.keys(past!.sinceMs)).toEqual(["planned", "warming", "committed", "flipping", "draining", "retired"]);
    expect(world.leftovers()).toEqual([]);
    expect(past!.movedBytes).toBe(12);
    expect(world.orchestrators.map((of) => of.plan.epoch)).toEqual([2, 2]);
  });

  it("is one at a time, and nothing begins without a plan", async () => {
    const empty = new World(FOUR, {});
    await expect(empty.directory().desire({ plan: FOUR })).rejects.toThrow("The fleet has no plan yet");
    const world = await fleet({});
    await wish(world);
    await expect(world.directory().desire({ plan: FOUR })).rejects.toThrow("A change is under way: to epoch 2 (a given plan), planned.");
    await settled(world);
    await world.directory().desire({ plan: CHANGES["4 to 3"] });
    await settled(world);
    expect(world.stored.plan!.epoch).toBe(3);
    expect(world.stored.history.map(({ epoch }) => epoch)).toEqual([3, 2]);
  });
});

const writesOf = async (faults: Faults, plan = CHANGES["4 to 6"]): Promise<number> => {
  const world = await fleet({ faults });
  await wish(world, plan);
  await settled(world);
  return world.nWrites;
};

const SCRIPTS: Readonly<Record<string, Faults>> = {
  "no other fault": {},
  ...Object.fromEntries(["fetched", "prepare", "adopt", "retire"].flatMap((kind) => (["lose-request", "lose-reply", "repeat", "refuse", "throw"] as const)
    .filter((fault) => fault !== "refuse" || kind === "prepare" || kind === "adopt").map((fault) => [`${kind}: ${fault}`, { script: { [kind]: [fault, fault] } }]))),
  "a shard without room": { full: [4] },
  "a shard that is dead": { dead: [5] },
  "a shard without room, and releases are lost": { full: [4], script: { release: ["lose-request", "lose-reply", "repeat", "throw"] } },
};

describe.each(Object.entries(SCRIPTS))("%s", (name, faults) => {
  it.each(Object.entries(CHANGES))("%s ends in steady, wherever the directory dies", async (_, plan) => {
    const nWrites = await writesOf(faults, plan);
    expect(nWrites).toBeGreaterThan(FIRST_WRITES + 3);
    for (let write = FIRST_WRITES; write < nWrites; write++) {
      for (const taken of [false, true]) {
        const world = await fleet({ faults, dieAt: [{ write, taken }] });
        await wish(world, plan);
        await settled(world);
        const isHeld = plan.shards.some(({ slots }, shard) => slots.length > 0 && (faults.full?.includes(shard) || faults.dead?.includes(shard)));
        expect(world.stored.plan, `${name}, write ${write}`).toEqual(isHeld ? FOUR : { ...plan, epoch: 2 });
        if (faults.dead === undefined) expect(world.leftovers()).toEqual([]);
        expect(world.stored.history[0]!.outcome).toBe(isHeld ? "abandoned" : "steady");
      }
    }
  });
});

it("a change that cannot warm says why, and its number is never given again", async () => {
  const world = await fleet({ faults: { full: [4] } });
  await wish(world);
  await settled(world);
  expect(world.directory().status()).toMatchObject({ plan: { epoch: 1 }, change: null, history: [{ epoch: 2, outcome: "abandoned", message: "Shard 4 cannot hold its part of epoch 2: 90 MiB do not fit 80 MiB" }] });
  await wish(world, CHANGES["4 to 3"]);
  await settled(world);
  expect(world.stored.plan!.epoch).toBe(3);
  expect(world.leftovers()).toEqual([]);
});

it("a shard that could not be told to let go is told with the next change, though that has nothing else to do with it", async () => {
  const dead: number[] = [];
  const world = await fleet({ faults: { dead } });
  await wish(world, CHANGES["4 to 3"]);
  expect(await world.clock.runUntil(() => world.stored.change?.state === "draining", MINUTE_MS)).toBe(true);
  dead.push(1);
  await settled(world);
  expect(world.stored).toMatchObject({ untold: [1], history: [{ message: expect.stringContaining("Shard 1 could not be told to let go") as unknown }] });
  expect(world.leftovers()).toEqual([expect.stringContaining("shard 1 still holds")]);
  dead.pop();
  await wish(world, planOver([0, 3], 4));
  await settled(world);
  expect(world.stored.untold).toEqual([]);
  expect(world.leftovers()).toEqual([]);
});

describe("orchestrators", () => {
  it("one that is gone is forgotten after its lease, not before, and takes the new plan when it is back", async () => {
    const world = await fleet({});
    const [, lost] = world.orchestrators;
    lost!.state = "away";
    await wish(world);
    await world.clock.runUntil(() => world.stored.change?.state === "flipping", MINUTE_MS);
    await world.clock.runUntil(() => false, LIMITS.laneLeaseMs - LIMITS.adoptDeadlineMs);
    expect(world.stored.change).toMatchObject({ state: "flipping", message: expect.stringContaining("The orchestrator o1 has not adopted epoch 2") as unknown });
    expect(world.shards.get(0)!.retiredBelow).toBe(0);
    await settled(world);
    expect(world.stored.lanes).toEqual([{ name: "o0", epoch: 2 }]);
    // What it served by is retired all the same.
    expect(world.leftovers()).toEqual([]);
    await world.clock.runUntil(() => false, MINUTE_MS);
    void world.comeUp(lost!);
    expect(await world.clock.runUntil(() => lost!.state === "serving" && lost!.plan.epoch === 2, MINUTE_MS)).toBe(true);
    await settled(world);
  });

  it("one that has had nothing to say for an hour is asked for a whole lease before it is forgotten", async () => {
    const world = new World(FOUR, { faults: { script: { adopt: ["lose-request", "throw"] } } });
    for (const { name } of world.orchestrators) world.directory().register(name, FOUR);
    await world.clock.runUntil(() => false, 60 * MINUTE_MS);
    world.clock.after(60 * MINUTE_MS, () => undefined);
    await world.clock.runUntil(() => false, 61 * MINUTE_MS);
    await wish(world);
    await settled(world);
    expect(world.stored.lanes.map(({ epoch }) => epoch)).toEqual([2, 2]);
  });

  it("one that comes up while others flip waits for nobody, and nobody retires what it may still serve by", async () => {
    const world = await fleet({ nOrchestrators: 3, faults: { script: { adopt: ["lose-reply", "throw", "throw"] } } });
    world.orchestrators[2]!.state = "away";
    await wish(world);
    await world.clock.runUntil(() => world.stored.change?.state === "flipping", MINUTE_MS);
    void world.comeUp(world.orchestrators[2]!);
    await settled(world);
    expect(world.stored.lanes.map(({ epoch }) => epoch)).toEqual([2, 2, 2]);
  });

  it("one that was forgotten and is back by the old plan, before anything was retired, is waited for", async () => {
    const world = await fleet({});
    const [, lost] = world.orchestrators;
    lost!.state = "away";
    await wish(world);
    expect(await world.clock.runUntil(() => world.stored.change?.state === "draining", 10 * MINUTE_MS)).toBe(true);
    lost!.state = "serving";
    world.meets("adopt", ["throw", "throw", "throw"]);
    world.directory().register(lost!.name, lost!.plan); // and the answer never comes
    await settled(world);
    expect(lost!.plan.epoch).toBe(2);
  });

  it("of another fleet, or too many, are refused", () => {
    const world = new World(FOUR, {});
    world.directory().register("o0", FOUR);
    expect(() => world.directory().register("o1", { ...FOUR, fleet: "g" })).toThrow('The orchestrator o1 came with a plan of the fleet "g"');
    for (let i = 1; i < LIMITS.knownLanes; i++) world.directory().register(`o${i}`, FOUR);
    expect(() => world.directory().register("one more", FOUR)).toThrow("256 are expected at most");
  });

  it("bring a lost directory back to the plan in force", () => {
    const world = new World(FOUR, {});
    expect(world.directory().register("o0", FOUR).epoch).toBe(1);
    expect(world.directory().register("o1", { ...CHANGES["4 to 6"], epoch: 5 }).epoch).toBe(5);
    expect(world.directory().register("o0", FOUR).epoch).toBe(5);
  });

  it("report faults, which are remembered once each, the latest first", () => {
    const world = new World(FOUR, {});
    const fault = (atMs: number) => ({ atMs, shard: 2, cause: `deadline ${atMs}` });
    const report = (faults: readonly ReturnType<typeof fault>[]) => ({ freeKvPositions: 100, expertCounts: [], faults });
    world.directory().register("o0", FOUR, report([fault(1), fault(2)]));
    world.directory().register("o0", FOUR, report([fault(2), fault(3)]));
    expect(world.stored.faults).toEqual([fault(3), fault(2), fault(1)]);
    world.directory().register("o0", FOUR, report(Array.from({ length: 100 }, (_, i) => fault(10 + i))));
    expect(world.stored.faults).toHaveLength(LIMITS.recentFaults);
    expect(world.stored.faults[0]).toEqual(fault(109));
    expect(world.directory().status().lanes).toMatchObject([{ name: "o0", epoch: 1, freeKvPositions: 100 }]);
  });

  it("report loads, which are shown together and forgotten when nobody repeats them", async () => {
    const world = new World(FOUR, {});
    const report = (expertCounts: number[][]) => ({ freeKvPositions: 100, expertCounts, faults: [] });
    world.directory().register("o0", FOUR, report([[], [1, 2, 3], [0, 0, 0]]));
    world.directory().register("o1", FOUR, report([[], [0, 6, 0], [0, 0, 0]]));
    expect(world.directory().status().load).toEqual([{ layer: 1, choices: 12, busiest: 1, timesMean: 2 }]);
    world.clock.after(LIMITS.reportKeepMs - 1, () => void world.directory().register("o1", FOUR, report([[], [0, 6, 0], []])));
    world.clock.after(LIMITS.reportKeepMs, () => undefined);
    await world.clock.runUntil(() => false, LIMITS.reportKeepMs);
    expect(world.directory().status().load).toEqual([{ layer: 1, choices: 6, busiest: 1, timesMean: 3 }]);
  });
});

describe("replicas by load", () => {
  it("are asked for every so often while nothing is under way, with what orchestrators last reported, and put in force like any change", async () => {
    const world = new World(FOUR, {});
    const asked: unknown[] = [];
    world.balance = async (from, counts, nowMs, lastChangeMs) => {
      asked.push([from.epoch, counts, lastChangeMs === null ? null : nowMs - lastChangeMs >= 0]);
      return asked.length === 2 ? { reason: "replicas by load", steps: [{ plan: CHANGES["4 to 6"], bytes: 5 }] } : null;
    };
    for (const { name } of world.orchestrators) world.directory().register(name, FOUR, { freeKvPositions: 1, expertCounts: [[1, 2]], faults: [] });
    await world.clock.runUntil(() => asked.length > 3, 10 * MINUTE_MS);
    expect(asked.slice(0, 4)).toEqual([[1, [[[1, 2]], [[1, 2]]], null], [1, [[[1, 2]], [[1, 2]]], null], [2, [[[1, 2]], [[1, 2]]], true], [2, [[[1, 2]], [[1, 2]]], true]]);
    expect(world.stored.history).toMatchObject([{ epoch: 2, reason: "replicas by load", outcome: "steady", plannedBytes: 5 }]);
    expect(world.violations).toEqual([]);
  });
});

it("120 seeds of everything at once: three changes in a row, deaths, losses, repeats, refusals, and orchestrators that go and come", async () => {
  const outcomes = { steady: 0, abandoned: 0 };
  for (let seed = 1; seed <= 120; seed++) {
    const random = new SeededRandom(seed);
    const pick = (n: number): number => Math.floor(random.next() * n);
    const world = await fleet({
      seed, nOrchestrators: 1 + pick(3),
      faults: { loseRequest: random.next() * 0.1, loseReply: random.next() * 0.1, repeat: random.next() * 0.3, refuse: random.next() * 0.3, delayMs: 1 + pick(400), ...(pick(4) === 0 ? { full: [4] } : {}) },
      dieAt: Array.from({ length: pick(6) }, () => ({ write: 3 + pick(60), taken: pick(2) === 0 })),
    });
    for (const plan of [CHANGES["4 to 6"], CHANGES["4 to 3"], CHANGES["4 to others"]]) {
      const before = world.stored.history.length;
      await wish(world, plan);
      const away = pick(3) === 0 ? world.orchestrators[pick(world.orchestrators.length)]! : null;
      if (away !== null) {
        world.clock.after(pick(4_000), () => { away.state = "away"; });
        world.clock.after(5_000 + pick(200_000), () => void world.comeUp(away));
      }
      expect(await world.clock.runUntil(() => (world.isSteady && world.stored.history.length > before) || world.violations.length > 0, 60 * MINUTE_MS), `seed ${seed} is stuck: ${JSON.stringify(world.stored.change?.message)}`).toBe(true);
      expect(world.violations, `seed ${seed}`).toEqual([]);
      if (away !== null) await world.clock.runUntil(() => away.state === "serving", 10 * MINUTE_MS);
    }
    await settled(world);
    for (const { outcome } of world.stored.history) outcomes[outcome]++;
  }
  expect(outcomes.steady).toBeGreaterThan(200);
  expect(outcomes.abandoned).toBeGreaterThan(8);
});
