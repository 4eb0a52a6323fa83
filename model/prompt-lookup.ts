// Prompt lookup: guesses how a text goes on from what followed the same last tokens earlier in it (Saxena 2023; n-gram drafts).
// Owns the index of one growing sequence of token ids. A guess costs a few map look-ups and never changes a result: the engine
// evaluates it in one step with the last token, and what the model would not have said is thrown away.
// Refuses models of its own and anything random: equal ids give equal drafts.

/** Longest context compared first: the longer the match, the likelier the continuation. */
const CONTEXT_LENGTHS = [4, 3, 2] as const;

export class PromptLookup {
  readonly #ids: number[] = [];
  /** By context length: hash of a context -> position after its latest occurrence that something followed. */
  readonly #after = CONTEXT_LENGTHS.map(() => new Map<number, number>());

  get length(): number { return this.#ids.length; }

  push(id: number): void {
    // What ended at the previous token is now followed by this one, and may be found.
    for (const [i, n] of CONTEXT_LENGTHS.entries()) {
      if (this.#ids.length >= n) this.#after[i]!.set(this.#hash(this.#ids.length, n), this.#ids.length);
    }
    this.#ids.push(id);
  }

  /** At most `max` ids that followed the latest earlier occurrence of the last tokens; none when they are new. */
  draft(max: number): number[] {
    const end = this.#ids.length;
    for (const [i, n] of CONTEXT_LENGTHS.entries()) {
      if (end < n) continue;
      const at = this.#after[i]!.get(this.#hash(end, n));
      if (at !== undefined && this.#equal(at, end, n)) return this.#ids.slice(at, at + max);
    }
    return [];
  }

  /** FNV-1a of the n ids before position `end`. */
  #hash(end: number, n: number): number {
    let hash = 0x811c9dc5;
    for (let i = end - n; i < end; i++) hash = Math.imul(hash ^ this.#ids[i]!, 0x01000193);
    return hash;
  }

  /** Different contexts may share a hash. */
  #equal(a: number, b: number, n: number): boolean {
    for (let i = 1; i <= n; i++) if (this.#ids[a - i] !== this.#ids[b - i]) return false;
    return true;
  }
}
