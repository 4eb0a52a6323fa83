// When drafts are allowed: measured both ways, the faster way kept, the other looked at now and then, each size of company for itself.

import { describe, expect, it } from "vitest";
import { DraftGate, DraftLength } from "../../../durable/draft-gate.ts";

/** Serves `steps` steps with a draft at hand each time; returns how many carried it. */
function serve(gate: DraftGate, steps: number, company: number, msPlain: number, msDrafted: number, tokensDrafted: number): number {
  let drafted = 0;
  for (let i = 0; i < steps; i++) {
    const way = gate.allows(company);
    if (way) drafted++;
    gate.note(company, way, way ? msDrafted : msPlain, way ? tokensDrafted : company);
  }
  return drafted;
}

describe("the gate for drafts", () => {
  it("keeps drafts where they bring more tokens per millisecond", () => {
    expect(serve(new DraftGate(), 1000, 1, 10, 15, 3)).toBeGreaterThan(900);
  });

  it("drops them where they cost more than they bring, after one look, and looks again rarely", () => {
    const drafted = serve(new DraftGate(), 4000, 1, 10, 25, 2);
    expect(drafted).toBeGreaterThan(8);
    expect(drafted).toBeLessThan(80);
  });

  it("changes its mind when the times change", () => {
    const gate = new DraftGate();
    serve(gate, 1000, 1, 10, 25, 2);
    expect(serve(gate, 1000, 1, 30, 35, 2)).toBeGreaterThan(500);
  });

  it("tries drafts when they come for the first time, however late", () => {
    const gate = new DraftGate();
    for (let i = 0; i < 500; i++) gate.note(1, false, 10, 1);
    expect(serve(gate, 100, 1, 10, 15, 3)).toBeGreaterThan(80);
  });

  it("measures neither way by a clock that stands still", () => {
    expect(serve(new DraftGate(), 1000, 1, 0, 0, 3)).toBe(0);
  });

  it("judges a crowd apart from a single generation", () => {
    const gate = new DraftGate();
    serve(gate, 500, 1, 10, 12, 3);
    serve(gate, 500, 8, 20, 90, 16);
    expect([gate.allows(1), gate.allows(8), gate.allows(9)]).toEqual([true, false, false]);
  });
});

describe("the length of a draft", () => {
  it("grows while whole drafts hold, shrinks when nothing holds, and stays within its bounds", () => {
    const length = new DraftLength(7);
    const seen = [length.tokens];
    for (const [drafted, held] of [[2, 2], [5, 5], [7, 7], [7, 3], [7, 0], [3, 0], [1, 0], [1, 1]] as const) {
      length.note(drafted, held);
      seen.push(length.tokens);
    }
    expect(seen).toEqual([2, 5, 7, 7, 7, 3, 1, 1, 3]);
    expect(new DraftLength(0).tokens).toBe(0);
  });
});
