// Copies of hot experts: counts and packing against trying everything, the stated bound, room, what is held already.

import { describe, expect, it } from "vitest";
import { planChange } from "../../../fleet/min-move.ts";
import { largestLoads, packCopies, partsOf, replicaCounts, type ReplicaSlot, replicaSlots } from "../../../fleet/replicas.ts";
import { seededNumbers } from "../../../model/kernel-case.ts";
import { evenTable, fleetOf, subsets } from "./change-cases.ts";

const slot = (expert: number, load: number, bytes = 10, layer = 0): ReplicaSlot => ({ layer, expert, segments: [0, 1], bytes, load });

/** All counts from 1 to `most` with `extra` copies more than one each, at most. */
function everyCount(n: number, extra: number, most: number): number[][] {
  if (n === 0) return [[]];
  return Array.from({ length: Math.min(extra, most - 1) + 1 }, (_, more) => everyCount(n - 1, extra - more, most).map((rest) => [1 + more, ...rest])).flat();
}

/** The smallest largest load of any packing of these counts. */
function bestPacking(slots: readonly ReplicaSlot[], counts: readonly number[], nShards: number, limit = Infinity): number {
  const load = new Array<number>(nShards).fill(0);
  let best = limit;
  const go = (i: number): void => {
    if (Math.max(...load) >= best) return;
    if (i === slots.length) { best = Math.max(...load); return; }
    for (const set of subsets(nShards, counts[i]!)) {
      const share = slots[i]!.load / counts[i]!;
      for (const s of set) load[s]! += share;
      go(i + 1);
      for (const s of set) load[s]! -= share;
    }
  };
  go(0);
  return best;
}

describe("copies by load", () => {
  it("on 150 small layers: the best largest load per copy, and a largest load of a shard within the bound of the best of all", () => {
    const random = seededNumbers(3);
    let [worst, total, exact] = [1, 0, 0];
    for (let round = 0; round < 150; round++) {
      const [n, nShards, extra] = [1 + Math.floor(random() * 5), 2 + Math.floor(random() * 2), Math.floor(random() * 4)];
      const slots = Array.from({ length: n }, (_, e) => slot(e, 1 + Math.floor(random() * 4) * Math.floor(random() * 60)));
      const counts = replicaCounts(slots, { nShards, budgetBytes: extra * 10 });
      const all = everyCount(n, extra, nShards);
      const perCopy = (of: readonly number[]): number => Math.max(...slots.map(({ load }, i) => load / of[i]!));
      expect(perCopy(counts), `round ${round}`).toBe(Math.min(...all.map(perCopy)));
      const holders = packCopies(slots, counts, { nShards, roomBytes: 1e9 });
      holders.forEach((shards, i) => expect(new Set(shards).size).toBe(counts[i]!));
      const found = largestLoads(slots, holders, nShards).get(0)!;
      const sum = slots.reduce((s, { load }) => s + load, 0);
      expect(found).toBeLessThanOrEqual(sum / nShards + (1 - 1 / nShards) * perCopy(counts) + 1e-9);
      const best = all.reduce((least, of) => bestPacking(slots, of, nShards, least), found + 1e-9);
      expect(found / best).toBeLessThanOrEqual(2 - 1 / nShards);
      worst = Math.max(worst, found / best);
      total += found / best;
      if (found <= best * (1 + 1e-9)) exact++;
    }
    console.log(`largest load over the best: mean ${(total / 150).toFixed(4)}, worst ${worst.toFixed(4)}, equal in ${exact} of 150`);
    expect(total / 150).toBeLessThan(1.05);
  });

  it("goes to the hottest first, within the budget, never more than there are shards, and not to what nobody asks", () => {
    const slots = [slot(0, 90), slot(1, 20), slot(2, 40, 1000), slot(3, 0)];
    expect(replicaCounts(slots, { nShards: 3, budgetBytes: 25 })).toEqual([3, 1, 1, 1]);
    expect(replicaCounts(slots, { nShards: 3, budgetBytes: 1e9 })).toEqual([3, 3, 3, 1]);
    expect(replicaCounts(slots, { nShards: 3, budgetBytes: 0, least: 2 })).toEqual([2, 2, 2, 2]);
    expect(() => replicaCounts(slots, { nShards: 3, budgetBytes: 0, least: 4 })).toThrow("At least 4 copies of each expert on 3 shards were asked for; expected 1 to 3");
  });
});

