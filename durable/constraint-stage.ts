// From the bits of a grammar's matcher to logits: one stage per generation, and the row that all stages of a model write into. Owns the bits between
// two tokens, which stop tokens may come, and the row of logits as it was left. Refuses to allocate per token: a row of 200,000 logits is
// 800 KB, and only the words whose bits changed are written. The library of the bits: constraints.ts.

import { ModelError } from "../model/config.ts";
import type { LogitStage } from "../model/logit-adjustments.ts";
import type { GrammarMatcher } from "../build/xgrammar.mjs";

/** Above so many tokens a list of them saves nothing over the row. */
const MOST_CANDIDATES = 2048;

/**
 * A row of logits of which most are minus infinity. It is one for all generations of a model: what `masked` gives is good until it is called again, which
 * suits stages, whose rows are sampled from at once.
 */
export class MaskedRow {
  readonly #row: Float32Array;
  /** Bits the row was written with: a word that was 0 and is 0 again needs nothing. */
  readonly #written: Int32Array;

  constructor(vocabSize: number) {
    this.#row = new Float32Array(vocabSize).fill(-Infinity);
    this.#written = new Int32Array((vocabSize + 31) >> 5);
  }

  /** `row` where `mask` has a bit, minus infinity elsewhere. `mask` has no bits from row.length on. */
  masked(row: Float32Array, mask: Int32Array): Float32Array {
    const out = this.#row;
    const written = this.#written;
    for (let i = 0; i < written.length; i++) {
      let word = mask[i]!;
      if (!isDense(word)) {
        if (written[i] !== 0) out.fill(-Infinity, i << 5, (i + 1) << 5);
        written[i] = word;
        for (; word !== 0; word &= word - 1) {
          const id = (i << 5) + lowestBit(word);
          out[id] = row[id]!;
        }
        continue;
      }
      // What stands together is copied together; then the gaps in it are closed.
      const first = i;
      while (i + 1 < written.length && isDense(mask[i + 1]!)) i++;
      out.set(row.subarray(first << 5, (i + 1) << 5), first << 5);
      for (let j = first; j <= i; j++) {
        written[j] = mask[j]!;
        for (let gaps = ~mask[j]!; gaps !== 0; gaps &= gaps - 1) out[(j << 5) + lowestBit(gaps)] = -Infinity; // beyond the row: nothing
      }
    }
    return out;
  }
}

const lowestBit = (word: number): number => 31 - Math.clz32(word & -word);
function bitCount(word: number): number {
  let n = word - ((word >>> 1) & 0x55555555);
  n = (n & 0x33333333) + ((n >>> 2) & 0x33333333);
  return Math.imul((n + (n >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24;
}
const isDense = (word: number): boolean => word === -1 || (word !== 0 && bitCount(word) > 16);

export class ConstraintStage implements LogitStage {
  readonly #matcher: GrammarMatcher;
  readonly #row: MaskedRow;
  readonly #vocabSize: number;
  readonly #stopIds: readonly number[];
  readonly #forbiddenIds: readonly number[];
  /** Bits of the next token once they are asked for. */
  readonly #mask: Int32Array;
  #isKnown = false;
  #isComplete = false;
  /** Tokens that the mask allows, in all, and the first of them. */
  #nAllowed = 0;
  readonly #allowed = new Uint32Array(MOST_CANDIDATES);
  #isDisposed = false;

  /** The matcher knows one token more than the model, the end of the reply, for which any of `stopIds` stands. It never gives `forbiddenIds`. */
  constructor(matcher: GrammarMatcher, row: MaskedRow, vocabSize: number, stopIds: readonly number[], forbiddenIds: readonly number[]) {
    this.#matcher = matcher;
    this.#row = row;
    this.#vocabSize = vocabSize;
    this.#stopIds = stopIds.filter((id) => id < vocabSize);
    this.#forbiddenIds = forbiddenIds;
    this.#mask = new Int32Array((vocabSize + 32) >> 5);
  }

  apply(row: Float32Array): Float32Array {
    this.#find();
    if (this.#nAllowed === 0) throw new ModelError("The grammar allows no token of this vocabulary here.");
    return this.#row.masked(row, this.#mask);
  }

  /** None where there is no next token or finding it fails, which `apply` then says: nobody who asks for these can be told. */
  get candidates(): Uint32Array | null {
    try {
      this.#find();
    } catch {
      return this.#allowed.subarray(0, 0);
    }
    return this.#nAllowed <= MOST_CANDIDATES ? this.#allowed.subarray(0, this.#nAllowed) : null;
  }

  push(id: number): void {
    this.#isKnown = false;
    if (!this.#matcher.acceptToken(id)) throw new ModelError(`Token ${id} does not follow the grammar.`);
  }

  /** Only the end may come. */
  get isComplete(): boolean {
    this.#find();
    return this.#isComplete;
  }

  dispose(): void {
    if (!this.#isDisposed) this.#matcher.dispose();
    this.#isDisposed = true;
  }

  #find(): void {
    if (this.#isKnown) return;
    const mask = this.#mask;
    this.#matcher.getNextTokenBitmask(mask);
    const end = this.#vocabSize;
    const mayEnd = ((mask[end >> 5]! >>> (end & 31)) & 1) === 1;
    // Beyond the end the library leaves the last word's bits as they come.
    mask[end >> 5]! &= (1 << (end & 31)) - 1;
    for (const id of this.#forbiddenIds) mask[id >> 5]! &= ~(1 << (id & 31));
    this.#isComplete = mayEnd && mask.every((word) => word === 0);
    // A stop token is no part of the reply, whatever its text.
    for (const id of this.#stopIds) {
      if (mayEnd) mask[id >> 5]! |= 1 << (id & 31);
      else mask[id >> 5]! &= ~(1 << (id & 31));
    }
    this.#count();
    this.#isKnown = true;
  }

  #count(): void {
    let n = 0;
    for (let i = 0; i < this.#mask.length; i++) {
      let word = this.#mask[i]!;
      if (n > MOST_CANDIDATES) n += bitCount(word);
      else for (; word !== 0; word &= word - 1) {
        if (n < MOST_CANDIDATES) this.#allowed[n] = (i << 5) + lowestBit(word);
        n++;
      }
    }
    this.#nAllowed = n;
  }
}
