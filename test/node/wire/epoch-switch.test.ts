// From one plan to the next while rounds run: the new lines open while the old serve, the switch comes between two steps, late replies of the old epoch touch
// nothing, and what cannot be adopted changes nothing. Also which plan an orchestrator starts with. Time is the test's own. docs/protocol.md section 3.

import { describe, expect, it } from "vitest";
import type { PlanRegistry } from "../../../durable/adoption.ts";
import { sleep } from "../../../durable/clock.ts";
import { fanOutOf, type LineParts } from "../../../durable/epoch-lines.ts";
import { EpochSwitch } from "../../../durable/epoch-switch.ts";
import { InFlightBudget } from "../../../durable/in-flight-budget.ts";
import { LIMITS } from "../../../durable/limits.ts";
import { PlanInForce } from "../../../durable/plan-in-force.ts";
import { FLEET_PLAN_VERSION, type FleetPlan } from "../../../fleet/fleet-plan.ts";
import type { PackManifest } from "../../../formats/manifest.ts";
import { createScalarKernels } from "../../../model/scalar-kernels.ts";
import { FakeClock } from "./fake-clock.ts";
import { ScriptedShard, type Action } from "./scripted-shard.ts";
import { batchMaker, HIDDEN, N_EXPERTS, N_SEGMENTS, newHeap } from "./wire-fixture.ts";

const HASH = "ab".repeat(32);

/** Expert e of all layers on shard e modulo their number. */
function planOf(epoch: number, nShards: number, more: Partial<FleetPlan> = {}): FleetPlan {
  const slots = (shard: number): FleetPlan["shards"][number]["slots"] => Array.from({ length: 4 * N_EXPERTS }, (_, i) => ({ layer: Math.floor(i / N_EXPERTS), expert: i % N_EXPERTS, segments: [0, N_SEGMENTS] as const }))
    .filter(({ expert }) => expert % nShards === shard);
  return {
    version: FLEET_PLAN_VERSION, packId: "p", packHash: HASH, fleet: "f", epoch, shards: Array.from({ length: nShards }, (_, shard) => ({ slots: slots(shard), region: null })),
    stages: [{ embeddingRows: [0, 10], layers: [0, 4], headRows: [0, 10], slots: [] }], lanes: 1, jurisdiction: null, ...more,
  };
}

const manifest = {
  id: "p", activations: "qa8", config: { hiddenSize: HIDDEN, nExperts: N_EXPERTS, router: { topK: 3 } },
  experts: Array.from({ length: 4 * N_EXPERTS }, (_, i) => ({ layer: Math.floor(i / N_EXPERTS), expert: i % N_EXPERTS, segments: Array.from({ length: N_SEGMENTS }, () => ({ bytes: 100 })) })),
} as unknown as PackManifest;

function storage(): { kept: unknown; get(): Promise<unknown>; put(key: string, plan: FleetPlan): Promise<void> } {
  return { kept: undefined, async get() { return this.kept; }, async put(_key, plan) { this.kept = structuredClone(plan); } };
}

async function served(scripts: Record<string, Action[]> = {}, directory: PlanRegistry | null = null) {
  const clock = new FakeClock();
  const heap = newHeap();
  /** By epoch and number. */
  const shards = new Map<string, ScriptedShard>();
  const store = storage();
  const plans = new PlanInForce({ storage: store, directory: () => directory, name: "me", clock, limits: LIMITS });
  const inFlight = new InFlightBudget(LIMITS.inFlightBytes);
  const lines: LineParts = {
    stage: 0, manifest, limits: LIMITS, clock, strictIsolates: false, isolate: { name: "here", inFlight },
    transport: (plan, shard) => {
      const key = `${plan.epoch}/${shard}`;
      if (!shards.has(key)) shards.set(key, new ScriptedShard(clock, key, scripts[key] ?? [], key === "4/0" ? ["refuse-for-good"] : []));
      return shards.get(key)!;
    },
  };
  const frame = heap.alloc(LIMITS.frameBytes, "frames");
  const switched: number[] = [];
  let epochs: EpochSwitch | null = null;
  const first = fanOutOf({ ...lines, stale: () => epochs?.stale() }, planOf(1, 2));
  await clock.until(first.connect());
  epochs = new EpochSwitch({
    lines, plans, ownSlots: [], switched: ({ plan }) => void switched.push(plan.epoch),
    expertsOf: (fanOut) => fanOut.experts(heap, createScalarKernels(heap.memory), 64, undefined, frame),
  }, first);
  const of = batchMaker(heap, epochs.experts, "qa8");
  const live = epochs;
  /** A step of four layers. */
  const step = (seed: number): Promise<number> => live.step(async () => {
    let wrong = 0;
    for (let layer = 0; layer < 4; layer++) {
      const batch = of.batch(layer, 5, seed + layer);
      of.clear(batch);
      await live.experts.run(layer, batch);
      wrong += of.wrongWords(batch);
    }
    return wrong;
  });
  return { clock, heap, shards, store, epochs: live, inFlight, switched, step };
}

