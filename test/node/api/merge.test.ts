// Several generations side by side: order of arrival, the limit on how many run, and what happens when one fails or the reader leaves.

import { describe, expect, it } from "vitest";
import { mergeIndexed } from "../../../worker/merge.ts";

async function* count(name: string, n: number, log: string[]): AsyncGenerator<string> {
  log.push(`start ${name}`);
  try {
    for (let i = 0; i < n; i++) {
      await Promise.resolve();
      yield `${name}${i}`;
    }
  } finally {
    log.push(`end ${name}`);
  }
}

describe("mergeIndexed", () => {
  it("yields everything of every sequence, with its number", async () => {
    const log: string[] = [];
    const seen: string[][] = [[], [], []];
    for await (const { index, value } of mergeIndexed([() => count("a", 3, log), () => count("b", 1, log), () => count("c", 2, log)], 8)) seen[index]!.push(value);
    expect(seen).toEqual([["a0", "a1", "a2"], ["b0"], ["c0", "c1"]]);
  });

  it("runs at most as many as it may", async () => {
    let running = 0;
    let most = 0;
    const one = async function* (): AsyncGenerator<number> {
      most = Math.max(most, ++running);
      await new Promise((resolve) => setImmediate(resolve));
      yield 1;
      running--;
    };
    let n = 0;
    for await (const { value } of mergeIndexed(Array.from({ length: 9 }, () => one), 3)) n += value;
    expect({ n, most }).toEqual({ n: 9, most: 3 });
  });

  it("ends the others when one fails", async () => {
    const log: string[] = [];
    const failing = async function* (): AsyncGenerator<string> {
      yield "x";
      throw new Error("broken");
    };
    const read = async (): Promise<void> => {
      for await (const _ of mergeIndexed([() => count("a", 1000, log), failing], 2));
    };
    await expect(read()).rejects.toThrow("broken");
    await new Promise((resolve) => setImmediate(resolve));
    expect(log).toEqual(["start a", "end a"]);
  });

  it("ends all when the reader leaves", async () => {
    const log: string[] = [];
    for await (const _ of mergeIndexed([() => count("a", 1000, log), () => count("b", 1000, log)], 2)) break;
    await new Promise((resolve) => setImmediate(resolve));
    expect(log.filter((line) => line.startsWith("end")).sort()).toEqual(["end a", "end b"]);
  });
});
