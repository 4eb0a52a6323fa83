// Elementary functions whose every bit is ours: docs/arithmetic.md section 2 in f32, and exp/log in f64 for sampling.
// Owns exp, erf, the activations of experts, sigmoid, the f16 conversions and nearest-even rounding, from + - * / and bit patterns only.
// Refuses Math.exp, Math.log and their kin: their last bits differ between engines.
// The f64 polynomials are the classic fdlibm ones (Sun Microsystems, 1993; freely redistributable), below 1 ulp.

const fround = Math.fround;
const f32Bits = new Float32Array(1);
const u32Bits = new Uint32Array(f32Bits.buffer);
const f64Bits = new Float64Array(1);
const f64Words = new Uint32Array(f64Bits.buffer); // little-endian on every platform V8 runs on here: [low, high]

const ROUND_MAGIC = 12582912; // 1.5 * 2^23: adding it leaves no bits below 1 in f32

/** The nearest integer of an f32 with |x| < 2^22, ties to even. */
export const nearestEven = (x: number): number => fround(fround(x + ROUND_MAGIC) - ROUND_MAGIC);

const EXP_HIGH = fround(88.37);
const EXP_LOW = fround(-87.33);
const LOG2E = fround(1.44269504);
const LN2_HI = fround(0.693359375);
const LN2_LO = fround(-2.1219444e-4);
const E0 = fround(1.987569150e-4);
const E1 = fround(1.3981999507e-3);
const E2 = fround(8.3334519073e-3);
const E3 = fround(4.1665795894e-2);
const E4 = fround(1.6666665459e-1);
const E5 = fround(5.0000001201e-1);

/** e^x of an f32, as an f32. */
export function exp(x: number): number {
  if (x !== x) return NaN;
  if (x > EXP_HIGH) return Infinity;
  if (x < EXP_LOW) return 0;
  const n = nearestEven(fround(x * LOG2E));
  const r = fround(fround(x - fround(n * LN2_HI)) - fround(n * LN2_LO));
  let p = E0;
  p = fround(fround(p * r) + E1);
  p = fround(fround(p * r) + E2);
  p = fround(fround(p * r) + E3);
  p = fround(fround(p * r) + E4);
  p = fround(fround(p * r) + E5);
  const y = fround(fround(fround(p * fround(r * r)) + r) + 1);
  u32Bits[0] = (n + 127) << 23;
  return fround(y * f32Bits[0]);
}

/** g / (1 + exp(-g)). */
export const silu = (g: number): number => fround(g / fround(1 + exp(-g)));

/** silu(g) * u. */
export const swiglu = (g: number, u: number): number => fround(silu(g) * u);

const CLAMPED_SLOPE = fround(1.702);

/** gpt-oss's form: g' / (1 + exp(-1.702 g')) * (u' + 1), g' = min(g, limit), u' = u within +-limit. */
export function clampedSwiglu(g: number, u: number, limit: number): number {
  const gate = Math.min(g, limit);
  const up = Math.max(Math.min(u, limit), -limit);
  return fround(fround(up + 1) * fround(gate / fround(1 + exp(-fround(CLAMPED_SLOPE * gate)))));
}

/** max(x, +0): never -0; NaN stays. */
export const relu = (x: number): number => Math.max(x, 0);

const ERF_NEAR = [7.6471160815e-5, -7.9423557274e-4, 5.1797494697e-3, -2.6848591264e-2, 1.1283430117e-1, -3.7612605985e-1, 1.1283791584].map(fround);
const ERF_FAR = [-2.1018313101e-4, 3.1831255397e-3, -2.2786111608e-2, 1.0509670736e-1, 6.3584637108e-1, 1.1284755852].map(fround);
const polynomial = (coefficients: readonly number[], x: number): number => coefficients.reduce((p, c) => fround(fround(p * x) + c));

/** The error function of an f32, as an f32; the error is at most 1.4e-7. */
export function erf(x: number): number {
  const t = Math.abs(x);
  if (t <= 1) return fround(x * polynomial(ERF_NEAR, fround(x * x)));
  const u = Math.min(t, 4);
  const far = fround(1 - exp(-fround(u * polynomial(ERF_FAR, u))));
  return x < 0 ? -far : far;
}

const HALF_ROOT = fround(0.70710678);

/** (x / 2) (1 + erf(x / sqrt 2)). */
export const gelu = (x: number): number => fround(fround(x * 0.5) * fround(1 + erf(fround(x * HALF_ROOT))));

/** 1 / (1 + exp(-x)). */
export const sigmoid = (x: number): number => fround(1 / fround(1 + exp(-x)));

/** 1 - 2 / (exp(2 x) + 1), of |x| exactly odd: absolute error below 2e-7. */
export function tanh(x: number): number {
  const y = fround(1 - fround(2 / fround(exp(fround(2 * Math.abs(x))) + 1)));
  return x < 0 ? -y : y;
}

