// Who computes what where several shards hold it: by the state of the lines, the load of the round and the plan, and by nothing else.
// Out of scope: what happens to a frame once it is sent (client-faults.test.ts, client-hedge.test.ts).

import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { AT_REST, LATE, LOST, READY, ReplicaChoice, type Readiness } from "../../../durable/replica-choice.ts";
import type { PlannedRange } from "../../../fleet/plan.ts";
import type { ExpertBatch } from "../../../model/experts.ts";
import { seededNumbers } from "../../../model/kernel-case.ts";

const slot = (expert: number, first = 0, end = 1, layer = 0): PlannedRange => ({ layer, expert, segments: [first, end] });

function lines(...readiness: Readiness[]): { lines: { readiness: Readiness; wake(): void }[]; woken: number[] } {
  const woken: number[] = [];
  return { woken, lines: readiness.map((of, part) => ({ readiness: of, wake: () => void woken.push(part) })) };
}

/** Parts of experts 0, 1, ... with so many tokens each, one segment unless said otherwise. */
function chosen(choice: ReplicaChoice, tokens: number[], segments = tokens.map(() => 1), layer = 0): number[][] {
  choice.startRound!(layer, Uint32Array.from(tokens), segments);
  return tokens.map((n, expert) => (n === 0 ? [] : Array.from({ length: segments[expert]! }, (_, segment) => choice.partOf(layer, expert, segment))));
}

describe("the holder of a slot", () => {
  it("is no choice where there is one, and a slot that nobody holds is refused", () => {
    const choice = new ReplicaChoice([[slot(0)], [slot(1, 0, 2)]], lines(READY, READY).lines);
    expect([choice.startRound, choice.hasReplicas, choice.partOf(0, 0, 0), choice.partOf(0, 1, 1)]).toEqual([undefined, false, 0, 1]);
    expect(() => choice.partOf(0, 2, 0)).toThrow("The plan has no slot for layer 0, expert 2, segment 0.");
    expect(() => choice.partOf(1, 0, 0)).toThrow("The plan has no slot for layer 1, expert 0, segment 0.");
  });

  it("is one that is ready, before one that is late, at rest, or lost; those at rest are woken", () => {
    const everywhere = [[slot(0)], [slot(0)], [slot(0)], [slot(0)]];
    const pick = (...readiness: Readiness[]): [number, number[]] => {
      const { lines: of, woken } = lines(...readiness);
      return [chosen(new ReplicaChoice(everywhere, of), [5])[0]![0]!, woken];
    };
    expect(pick(LOST, AT_REST, LATE, READY)).toEqual([3, [1]]);
    expect(pick(LOST, AT_REST, LATE, LATE)).toEqual([2, [1]]);
    expect(pick(LOST, AT_REST, LOST, AT_REST)).toEqual([1, [1, 3]]);
    expect(pick(LOST, LOST, LOST, LOST)).toEqual([0, []]);
  });

  it("wakes nobody who holds nothing", () => {
    const { lines: of, woken } = lines(READY, READY, AT_REST);
    chosen(new ReplicaChoice([[slot(0)], [slot(0)], []], of), [5]);
    expect(woken).toEqual([]);
  });

  it("has the least to do in the round, what others cannot do counted first", () => {
    // Expert 2 is on part 0 alone, so experts 0 and 1 go to part 1, though they come first.
    const first = (tokens: number[]): number[][] => chosen(new ReplicaChoice([[slot(0), slot(1), slot(2)], [slot(0), slot(1)]], lines(READY, READY).lines), tokens);
    expect(first([3, 4, 9])).toEqual([[1], [1], [0]]);
    expect(first([30, 4, 9])).toEqual([[1], [0], [0]]);
    // Two hot experts on both share them.
    expect(first([20, 20, 0])).toEqual([[0], [1], []]);
  });

  it("gets a frame anyway where rows are nearly equal: another frame costs as much as two rows", () => {
    const first = (tokens: number[]): number[][] => chosen(new ReplicaChoice([[slot(0), slot(1)], [slot(0), slot(1)]], lines(READY, READY).lines), tokens);
    expect(first([1, 1])).toEqual([[0], [0]]);
    expect(first([2, 1])).toEqual([[0], [0]]);
    expect(first([3, 1])).toEqual([[0], [1]]);
  });

  it("takes turns among equals, in every layer apart, and asks no more of them for it", () => {
    const all = (layer: number): PlannedRange[] => [slot(0, 0, 1, layer), slot(1, 0, 1, layer)];
    const choice = new ReplicaChoice([[...all(0), ...all(1)], [...all(0), ...all(1)]], lines(READY, READY).lines);
    const turns = Array.from({ length: 4 }, () => [chosen(choice, [1, 1], [1, 1], 0), chosen(choice, [1, 1], [1, 1], 1)]);
    expect(turns).toEqual([0, 1, 0, 1].map((part) => [[[part], [part]], [[1 - part], [1 - part]]]));
  });

  it("loads no shard much above the mean: steps of single tokens, two copies of everything, shards in a ring", () => {
    const [nShards, nExperts, random] = [4, 8, seededNumbers(20261122)];
    const plan = Array.from({ length: nShards }, (_, shard) => [0, 1].flatMap((back) => [0, 1].map((i) => slot(2 * ((shard + nShards - back) % nShards) + i))));
    const choice = new ReplicaChoice(plan, lines(READY, READY, READY, READY).lines);
    const asked = new Float64Array(nShards);
    for (let step = 0; step < 2000; step++) {
      const pair = new Set([Math.floor(random() * nExperts), Math.floor(random() * nExperts)]);
      for (const [part] of chosen(choice, Array.from({ length: nExperts }, (_, expert) => (pair.has(expert) ? 1 : 0)))) if (part !== undefined) asked[part]!++;
    }
    expect(Math.max(...asked) / (asked.reduce((a, b) => a + b) / nShards)).toBeLessThan(1.2);
  });

  it("is the caller itself without any frame", () => {
    // Part 1 has no line: it is this isolate.
    const choice = new ReplicaChoice([[slot(0)], [slot(0)]], lines(READY).lines);
    expect(chosen(choice, [1])).toEqual([[1]]);
  });

  it("is the same for all segments of an expert where one holds them", () => {
    const choice = new ReplicaChoice([[slot(0, 0, 2), slot(1, 0, 1)], [slot(0, 0, 2), slot(1, 1, 2)]], lines(READY, READY).lines);
    expect(chosen(choice, [50, 0], [2, 2])).toEqual([[0, 0], []]);
    expect(chosen(choice, [50, 0], [2, 2])).toEqual([[1, 1], []]);
    expect(chosen(choice, [50, 1], [2, 2])).toEqual([[0, 0], [0, 1]]);
  });

  it("is always a holder, among the readiest, and the same for the same state (200 random plans)", () => {
    fc.assert(fc.property(fc.array(fc.array(fc.nat(5), { maxLength: 6 }), { minLength: 1, maxLength: 5 }), fc.array(fc.constantFrom(READY, LATE, AT_REST, LOST), { minLength: 5, maxLength: 5 }), fc.array(fc.nat(40), { minLength: 6, maxLength: 6 }), (held, readiness, drawn) => {
      const parts = held.map((experts) => [...new Set(experts)].sort().map((expert) => slot(expert)));
      const holders = (expert: number): number[] => parts.flatMap((ranges, part) => (ranges.some((range) => range.expert === expert) ? [part] : []));
      const tokens = drawn.map((n, expert) => (holders(expert).length === 0 ? 0 : n));
      const choice = new ReplicaChoice(parts, lines(...readiness.slice(0, parts.length)).lines);
      if (!choice.hasReplicas) return;
      const first = chosen(choice, tokens);
      expect(chosen(new ReplicaChoice(parts, lines(...readiness.slice(0, parts.length)).lines), tokens)).toEqual(first);
      first.forEach(([part], expert) => {
        if (part === undefined) return;
        const best = Math.min(...holders(expert).map((of) => readiness[of]!));
        expect(holders(expert)).toContain(part);
        expect(readiness[part]).toBe(best);
      });
    }), { numRuns: 200, seed: 20261122 });
  });
});

