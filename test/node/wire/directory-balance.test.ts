// Replicas by load as the directory decides them: which copies come and go, within which budget, and how long it rests. Out of scope: the policy's laws
// (test/node/fleet/replica-policy.test.ts) and putting a plan in force (directory-core.test.ts).

import { describe, expect, it } from "vitest";
import { loadBalance } from "../../../durable/directory-balance.ts";
import type { FleetPlan } from "../../../fleet/fleet-plan.ts";
import { directoryPlan } from "./balance-fleet.ts";

const { plan, table, BYTES, N_EXPERTS } = directoryPlan;
const MINUTE_MS = 60_000, NOW_MS = 1e9;
const copies = ({ shards }: FleetPlan): number[] => Array.from({ length: N_EXPERTS }, (_, expert) => shards.filter(({ slots }) => slots.some((slot) => slot.expert === expert)).length);
const balance = (budgetBytes: number, roomBytes = 100 * BYTES) => loadBalance({ budgetBytes, pack: async () => ({ table, roomBytes }) });
/** Choices of the one layer: expert 0 has `hot` of them, expert 1 `warm`, the others 1,000 each. */
const load = (hot: number, warm = 1_000): number[][] => [Array.from({ length: N_EXPERTS }, (_, expert) => (expert === 0 ? hot : expert === 1 ? warm : 1_000))];

describe("the load", () => {
  it("gives a hot expert a copy, loads no more than that, and changes nothing at once again", async () => {
    const decide = balance(10 * BYTES);
    const next = (await decide(plan, [load(2_500), load(2_500)], NOW_MS, null))!;
    expect(next.reason).toBe("replicas by load");
    expect(next.steps.map(({ bytes }) => bytes)).toEqual([BYTES]);
    const after = next.steps[0]!.plan;
    expect(copies(after)).toEqual([2, 1, 1, 1, 1, 1, 1, 1]);
    const inForce = { ...after, epoch: plan.epoch + 1 };
    expect(await decide(inForce, [load(8_000)], NOW_MS + MINUTE_MS, NOW_MS)).toBeNull();
    expect(await decide(inForce, [load(8_000)], NOW_MS + 5 * MINUTE_MS, NOW_MS)).toBeNull(); // the expert rests longer than the plan
    expect(copies((await decide(inForce, [load(8_000)], NOW_MS + 11 * MINUTE_MS, NOW_MS))!.steps.at(-1)!.plan)[0]).toBe(3);
  });

  it("takes the copy back when it is cold, and gives the room to who is hot now", async () => {
    const decide = balance(BYTES);
    const first = (await decide(plan, [load(4_000)], NOW_MS, null))!.steps[0]!.plan;
    const inForce = { ...first, epoch: plan.epoch + 1 };
    const next = (await decide(inForce, [load(1_000, 4_000)], NOW_MS + 30 * MINUTE_MS, NOW_MS))!;
    expect(copies(next.steps.at(-1)!.plan)).toEqual([1, 2, 1, 1, 1, 1, 1, 1]);
    expect(next.steps.reduce((sum, { bytes }) => sum + bytes, 0)).toBe(BYTES);
  });

  it("stays within the budget, and within the room there is", async () => {
    expect(copies((await balance(BYTES)(plan, [load(9_000, 9_000)], NOW_MS, null))!.steps[0]!.plan).reduce((a, b) => a + b)).toBe(N_EXPERTS + 1);
    expect(await balance(BYTES - 1)(plan, [load(9_000)], NOW_MS, null)).toBeNull();
    expect(await balance(10 * BYTES, 2 * BYTES)(plan, [load(9_000)], NOW_MS, null)).toBeNull();
  });

  it("changes nothing where it is even, or says too little, or nobody says anything", async () => {
    const decide = balance(10 * BYTES);
    expect(await decide(plan, [load(1_500)], NOW_MS, null)).toBeNull();
    expect(await decide(plan, [load(4_000).map((of) => of.map((n) => n / 10))], NOW_MS, null)).toBeNull();
    expect(await decide(plan, [], NOW_MS, null)).toBeNull();
  });

  it("of an object that came up anew: every expert counts as changed when the fleet last was", async () => {
    expect(await balance(10 * BYTES)(plan, [load(8_000)], NOW_MS, NOW_MS - 9 * MINUTE_MS)).toBeNull();
    expect(await balance(10 * BYTES)(plan, [load(8_000)], NOW_MS, NOW_MS - 10 * MINUTE_MS)).not.toBeNull();
  });

  it("never takes what every expert has: copies that were wished for stay", async () => {
    const doubled: FleetPlan = { ...plan, shards: plan.shards.map(({ region }) => ({ region, slots: plan.shards.flatMap(({ slots }) => slots).sort((a, b) => a.expert - b.expert) })) };
    const fewer = await balance(0)(doubled, [load(7_000, 0)], NOW_MS, null);
    expect(fewer).toBeNull();
  });
});
