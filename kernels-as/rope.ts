// Rotary embedding from tables, in place, docs/arithmetic.md section 7. Two multiplies, then one subtraction or addition.

const HALF_STYLE: i32 = 0;

/** Pairs (i, i + half): both members of four pairs are contiguous. */
@inline
function rotateHalf(head: usize, cos: usize, sin: usize, half: usize): void {
  const vectors = (half & ~3) << 2, end = half << 2;
  let i: usize = 0;
  for (; i < vectors; i += 16) {
    const a = v128.load(head + i), b = v128.load(head + i + end);
    const c = v128.load(cos + i), s = v128.load(sin + i);
    v128.store(head + i, f32x4.sub(f32x4.mul(a, c), f32x4.mul(b, s)));
    v128.store(head + i + end, f32x4.add(f32x4.mul(b, c), f32x4.mul(a, s)));
  }
  for (; i < end; i += 4) {
    const a = load<f32>(head + i), b = load<f32>(head + i + end);
    const c = load<f32>(cos + i), s = load<f32>(sin + i);
    store<f32>(head + i, a * c - b * s);
    store<f32>(head + i + end, b * c + a * s);
  }
}

/** Pairs (2i, 2i + 1). */
@inline
function rotateInterleaved(head: usize, cos: usize, sin: usize, half: usize): void {
  const vectors = (half & ~3) << 2, end = half << 2;
  let i: usize = 0;
  for (; i < vectors; i += 16) {
    const x = v128.load(head + 2 * i), y = v128.load(head + 2 * i, 16);
    const a = v128.shuffle<i32>(x, y, 0, 2, 4, 6), b = v128.shuffle<i32>(x, y, 1, 3, 5, 7);
    const c = v128.load(cos + i), s = v128.load(sin + i);
    const p = f32x4.sub(f32x4.mul(a, c), f32x4.mul(b, s));
    const q = f32x4.add(f32x4.mul(b, c), f32x4.mul(a, s));
    v128.store(head + 2 * i, v128.shuffle<i32>(p, q, 0, 4, 1, 5));
    v128.store(head + 2 * i, v128.shuffle<i32>(p, q, 2, 6, 3, 7), 16);
  }
  for (; i < end; i += 4) {
    const a = load<f32>(head + 2 * i), b = load<f32>(head + 2 * i, 4);
    const c = load<f32>(cos + i), s = load<f32>(sin + i);
    store<f32>(head + 2 * i, a * c - b * s);
    store<f32>(head + 2 * i, b * c + a * s, 4);
  }
}

export function ropeRows(
  style: i32, x: usize, xStride: usize, nTokens: i32, nHeads: i32, headDim: usize,
  ropeDim: usize, table: usize, positions: usize,
): void {
  const half = ropeDim >> 1;
  for (let t = 0; t < nTokens; t++) {
    const cos = table + <usize>load<u32>(positions) * (ropeDim << 2);
    const sin = cos + (half << 2);
    let head = x;
    for (let h = 0; h < nHeads; h++) {
      if (style == HALF_STYLE) rotateHalf(head, cos, sin, half);
      else rotateInterleaved(head, cos, sin, half);
      head += headDim << 2;
    }
    x += xStride;
    positions += 4;
  }
}
