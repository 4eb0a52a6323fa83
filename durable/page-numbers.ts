// Numbers for the pages of a ring's KV cache: stage 0 counts them, every stage has memory behind them (stage-pages.ts). The store of model/kv-cache.ts where
// the pages themselves are elsewhere. Owns which numbers are free, and the copies that the stages still have to make. Refuses more pages than the smallest stage holds.

import { CapacityError } from "../model/heap.ts";
import type { PageStore } from "../model/kv-cache.ts";

export class PageNumbers implements PageStore {
  #most: number;
  readonly #freed: number[] = [];
  #next = 0;
  #used = 0;
  #copies: (readonly [from: number, to: number])[] = [];

  constructor(most: number) {
    this.#most = most;
  }

  alloc(): number {
    let number = this.#freed.pop();
    // Of before a stage came back with less room.
    while (number !== undefined && number >= this.#most) number = this.#freed.pop();
    if (number === undefined && this.#next < this.#most) number = this.#next++;
    if (number === undefined) throw new CapacityError(`All ${this.#most} pages of the KV cache that every stage of the ring has room for are in use.`);
    this.#used++;
    return number;
  }

  free(page: number): void {
    this.#used--;
    this.#freed.push(page);
  }

  /** Pages that are in no use. */
  get unused(): number { return Math.max(0, this.#most - this.#used); }

  /** The smallest stage has room for so many; true where that is fewer than before: higher numbers mean nothing any more. */
  limit(most: number): boolean {
    const isFewer = most < this.#most;
    if (isFewer) this.#most = most;
    return isFewer;
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
