// What waits for its turn, from several callers: they take turns, and what one of them sent first goes first. Owns the order and the bound: when it is full,
// a caller who waits with less than another takes the last place of the one who waits with most, so that nobody's burst shuts the others out.
// Refuses to know what waits.

export class FairQueue<T> {
  readonly #limit: number;
  /** By caller, whoever's turn is next first; no list is empty. */
  readonly #waiting = new Map<string, T[]>();
  #length = 0;

  constructor(limit: number) {
    this.#limit = limit;
  }

  get length(): number { return this.#length; }

  /** Whose turn it is, undefined for nobody's. Stays the same until it is removed. */
  get first(): T | undefined {
    for (const [first] of this.#waiting.values()) return first;
    return undefined;
  }

  /** Takes `item` in; gives what had no place then: nothing (null), the item itself, or another's that gave way. */
  push(caller: string, item: T): T | null {
    let displaced: T | null = null;
    if (this.#length >= this.#limit) {
      const [largest, items] = [...this.#waiting].reduce((most, entry) => (entry[1].length > most[1].length ? entry : most), ["", []] as [string, T[]]);
      if (items.length <= (this.#waiting.get(caller)?.length ?? 0) + 1) return item;
      displaced = items.at(-1)!;
      this.remove(largest, displaced);
    }
    const own = this.#waiting.get(caller);
    if (own === undefined) this.#waiting.set(caller, [item]);
    else own.push(item);
    this.#length++;
    return displaced;
  }

  /** Takes the first out; its caller comes last from then on. */
  shift(): T | undefined {
    for (const [caller, items] of this.#waiting) {
      const item = items.shift()!;
      this.#length--;
      this.#waiting.delete(caller);
      if (items.length > 0) this.#waiting.set(caller, items);
      return item;
    }
    return undefined;
  }

  /** Takes an item out of its place; false where it does not wait. */
  remove(caller: string, item: T): boolean {
    const items = this.#waiting.get(caller) ?? [];
    const at = items.indexOf(item);
    if (at < 0) return false;
    items.splice(at, 1);
    this.#length--;
    if (items.length === 0) this.#waiting.delete(caller);
    return true;
  }

  /** All that waits, in no order that counts. */
  [Symbol.iterator](): Iterator<T> { return [...this.#waiting.values()].flat()[Symbol.iterator](); }
}
