// Row-wise arithmetic on f32: add, copy, bias, scale, clamp, and the fold of expert rows into the layer's output.
// docs/arithmetic.md sections 6 and 7. Every element is its own chain, so four lanes at a time change nothing.

export function addRows(x: usize, xStride: usize, y: usize, yStride: usize, nTokens: i32, n: usize): void {
  const vectors = (n & ~3) << 2, end = n << 2;
  for (let t = 0; t < nTokens; t++) {
    let i: usize = 0;
    for (; i < vectors; i += 16) v128.store(x + i, f32x4.add(v128.load(x + i), v128.load(y + i)));
    for (; i < end; i += 4) store<f32>(x + i, load<f32>(x + i) + load<f32>(y + i));
    x += xStride;
    y += yStride;
  }
}

export function copyRows(from: usize, fromStride: usize, to: usize, toStride: usize, nRows: i32, n: usize): void {
  for (let r = 0; r < nRows; r++) {
    memory.copy(to, from, n << 2);
    from += fromStride;
    to += toStride;
  }
}

export function addBiasRows(x: usize, xStride: usize, bias: usize, nTokens: i32, n: usize): void {
  addRows(x, xStride, bias, 0, nTokens, n);
}

export function scaleRows(x: usize, xStride: usize, factor: f32, nTokens: i32, n: usize): void {
  const vectors = (n & ~3) << 2, end = n << 2;
  const factors = f32x4.splat(factor);
  for (let t = 0; t < nTokens; t++) {
    let i: usize = 0;
    for (; i < vectors; i += 16) v128.store(x + i, f32x4.mul(v128.load(x + i), factors));
    for (; i < end; i += 4) store<f32>(x + i, load<f32>(x + i) * factor);
    x += xStride;
  }
}

export function clampRows(x: usize, xStride: usize, limit: f32, nTokens: i32, n: usize): void {
  const vectors = (n & ~3) << 2, end = n << 2;
  const high = f32x4.splat(limit), low = f32x4.splat(-limit);
  for (let t = 0; t < nTokens; t++) {
    let i: usize = 0;
    for (; i < vectors; i += 16) v128.store(x + i, f32x4.min(f32x4.max(v128.load(x + i), low), high));
    for (; i < end; i += 4) store<f32>(x + i, min<f32>(max<f32>(load<f32>(x + i), -limit), limit));
    x += xStride;
  }
}

export function combine(pairs: usize, nPairs: i32, y: usize, yStride: usize, n: usize): void {
  const vectors = (n & ~3) << 2, end = n << 2;
  for (let p = 0; p < nPairs; p++) {
    const to = y + <usize>load<u32>(pairs) * yStride;
    const row = <usize>load<u32>(pairs, 4);
    const stride = <usize>load<u32>(pairs, 8);
    const last = row + stride * <usize>(load<u32>(pairs, 12) - 1);
    const weight = load<f32>(pairs, 16);
    const weights = f32x4.splat(weight);
    let i: usize = 0;
    for (; i < vectors; i += 16) {
      let out = v128.load(row + i);
      for (let s = row; s != last;) {
        s += stride;
        out = f32x4.add(out, v128.load(s + i));
      }
      v128.store(to + i, f32x4.add(v128.load(to + i), f32x4.mul(weights, out)));
    }
    for (; i < end; i += 4) {
      let out = load<f32>(row + i);
      for (let s = row; s != last;) {
        s += stride;
        out = out + load<f32>(s + i);
      }
      store<f32>(to + i, load<f32>(to + i) + weight * out);
    }
    pairs += 20;
  }
}
