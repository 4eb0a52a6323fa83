// Seeded changes to bytes, as damage and malice make them: flipped bits, numbers at their limits, pieces cut, doubled, moved or taken from
// another file, text whose digits, quotes and brackets change, and fields whose place is known set to what nobody expects. Owns the choice.
// Refuses to know any format: json-mutations.ts and spots.ts find the places.

import { SeededRandom } from "../support/seeded-random.ts";

/** Whole numbers that parsers tend to trust. */
const EXTREMES: readonly bigint[] = [
  0n, 1n, 2n, 0x7fn, 0xffn, 0x100n, 0x7fffn, 0xffffn, 0x10000n, 1n << 24n, 0x7fffffffn, 0x80000000n, 0xffffffffn, 1n << 32n, 1n << 36n, 1n << 40n, (1n << 53n) - 1n, 1n << 53n,
  (1n << 60n) - 1n, 1n << 63n, (1n << 64n) - 1n, (1n << 64n) - 32n,
];
const TEXTS: readonly string[] = ["{", "}", "[", "]", "\"", ":", ",", "null", "true", "-1", "1e999", "0.5", "9007199254740993", "\\u0000", "\\ud800", "\u0000", "{}", "[]", "\"\"", "-0"];

/** A little-endian number in a file, whose place is known. */
export interface Spot {
  readonly at: number;
  readonly bytes: 1 | 4 | 8;
}

export class Mutator extends SeededRandom {
  pick<T>(list: readonly T[]): T { return list[this.below(list.length)]!; }

  /** A changed copy of `bytes`; `others` lend pieces. One to four changes, mostly near the start, where headers are. */
  mutate(bytes: Uint8Array, others: readonly Uint8Array[]): Uint8Array {
    let out = bytes.slice();
    for (let n = 1 + this.below(4); n > 0; n--) out = this.#once(out, this.pick(others));
    return out;
  }

  /** Sets one of the spots, in place, to an extreme, to a near number, or to what stands in another spot. */
  setSpot(bytes: Uint8Array, spots: readonly Spot[]): void {
    const spot = this.pick(spots);
    if (spot.at + spot.bytes > bytes.length) return;
    const value = read(bytes, spot);
    const from = this.pick(spots);
    const other = from.at + from.bytes <= bytes.length ? read(bytes, from) : 0n;
    write(bytes, spot, this.pick([this.pick(EXTREMES), this.pick(EXTREMES), value + 1n, value - 1n, value * 2n, value ^ (1n << BigInt(this.below(spot.bytes * 8))), other, BigInt(this.below(48)), BigInt(bytes.length)]));
  }

  #place(length: number): number {
    if (length === 0) return 0;
    return this.below(3) === 0 ? this.below(length) : this.below(Math.min(length, 1 << (2 + this.below(11))));
  }

  #once(b: Uint8Array, other: Uint8Array): Uint8Array<ArrayBuffer> {
    const at = this.#place(b.length);
    const splice = (from: number, until: number, piece: Uint8Array): Uint8Array<ArrayBuffer> => {
      const to = Math.min(until, b.length);
      const out = new Uint8Array(from + piece.length + (b.length - to));
      out.set(b.subarray(0, from));
      out.set(piece, from);
      out.set(b.subarray(to), from + piece.length);
      return out;
    };
    const length = Math.min(b.length - at, 1 << this.below(10));
    const copy = b.slice();
    switch (this.below(10)) {
      case 0: // one bit
        if (b.length > 0) copy[at] = copy[at]! ^ (1 << this.below(8));
        return copy;
      case 1: // one byte
        if (b.length > 0) copy[at] = this.below(256);
        return copy;
      case 2: case 3: // a number at its limit, of 4 or 8 bytes
        this.setSpot(copy, [{ at, bytes: this.below(2) === 0 ? 4 : 8 }]);
        return copy;
      case 4: return splice(at, b.length, new Uint8Array(0)); // cut short
      case 5: return splice(at, at + length, new Uint8Array(0)); // a piece removed
      case 6: return splice(at, at, b.subarray(at, at + length)); // a piece doubled
      case 7: { // a piece of another file
        const from = this.#place(other.length);
        return splice(at, at + length, other.subarray(from, from + (1 << this.below(10))));
      }
      case 8: return splice(at, at + this.below(2), new TextEncoder().encode(this.pick(TEXTS)));
      default: { // a digit or a letter changed: numbers, types and names of text formats
        for (let i = at; i < Math.min(b.length, at + 64); i++) {
          const c = copy[i]!;
          if (c >= 0x30 && c <= 0x39) { copy[i] = 0x30 + this.below(10); break; }
          if (c >= 0x61 && c <= 0x7a && this.below(8) === 0) { copy[i] = 0x61 + this.below(26); break; }
        }
        return copy;
      }
    }
  }
}

function read(bytes: Uint8Array, { at, bytes: n }: Spot): bigint {
  let value = 0n;
  for (let i = n - 1; i >= 0; i--) value = (value << 8n) | BigInt(bytes[at + i]!);
  return value;
}

function write(bytes: Uint8Array, { at, bytes: n }: Spot, value: bigint): void {
  let rest = BigInt.asUintN(8 * n, value);
  for (let i = 0; i < n; i++) {
    bytes[at + i] = Number(rest & 255n);
    rest >>= 8n;
  }
}
