// The values that a group of 32 weights may take in a stored type, and the choice of its scale: the best of some candidates for given weights of the errors.
// Owns levels and candidates. Refuses blocks of several scales (Q4_K, Q6_K), whose groups cannot be chosen one by one. Levels as the formats define them
// (docs/formats.md, "Quantisation at pack time"); scales are f16 before anything is rounded with them.

import { BLOCK_WRITERS, type BlockWriter, type GroupType } from "../formats/quantize-blocks.ts";

export const GROUP = 32;

/** A group's scale, and its minimum where the type has one. */
export interface GroupScale {
  scale: number;
  min: number;
}

export interface Grid {
  readonly type: GroupType;
  /** Scale and minimum with the least sum of weights[i] * error^2 among this grid's candidates. Groups of zeros get scale 0. */
  fit(x: Float64Array, from: number, weights: Float64Array, weightsFrom: number, out: GroupScale): void;
  /** The code nearest to a value, as BLOCK_WRITERS take it. */
  code(value: number, of: GroupScale): number;
  value(code: number, of: GroupScale): number;
  readonly write: BlockWriter;
}

const clamp = (q: number, low: number, high: number): number => (q < low ? low : q > high ? high : q);

/** Candidates: the scale that just holds the largest magnitude, and shares of it. */
const SHARES = Array.from({ length: 15 }, (_, i) => 1 - i * 0.04);
const Q2_SHARES = Array.from({ length: 27 }, (_, i) => 1 - i * 0.025);

interface Range { low: number; high: number }

function rangeOf(x: Float64Array, from: number, out: Range): void {
  out.low = Infinity;
  out.high = -Infinity;
  for (let i = from; i < from + GROUP; i++) {
    const value = x[i]!;
    if (value < out.low) out.low = value;
    if (value > out.high) out.high = value;
  }
}

/** A grid from its levels and candidates; `candidates` calls `take` with each scale and minimum, f16 already. */
function grid(
  type: GroupType, code: Grid["code"], value: Grid["value"], candidates: (range: Range, take: (scale: number, min: number) => void) => void,
): Grid {
  const range: Range = { low: 0, high: 0 };
  const tried: GroupScale = { scale: 0, min: 0 };
  return {
    type, code, value, write: BLOCK_WRITERS[type],
    fit(x, from, weights, weightsFrom, out) {
      rangeOf(x, from, range);
      let least = Infinity;
      candidates(range, (scale, min) => {
        [tried.scale, tried.min] = [scale, min];
        let error = 0;
        for (let i = 0; i < GROUP && error < least; i++) {
          const at = x[from + i]!;
          const rest = value(code(at, tried), tried) - at;
          error += weights[weightsFrom + i]! * rest * rest;
        }
        if (error < least || least === Infinity) [least, out.scale, out.min] = [error, scale, min];
      });
    },
  };
}

const f16 = Math.f16round;

export const GRIDS: Readonly<Record<GroupType, Grid>> = {
  // 255 levels are so close that only the range matters.
  Q8_0: grid("Q8_0", (v, { scale }) => (scale === 0 ? 0 : clamp(Math.round(v / scale), -127, 127) | 0), (q, { scale }) => scale * q,
    ({ low, high }, take) => take(f16(Math.max(-low, high) / 127), 0)),
  // -8 to 7 times a scale of either sign.
  Q4_0: grid("Q4_0", (v, { scale }) => (scale === 0 ? 8 : clamp(Math.floor(v / scale + 8.5), 0, 15)), (q, { scale }) => scale * (q - 8),
    ({ low, high }, take) => {
      for (const share of SHARES) {
        const scale = Math.max(-low / 8, high / 7);
        take(f16(share * scale), 0);
        take(f16(-share * Math.max(-low / 7, high / 8)), 0);
      }
    }),
  Q4_1: grid("Q4_1", (v, { scale, min }) => (scale === 0 ? 0 : clamp(Math.floor((v - min) / scale + 0.5), 0, 15)), (q, { scale, min }) => scale * q + min,
    ({ low, high }, take) => {
      for (const share of SHARES) {
        for (const other of SHARES.slice(0, 8)) {
          const [from, to] = [share * low, other * high];
          const min = f16(Math.min(from, to));
          take(f16(Math.max(0, Math.max(from, to) - min) / 15), min);
        }
      }
    }),
  // -3, -1, 1 and 3 times the scale.
  Q2_32: grid("Q2_32", (v, { scale }) => (scale === 0 ? 1 : clamp(Math.floor(v / scale / 2) + 2, 0, 3)), (q, { scale }) => scale * (2 * q - 3),
    ({ low, high }, take) => {
      const largest = Math.max(-low, high);
      for (const share of Q2_SHARES) take(f16((share * largest) / 3), 0);
    }),
  // -4 to 3 times a scale of either sign.
  Q3_32: grid("Q3_32", (v, { scale }) => (scale === 0 ? 4 : clamp(Math.floor(v / scale + 4.5), 0, 7)), (q, { scale }) => scale * (q - 4),
    ({ low, high }, take) => {
      for (const share of SHARES) {
        take(f16(share * Math.max(-low / 4, high / 3)), 0);
        take(f16(-share * Math.max(-low / 3, high / 4)), 0);
      }
    }),
};
