// A stage's pages of the KV cache behind the numbers that stage 0 gives them, and the timelines that a frame's entries are. Owns the memory: a page is
// allocated when its number first comes, and stays. Refuses to know whose pages they are and when they are free: that is stage 0's (page-numbers.ts).

import type { Heap } from "../model/heap.ts";
import type { Timeline } from "../model/kv-cache.ts";
import type { RingEntry } from "./ring-frame.ts";

export interface StagePagesParts {
  readonly heap: Heap;
  /** Of all own layers; 0 where the stage has none, and then no pages. */
  readonly pageBytes: number;
  /** Most numbers there are. */
  readonly most: number;
  /** Most entries of a step, and pages of one timeline. */
  readonly entries: number;
  readonly pagesPerTimeline: number;
}

/** A frame names a page that no stage has. */
export class PageError extends Error {
  override readonly name = "PageError";
}

export class StagePages {
  readonly #p: StagePagesParts;
  readonly #addresses = new Map<number, number>();
  readonly #tables: number;

  /** Allocates the tables. Throws CapacityError. */
  constructor(parts: StagePagesParts) {
    this.#p = parts;
    this.#tables = parts.pageBytes === 0 ? 0 : parts.heap.alloc(parts.entries * parts.pagesPerTimeline * 4, "kv page table");
  }

  close(): void {
    if (this.#tables !== 0) this.#p.heap.free(this.#tables);
    for (const address of this.#addresses.values()) this.#p.heap.free(address);
    this.#addresses.clear();
  }

  /** The entries of a frame as an engine takes them, good until the next call. */
  timelines(entries: readonly RingEntry[]): Timeline[] {
    const { heap, pageBytes, pagesPerTimeline } = this.#p;
    if (entries.length > this.#p.entries) throw new PageError(`A step has ${entries.length} entries; at most ${this.#p.entries} were expected.`);
    return entries.map(({ timeline: id, start: length, maxTokens, ropeOffset, pages: numbers }, i): Timeline => {
      if (pageBytes === 0) return { id, maxTokens, pageTable: 0, pages: [], ropeOffset, length };
      if (numbers.length > pagesPerTimeline) throw new PageError(`A timeline has ${numbers.length} pages; at most ${pagesPerTimeline} were expected.`);
      const pageTable = this.#tables + i * pagesPerTimeline * 4;
      const pages = Array.from(numbers, (number) => this.#addressOf(number));
      heap.u32.set(pages, pageTable / 4);
      return { id, maxTokens, pageTable, pages, ropeOffset, length };
    });
  }

  copy(copies: readonly (readonly [from: number, to: number])[]): void {
    const { heap, pageBytes } = this.#p;
    if (pageBytes === 0) return;
    for (const [from, to] of copies) {
      const [source, target] = [this.#addressOf(from), this.#addressOf(to)];
      heap.u8.copyWithin(target, source, source + pageBytes);
    }
  }

  #addressOf(number: number): number {
    const { heap, pageBytes, most } = this.#p;
    const known = this.#addresses.get(number);
    if (known !== undefined) return known;
    if (number >= most) throw new PageError(`A frame names page ${number} of the KV cache; this stage has ${most}.`);
    const address = heap.alloc(pageBytes, "kv cache");
    this.#addresses.set(number, address);
    return address;
  }
}
