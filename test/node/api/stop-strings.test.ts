// Stop strings: the cut is a function of the text alone, never of how it came in pieces; nothing that may become a stop is shown early.

import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { createStopScanner } from "../../../worker/stop-strings.ts";

/** Text shown, and the stop reached, for the given pieces. */
function scan(pieces: readonly string[], stops: readonly string[]): { shown: string; stop: string | null } {
  const scanner = createStopScanner(stops);
  let shown = "";
  for (const piece of pieces) {
    const { text, stop } = scanner.push(piece);
    shown += text;
    if (stop !== null) return { shown, stop };
  }
  return { shown: shown + scanner.flush(), stop: null };
}

describe("stop strings", () => {
  it.each([
    { pieces: ["Hello wor", "ld. Good", " bye"], stops: ["world"], shown: "Hello ", stop: "world" },
    { pieces: ["a\n", "\nb"], stops: ["\n\n"], shown: "a", stop: "\n\n" },
    { pieces: ["aab"], stops: ["ab"], shown: "a", stop: "ab" },
    { pieces: ["abcd"], stops: ["abcd", "c"], shown: "ab", stop: "c" },
    { pieces: ["xabc"], stops: ["bc", "abc"], shown: "x", stop: "abc" },
    { pieces: ["never"], stops: ["!"], shown: "never", stop: null },
    { pieces: ["nearly sto"], stops: ["stop"], shown: "nearly sto", stop: null },
    { pieces: ["anything"], stops: [], shown: "anything", stop: null },
  ])("$pieces with $stops shows '$shown'", ({ pieces, stops, shown, stop }) => {
    expect(scan(pieces, stops)).toEqual({ shown, stop });
  });

  it("holds back what may become a stop, and no more", () => {
    const scanner = createStopScanner(["STOP"]);
    expect(scanner.push("abcST")).toEqual({ text: "abc", stop: null });
    expect(scanner.push("A")).toEqual({ text: "STA", stop: null });
  });

  it("does not depend on the pieces", () => {
    const letters = fc.constantFrom("a", "b", "c");
    const text = fc.string({ unit: letters, maxLength: 30 });
    const stops = fc.array(fc.string({ unit: letters, minLength: 1, maxLength: 4 }), { maxLength: 4 });
    fc.assert(fc.property(text, stops, fc.array(fc.nat(5), { maxLength: 30 }), (whole, stopList, lengths) => {
      const pieces: string[] = [];
      let at = 0;
      for (const length of lengths) {
        pieces.push(whole.slice(at, at + length));
        at += length;
      }
      pieces.push(whole.slice(at));
      expect(scan(pieces, stopList)).toEqual(scan([whole], stopList));
    }), { numRuns: 500, seed: 1 });
  });

  it("never shows a stop string, and loses nothing where there is none", () => {
    const text = fc.string({ unit: fc.constantFrom("a", "b"), maxLength: 20 });
    fc.assert(fc.property(text, fc.string({ unit: fc.constantFrom("a", "b"), minLength: 1, maxLength: 3 }), (whole, stop) => {
      const found = whole.indexOf(stop);
      expect(scan([...whole], [stop])).toEqual(found < 0 ? { shown: whole, stop: null } : { shown: whole.slice(0, found), stop });
    }), { numRuns: 500, seed: 2 });
  });
});
