// The checksum of frames on the wire: sixteen chains in four registers. docs/protocol.md section 4; definition: model/checksum.ts.

const PRIME: i32 = 0x01000193;
const SEED: i32 = <i32>0x811c9dc5;

@inline
function next(h: v128, words: v128, prime: v128): v128 {
  const m = i32x4.mul(v128.xor(h, words), prime);
  return v128.xor(m, i32x4.shr_u(m, 15));
}

@inline
function nextWord(h: i32, word: i32): i32 {
  const m = (h ^ word) * PRIME;
  return m ^ <i32>(<u32>m >>> 15);
}

@inline
function fold(h: i32, lanes: v128): i32 {
  h = nextWord(h, i32x4.extract_lane(lanes, 0));
  h = nextWord(h, i32x4.extract_lane(lanes, 1));
  h = nextWord(h, i32x4.extract_lane(lanes, 2));
  return nextWord(h, i32x4.extract_lane(lanes, 3));
}

/** `ptr` and `nBytes` are multiples of 16. */
export function checksum(ptr: usize, nBytes: usize): i32 {
  const prime = i32x4.splat(PRIME);
  let a = i32x4.splat(SEED);
  a = i32x4.add(a, i32x4(0, 1, 2, 3));
  let b = i32x4.add(a, i32x4.splat(4));
  let c = i32x4.add(a, i32x4.splat(8));
  let d = i32x4.add(a, i32x4.splat(12));
  const end = ptr + nBytes, blocks = ptr + (nBytes & ~63);
  for (; ptr < blocks; ptr += 64) {
    a = next(a, v128.load(ptr), prime);
    b = next(b, v128.load(ptr, 16), prime);
    c = next(c, v128.load(ptr, 32), prime);
    d = next(d, v128.load(ptr, 48), prime);
  }
  if (ptr < end) a = next(a, v128.load(ptr), prime);
  if (ptr + 16 < end) b = next(b, v128.load(ptr, 16), prime);
  if (ptr + 32 < end) c = next(c, v128.load(ptr, 32), prime);
  return fold(fold(fold(fold(SEED, a), b), c), d);
}
