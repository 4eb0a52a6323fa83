// Changes of a fleet: bytes loaded against trying every way and against closed forms, the balance bound, copies, room, steps, donors.

import { describe, expect, it } from "vitest";
import { balanceBound } from "../../../fleet/balanced-target.ts";
import { type FleetPlan, parseFleetPlan, type PlannedShard } from "../../../fleet/fleet-plan.ts";
import { type Change, leastBytes, movesOf, planChange, type Wish } from "../../../fleet/min-move.ts";
import type { PlannedExpert, PlannedRange } from "../../../fleet/plan.ts";
import { SegmentIndex } from "../../../fleet/segment-index.ts";
import { seededNumbers } from "../../../model/kernel-case.ts";
import { bytesOfExpert, drawChange, evenTable, fleetOf, leastByTrying, subsets } from "./change-cases.ts";

const NO_LIMIT = Number.MAX_SAFE_INTEGER;
const EMPTY = fleetOf([]);
const inUse = ({ shards }: FleetPlan): number => shards.filter(({ slots }) => slots.length > 0).length;

/** Segments of each shard, by name. */
const namesOf = (slots: readonly PlannedRange[]): string[] =>
  slots.flatMap(({ layer, expert, segments: [from, to] }) => Array.from({ length: to - from }, (_, i) => `${layer}/${expert}/${from + i}`));

const bytesByName = (table: readonly PlannedExpert[]): Map<string, number> =>
  new Map(table.flatMap(({ layer, expert, segmentBytes }) => segmentBytes.map((bytes, segment) => [`${layer}/${expert}/${segment}`, bytes] as const)));

/** The last plan of a change, after what must hold on every way: rooms, nobody missing, epochs, numbers, bytes. */
function checked(from: FleetPlan, change: Change, table: readonly PlannedExpert[], roomBytes = NO_LIMIT): FleetPlan {
  const bytes = bytesByName(table);
  let [before, loaded] = [from, 0];
  for (const plan of change.plans) {
    expect(plan.epoch).toBe(before.epoch + 1);
    expect(plan.shards.length).toBeGreaterThanOrEqual(before.shards.length);
    expect(parseFleetPlan(JSON.parse(JSON.stringify(plan)))).toEqual(plan);
    const seen = new Set<string>();
    plan.shards.forEach(({ slots }, shard) => {
      const [old, now] = [new Set(namesOf(before.shards[shard]?.slots ?? [])), namesOf(slots)];
      for (const name of now) seen.add(name);
      expect(new Set(now).size).toBe(now.length);
      const both = [...new Set([...old, ...now])].reduce((sum, name) => sum + bytes.get(name)!, 0);
      expect(both).toBeLessThanOrEqual(roomBytes);
      loaded += now.reduce((sum, name) => sum + (old.has(name) ? 0 : bytes.get(name)!), 0);
    });
    expect(seen.size).toBe(bytes.size);
    before = plan;
  }
  expect(change.bytes).toBe(loaded);
  return before;
}

const first = (table: readonly PlannedExpert[], shards: number, replicas = 1): FleetPlan => planChange(EMPTY, { shards, replicas, roomBytes: NO_LIMIT }, table).plans[0]!;

