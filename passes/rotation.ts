// Orthogonal matrices that a row is multiplied with: Hadamard's with random signs, in n log n steps, and random ones. Owns their making: Sylvester's doubling, Paley's
// two constructions (R. Paley, "On orthogonal matrices", 1933), and QR of Gaussian numbers. Refuses sizes for which no Hadamard matrix is made here. The use: rotate-model.ts.

import { Matrix, QrDecomposition } from "ml-matrix";
import { ModelError } from "../model/config.ts";
import { uniform } from "../model/random.ts";

export const ROTATIONS = ["hadamard", "orthogonal"] as const;
export type RotationName = (typeof ROTATIONS)[number];

/** x becomes x Q, for a row x [size] in place. */
export type Rotation = (x: Float64Array) => void;

const isPrime = (n: number): boolean => {
  for (let d = 2; d * d <= n; d++) if (n % d === 0) return false;
  return n > 1;
};

/** Whether each difference modulo the prime is a square: 1, or -1; 0 for none. */
function residues(prime: number): Int8Array {
  const out = new Int8Array(prime).fill(-1);
  out[0] = 0;
  for (let i = 1; i < prime; i++) out[(i * i) % prime] = 1;
  return out;
}

/** A Hadamard matrix of ones and minus ones, [size, size], by Paley; null where neither construction has this size. */
export function paley(size: number): Int8Array | null {
  if (size === 1) return Int8Array.of(1);
  const [first, second] = [size - 1, size / 2 - 1];
  if (size % 4 === 0 && first % 4 === 3 && isPrime(first)) {
    // I + S: the first row ones, the first column minus ones, and between them the residues of row - column.
    const chi = residues(first);
    return Int8Array.from({ length: size * size }, (_, at) => {
      const [row, column] = [Math.floor(at / size), at % size];
      if (row === column || row === 0) return 1;
      return column === 0 ? -1 : chi[(row - column + first) % first]!;
    });
  }
  if (size % 4 === 0 && second % 4 === 1 && isPrime(second)) {
    // The symmetric conference matrix of second + 1 rows, each entry a block of two by two.
    const chi = residues(second);
    return Int8Array.from({ length: size * size }, (_, at) => {
      const [row, column] = [Math.floor(at / size), at % size];
      const [r, c, i, j] = [row >> 1, column >> 1, row & 1, column & 1];
      if (r === c) return i === 0 && j === 0 ? 1 : -1;
      const entry = r === 0 || c === 0 ? 1 : chi[(r - c + second) % second]!;
      return i === 1 && j === 1 ? -entry : entry;
    });
  }
  return null;
}

/** size = of * 2^doublings with a Paley matrix of the first, as small as there is. Throws ModelError where there is none. */
export function hadamardParts(size: number): { readonly of: number; readonly doublings: number } {
  let doublings = 0;
  while (size % 2 ** (doublings + 1) === 0) doublings++;
  for (let n = doublings; n >= 0; n--) if (paley(size / 2 ** n) !== null) return { of: size / 2 ** n, doublings: n };
  throw new ModelError(`No Hadamard matrix of ${size} rows is known here: ${size} is no power of two times a size of Paley's. Rotate with --by orthogonal.`);
}

function hadamard(size: number, seed: number): Rotation {
  const { of, doublings } = hadamardParts(size);
  const core = paley(of)!;
  const inner = 2 ** doublings;
  const scale = 1 / Math.sqrt(size);
  const signs = Float64Array.from({ length: size }, (_, i) => (uniform(seed, 0, i, 0) < 0.5 ? -scale : scale));
  const column = new Float64Array(of);
  return (x) => {
    for (let i = 0; i < size; i++) x[i]! *= signs[i]!;
    for (let step = 1; step < inner; step *= 2) {
      for (let at = 0; at < size; at += 2 * step) {
        for (let i = at; i < at + step; i++) {
          const [a, b] = [x[i]!, x[i + step]!];
          x[i] = a + b;
          x[i + step] = a - b;
        }
      }
    }
    if (of === 1) return;
    for (let i = 0; i < inner; i++) {
      for (let c = 0; c < of; c++) {
        let sum = 0;
        for (let r = 0; r < of; r++) sum += x[r * inner + i]! * core[r * of + c]!;
        column[c] = sum;
      }
      for (let c = 0; c < of; c++) x[c * inner + i] = column[c]!;
    }
  };
}

/** Every rotation equally likely: Q of Gaussian numbers, each column with the sign that makes R's diagonal positive (F. Mezzadri, 2007). */
function orthogonal(size: number, seed: number): Rotation {
  const normal = (i: number, j: number): number => Math.sqrt(-2 * Math.log(1 - uniform(seed, 1 + i, j, 0))) * Math.cos(2 * Math.PI * uniform(seed, 1 + i, j, 1));
  const qr = new QrDecomposition(new Matrix(Array.from({ length: size }, (_, i) => Array.from({ length: size }, (_, j) => normal(i, j)))));
  const [q, r] = [qr.orthogonalMatrix, qr.upperTriangularMatrix];
  const rows = Array.from({ length: size }, (_, i) => Float64Array.from({ length: size }, (_, j) => q.get(i, j) * (r.get(j, j) < 0 ? -1 : 1)));
  const out = new Float64Array(size);
  return (x) => {
    out.fill(0);
    for (let i = 0; i < size; i++) {
      const [value, row] = [x[i]!, rows[i]!];
      if (value !== 0) for (let j = 0; j < size; j++) out[j]! += value * row[j]!;
    }
    x.set(out);
  };
}

/** A rotation of rows of `size` numbers, the same for the same seed. */
export const rotationOf = (name: RotationName, size: number, seed: number): Rotation => (name === "hadamard" ? hadamard(size, seed) : orthogonal(size, seed));
