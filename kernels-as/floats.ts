// exp, erf, the two forms of SwiGLU, GELU and the f16 conversions on four lanes and on one, bit for bit as docs/arithmetic.md section 2 and model/float-math.ts.
// Refuses relaxed instructions: a fused multiply-add would round once where the definition rounds twice.

import { CLAMPED_SLOPE, ERF, EXP, HALF_FIX } from "./constants";

@inline
function exponential(x: v128): v128 {
  const one = v128.load(EXP, 144);
  // Adding 1.5 * 2^23 rounds to the nearest integer, ties to even, and leaves it in the low bits.
  const magic = v128.load(EXP, 192);
  const shifted = f32x4.add(f32x4.mul(x, v128.load(EXP)), magic);
  const n = f32x4.sub(shifted, magic);
  const r = f32x4.sub(f32x4.sub(x, f32x4.mul(n, v128.load(EXP, 16))), f32x4.mul(n, v128.load(EXP, 32)));
  let p = v128.load(EXP, 48);
  p = f32x4.add(f32x4.mul(p, r), v128.load(EXP, 64));
  p = f32x4.add(f32x4.mul(p, r), v128.load(EXP, 80));
  p = f32x4.add(f32x4.mul(p, r), v128.load(EXP, 96));
  p = f32x4.add(f32x4.mul(p, r), v128.load(EXP, 112));
  p = f32x4.add(f32x4.mul(p, r), v128.load(EXP, 128));
  const y = f32x4.add(f32x4.add(f32x4.mul(p, f32x4.mul(r, r)), r), one);
  // 2^n: n << 23 added to the bits of 1.0. Lanes out of range are replaced below, so a wild n does no harm.
  const power = i32x4.add(i32x4.shl(shifted, 23), one);
  let e = f32x4.mul(y, power);
  e = v128.bitselect(v128.load(HALF_FIX, 32), e, f32x4.gt(x, v128.load(EXP, 160)));
  e = v128.andnot(e, f32x4.lt(x, v128.load(EXP, 176)));
  return v128.bitselect(e, x, f32x4.eq(x, x));
}

/** e^x of four f32. */
export function exp4(x: v128): v128 {
  return exponential(x);
}

/** e^x of one f32. */
export function exp1(x: f32): f32 {
  return f32x4.extract_lane(exp4(f32x4.splat(x)), 0);
}

/** silu(g) * u. Inlined, so that several may run side by side: one alone is a long chain. */
@inline
export function swiglu4(g: v128, u: v128): v128 {
  const one = v128.load(EXP, 144);
  return f32x4.mul(f32x4.div(g, f32x4.add(one, exponential(f32x4.neg(g)))), u);
}

/** gpt-oss's form: gate and up clamped, a steeper sigmoid, up + 1. */
@inline
export function clampedSwiglu4(g: v128, u: v128, limit: v128): v128 {
  const one = v128.load(EXP, 144);
  const gate = f32x4.min(g, limit), up = f32x4.max(f32x4.min(u, limit), f32x4.neg(limit));
  const down = f32x4.add(one, exponential(f32x4.neg(f32x4.mul(v128.load(CLAMPED_SLOPE), gate))));
  return f32x4.mul(f32x4.add(up, one), f32x4.div(gate, down));
}

/** The error function: both forms for all, then each lane's own. */
@inline
function errorFunction(x: v128): v128 {
  const one = v128.load(EXP, 144), all = v128.load(HALF_FIX, 48);
  const t = v128.and(x, all), z = f32x4.mul(x, x);
  let p = v128.load(ERF);
  p = f32x4.add(f32x4.mul(p, z), v128.load(ERF, 16));
  p = f32x4.add(f32x4.mul(p, z), v128.load(ERF, 32));
  p = f32x4.add(f32x4.mul(p, z), v128.load(ERF, 48));
  p = f32x4.add(f32x4.mul(p, z), v128.load(ERF, 64));
  p = f32x4.add(f32x4.mul(p, z), v128.load(ERF, 80));
  p = f32x4.add(f32x4.mul(p, z), v128.load(ERF, 96));
  const u = f32x4.min(t, v128.load(ERF, 208));
  let q = v128.load(ERF, 112);
  q = f32x4.add(f32x4.mul(q, u), v128.load(ERF, 128));
  q = f32x4.add(f32x4.mul(q, u), v128.load(ERF, 144));
  q = f32x4.add(f32x4.mul(q, u), v128.load(ERF, 160));
  q = f32x4.add(f32x4.mul(q, u), v128.load(ERF, 176));
  q = f32x4.add(f32x4.mul(q, u), v128.load(ERF, 192));
  const far = v128.or(f32x4.sub(one, exponential(f32x4.neg(f32x4.mul(u, q)))), v128.andnot(x, all));
  return v128.bitselect(f32x4.mul(x, p), far, f32x4.le(t, one));
}

