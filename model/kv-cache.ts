// The KV cache: pages of 32 positions across an engine's layers, timelines that hold them, and pages that ended timelines left for others.
// Owns reservation: a timeline gets all its pages when it opens, so a running request never meets a full cache; kept pages give way to it, those
// used longest ago first. A page that several hold is never written: keys and values of a position depend on the tokens up to it alone.
// Refuses growth beyond the reservation, and memory: a page is whatever its store says (of this heap, or a number that the stages of a ring know).
// Layout and arithmetic: docs/arithmetic.md section 8.

import type { ModelConfig } from "./config.ts";
import { CapacityError, type Heap } from "./heap.ts";
import { KV_BLOCK } from "./kernels.ts";
import { PrefixTree } from "./prefix-tree.ts";

/** One mutable inference timeline: the evaluated tokens of one request. */
export interface Timeline {
  readonly id: number;
  /** Positions it may hold. */
  readonly maxTokens: number;
  /** Address of u32[pages]: page addresses by position / 32. */
  readonly pageTable: number;
  readonly pages: readonly number[];
  /** Added to a position to find its row of the rope table: the long frequencies' table where LongRoPE takes it (docs/arithmetic.md section 7). */
  readonly ropeOffset: number;
  /** Tokens evaluated so far, those taken over included; advanced by the engine when a step succeeds. */
  length: number;
}

/** Tokens of a sequence, and who may share what is computed from them: pages never pass from one scope to another. */
export interface SharedTokens {
  readonly scope: string;
  /** How they are evaluated, where that is another way than the model's plain one: a name without spaces. Pages never pass from one way to another. */
  readonly variant?: string;
  readonly ids: readonly number[];
}

/** Where pages come from. */
export interface PageStore {
  /** A page of undefined content, by its address or number. Throws CapacityError. */
  alloc(): number;
  free(page: number): void;
  copy(from: number, to: number): void;
  /** What kernels find a timeline's pages by; throws CapacityError. */
  table(pages: readonly number[]): number;
  freeTable(table: number): void;
}

/** Pages in this memory. */
export class HeapPages implements PageStore {
  readonly #heap: Heap;
  readonly #pageBytes: number;

  constructor(heap: Heap, pageBytes: number) {
    this.#heap = heap;
    this.#pageBytes = pageBytes;
  }