/** The value of an f16 bit pattern. Exact; infinities and NaN included. */
export function f16ToF32(bits: number): number {
  const sign = (bits & 0x8000) << 16;
  const magnitude = bits & 0x7fff;
  if (magnitude >= 0x7c00) {
    u32Bits[0] = sign | 0x7f800000 | ((magnitude & 0x3ff) << 13);
    return f32Bits[0];
  }
  // The f16 exponent read as an f32 exponent is 112 too small; the product by 2^112 is exact, subnormals included.
  u32Bits[0] = sign | (magnitude << 13);
  return fround(f32Bits[0] * 2 ** 112);
}

/** The f16 bit pattern of an f32, rounded to nearest-even; too large becomes infinite, NaN becomes 0x7e00. */
export function f32ToF16(x: number): number {
  if (x !== x) return 0x7e00;
  f32Bits[0] = x;
  const bits = u32Bits[0];
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude >= 0x477ff000) return sign | 0x7c00; // 65,520 and above
  if (magnitude < 0x38800000) {
    // Below 2^-14: adding 0.5 leaves exactly the f16 subnormal's bits at the bottom, rounded to nearest-even by the addition.
    u32Bits[0] = magnitude;
    f32Bits[0] = fround(f32Bits[0] + 0.5);
    return sign | (u32Bits[0] - 0x3f000000);
  }
  const odd = (magnitude >>> 13) & 1;
  return sign | ((magnitude - 0x38000000 + 0xfff + odd) >>> 13);
}

/** The value of a bf16 bit pattern. Exact. */
export function bf16ToF32(bits: number): number {
  u32Bits[0] = bits << 16;
  return f32Bits[0];
}

const LN2_HI_F64 = 6.93147180369123816490e-1;
const LN2_LO_F64 = 1.90821492927058770002e-10;
const INV_LN2_F64 = 1.44269504088896338700;

function powerOfTwo(n: number): number { // n in -1022..1023
  f64Words[0] = 0;
  f64Words[1] = (n + 1023) << 20;
  return f64Bits[0];
}

/** e^x in f64, below 1 ulp of error outside the subnormals. */
export function expF64(x: number): number {
  if (x !== x) return NaN;
  if (x > 709.782712893384) return Infinity;
  if (x < -745.1332191019411) return 0;
  const scaled = x * INV_LN2_F64;
  const k = Math.floor(scaled + 0.5);
  const hi = x - k * LN2_HI_F64;
  const lo = k * LN2_LO_F64;
  const r = hi - lo;
  const t = r * r;
  const c = r - t * (1.66666666666666019037e-1 + t * (-2.77777777770155933842e-3 + t * (6.61375632143793436117e-5
    + t * (-1.65339022054652515390e-6 + t * 4.13813679705723846039e-8))));
  const y = 1 - ((lo - (r * c) / (2 - c)) - hi);
  if (k > 1023) return y * 2 * powerOfTwo(k - 1);
  if (k < -1021) return y * powerOfTwo(k + 1000) * powerOfTwo(-1000);
  return y * powerOfTwo(k);
}

/** The error function in f64, within 1e-15: its series up to 2.5, and beyond the continued fraction of 1 - erf. */
export function erfF64(x: number): number {
  const t = Math.abs(x);
  if (!(t < 6)) return x !== x ? NaN : Math.sign(x);
  const density = expF64(-t * t) / 1.7724538509055160273; // over the root of pi
  if (t <= 2.5) { // 2 density sum over n of 2^n t^(2n + 1) / (1 * 3 * ... * (2n + 1)): no term is below zero
    let [term, sum] = [x, x];
    for (let n = 1; n < 50; n++) sum += (term *= (2 * x * x) / (2 * n + 1));
    return 2 * density * sum;
  }
  let fraction = t;
  for (let n = 100; n > 0; n--) fraction = t + n / 2 / fraction;
  return Math.sign(x) * (1 - density / fraction);
}

/** The natural logarithm in f64, below 1 ulp of error. Negative -> NaN, 0 -> -Infinity. */
export function logF64(x: number): number {
  if (x !== x || x < 0) return NaN;
  if (x === 0) return -Infinity;
  if (x === Infinity) return Infinity;
  let k = 0;
  f64Bits[0] = x;
  if (f64Words[1] < 0x00100000) { // subnormal
    k -= 54;
    f64Bits[0] = x * 18014398509481984;
  }
  k += (f64Words[1] >>> 20) - 1023;
  f64Words[1] = (f64Words[1] & 0x000fffff) | 0x3ff00000;
  if (f64Bits[0] > 1.4142135623730951) { // mantissa into [sqrt(1/2), sqrt(2)]
    f64Bits[0] = f64Bits[0] * 0.5;
    k += 1;
  }
  const f = f64Bits[0] - 1;
  const s = f / (2 + f);
  const z = s * s;
  const w = z * z;
  const t1 = w * (3.999999999940941908e-1 + w * (2.222219843214978396e-1 + w * 1.531383769920937332e-1));
  const t2 = z * (6.666666666666735130e-1 + w * (2.857142874366239149e-1 + w * (1.818357216161805012e-1 + w * 1.479819860511658591e-1)));
  const half = 0.5 * f * f;
  return k * LN2_HI_F64 - ((half - (s * (half + (t1 + t2)) + k * LN2_LO_F64)) - f);
}
