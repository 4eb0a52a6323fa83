// When copies come and go: oscillating, drifting, constant and wild loads never make a plan flap.

import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { DecayedLoad } from "../../../fleet/decayed-load.ts";
import { decideReplicas, type PolicySlot, type ReplicaPolicy, type ReplicaState, restingState } from "../../../fleet/replica-policy.ts";

const POLICY: ReplicaPolicy = { enter: 2, leave: 1.2, budgetBytes: 60, changeBytes: 40, coolDownMs: 600, settleMs: 100, leastChoices: 50, leastCopies: 1, mostCopies: 4 };
const slots = (nLayers: number, nExperts: number): PolicySlot[] => Array.from({ length: nLayers * nExperts }, (_, i) => ({ layer: Math.floor(i / nExperts), bytes: 10 }));

interface Run {
  readonly states: readonly ReplicaState[];
  /** Every change of a slot. */
  readonly changes: readonly { readonly slot: number; readonly atMs: number; readonly by: number }[];
  /** Times at which the plan changed. */
  readonly epochs: readonly number[];
}

/** One decision every `everyMs`, each on the loads of its moment. */
function decide(of: readonly PolicySlot[], loads: readonly ArrayLike<number>[], everyMs: number, policy = POLICY, start = restingState(of.map(() => policy.leastCopies))): Run {
  const states = [start];
  const changes: { slot: number; atMs: number; by: number }[] = [];
  const epochs: number[] = [];
  loads.forEach((load, n) => {
    const [before, atMs] = [states.at(-1)!, n * everyMs];
    const after = decideReplicas(of, load, before, atMs, policy);
    after.copies.forEach((copies, slot) => { if (copies !== before.copies[slot]) changes.push({ slot, atMs, by: copies - before.copies[slot]! }); });
    if (after !== before) epochs.push(atMs);
    states.push(after);
  });
  return { states, changes, epochs };
}

/** Holds on any loads whatever. */
function expectRest({ states, changes, epochs }: Run, of: readonly PolicySlot[], steps: number, everyMs: number, policy = POLICY): void {
  expect(Math.max(...states.map(({ copies }) => copies.reduce((sum, n, i) => sum + (n - policy.leastCopies) * of[i]!.bytes, 0)))).toBeLessThanOrEqual(policy.budgetBytes);
  expect(Math.min(...states.flatMap(({ copies }) => copies))).toBeGreaterThanOrEqual(policy.leastCopies);
  expect(Math.max(...states.flatMap(({ copies }) => copies))).toBeLessThanOrEqual(policy.mostCopies);
  for (let i = 1; i < epochs.length; i++) expect(epochs[i]! - epochs[i - 1]!).toBeGreaterThanOrEqual(policy.settleMs);
  for (const at of epochs) expect(changes.filter(({ atMs, by }) => atMs === at && by > 0).reduce((sum, { slot, by }) => sum + by * of[slot]!.bytes, 0)).toBeLessThanOrEqual(policy.changeBytes);
  of.forEach((_, slot) => {
    const own = changes.filter((change) => change.slot === slot);
    for (let i = 1; i < own.length; i++) expect(own[i]!.atMs - own[i - 1]!.atMs).toBeGreaterThanOrEqual(policy.coolDownMs);
    expect(own.length).toBeLessThanOrEqual(1 + Math.floor(((steps - 1) * everyMs) / policy.coolDownMs));
  });
}

const count = fc.integer({ min: 0, max: 2000 });

