// Drawing a token from the whole vocabulary, in time linear in it: probabilities at a temperature, the nucleus of top_p, the cut of min_p,
// the draw. Owns the order of the additions: in id order, in f64; a nucleus by bins of probability, then within one bin by probability and id.
// Refuses top_k (sampling.ts ranks first) and anything that would sort a vocabulary. Probabilities are those of docs/arithmetic.md
// section 7, so it makes no difference whether a kernel or `probabilitiesOf` computed them.

import { exp } from "./float-math.ts";

const fround = Math.fround;

/** Bins of probability: an exponent and five bits of mantissa each, from 1 down to the smallest f32. */
const BIN_SHIFT = 18;
const ONE_BIN = 0x3f800000 >>> BIN_SHIFT;
const binSums = new Float64Array(ONE_BIN + 1);

/** What logits are multiplied with. Beyond the limit only the largest and its equals are left anyway, and products stay finite. */
export const inverseTemperature = (temperature: number): number => fround(Math.min(1e30, 1 / temperature));

/** softmax(logits * inverseTemperature(temperature)), as scaleRows and softmaxRows of the kernels give it. temperature > 0. */
export function probabilitiesOf(logits: Float32Array, temperature: number): Float32Array {
  const factor = inverseTemperature(temperature);
  const p = new Float32Array(logits.length);
  let max = -Infinity;
  for (let id = 0; id < p.length; id++) {
    const scaled = fround(logits[id]! * factor);
    p[id] = scaled;
    if (scaled > max) max = scaled; // what is no number makes the sum none
  }
  // The lanes of the kernel, in variables: a typed array of four is written and read again for every token.
  let [lane0, lane1, lane2, lane3] = [fround(0), fround(0), fround(0), fround(0)];
  const whole = p.length & ~3;
  for (let id = 0; id < whole; id += 4) {
    const [a, b] = [exp(fround(p[id]! - max)), exp(fround(p[id + 1]! - max))];
    const [c, d] = [exp(fround(p[id + 2]! - max)), exp(fround(p[id + 3]! - max))];
    p[id] = a;
    p[id + 1] = b;
    p[id + 2] = c;
    p[id + 3] = d;
    lane0 = fround(lane0 + a);
    lane1 = fround(lane1 + b);
    lane2 = fround(lane2 + c);
    lane3 = fround(lane3 + d);
  }
  for (let id = whole; id < p.length; id++) {
    const last = exp(fround(p[id]! - max));
    p[id] = last;
    if (id === whole) lane0 = fround(lane0 + last);
    else if (id === whole + 1) lane1 = fround(lane1 + last);
    else lane2 = fround(lane2 + last);
  }
  const sum = fround(fround(lane0 + lane1) + fround(lane2 + lane3));
  for (let id = 0; id < p.length; id++) p[id]! /= sum;
  return p;
}

/** What is left in: whatever is more likely than `probability`, or just as likely with an id of at most `id`; and at least `least`. */
interface Cut {
  readonly probability: number;
  readonly id: number;
  readonly least: number;
}

/**
 * Id whose share of what is kept holds `u`, 0 <= u < 1; -1 where the probabilities are no numbers. Kept: the fewest most likely tokens that
 * reach topP of the whole, and of these the ones of at least minP times the largest.
 */
export function drawFrom(p: Float32Array, topP: number, minP: number, u: number): number {
  let [total, largest] = [0, 0];
  for (let id = 0; id < p.length; id++) {
    total += p[id]!;
    if (p[id]! > largest) largest = p[id]!;
  }
  if (!(total > 0)) return -1;
  const { probability, id: lastEqual } = topP < 1 ? nucleus(p, topP * total) : { probability: 0, id: p.length };
  const cut: Cut = { probability, id: lastEqual, least: minP * largest };
  if (topP < 1 || minP > 0) {
    total = 0;
    for (let id = 0; id < p.length; id++) if (isKept(p[id]!, id, cut)) total += p[id]!;
  }
  let left = u * total;
  let last = -1;
  if (topP >= 1 && minP === 0) {
    for (let id = 0; id < p.length && left >= 0; id++) {
      const value = p[id]!;
      if (value === 0) continue;
      left -= value;
      last = id;
    }
    return last;
  }
  for (let id = 0; id < p.length && left >= 0; id++) {
    if (p[id]! === 0 || !isKept(p[id]!, id, cut)) continue;
    left -= p[id]!;
    last = id;
  }
  return last; // rounding may leave a sliver after the last one
}

const isKept = (value: number, id: number, cut: Cut): boolean =>
  (value > cut.probability || (value === cut.probability && id <= cut.id)) && value >= cut.least;

/** The least likely token of the nucleus that reaches `target`. */
function nucleus(p: Float32Array, target: number): { probability: number; id: number } {
  const bits = new Uint32Array(p.buffer, p.byteOffset, p.length);
  binSums.fill(0);
  for (let id = 0; id < p.length; id++) binSums[ONE_BIN - (bits[id]! >>> BIN_SHIFT)]! += p[id]!;
  let [bin, reached] = [0, 0];
  while (bin < ONE_BIN && reached + binSums[bin]! < target) reached += binSums[bin++]!;
  const members: number[] = [];
  for (let id = 0; id < p.length; id++) if (ONE_BIN - (bits[id]! >>> BIN_SHIFT) === bin) members.push(id);
  members.sort((a, b) => p[b]! - p[a]! || a - b);
  let at = 0;
  while (at < members.length - 1 && (reached += p[members[at]!]!) < target) at++;
  // An empty last bin: rounding took the target out of reach, and everything belongs to the nucleus.
  return members.length === 0 ? { probability: 0, id: p.length } : { probability: p[members[at]!]!, id: members[at]! };
}
