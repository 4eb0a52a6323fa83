// Quantises f32 rows to ggml's Q4_K and Q6_K blocks of 256, for the file on which the peer is fastest.
// Owns the rounding: scales from the range of each sub-block, without ggml's search over scales, which changes values but no size and
// no speed. Refuses rows that are no multiple of 256. Layouts: ggml-common.h, block_q4_K and block_q6_K; ggml-quants.c, get_scale_min_k4.

const BLOCK = 256;
export const Q4_K_BYTES = 144;
export const Q6_K_BYTES = 210;

function forEachBlock(values: Float32Array, nCols: number, blockBytes: number, encode: (x: Float32Array, out: Uint8Array, view: DataView) => void): Uint8Array {
  if (nCols % BLOCK !== 0 || values.length % nCols !== 0) throw new RangeError(`${values.length} values in rows of ${nCols} were given; rows of a multiple of ${BLOCK} were expected.`);
  const bytes = new Uint8Array((values.length / BLOCK) * blockBytes);
  for (let i = 0; i < values.length / BLOCK; i++) {
    const out = bytes.subarray(i * blockBytes, (i + 1) * blockBytes);
    encode(values.subarray(i * BLOCK, (i + 1) * BLOCK), out, new DataView(out.buffer, out.byteOffset, blockBytes));
  }
  return bytes;
}

const clamp = (x: number, most: number): number => Math.max(0, Math.min(most, Math.round(x)));

/** Q4_K: {f16 d, f16 dmin, 12 bytes of eight 6-bit scales and minima, 128 bytes of nibbles}; x = d * scale * q - dmin * min. */
export const encodeQ4K = (values: Float32Array, nCols: number): Uint8Array => forEachBlock(values, nCols, Q4_K_BYTES, (x, out, view) => {
  const steps = new Float64Array(8);
  const minima = new Float64Array(8);
  for (let sub = 0; sub < 8; sub++) {
    let [low, high] = [0, 0];
    for (let i = 0; i < 32; i++) {
      low = Math.min(low, x[sub * 32 + i]!);
      high = Math.max(high, x[sub * 32 + i]!);
    }
    steps[sub] = (high - low) / 15;
    minima[sub] = -low;
  }
  const d = Math.f16round(Math.max(...steps) / 63);
  const dMin = Math.f16round(Math.max(...minima) / 63);
  view.setFloat16(0, d, true);
  view.setFloat16(2, dMin, true);
  for (let sub = 0; sub < 8; sub++) {
    const scale = d === 0 ? 0 : clamp(steps[sub]! / d, 63);
    const min = dMin === 0 ? 0 : clamp(minima[sub]! / dMin, 63);
    if (sub < 4) {
      out[4 + sub]! |= scale;
      out[8 + sub]! |= min;
    } else {
      out[8 + sub] = (scale & 15) | ((min & 15) << 4);
      out[sub]! |= (scale >> 4) << 6;
      out[4 + sub]! |= (min >> 4) << 6;
    }
    const step = d * scale;
    // Sub-blocks 2i and 2i + 1 share 32 bytes: low and high nibbles.
    const at = 16 + (sub >> 1) * 32;
    for (let i = 0; i < 32; i++) {
      const q = step === 0 ? 0 : clamp((x[sub * 32 + i]! + dMin * min) / step, 15);
      out[at + i]! |= (sub & 1) === 0 ? q : q << 4;
    }
  }
});

/** Q6_K: {128 bytes of low nibbles, 64 bytes of high pairs, 16 x i8 scales, f16 d}; x = d * scale * (q - 32). */
export const encodeQ6K = (values: Float32Array, nCols: number): Uint8Array => forEachBlock(values, nCols, Q6_K_BYTES, (x, out, view) => {
  const steps = new Float64Array(16);
  let largest = 0;
  for (let sub = 0; sub < 16; sub++) {
    let extreme = 0;
    for (let i = 0; i < 16; i++) if (Math.abs(x[sub * 16 + i]!) > Math.abs(extreme)) extreme = x[sub * 16 + i]!;
    steps[sub] = extreme / -32;
    if (Math.abs(steps[sub]!) > Math.abs(largest)) largest = steps[sub]!;
  }
  const d = Math.f16round(largest / -128);
  view.setFloat16(208, d, true);
  for (let sub = 0; sub < 16; sub++) {
    const scale = d === 0 ? 0 : Math.max(-128, Math.min(127, Math.round(steps[sub]! / d)));
    view.setInt8(192 + sub, scale);
    const step = d * scale;
    for (let i = sub * 16; i < sub * 16 + 16; i++) {
      const q = step === 0 ? 32 : clamp(x[i]! / step + 32, 63);
      // Each half of 128: four quarters of 32; quarters 0 and 1 in the low nibbles of 64 bytes, 2 and 3 in the high ones.
      const [half, quarter, lane] = [i >> 7, (i >> 5) & 3, i & 31];
      out[half * 64 + (quarter & 1) * 32 + lane]! |= (q & 15) << (quarter < 2 ? 0 : 4);
      out[128 + half * 32 + lane]! |= (q >> 4) << (2 * quarter);
    }
  }
});