describe("the groups of a frame that needs others", () => {
  // Groups 0, 1, 2 are experts 0, 1, 2 with so many tokens.
  const batch = (...tokens: number[]): ExpertBatch => ({
    layer: 0, groupExpert: Uint32Array.from(tokens.keys()), groupSegment: new Uint32Array(tokens.length), groupStart: Uint32Array.from([0, ...tokens.map((_, i) => tokens.slice(0, i + 1).reduce((a, b) => a + b))]),
  }) as unknown as ExpertBatch;
  const plan = [[slot(0), slot(1), slot(2)], [slot(0), slot(1)], [slot(1), slot(2)]];
  const choice = new ReplicaChoice(plan, lines(READY, READY, READY).lines);
  const regrouped = (tokens: number[], without: number, takers: number[]): unknown =>
    choice.regroup(batch(...tokens), [...tokens.keys()], without, (part) => takers.includes(part))?.map(({ part, groups }) => [part, [...groups]]) ?? null;

  it("go to as few others as hold them, ascending", () => {
    expect(regrouped([1, 1, 1], 0, [1, 2])).toEqual([[1, [0, 1]], [2, [2]]]);
    expect(regrouped([9, 1, 9], 0, [1, 2])).toEqual([[1, [0]], [2, [1, 2]]]);
    expect(regrouped([1, 1], 2, [0, 1])).toEqual([[0, [0, 1]]]);
  });

  it("stay where they are if one of them has nobody else, or that one takes nothing", () => {
    expect(regrouped([1, 1, 1], 0, [1])).toBeNull();
    expect(regrouped([1, 1, 1], 0, [])).toBeNull();
    expect(regrouped([1], 0, [0, 2])).toBeNull();
  });

  it("never go to the caller itself: it has no frames to answer", () => {
    const own = new ReplicaChoice([[slot(0)], [slot(0)]], lines(READY).lines);
    expect(own.regroup(batch(1), [0], 0, () => true)).toBeNull();
  });
});
