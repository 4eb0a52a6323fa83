// Prompt lookup against its definition: what followed the latest earlier occurrence of the longest known context.

import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { PromptLookup } from "../../../model/prompt-lookup.ts";

/** The definition, by search. */
function continuation(ids: readonly number[], max: number): number[] {
  for (const n of [4, 3, 2]) {
    if (ids.length < n) continue;
    const last = ids.slice(-n).join();
    for (let end = ids.length - 1; end >= n; end--) if (ids.slice(end - n, end).join() === last) return ids.slice(end, end + max);
  }
  return [];
}

describe("prompt lookup", () => {
  it("gives what a search through the text gives, at every length", () => {
    fc.assert(fc.property(fc.array(fc.integer({ min: 0, max: 3 }), { maxLength: 60 }), fc.integer({ min: 1, max: 7 }), (ids, max) => {
      const lookup = new PromptLookup();
      for (const [i, id] of ids.entries()) {
        lookup.push(id);
        expect(lookup.draft(max)).toEqual(continuation(ids.slice(0, i + 1), max));
      }
      expect(lookup.length).toBe(ids.length);
    }));
  });

  it("tells contexts apart whose hashes are equal", () => {
    // Two pairs of ids with the same 32-bit FNV-1a hash: the second id undoes the difference of the first.
    const step = (hash: number, id: number): number => Math.imul(hash ^ id, 0x01000193);
    const [a, b] = [1, 2];
    const [hashA, hashB] = [step(0x811c9dc5, a), step(0x811c9dc5, b)];
    const [x, y] = [5, (hashA ^ 5 ^ hashB) >>> 0];
    expect(step(hashA, x)).toBe(step(hashB, y));
    const lookup = new PromptLookup();
    for (const id of [a, x, 77, 78, b, y]) lookup.push(id);
    expect(lookup.draft(3)).toEqual([]);
  });
});