describe("the policy", () => {
  it("holds its budget, rests and bounds on any loads", () => {
    let changed = 0;
    const peaked = fc.oneof({ weight: 3, arbitrary: fc.integer({ min: 0, max: 60 }) }, fc.integer({ min: 2000, max: 9000 }));
    fc.assert(fc.property(fc.array(fc.array(peaked, { minLength: 16, maxLength: 16 }), { minLength: 2, maxLength: 40 }), fc.integer({ min: 30, max: 400 }), (loads, everyMs) => {
      const of = slots(2, 8);
      const run = decide(of, loads, everyMs);
      changed += run.changes.length;
      expectRest(run, of, loads.length, everyMs);
    }), { seed: 1, numRuns: 300 });
    expect(changed).toBeGreaterThan(1000);
  });

  it("comes to rest on a constant load, each slot changed at most once where the budget is not short, never added to and retired", () => {
    fc.assert(fc.property(fc.array(count, { minLength: 8, maxLength: 8 }), fc.array(fc.integer({ min: 1, max: 4 }), { minLength: 8, maxLength: 8 }), (load, copies) => {
      const of = slots(1, 8);
      const wide = { ...POLICY, budgetBytes: 1e6, changeBytes: 1e6 };
      const { states, changes } = decide(of, Array.from({ length: 40 }, () => load), 100, wide, restingState(copies));
      expect(new Set(changes.map(({ slot }) => slot)).size).toBe(changes.length);
      for (const state of states.slice(2)) expect(state).toBe(states[1]);
      const narrow = decide(of, Array.from({ length: 60 }, () => load), 100);
      for (const state of narrow.states.slice(50)) expect(state).toBe(narrow.states[50]);
      of.forEach((_, slot) => expect(narrow.changes.filter((c) => c.slot === slot).every(({ by }) => by > 0)).toBe(true));
    }), { seed: 2, numRuns: 300 });
  });

  it("does nothing at loads that swing between its two bounds, and little at any that swing faster than counts fade", () => {
    fc.assert(fc.property(fc.integer({ min: 1, max: 6 }), fc.integer({ min: 0, max: 7 }), fc.integer({ min: 0, max: 7 }), fc.integer({ min: 100, max: 4000 }), (period, a, b, peak) => {
      const of = slots(1, 8);
      const faded = new DecayedLoad(8, { windowMs: 100, keep: 0.97 });
      const loads = Array.from({ length: 300 }, (_, n) => {
        const hot = Math.floor(n / period) % 2 === 0 ? a : b;
        faded.add(Array.from({ length: 8 }, (_, e) => (e === hot ? peak : 40)), n * 100);
        return faded.at(n * 100);
      });
      const run = decide(of, loads, 100, { ...POLICY, coolDownMs: 1000 });
      expectRest(run, of, 300, 100, { ...POLICY, coolDownMs: 1000 });
      // Both are hot all along as far as faded counts go: at most the first choice, and one that takes it back or goes on, for each of the two.
      expect(run.changes.length).toBeLessThanOrEqual(4);
      expect(run.changes.filter(({ atMs }) => atMs > 15_000)).toEqual([]);
    }), { seed: 3, numRuns: 150 });
    const swing = Array.from({ length: 100 }, (_, n) => (n % 2 === 0 ? [195, 70, 70, 65] : [125, 90, 95, 90]));
    expect(decide(slots(1, 4), swing, 1000).changes).toEqual([]); // 1.95 and 1.25 times the mean
  });

  it("follows a load that drifts: the one that is hot has copies, those it left lose them", () => {
    const of = slots(1, 8);
    const faded = new DecayedLoad(8, { windowMs: 100, keep: 0.9 });
    const loads = Array.from({ length: 400 }, (_, n) => {
      faded.add(Array.from({ length: 8 }, (_, e) => (e === Math.floor(n / 100) ? 500 : 40)), n * 100);
      return faded.at(n * 100);
    });
    const run = decide(of, loads, 100);
    expectRest(run, of, 400, 100);
    for (const phase of [0, 1, 2, 3]) {
      const { copies } = run.states[phase * 100 + 99]!;
      expect(copies[phase]).toBeGreaterThan(1);
      expect(copies.filter((n) => n > 1).length).toBe(1);
    }
    expect(run.changes.length).toBeLessThanOrEqual(4 * 4);
  });

  it("waits for enough choices, and refuses a band that could flap", () => {
    const of = slots(1, 4);
    expect(decide(of, [[40, 3, 3, 3]], 100).changes).toEqual([]);
    expect(decide(of, [[41, 3, 3, 3]], 100).changes).toEqual([{ slot: 0, atMs: 0, by: 1 }]);
    expect(() => decide(of, [[1, 1, 1, 1]], 100, { ...POLICY, leave: 2 })).toThrow("Copies were to be added above 2 times the mean load and retired below 2; expected the second to be above 0 and below the first.");
    expect(() => decideReplicas(of, [1], restingState([1, 1, 1, 1]), 0, POLICY)).toThrow("1 loads and 4 counts of copies were given for 4 slots.");
  });
});

describe("counts that fade", () => {
  it("lose a part with every window, whatever the calls between", () => {
    const load = new DecayedLoad(2, { windowMs: 10, keep: 0.5 });
    load.add([8, 0], 5);
    load.add([0, 4], 9);
    expect([...load.at(9)]).toEqual([8, 4]);
    expect([...load.at(10)]).toEqual([4, 2]);
    load.add([1, 0], 35);
    expect([...load.at(35)]).toEqual([2, 0.5]);
    expect([...load.at(20)]).toEqual([2, 0.5]);
    expect([...load.at(36)]).toEqual([2, 0.5]);
    expect([...load.at(1e9)]).toEqual([0, 0]);
    expect(() => load.add([1], 40)).toThrow("1 counts were given; expected 2.");
    expect(() => new DecayedLoad(1, { windowMs: 10, keep: 1 })).toThrow("Counts were to keep 1 of themselves every 10 ms");
  });
});