describe("a plan that is adopted", () => {
  it("while steps run is switched to between two of them, and every row is right", async () => {
    const slow = Array.from({ length: 400 }, (): Action => ({ slowMs: 20 }));
    const { clock, shards, store, epochs, step, switched, inFlight } = await served({ "1/0": slow, "1/1": slow });
    const order: string[] = [];
    const steps = (async () => {
      for (let i = 0; i < 6; i++) {
        order.push(`step ${i} begins in ${epochs.plan.epoch}`);
        expect(await step(10 * i)).toBe(0);
      }
    })();
    await clock.advance(30);
    const adopted = epochs.adopt(planOf(2, 3)).then((reply) => {
      order.push(`adopted ${reply.epoch}`);
      expect(store.kept).toEqual(planOf(2, 3));
    });
    await clock.advance(20);
    // Its lines are open in the middle of the first step, which still goes by the old plan.
    expect([[...shards].filter(([key]) => key.startsWith("2/")).map(([, shard]) => shard.opened), epochs.plan.epoch]).toEqual([[1, 1, 1], 1]);
    expect((await clock.until(Promise.all([steps, adopted]))).status).toBe("fulfilled");
    expect(order.slice(0, 3).sort()).toEqual(["adopted 2", "step 0 begins in 1", "step 1 begins in 2"]);
    expect([switched, epochs.plan.epoch, inFlight.usedBytes]).toEqual([[2], 2, 0]);
    // The old lines are closed, and nothing of the new epoch went over them.
    expect([shards.get("1/0")!.live, shards.get("1/1")!.live]).toEqual([null, null]);
    expect([...shards].every(([key, shard]) => shard.frames.every(({ epoch }) => key.startsWith(`${epoch}/`)))).toBe(true);
    expect(epochs.clients.length).toBe(3);
  });

  it("is not overtaken: a step that comes while the switch waits goes by the new plan, and steps that follow each other without a gap do not put it off", async () => {
    const slow = Array.from({ length: 40 }, (): Action => ({ slowMs: 25 }));
    const { clock, shards, epochs, step, switched } = await served({ "1/0": slow, "1/1": slow });
    const startMs = clock.nowMs();
    const order: string[] = [];
    const other = (name: string): Promise<void> => epochs.step(async () => {
      order.push(`${name} begins in ${epochs.plan.epoch}`);
      await sleep(clock, 100);
      order.push(`${name} ends in ${epochs.plan.epoch}`);
    });
    // Four layers of 25 ms, all of them over the old lines though the new ones have been open since the first.
    const first = step(1).then((wrong) => order.push(`the first has ${wrong} wrong words`));
    await clock.advance(10);
    const adopted = epochs.adopt(planOf(2, 3)).then(() => order.push(`adopted after ${clock.nowMs() - startMs} ms`));
    await clock.advance(20);
    expect([shards.get("2/2")!.opened, epochs.plan.epoch, switched]).toEqual([1, 1, []]);
    const second = other("the second");
    await clock.advance(50);
    const third = other("the third");
    expect((await clock.until(Promise.all([first, adopted, second, third]))).status).toBe("fulfilled");
    expect(order.toSorted()).toEqual(["adopted after 100 ms", "the first has 0 wrong words", "the second begins in 2", "the second ends in 2", "the third begins in 2", "the third ends in 2"]);
    expect([...shards].map(([key, { frames }]) => [key, frames.length])).toEqual([["1/0", 4], ["1/1", 4], ["2/0", 0], ["2/1", 0], ["2/2", 0]]);
    expect(await clock.until(step(50))).toMatchObject({ status: "fulfilled", value: 0 });
    expect(["1/0", "2/0"].map((key) => shards.get(key)!.frames.length)).toEqual([4, 4]);
  });

  it("names who can give its shards their bytes", async () => {
    const { shards, epochs, clock } = await served();
    await clock.until(epochs.adopt(planOf(2, 3)));
    const { donors, slots } = shards.get("2/2")!.hellos[0]!;
    expect(donors.map(({ shard, name }) => [shard, name])).toEqual([[0, "1/0"], [1, "1/1"]]);
    // Each gives of what it held: experts 2 and 5 of four layers.
    expect(donors.flatMap((donor) => donor.slots.map(({ layer, expert }) => `${layer} ${expert}`)).sort()).toEqual(slots.map(({ layer, expert }) => `${layer} ${expert}`).sort());
  });

  it("leaves a late reply of the old epoch nothing to touch", async () => {
    // Shard 0 of epoch 1 answers its third frame so late that the line is given up by then.
    const { clock, heap, shards, epochs, step, inFlight } = await served({ "1/0": ["answer", "answer", { slowMs: 6_000 }] });
    expect(await (async () => (await clock.until(step(1))).status)()).toBe("fulfilled");
    const old = shards.get("1/0")!;
    const late = old.live;
    expect(await clock.until(epochs.adopt(planOf(2, 2)))).toMatchObject({ value: { state: "adopted", epoch: 2 } });
    const before = heap.u8.slice();
    await clock.advance(20_000);
    late?.closed("1006");
    expect(Buffer.compare(heap.u8, before)).toBe(0);
    expect((await clock.until(step(50)))).toMatchObject({ status: "fulfilled", value: 0 });
    expect(inFlight.usedBytes).toBe(0);
  });

  it("of the same epoch or a lower one changes nothing; one of another pack, fleet, ring or with own experts is refused", async () => {
    const { clock, shards, epochs, step, store } = await served();
    await clock.until(epochs.adopt(planOf(3, 3)));
    for (const epoch of [3, 2]) expect(await clock.until(epochs.adopt(planOf(epoch, 2)))).toMatchObject({ value: { state: "adopted", epoch: 3 } });
    const refused: [Partial<FleetPlan>, RegExp][] = [
      [{ packHash: "cd".repeat(32) }, /of pack p \(cdcdcdcdcdcd\) in fleet f; this orchestrator serves p \(abababababab\) in fleet f/],
      [{ fleet: "other" }, /in fleet other/],
      [{ stages: [...planOf(1, 1).stages, ...planOf(1, 1).stages] }, /another ring is other orchestrators/],
      [{ stages: [{ ...planOf(1, 1).stages[0]!, slots: [{ layer: 1, expert: 2, segments: [0, 1] }] }] }, /segment 0 of expert 2 in layer 1 to compute itself/],
      [{ shards: [{ slots: [{ layer: 9, expert: 0, segments: [0, 1] }], region: null }] }, /does not fit the pack: .*layer 9, expert 0/],
      [{}, /epoch 4 could not be reached.*refused \(pack-hash\)/], // its shard 0 refuses for good
    ];
    for (const [more, message] of refused) expect(await clock.until(epochs.adopt(planOf(4, 2, more)))).toMatchObject({ value: { state: "refused", epoch: 3, message: expect.stringMatching(message) } });
    expect([epochs.plan.epoch, (store.kept as FleetPlan).epoch]).toEqual([3, 3]);
    expect(await clock.until(step(1))).toMatchObject({ status: "fulfilled", value: 0 });
    // What was opened for a refused plan is closed again.
    await clock.advance(10);
    expect([...shards].filter(([key, { live }]) => live !== null && !key.startsWith("3/"))).toEqual([]);
  });

  it("one after the other, however many come at once", async () => {
    const { clock, epochs, step, switched } = await served();
    const all = Promise.all([2, 3, 5].map((epoch) => epochs.adopt(planOf(epoch, epoch % 2 === 0 ? 3 : 2))));
    const steps = (async () => { for (let i = 0; i < 5; i++) expect(await step(i)).toBe(0); })();
    expect((await clock.until(Promise.all([all, steps]))).status).toBe("fulfilled");
    expect(switched).toEqual([2, 3, 5]);
  });
});

