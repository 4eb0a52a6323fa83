// The merges of a BPE vocabulary in typed arrays, in the place of the tokenizers library's Map from JSON texts to ranks: an isolate has 128 MB
// for everything, and 200,000 merges as strings take 50 of them. Owns the table from (left id, right id) to rank.
// Refuses nothing: pieces that are no tokens get ids of their own beyond the vocabulary's.

/** Rank 0 merges first. Looked up with the key the library uses: JSON.stringify([left, right]). */
export class MergeRanks extends Map<string, number> {
  readonly #ids: ReadonlyMap<string, number>;
  /** Ids of pieces that are no tokens: a broken vocabulary may merge through them. */
  readonly #others = new Map<string, number>();
  /** Three numbers per slot: left id + 1 (0: empty), right id, rank. */
  readonly #slots: Int32Array;
  readonly #mask: number;

  /** `ids` of the vocabulary, without control tokens; `banned` are texts that no merge may make. The list of merges is not kept. */
  constructor(ids: ReadonlyMap<string, number>, nIds: number, merges: readonly (string | readonly string[])[], banned: ReadonlyMap<string, unknown>) {
    super();
    this.#ids = ids;
    let capacity = 16;
    while (capacity < 2 * merges.length) capacity *= 2;
    this.#mask = capacity - 1;
    this.#slots = new Int32Array(3 * capacity);
    const idOf = (piece: string): number => {
      const known = this.#idOf(piece);
      if (known !== undefined) return known;
      const id = nIds + this.#others.size;
      this.#others.set(piece, id);
      return id;
    };
    merges.forEach((merge, rank) => {
      const [left, right] = typeof merge === "string" ? merge.split(" ", 2) as [string, string] : merge as [string, string];
      if (banned.has(left + right)) return;
      const [leftId, rightId] = [idOf(left), idOf(right)];
      const slot = this.#slotOf(leftId, rightId);
      // A merge that is listed twice has its last rank, as in the library.
      this.#slots[slot] = leftId + 1;
      this.#slots[slot + 1] = rightId;
      this.#slots[slot + 2] = rank;
    });
  }

  override get(key: string): number | undefined {
    // Quotes in a piece are escaped, so without a backslash the first such place after the opening quote is where the pieces meet.
    const border = key.includes("\\") ? -1 : key.indexOf("\",\"", 2);
    const [left, right] = border < 0 ? JSON.parse(key) as [string, string] : [key.slice(2, border), key.slice(border + 3, -2)];
    const leftId = this.#idOf(left);
    if (leftId === undefined) return undefined;
    const rightId = this.#idOf(right);
    if (rightId === undefined) return undefined;
    const slot = this.#slotOf(leftId, rightId);
    return this.#slots[slot] === 0 ? undefined : this.#slots[slot + 2];
  }

  #idOf(piece: string): number | undefined {
    return this.#ids.get(piece) ?? this.#others.get(piece);
  }

  /** Where the pair is, or where it would go. */
  #slotOf(leftId: number, rightId: number): number {
    let at = (Math.imul(leftId, 0x9e3779b1) ^ Math.imul(rightId, 0x85ebca6b)) >>> 0;
    at ^= at >>> 15;
    for (;; at++) {
      const slot = 3 * (at & this.#mask);
      const found = this.#slots[slot]!;
      if (found === 0 || (found === leftId + 1 && this.#slots[slot + 1] === rightId)) return slot;
    }
  }
}
