// Numbers for the pages of a ring's KV cache: stage 0 counts them, every stage has memory behind them (stage-pages.ts). The store of model/kv-cache.ts where
// the pages themselves are elsewhere. Owns which numbers are free, and the copies that the stages still have to make. Refuses more pages than the smallest stage holds.

import { CapacityError } from "../model/heap.ts";
import type { PageStore } from "../model/kv-cache.ts";

export class PageNumbers implements PageStore {
  readonly #most: number;
  readonly #free: number[] = [];
  #next = 0;
  #copies: (readonly [from: number, to: number])[] = [];

  constructor(most: number) {
    this.#most = most;
  }

  alloc(): number {
    const number = this.#free.pop() ?? (this.#next < this.#most ? this.#next++ : null);
    if (number === null) throw new CapacityError(`All ${this.#most} pages of the KV cache that every stage of the ring has room for are in use.`);
    return number;
  }

  free(page: number): void {
    this.#free.push(page);
  }

  copy(from: number, to: number): void {
    this.#copies.push([from, to]);
  }

  /** Stages find a timeline's pages in each frame. */
  table(): number { return 0; }
  freeTable(): void {}

  /** Copies since the last call, to go along with the next frame: stages make them before anything that comes later. */
  takeCopies(): readonly (readonly [from: number, to: number])[] {
    const copies = this.#copies;
    this.#copies = [];
    return copies;
  }
}
