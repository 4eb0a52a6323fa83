// Numbers that Python and TypeScript draw alike (test/methods/goldens/drawn.py), so that golden arrays need no file for their inputs.

/** f32 [n] in [-1, 1), times `scale`: number i is a hash of seed and i (the finaliser of MurmurHash3), its upper 16 bits. */
export const drawnNumbers = (seed: number, scale: number, n: number): Float32Array => Float32Array.from({ length: n }, (_, i) => {
  let x = (i + seed * 1000003) >>> 0;
  x = Math.imul(x ^ (x >>> 16), 0x85ebca6b) >>> 0;
  x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35) >>> 0;
  return Math.fround((((x ^ (x >>> 16)) >>> 16) / 32768 - 1) * scale);
});