describe("packing", () => {
  it("leaves what lies where it lies, drops from the fullest, and leaves out copies without room", () => {
    const slots = [slot(0, 60), slot(1, 25), slot(2, 30), slot(3, 20)];
    // Expert 1 keeps one of two copies that cost alike, the hot one gets a second where least is to do; and where two copies are not alike the fuller shard's goes; a third of the hot one has no room.
    expect(packCopies(slots, [2, 1, 1, 1], { nShards: 3, roomBytes: 20, held: [[0], [0, 1], [1], [2]] })).toEqual([[0, 2], [0], [1], [2]]);
    expect(packCopies(slots, [3, 1, 1, 1], { nShards: 3, roomBytes: 20, held: [[0], [1, 2], [1], [2]] })).toEqual([[0, 1], [2], [1], [2]]);
    expect(packCopies([slot(0, 9), slot(1, 5)], [2, 2], { nShards: 2, roomBytes: 10 })).toEqual([[0], [1]]);
  });

  it("refuses where one has no room at all", () => {
    expect(() => packCopies([slot(0, 9), slot(1, 5), slot(2, 3)], [2, 1, 1], { nShards: 2, roomBytes: 10 })).toThrow("Layer 0, expert 2 has 10 bytes and fits none of 2 shards with room for 10 each; the experts have 30 bytes.");
  });

  it("balances each layer by itself", () => {
    const slots = [slot(0, 50), slot(1, 10), slot(0, 50, 10, 1), slot(1, 10, 10, 1)];
    expect(packCopies(slots, [1, 1, 1, 1], { nShards: 2, roomBytes: 1e9 })).toEqual([[0], [1], [1], [0]]);
  });
});

describe("a plan's slots", () => {
  const table = evenTable(1, 3, [30, 10]);
  const shards = [
    { region: null, slots: [{ layer: 0, expert: 0, segments: [0, 2] as const }, { layer: 0, expert: 1, segments: [0, 1] as const }] },
    { region: "weur", slots: [{ layer: 0, expert: 0, segments: [0, 2] as const }, { layer: 0, expert: 1, segments: [1, 2] as const }] },
  ];

  it("are whole experts, or segments with their part of the load where they lie apart; a stage's own are not among them", () => {
    expect(replicaSlots(shards, table, (_, expert) => 100 + expert)).toEqual({
      held: [[0, 1], [0], [1]],
      slots: [
        { layer: 0, expert: 0, segments: [0, 2], bytes: 40, load: 100 }, { layer: 0, expert: 1, segments: [0, 1], bytes: 30, load: 75.75 }, { layer: 0, expert: 1, segments: [1, 2], bytes: 10, load: 25.25 },
      ],
    });
  });

  it("become a placement that a change loads the new copies of, and nothing else", () => {
    const from = fleetOf(Array.from({ length: 4 }, (_, s) => ({ region: null, slots: [0, 1, 2, 3].map((e) => ({ layer: 0, expert: 4 * s + e, segments: [0, 2] as const })) })));
    const all = evenTable(1, 16, [30, 10]);
    const { slots, held } = replicaSlots(from.shards, all, (_, expert) => (expert === 5 ? 900 : expert === 6 ? 300 : 10));
    const counts = replicaCounts(slots, { nShards: 4, budgetBytes: 3 * 40 });
    expect(counts.flatMap((n, e) => (n > 1 ? [[e, n]] : []))).toEqual([[5, 4]]);
    const holders = packCopies(slots, counts, { nShards: 4, roomBytes: 1000, held });
    const change = planChange(from, { parts: partsOf(slots, holders, from.shards.map(({ region }) => region)), roomBytes: 1000 }, all);
    expect([change.bytes, change.plans.length]).toEqual([120, 1]);
    expect(largestLoads(slots, holders, 4).get(0)).toBeLessThan(largestLoads(slots, held, 4).get(0)! / 2);
    expect(change.plans[0]!.shards.map(({ slots: ranges }) => ranges.length)).toEqual([5, 4, 5, 5]);
  });
});