describe("a change of counts", () => {
  it("loads what trying every way loads, on 300 small fleets", () => {
    let [changed, shrunk, copied] = [0, 0, 0];
    for (let seed = 1; seed <= 300; seed++) {
      const drawn = drawChange(seed);
      const { table, from, held, nShards, replicas } = drawn;
      const wish: Wish = { shards: nShards, replicas, roomBytes: NO_LIMIT };
      const change = planChange(from, wish, table);
      expect(change.bytes, `seed ${seed}`).toBe(leastByTrying(drawn));
      expect(leastBytes(from, wish, table), `seed ${seed}`).toBe(change.bytes);
      const to = checked(from, change, table);
      for (const expert of table) {
        expect(to.shards.filter(({ slots }) => slots.some((slot) => slot.layer === expert.layer && slot.expert === expert.expert)).length).toBe(replicas);
      }
      const most = balanceBound(table.map((e) => ({ layer: e.layer, ids: [], bytes: bytesOfExpert(e), copies: replicas })), nShards);
      for (const { slots } of to.shards) expect(new SegmentIndex(table).bytesOf(new SegmentIndex(table).idsOf(slots))).toBeLessThanOrEqual(most);
      if (change.plans.length > 0) changed++;
      if (held.filter((experts) => experts.length > 0).length > nShards) shrunk++;
      if (replicas > 1) copied++;
    }
    expect(changed).toBeGreaterThan(200);
    expect(shrunk).toBeGreaterThan(60);
    expect(copied).toBeGreaterThan(80);
  });

  it("4 -> 6 -> 3 shards, by the closed form", () => {
    const [nLayers, nExperts, segment] = [16, 64, 1_000_000];
    const [table, total] = [evenTable(nLayers, nExperts, [segment]), nLayers * nExperts];
    const four = first(table, 4);
    const grow = planChange(four, { shards: 6, replicas: 1, roomBytes: NO_LIMIT }, table);
    // 1,024 experts: at most 171 stay on each of the four old shards.
    expect(grow.bytes).toBe((total - 4 * Math.ceil(total / 6)) * segment);
    expect(grow.bytes).toBe(340_000_000);
    const six = checked(four, grow, table);
    expect(inUse(six)).toBe(6);
    const shrink = planChange(six, { shards: 3, replicas: 1, roomBytes: NO_LIMIT }, table);
    // Three of the six stay with all they have, 171 each.
    expect(shrink.bytes).toBe((total - 3 * 171) * segment);
    expect(shrink.bytes).toBe(511_000_000);
    const three = checked(six, shrink, table);
    expect([inUse(three), three.shards.length, three.epoch]).toEqual([3, 6, four.epoch + 2]);
    for (const change of [grow, shrink]) expect(change.leastBytes).toBe(change.bytes);
    const [up, down] = [movesOf(four, six, table), movesOf(six, three, table)];
    expect([up.bytes, up.storeBytes, up.shards.map(({ shard }) => shard)]).toEqual([grow.bytes, 0, [4, 5]]);
    expect([down.bytes, down.storeBytes, down.shards.length]).toEqual([shrink.bytes, 0, 3]);
    // In every layer the shards stay within one expert of each other.
    for (const plan of [four, six, three]) {
      for (let layer = 0; layer < nLayers; layer++) {
        const counts = plan.shards.map(({ slots }) => slots.filter((slot) => slot.layer === layer).length).filter((n, s) => plan.shards[s]!.slots.length > 0 || n > 0);
        expect(Math.max(...counts)).toBe(Math.ceil(nExperts / inUse(plan)));
      }
    }
  });

  it("4 -> 6 -> 3 shards with two copies each", () => {
    const [table, copies] = [evenTable(16, 64, [1_000_000]), 2 * 16 * 64];
    const four = first(table, 4, 2);
    const grow = planChange(four, { shards: 6, replicas: 2, roomBytes: NO_LIMIT }, table);
    const six = checked(four, grow, table);
    const shrink = planChange(six, { shards: 3, replicas: 2, roomBytes: NO_LIMIT }, table);
    checked(six, shrink, table);
    expect([grow.bytes, shrink.bytes]).toEqual([(copies - 4 * Math.ceil(copies / 6)) * 1_000_000, 1_022_000_000]);
    expect([grow.leastBytes, shrink.leastBytes]).toEqual([grow.bytes, shrink.bytes]);
  });

  it.each([[2, 3], [4, 8], [6, 9], [8, 6], [9, 3], [12, 4]])("%i -> %i shards of equal experts: the part that has to go, and no more", (n, m) => {
    const table = evenTable(3, 72, [50, 50]);
    const change = planChange(first(table, n), { shards: m, replicas: 1, roomBytes: NO_LIMIT }, table);
    expect(change.bytes).toBe((3 * 72 * 100 * Math.abs(m - n)) / Math.max(m, n));
    checked(first(table, n), change, table);
  });

  it("with two copies each 4 -> 6 loads a third of the copies, and a second copy loads all once", () => {
    const table = evenTable(2, 24, [100]);
    const [once, twice] = [first(table, 4), first(table, 4, 2)];
    expect(planChange(twice, { shards: 6, replicas: 2, roomBytes: NO_LIMIT }, table).bytes).toBe((2 * 24 * 100 * 2) / 3);
    expect(planChange(once, { shards: 4, replicas: 2, roomBytes: NO_LIMIT }, table).bytes).toBe(2 * 24 * 100);
    const fewer = planChange(twice, { shards: 4, replicas: 1, roomBytes: NO_LIMIT }, table);
    expect([fewer.bytes, fewer.plans.length]).toEqual([0, 1]);
    const hot = planChange(once, { shards: 4, replicas: (layer, expert) => (layer === 1 && expert === 7 ? 3 : 1), roomBytes: NO_LIMIT }, table);
    const holders = checked(once, hot, table).shards.filter(({ slots }) => slots.some((s) => s.layer === 1 && s.expert === 7));
    expect(holders.length).toBe(3);
  });

  it("changes nothing that is as wished, takes up numbers at rest again, and leaves alone what the stages hold", () => {
    const table = evenTable(2, 12, [10, 10]);
    const six = first(table, 6);
    expect(planChange(six, { shards: 6, replicas: 1, roomBytes: NO_LIMIT }, table)).toEqual({ plans: [], bytes: 0, leastBytes: 0 });
    const three = planChange(six, { shards: 3, replicas: 1, roomBytes: NO_LIMIT }, table).plans[0]!;
    const again = checked(three, planChange(three, { shards: 5, replicas: 1, roomBytes: NO_LIMIT }, table), table);
    expect([three.shards.length, again.shards.length, inUse(again)]).toEqual([6, 6, 5]);
    const elsewhere = planChange(three, { shards: 4, replicas: 1, region: "weur", roomBytes: NO_LIMIT }, table).plans[0]!;
    expect(elsewhere.shards.map(({ region }) => region)).toEqual([null, null, null, null, null, null, "weur"]);
    const own: PlannedRange = { layer: 0, expert: 0, segments: [0, 2] };
    const [stage] = six.stages;
    const staged = { ...EMPTY, stages: [{ ...stage!, slots: [own] }] };
    const planned = planChange(staged, { shards: 2, replicas: 1, roomBytes: NO_LIMIT }, table).plans[0]!;
    expect(planned.shards.flatMap(({ slots }) => slots).filter((slot) => slot.layer === 0 && slot.expert === 0)).toEqual([]);
    expect(planned.stages[0]!.slots).toEqual([own]);
  });

  it("keeps slices slices, and cuts what fits no shard in one piece", () => {
    const table = evenTable(1, 2, [30, 30, 30]);
    const cut = planChange(EMPTY, { shards: 3, replicas: 1, roomBytes: 60 }, table).plans[0]!;
    expect(cut.shards.map(({ slots }) => namesOf(slots).length)).toEqual([2, 2, 2]);
    const six = planChange(cut, { shards: 6, replicas: 1, roomBytes: 1000 }, table);
    expect([six.bytes, checked(cut, six, table).shards.map(({ slots }) => namesOf(slots).length)]).toEqual([90, [1, 1, 1, 1, 1, 1]]);
  });

  it("refuses what cannot be, with the numbers", () => {
    const table = evenTable(1, 4, [10]);
    expect(() => planChange(EMPTY, { shards: 0, replicas: 1, roomBytes: 1 }, table)).toThrow("A change to 0 shards was asked for; expected 1 to 65535.");
    const whole: FleetPlan = { ...EMPTY, stages: EMPTY.stages.map((stage) => ({ ...stage, slots: table.map(({ layer, expert, segmentBytes }) => ({ layer, expert, segments: [0, segmentBytes.length] as const })) })) };
    for (const shards of [0, 2]) expect(() => planChange(whole, { shards, replicas: 1, roomBytes: NO_LIMIT }, table)).toThrow(/No expert of pack .* the plan's stages hold them all, and stages stay as they are/);
    expect(() => planChange(EMPTY, { shards: 2, replicas: 1, roomBytes: NO_LIMIT }, [])).toThrow(/it has none/);
    expect(() => planChange(EMPTY, { shards: 2, replicas: 3, roomBytes: 100 }, table)).toThrow("3 copies of layer 0, expert 0 on 2 shards were asked for; expected 1 to 2, each on another shard.");
    expect(() => planChange(EMPTY, { shards: 2, replicas: 1, roomBytes: 19 }, table)).toThrow("Shard 0 would hold 20 bytes; it has room for 19.");
    expect(() => planChange(fleetOf([{ region: null, slots: [{ layer: 9, expert: 0, segments: [0, 1] }] }]), { shards: 2, replicas: 1, roomBytes: 99 }, table)).toThrow("the expert table has no such expert");
  });
});

describe("a placement somebody made", () => {
  /** Parts in another order are the same placement. */
  const best = (from: FleetPlan, parts: readonly PlannedShard[], table: readonly PlannedExpert[]): number => {
    const bytes = bytesByName(table);
    const numbers = Array.from({ length: from.shards.length + parts.length }, (_, i) => i);
    let least = Infinity;
    const go = (i: number, used: readonly number[], sum: number): void => {
      if (i === parts.length) { least = Math.min(least, sum); return; }
      for (const number of numbers) {
        if (used.includes(number) || (from.shards[number] !== undefined && from.shards[number]!.region !== parts[i]!.region)) continue;
        const there = new Set(namesOf(from.shards[number]?.slots ?? []));
        go(i + 1, [...used, number], sum + namesOf(parts[i]!.slots).reduce((s, name) => s + (there.has(name) ? 0 : bytes.get(name)!), 0));
      }
    };
    go(0, [], 0);
    return least;
  };

  it("goes to the numbers that load least, as trying all does", () => {
    const random = seededNumbers(5);
    const upTo = (n: number): number => Math.floor(random() * n);
    for (let round = 0; round < 80; round++) {
      const table = evenTable(1, 6, [3, 2]).map((e) => ({ ...e, segmentBytes: [1 + upTo(9), 1 + upTo(9)] }));
      const drawn = (n: number): PlannedShard[] => {
        const slots: PlannedRange[][] = Array.from({ length: n }, () => []);
        for (const { expert } of table) for (const segment of [0, 1]) for (const s of new Set([upTo(n), upTo(n)])) slots[s]!.push({ layer: 0, expert, segments: [segment, segment + 1] });
        return slots.map((ranges, s) => ({ slots: ranges, region: s % 3 === 2 ? "weur" : null }));
      };
      const [from, parts] = [fleetOf(drawn(1 + upTo(4)), 7), drawn(1 + upTo(3))];
      const change = planChange(from, { parts, roomBytes: NO_LIMIT }, table);
      expect(change.bytes, `round ${round}`).toBe(best(from, parts.filter(({ slots }) => slots.length > 0), table));
      const to = change.plans.length === 0 ? from : checked(from, change, table);
      const sorted = (shards: readonly PlannedShard[]): string[] => shards.filter(({ slots }) => slots.length > 0).map(({ slots, region }) => `${region} ${namesOf(slots).sort().join()}`).sort();
      expect(sorted(to.shards)).toEqual(sorted(parts));
      from.shards.forEach(({ region }, s) => expect(to.shards[s]!.region).toBe(region));
    }
  });

  it("is refused where it holds not all", () => {
    const table = evenTable(1, 2, [5, 5]);
    const parts: PlannedShard[] = [{ region: null, slots: [{ layer: 0, expert: 0, segments: [0, 2] }, { layer: 0, expert: 1, segments: [0, 1] }] }];
    expect(() => planChange(EMPTY, { parts, roomBytes: NO_LIMIT }, table)).toThrow("The placement wished for has nobody for segment 1 of layer 0, expert 1.");
  });
});

describe("room during the change", () => {
  it("makes a sequence where old and new do not fit together, with no byte more", () => {
    const random = seededNumbers(11);
    let sequences = 0;
    for (let round = 0; round < 60; round++) {
      const n = 2 + Math.floor(random() * 3);
      const table = evenTable(1, 4 * n, [10]);
      // From one random even placement to another; room for even parts and one more.
      const shuffled = (): PlannedShard[] => {
        const order = table.map((_, e) => ({ e, at: random() })).sort((a, b) => a.at - b.at);
        return Array.from({ length: n }, (_, s) => ({ region: null, slots: order.slice(4 * s, 4 * s + 4).map(({ e }) => ({ layer: 0, expert: e, segments: [0, 1] as const })) }));
      };
      const from = fleetOf(shuffled());
      const change = planChange(from, { parts: shuffled(), roomBytes: 50 }, table);
      expect(change.bytes).toBe(change.leastBytes);
      checked(from, change, table, 50);
      if (change.plans.length > 1) sequences++;
    }
    expect(sequences).toBeGreaterThan(30);
  });

  it("goes round over a third shard where all that receive are full, and refuses where there is none", () => {
    const table = evenTable(1, 4, [10]);
    const slot = (expert: number): PlannedRange => ({ layer: 0, expert, segments: [0, 1] });
    const [a, b] = [[slot(0), slot(1)], [slot(2), slot(3)]];
    // Whichever part goes to which number, each shard gives one expert and takes one.
    const parts = [{ region: null, slots: [slot(0), slot(2)] }, { region: null, slots: [slot(1), slot(3)] }];
    const full = fleetOf([{ region: null, slots: a }, { region: null, slots: b }]);
    expect(() => planChange(full, { parts, roomBytes: 20 }, table)).toThrow(/has room for 20 bytes and holds 20; it is to load 10 more, .* Room for one expert more on each shard would do\./);
    const spare = fleetOf([...full.shards, { region: null, slots: [] }]);
    const change = planChange(spare, { parts, roomBytes: 20 }, table);
    expect([change.leastBytes, change.bytes]).toEqual([20, 30]);
    const to = checked(spare, change, table, 20);
    expect(to.shards[2]!.slots).toEqual([]);
  });

  it("keeps two holders of what had two and is to have two, and experts in one piece, on the way too", () => {
    const random = seededNumbers(12);
    const table = evenTable(1, 12, [4, 6]);
    // Two copies each, six experts on each of four shards; room for seven.
    const drawn = (): PlannedShard[] => {
      const order = table.map((_, e) => ({ e, at: random() })).sort((a, b) => a.at - b.at).map(({ e }) => e);
      return Array.from({ length: 4 }, (_, s) => ({ region: null, slots: order.filter((_, i) => Math.floor(i / 3) === s || Math.floor(i / 3) === (s + 1) % 4).map((e) => ({ layer: 0, expert: e, segments: [0, 2] as const })) }));
    };
    let sequences = 0;
    for (let round = 0; round < 40; round++) {
      const from = fleetOf(drawn());
      const change = planChange(from, { parts: drawn(), roomBytes: 70 }, table);
      checked(from, change, table, 70);
      expect(change.bytes).toBe(change.leastBytes);
      for (const plan of change.plans) {
        for (const { expert } of table) expect(plan.shards.filter(({ slots }) => slots.some((s) => s.expert === expert)).length).toBeGreaterThanOrEqual(2);
        for (const { segments } of plan.shards.flatMap(({ slots }) => slots)) expect(segments).toEqual([0, 2]);
      }
      if (change.plans.length > 1) sequences++;
    }
    expect(sequences).toBeGreaterThan(20);
  });
});

describe("what is loaded from whom", () => {
  it("names one donor for each range, in the region where there is one, the load shared, and the store for the rest", () => {
    const table = evenTable(1, 5, [10, 10]);
    const whole = (expert: number): PlannedRange => ({ layer: 0, expert, segments: [0, 2] });
    const from = fleetOf([
      { region: "weur", slots: [whole(0), whole(1), whole(2), whole(3)] }, { region: null, slots: [whole(0), whole(1)] }, { region: null, slots: [whole(0), whole(1)] },
    ]);
    const to = fleetOf([...from.shards, { region: null, slots: [whole(0), whole(1), whole(2), { layer: 0, expert: 4, segments: [0, 1] }] }], 2);
    expect(movesOf(from, to, table)).toEqual({
      bytes: 70, storeBytes: 10, shards: [{
        shard: 3, bytes: 70, donatedBytes: 60, load: [whole(0), whole(1), whole(2), { layer: 0, expert: 4, segments: [0, 1] }],
        donors: [
          { shard: 0, slots: [whole(2)] },
          { shard: 1, slots: [{ layer: 0, expert: 0, segments: [0, 1] }, { layer: 0, expert: 1, segments: [0, 1] }] },
          { shard: 2, slots: [{ layer: 0, expert: 0, segments: [1, 2] }, { layer: 0, expert: 1, segments: [1, 2] }] },
        ],
      }],
    });
    expect(movesOf(to, from, table)).toEqual({ shards: [], bytes: 0, storeBytes: 0 });
  });
});
