// FP8 e4m3 with a factor for every block of 128 x 128, as DeepSeek-V3 stores weights: rounding to it and writing it, for tests.
// Factors are powers of two that differ from block to block along rows and columns, so that one taken from a wrong block is seen.
// Written independently of formats/fp8.ts. Refuses choosing good factors: values beyond the largest code become it.

const BLOCK = 128;

const factorOf = (row: number, col: number): number => 2 ** -(6 + (Math.floor(row / BLOCK) & 1) + 2 * (Math.floor(col / BLOCK) & 1));

/** Code of the e4m3 number nearest to x, the lower one on a tie, by search among all of them: they ascend. */
function codeOf(x: number): number {
  const magnitude = Math.abs(x);
  let [low, high] = [0, MAGNITUDES.length - 1];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (MAGNITUDES[middle]! <= magnitude) low = middle;
    else high = middle;
  }
  const best = MAGNITUDES[high]! - magnitude < magnitude - MAGNITUDES[low]! ? high : low;
  return best === 0 ? 0 : best | (x < 0 ? 128 : 0);
}

function valueOf(code: number): number {
  const exponent = (code >> 3) & 15;
  const mantissa = code & 7;
  const magnitude = exponent === 0 ? mantissa / 512 : (1 + mantissa / 8) * 2 ** (exponent - 7);
  return code & 128 ? -magnitude : magnitude;
}

/** Of codes 0 to 126; 127 is NaN. */
const MAGNITUDES = Array.from({ length: 127 }, (_, code) => valueOf(code));

/** The nearest values that codes and factors hold, where value i is stored at `position(i)`; BF16 and F32 hold them too. */
export const roundToFp8 = (values: Float32Array, position: (i: number) => readonly [row: number, col: number]): Float32Array<ArrayBuffer> =>
  Float32Array.from(values, (x, i) => {
    const factor = factorOf(...position(i));
    return valueOf(codeOf(x / factor)) * factor;
  });

export const fp8Codes = (values: Float32Array, cols: number): Uint8Array =>
  Uint8Array.from(values, (x, i) => codeOf(x / factorOf(Math.floor(i / cols), i % cols)));

export function fp8Factors(rows: number, cols: number): { readonly shape: readonly [number, number]; readonly values: Float32Array } {
  const shape = [Math.ceil(rows / BLOCK), Math.ceil(cols / BLOCK)] as const;
  return { shape, values: Float32Array.from({ length: shape[0] * shape[1] }, (_, i) => factorOf(Math.floor(i / shape[1]) * BLOCK, (i % shape[1]) * BLOCK)) };
}
