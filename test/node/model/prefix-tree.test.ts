// What is kept of earlier sequences: matching, sharing, replacing, scopes, and who goes first. Judged by a plain list of sequences.

import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { KV_BLOCK } from "../../../model/kernels.ts";
import { PrefixTree } from "../../../model/prefix-tree.ts";

const sequence = (n: number, seed = 0): number[] => Array.from({ length: n }, (_, i) => seed * 1000 + i);

/** A tree with an account of its pages: each holds the tokens it was made for. */
function setUp() {
  const tree = new PrefixTree();
  const held = new Map<number, number[]>();
  let next = 1;
  const insert = (ids: readonly number[], scope = "a"): number[] => {
    const pages = Array.from({ length: Math.ceil(ids.length / KV_BLOCK) }, () => next++);
    const kept: number[] = [];
    tree.insert(scope, ids, pages, (page) => {
      kept.push(page);
      held.set(page, ids.slice(pages.indexOf(page) * KV_BLOCK, (pages.indexOf(page) + 1) * KV_BLOCK));
    }, (page) => expect(held.delete(page)).toBe(true));
    return kept;
  };
  /** Tokens found, read from the pages. */
  const found = (ids: readonly number[], most = ids.length, scope = "a"): number[] => {
    const { pages, partial } = tree.match(scope, ids, most);
    return [...pages.flatMap((page) => held.get(page)!), ...(partial === null ? [] : held.get(partial.page)!.slice(0, partial.nPositions))];
  };
  const evict = (): number[] | null => {
    const page = tree.evict();
    if (page === null) return null;
    const ids = held.get(page)!;
    expect(held.delete(page)).toBe(true);
    return ids;
  };
  return { tree, held, insert, found, evict };
}

describe("kept pages", () => {
  it("are found as far as tokens agree, to the token, and no further than asked", () => {
    const { insert, found } = setUp();
    const kept = sequence(3 * KV_BLOCK + 5);
    expect(insert(kept).length).toBe(4);
    expect(found(kept)).toEqual(kept);
    expect(found([...kept, 7])).toEqual(kept);
    for (const n of [0, 1, KV_BLOCK - 1, KV_BLOCK, KV_BLOCK + 1, 3 * KV_BLOCK, 3 * KV_BLOCK + 4]) {
      expect(found(kept.slice(0, n))).toEqual(kept.slice(0, n));
      expect(found(kept, n)).toEqual(kept.slice(0, n));
      expect(found([...kept.slice(0, n), -1, -2])).toEqual(kept.slice(0, n));
    }
  });

  it("are kept once: what is known already stays the caller's, a longer end takes a shorter one's place", () => {
    const { tree, insert, found } = setUp();
    const long = sequence(2 * KV_BLOCK + 9);
    expect(insert(long.slice(0, KV_BLOCK + 3)).length).toBe(2);
    expect(insert(long.slice(0, KV_BLOCK + 2)).length).toBe(0);
    expect(insert(long).length).toBe(2);
    expect(tree.size).toBe(3);
    const branch = [...long.slice(0, KV_BLOCK + 4), ...sequence(KV_BLOCK, 9)];
    expect(insert(branch).length).toBe(2);
    expect(found(branch)).toEqual(branch);
    expect(found(long)).toEqual(long);
  });

  it("of one scope are nobody else's", () => {
    const { insert, found } = setUp();
    insert(sequence(40), "a");
    expect(found(sequence(40), 40, "b")).toEqual([]);
    expect(insert(sequence(40), "b").length).toBe(2);
  });

  it("go the least recently used first, and never before what continues them", () => {
    const { tree, insert, found, evict } = setUp();
    const [one, two] = [sequence(2 * KV_BLOCK), [...sequence(KV_BLOCK), ...sequence(KV_BLOCK, 5)]];
    insert(one);
    insert(two);
    found(one);
    expect(evict()).toEqual(two.slice(KV_BLOCK));
    expect(evict()).toEqual(one.slice(KV_BLOCK));
    expect(evict()).toEqual(one.slice(0, KV_BLOCK));
    expect(evict()).toBeNull();
    expect(tree.size).toBe(0);
  });

  it("give what a plain list of sequences gives, whatever comes and goes", () => {
    const ids = fc.array(fc.nat(1), { minLength: 1, maxLength: 5 }).map((blocks) => blocks.flatMap((block, i) => sequence(i === blocks.length - 1 ? 1 + (block * 31 + i * 7) % KV_BLOCK : KV_BLOCK, block)));
    fc.assert(fc.property(fc.array(fc.tuple(fc.constantFrom("insert", "match"), ids), { maxLength: 30 }), (commands) => {
      const { tree, held, insert, found } = setUp();
      const list: number[][] = [];
      for (const [what, tokens] of commands) {
        if (what === "insert") {
          insert(tokens);
          list.push(tokens);
        }
        const common = (other: readonly number[]): number => { const at = tokens.findIndex((id, i) => id !== other[i]); return at < 0 ? tokens.length : at; };
        const best = list.reduce((most, other) => Math.max(most, common(other)), 0);
        expect(found(tokens)).toEqual(tokens.slice(0, best));
      }
      expect(tree.size).toBe(held.size);
    }), { numRuns: 200 });
  });
});
