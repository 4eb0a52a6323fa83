// Rings of stages under faults (sim/ring.ts): three hundred seeds, exact replay, and that the verdict finds a stage that is wrong about its memory.

import { beforeAll, describe, expect, it } from "vitest";
import { RING_FAULTS } from "../../../sim/ring-world.ts";
import { RingSimulator } from "../../../sim/ring.ts";
import { Simulator } from "../../../sim/run.ts";
import { addReport, emptyTally, tableOf } from "../../../sim/tally.ts";

let rings: RingSimulator;
beforeAll(async () => {
  const { grounds, oracle } = await Simulator.open();
  rings = await RingSimulator.open(grounds, oracle);
}, 60_000);

describe("rings", { timeout: 120_000 }, () => {
  it("give right answers whatever becomes of sockets and stages", async () => {
    const tally = emptyTally();
    let built = 0;
    for (let seed = 1; seed <= 300; seed++) {
      const report = await rings.run(seed);
      built += report.built;
      addReport(tally, report);
    }
    expect(tally.failures).toEqual([]);
    expect(RING_FAULTS.filter((name) => (tally.faults[name] ?? 0) === 0)).toEqual([]);
    // Nothing that happens here lasts as long as an outage may.
    expect(Object.keys(tally.outcomes)).toEqual(["right"]);
    expect(built).toBeGreaterThan(450);
    expect(tableOf(tally)[0]).toMatch(/^Faults that happened: \d{3} in 300 runs$/);
  });

  it("give right answers to readers who intervene in routing too", async () => {
    const tally = emptyTally();
    for (let seed = 1001; seed <= 1100; seed++) addReport(tally, await rings.run(seed, { steered: true }));
    expect([tally.failures, Object.keys(tally.outcomes)]).toEqual([[], ["right"]]);
  });

  it("are the same run every time, whatever ran before", async () => {
    const seeds = Array.from({ length: 20 }, (_, i) => 5000 + i);
    const first = [];
    for (const seed of seeds) first.push(await rings.run(seed));
    const again = [];
    for (const seed of [...seeds].reverse()) again.unshift(await rings.run(seed));
    expect(again).toEqual(first);
    expect(new Set(first.map(({ digest }) => digest)).size).toBe(seeds.length);
  });

  it("are found wrong where a stage takes new pages for its old ones", async () => {
    const found: string[] = [];
    for (let seed = 1; seed <= 40; seed++) {
      const { problem } = await rings.run(seed, { answer: (welcome) => (welcome.state === "ready" ? { ...welcome, kept: true } : welcome) });
      if (problem !== null) found.push(problem);
    }
    expect(found.length).toBeGreaterThan(3);
    for (const problem of found) expect(problem).toMatch(/where one machine says/);
  });
});