/** (x / 2) (1 + erf(x / sqrt 2)). */
export function gelu4(x: v128): v128 {
  const one = v128.load(EXP, 144);
  return f32x4.mul(f32x4.mul(x, f32x4.splat(0.5)), f32x4.add(one, errorFunction(f32x4.mul(x, v128.load(ERF, 224)))));
}

/**
 * Four f16 at `at`, exactly, infinities and NaN included. The constants are HALF_MASK and the four of HALF_FIX in order, loaded by the
 * caller outside its loop: V8 does not take loads out of loops.
 */
@inline
export function loadHalf4(at: usize, mask: v128, factor: v128, limit: v128, infinity: v128, magnitude: v128): v128 {
  const f = f32x4.mul(v128.and(i32x4.shl(v128.load16x4_s(at), 13), mask), factor);
  return v128.or(f, v128.and(f32x4.ge(v128.and(f, magnitude), limit), infinity));
}

/** Four bf16 at `at`. */
@inline
export function loadBrain4(at: usize): v128 {
  return i32x4.shl(v128.load16x4_u(at), 16);
}

/** One f16 at `at`. */
export function loadHalf(at: usize): f32 {
  const bits = <u32>load<u16>(at);
  const magnitude = bits & 0x7fff;
  const sign = (bits & 0x8000) << 16;
  if (magnitude >= 0x7c00) return reinterpret<f32>(sign | 0x7f800000 | ((magnitude & 0x3ff) << 13));
  return reinterpret<f32>(sign | (magnitude << 13)) * reinterpret<f32>(0x77800000);
}

/** The f16 of an f32, rounded to nearest-even. Below 2^-14 the addition of 0.5 does the rounding. */
export function halfBits(x: f32): u32 {
  if (x != x) return 0x7e00;
  const bits = reinterpret<u32>(x);
  const sign = (bits >> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude >= 0x477ff000) return sign | 0x7c00;
  if (magnitude < 0x38800000) return sign | (reinterpret<u32>(reinterpret<f32>(magnitude) + 0.5) - 0x3f000000);
  return sign | ((magnitude - 0x38000000 + 0xfff + ((magnitude >> 13) & 1)) >> 13);
}

/** The same of four f32, one in each lane. */
@inline
function halfBits4(x: v128): v128 {
  const magnitude = v128.and(x, i32x4.splat(0x7fffffff));
  const isNan = i32x4.gt_s(magnitude, i32x4.splat(0x7f800000));
  const sign = v128.andnot(v128.and(i32x4.shr_u(x, 16), i32x4.splat(0x8000)), isNan);
  const odd = v128.and(i32x4.shr_u(magnitude, 13), i32x4.splat(1));
  const normal = i32x4.shr_u(i32x4.add(i32x4.add(magnitude, odd), i32x4.splat(0xfff - 0x38000000)), 13);
  const small = i32x4.sub(f32x4.add(magnitude, f32x4.splat(0.5)), i32x4.splat(0x3f000000));
  const large = v128.bitselect(i32x4.splat(0x7e00), i32x4.splat(0x7c00), isNan);
  const finite = v128.bitselect(small, normal, i32x4.lt_s(magnitude, i32x4.splat(0x38800000)));
  return v128.or(sign, v128.bitselect(large, finite, i32x4.ge_s(magnitude, i32x4.splat(0x477ff000))));
}

/** The f16 of eight f32. */
@inline
export function halves8(a: v128, b: v128): v128 {
  return i16x8.narrow_i32x4_u(halfBits4(a), halfBits4(b));
}