  alloc(): number { return this.#heap.alloc(this.#pageBytes, "kv cache"); }
  free(page: number): void { this.#heap.free(page); }
  copy(from: number, to: number): void { this.#heap.u8.copyWithin(to, from, from + this.#pageBytes); }

  table(pages: readonly number[]): number {
    const table = this.#heap.alloc(pages.length * 4, "kv page table");
    this.#heap.u32.set(pages, table / 4);
    return table;
  }

  freeTable(table: number): void { this.#heap.free(table); }
}

/** Of an engine without layers: nothing is written to its pages. */
export class NoPages implements PageStore {
  #next = 0;
  alloc(): number { return this.#next++; }
  free(): void {}
  copy(): void {}
  table(): number { return 0; }
  freeTable(): void {}
}

export class KvCache {
  /** Of one page in this memory: 32 positions of an engine's layers; 0 where pages lie elsewhere, or the engine has no layers. */
  readonly pageBytes: number;
  readonly #store: PageStore;
  readonly #contextLength: number;
  /** Sequences reserved for more positions take the long frequencies. */
  readonly #shortPositions: number;
  readonly #open = new Set<Timeline>();
  readonly #kept = new PrefixTree();
  /** Holders of each page: timelines, and the tree of kept ones. */
  readonly #holders = new Map<number, number>();
  #nextId = 0;

  constructor(store: PageStore, config: Pick<ModelConfig, "rope">, contextLength: number, pageBytes = 0) {
    this.#store = store;
    this.#contextLength = contextLength;
    this.#shortPositions = config.rope.long?.fromPositions ?? Infinity;
    this.pageBytes = pageBytes;
  }

  get openTimelines(): number {
    return this.#open.size;
  }

  /** Pages in memory: in use by open timelines, kept, or both. */
  get pages(): number {
    return this.#holders.size;
  }

  /** Kept pages that no open timeline holds: they give way to whoever needs room. */
  get idlePages(): number {
    return this.#holders.size - new Set([...this.#open].flatMap(({ pages }) => pages)).size;
  }

  /** Pages kept for later sequences, those in use by open ones included. */
  get keptPages(): number {
    return this.#kept.size;
  }

  /**
   * Reserves pages for `maxTokens` positions or throws CapacityError and reserves nothing. With `shared`, positions that an earlier timeline of the scope
   * evaluated for the same first tokens are taken over (all but the last token's, whose logits are wanted): the timeline begins with that length.
   */
  open(maxTokens: number, shared: SharedTokens | null = null): Timeline {
    if (!Number.isInteger(maxTokens) || maxTokens < 1 || maxTokens > this.#contextLength)
      throw new CapacityError(`A timeline of ${maxTokens} tokens was asked for; this pack serves 1 to ${this.#contextLength}.`);
    const ropeOffset = maxTokens > this.#shortPositions ? this.#contextLength : 0;
    const found = shared === null ? { pages: [], partial: null } : this.#kept.match(scopeOf(shared, ropeOffset), shared.ids, Math.min(shared.ids.length - 1, maxTokens));
    // Held before anything is evicted to make room.
    const taken = found.partial === null ? [...found.pages] : [...found.pages, found.partial.page];
    for (const page of taken) this.#hold(page);
    const fresh: number[] = [];
    const nPages = Math.ceil(maxTokens / KV_BLOCK);
    let pages: readonly number[];
    let pageTable: number;
    try {
      while (found.pages.length + fresh.length < nPages) fresh.push(this.#hold(this.#makeRoom(() => this.#store.alloc())));
      if (found.partial !== null) {
        this.#store.copy(found.partial.page, fresh[0]!);
        this.#release(taken.pop()!);
      }
      pages = [...found.pages, ...fresh];
      pageTable = this.#makeRoom(() => this.#store.table(pages));
    } catch (error) {
      for (const page of [...taken, ...fresh]) this.#release(page);
      throw error;
    }
    const length = found.pages.length * KV_BLOCK + (found.partial?.nPositions ?? 0);
    const timeline: Timeline = { id: this.#nextId++, maxTokens, pageTable, pages, ropeOffset, length };
    this.#open.add(timeline);
    return timeline;
  }

  /** Keeps what an open timeline has evaluated for later ones of the scope. `ids` are its tokens; positions beyond them are guesses, and are not kept. */
  keep(timeline: Timeline, shared: SharedTokens): void {
    const { ids } = shared;
    if (!this.#open.has(timeline)) return;
    this.#kept.insert(scopeOf(shared, timeline.ropeOffset), ids.slice(0, timeline.length), timeline.pages, (page) => this.#hold(page), (page) => this.#release(page));
  }

  /** Gives the pages back; closing twice is harmless. */
  close(timeline: Timeline): void {
    if (!this.#open.delete(timeline)) return;
    for (const page of timeline.pages) this.#release(page);
    this.#store.freeTable(timeline.pageTable);
  }

  /** Lets go of all kept pages: what lay in them is gone. Open timelines are their owners' to close. */
  forget(): void {
    for (let page = this.#kept.evict(); page !== null; page = this.#kept.evict()) this.#release(page);
  }

  #hold(page: number): number {
    this.#holders.set(page, (this.#holders.get(page) ?? 0) + 1);
    return page;
  }

  #release(page: number): void {
    const left = this.#holders.get(page)! - 1;
    if (left > 0) return void this.#holders.set(page, left);
    this.#holders.delete(page);
    this.#store.free(page);
  }

  /** Memory for a timeline; kept pages make room one by one. */
  #makeRoom(alloc: () => number): number {
    for (;;) {
      try {
        return alloc();
      } catch (error) {
        if (!(error instanceof CapacityError)) throw error;
        const page = this.#kept.evict();
        if (page === null) throw error;
        this.#release(page);
      }
    }
  }
}

/** Frequencies are part of what keys are (docs/arithmetic.md section 7). */
const scopeOf = ({ scope, variant }: SharedTokens, ropeOffset: number): string => `${ropeOffset}${variant === undefined ? "" : `/${variant}`} ${scope}`;
