// Lanes for requests: the same beginning goes to the same lane, evenly, few move when lanes come and go, and room decides where there is none.

import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { chooseLane, type Lane, prefixKey } from "../../../fleet/lanes.ts";
import { KV_BLOCK } from "../../../model/kernels.ts";

const KEY_TOKENS = 2 * KV_BLOCK;
const lanes = (numbers: readonly number[], freeTokens = 1000): Lane[] => numbers.map((lane) => ({ lane, freeTokens }));
const tokensOf = (n: number): number[] => Array.from({ length: KEY_TOKENS }, (_, i) => (i === 7 ? n : i));
const laneOf = (n: number, numbers: readonly number[], scope = "caller"): number => chooseLane(lanes(numbers), { key: prefixKey(scope, tokensOf(n)), neededTokens: 100 }).lane;
const requests = Array.from({ length: 6000 }, (_, n) => n);

describe("the key of a beginning", () => {
  it("is of whole blocks: what follows them does not count, every token of them and the scope do", () => {
    const tokens = tokensOf(3);
    const key = prefixKey("a", tokens);
    expect(prefixKey("a", [...tokens, 1, 2, 3])).toEqual(key);
    expect(prefixKey("a", Int32Array.from(tokens))).toEqual(key);
    for (let i = 0; i < KEY_TOKENS; i++) expect(prefixKey("a", tokens.with(i, 77_777)), `token ${i}`).not.toEqual(key);
    for (const scope of ["", "b", "aa"]) expect(prefixKey(scope, tokens)).not.toEqual(key);
    expect(prefixKey("a", tokens.slice(1))).toBeNull();
    expect(new Set(requests.map((n) => prefixKey("a", tokensOf(n))!.join())).size).toBe(requests.length);
  });
});

describe("a lane", () => {
  it("is the same for the same beginning, and requests spread evenly", () => {
    for (const nLanes of [2, 3, 5, 8]) {
      const numbers = Array.from({ length: nLanes }, (_, i) => i);
      const counts = numbers.map(() => 0);
      for (const n of requests) counts[laneOf(n, numbers)]!++;
      for (const n of counts) expect(Math.abs(n / (requests.length / nLanes) - 1)).toBeLessThan(0.12);
      expect(laneOf(5, numbers)).toBe(laneOf(5, numbers.toReversed()));
    }
  });

  it("that comes takes its part and moves nothing else; one that goes leaves the others' where they are", () => {
    const [four, five] = [[0, 1, 2, 3], [0, 1, 2, 3, 9]];
    const moved = requests.filter((n) => laneOf(n, four) !== laneOf(n, five));
    expect(moved.every((n) => laneOf(n, five) === 9)).toBe(true);
    expect(Math.abs(moved.length / (requests.length / 5) - 1)).toBeLessThan(0.12);
    for (const n of requests) if (laneOf(n, four) !== 2) expect(laneOf(n, [0, 1, 3])).toBe(laneOf(n, four));
  });

  it("without room gives way to the one with most; none without room is chosen while another has it", () => {
    fc.assert(fc.property(fc.uniqueArray(fc.integer({ min: 0, max: 50 }), { minLength: 1, maxLength: 8 }), fc.array(fc.integer({ min: 0, max: 400 }), { minLength: 8, maxLength: 8 }), fc.integer(), fc.boolean(), (numbers, free, n, isShort) => {
      const all = numbers.map((lane, i) => ({ lane, freeTokens: free[i]! }));
      const key = isShort ? null : prefixKey("s", tokensOf(n));
      const choice = chooseLane(all, { key, neededTokens: 200 });
      const chosen = all.find(({ lane }) => lane === choice.lane)!;
      const most = Math.max(...all.map(({ freeTokens }) => freeTokens));
      expect(choice.hasRoom).toBe(most >= 200);
      expect(chosen.freeTokens >= 200).toBe(choice.hasRoom);
      const home = chooseLane(numbers.map((lane) => ({ lane, freeTokens: 1000 })), { key, neededTokens: 200 }).lane;
      if (isShort || chosen.lane !== home) expect(chosen.freeTokens).toBe(most);
      if (!isShort && all.find(({ lane }) => lane === home)!.freeTokens >= 200) expect(chosen.lane).toBe(home);
    }), { seed: 4, numRuns: 2000 });
  });

  it("is refused where there is none", () => {
    expect(() => chooseLane([], { key: null, neededTokens: 1 })).toThrow("A request asks for a lane and the plan has none that can be reached.");
  });
});
