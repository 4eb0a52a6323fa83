// Where the numbers of valid files stand: counts, lengths, types, dimensions, offsets. A reader of its own for each format, so that what the
// product believes of a format does not decide what is tried. Refuses damaged files: spots are found before the damage.
// Formats: ggml's docs/gguf.md; protobuf's encoding.

import type { Spot } from "./mutations.ts";

const SCALAR_BYTES: Readonly<Record<number, number>> = { 0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8 };

/** Every number of a GGUF header; of texts and arrays the lengths, the first values and the first bytes. */
export function ggufSpots(bytes: Uint8Array): Spot[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const spots: Spot[] = [];
  let at = 0;
  const number = (n: 4 | 8): number => {
    spots.push({ at, bytes: n });
    at += n;
    return n === 4 ? view.getUint32(at - 4, true) : Number(view.getBigUint64(at - 8, true));
  };
  const text = (): void => {
    const length = number(8);
    if (length > 0) spots.push({ at, bytes: 1 });
    at += length;
  };
  const value = (type: number): void => {
    if (type === 8) return text();
    if (type === 9) {
      const of = number(4);
      const n = number(8);
      for (let i = 0; i < n; i++) {
        const before = spots.length;
        value(of);
        if (i > 2) spots.length = before;
      }
      return;
    }
    const n = SCALAR_BYTES[type]!;
    spots.push({ at, bytes: n === 4 || n === 8 ? n : 1 });
    at += n;
  };
  at = 4;
  number(4);
  const nTensors = number(8);
  const nFields = number(8);
  for (let i = 0; i < nFields; i++) {
    text();
    value(number(4));
  }
  for (let i = 0; i < nTensors; i++) {
    text();
    for (let n = number(4); n > 0; n--) number(8);
    number(4);
    number(8);
  }
  return spots;
}

/** Tags, lengths and numbers of a protobuf message and of those within it, one byte each. */
export function protobufSpots(bytes: Uint8Array): Spot[] {
  const spots: Spot[] = [];
  const message = (from: number, to: number): void => {
    for (let at = from; at < to; ) {
      spots.push({ at, bytes: 1 });
      const wire = bytes[at++]! & 7;
      while (at > from && bytes[at - 1]! >= 128) at++; // tags of two bytes
      if (wire === 5) at += 4;
      else if (wire === 1) at += 8;
      else {
        let value = 0;
        let shift = 0;
        do {
          spots.push({ at, bytes: 1 });
          value += (bytes[at]! & 127) * 2 ** shift;
          shift += 7;
        } while (bytes[at++]! >= 128);
        if (wire === 2) {
          if (from === 0) message(at, at + value);
          at += value;
        }
      }
    }
  };
  message(0, bytes.length);
  return spots;
}

/** Every word of a frame. */
export const wordSpots = (bytes: Uint8Array): Spot[] => Array.from({ length: Math.floor(bytes.length / 4) }, (_, i) => ({ at: 4 * i, bytes: 4 }));