describe("an epoch that is over for its shards", () => {
  const newest = (): PlanRegistry & { asked: number } => ({ asked: 0, async register() { this.asked++; return planOf(2, 3); } });

  it("is left for the directory's plan, and the step is done again", async () => {
    const directory = newest();
    const { clock, shards, epochs, step } = await served({ "1/0": [{ refuse: "wrong-epoch" }] }, directory);
    shards.get("1/0")!.nextConnects("retired", "retired", "retired");
    expect(await clock.until(step(1))).toMatchObject({ status: "fulfilled", value: 0 });
    expect([epochs.plan.epoch, directory.asked >= 1]).toEqual([2, true]);
  });

  it("fails the step where nobody knows better", async () => {
    const alone = await served({ "1/0": [{ refuse: "wrong-epoch" }] });
    alone.shards.get("1/0")!.nextConnects("retired", "retired");
    expect(String((await alone.clock.until(alone.step(1)) as PromiseRejectedResult).reason)).toContain("refused (retired): that epoch is over.");
  });
});

describe("the plan to start with", () => {
  const start = async (kept: unknown, register: (() => Promise<unknown>) | null): Promise<number> => {
    const clock = new FakeClock();
    const plans = new PlanInForce({ storage: { get: async () => kept, put: async () => {} }, directory: () => (register === null ? null : { register }), name: "me", clock, limits: LIMITS });
    const result = await clock.until(plans.atStart(planOf(1, 2)));
    return result.status === "fulfilled" ? result.value.epoch : NaN;
  };
  it("is the directory's, else the one kept of this pack and fleet, else the default one", async () => {
    expect(await start(planOf(3, 2), async () => planOf(5, 2))).toBe(5);
    expect(await start(planOf(3, 2), null)).toBe(3);
    expect(await start(undefined, null)).toBe(1);
    expect(await start(planOf(3, 2, { fleet: "other" }), null)).toBe(1);
    expect(await start({ version: 7 }, null)).toBe(1);
  });
  it("is not waited for longer than two seconds, and not taken from a directory that errs", async () => {
    expect(await start(planOf(3, 2), () => new Promise(() => {}))).toBe(3);
    expect(await start(planOf(3, 2), async () => { throw new Error("reset"); })).toBe(3);
    expect(await start(planOf(3, 2), async () => ({ epoch: 9 }))).toBe(3);
    expect(await start(planOf(3, 2), async () => planOf(9, 2, { packHash: "cd".repeat(32) }))).toBe(3);
  });
});
