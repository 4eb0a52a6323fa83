// The standard normal quantile in f64 whose every bit is ours: Wichura's algorithm AS 241 (PPND16, Applied Statistics 37, 1988), below 1e-15 of relative error.
// Owns the coefficients of the centre and of the tails down to e^-25. Refuses what lies beyond: nobody keeps one key of 10^10.

import { logF64 } from "./float-math.ts";

const CENTRE = [
  [2509.0809287301226727, 33430.575583588128105, 67265.770927008700853, 45921.953931549871457, 13731.693765509461125, 1971.5909503065514427, 133.14166789178437745, 3.387132872796366608],
  [5226.495278852854561, 28729.085735721942674, 39307.89580009271061, 21213.794301586595867, 5394.1960214247511077, 687.1870074920579083, 42.313330701600911252, 1],
] as const;
const TAIL = [
  [7.7454501427834140764e-4, 0.0227238449892691845833, 0.24178072517745061177, 1.27045825245236838258, 3.64784832476320460504, 5.7694972214606914055, 4.6303378461565452959, 1.42343711074968357734],
  [1.05075007164441684324e-9, 5.475938084995344946e-4, 0.0151986665636164571966, 0.14810397642748007459, 0.68976733498510000455, 1.6763848301838038494, 2.05319162663775882187, 1],
] as const;

const polynomial = (coefficients: readonly number[], r: number): number => coefficients.reduce((sum, c) => sum * r + c, 0);
const ratio = ([above, below]: readonly [readonly number[], readonly number[]], r: number): number => polynomial(above, r) / polynomial(below, r);

/** x with a share p of the standard normal distribution below it; -Infinity for 0, Infinity for 1. */
export function normalQuantile(p: number): number {
  if (!(p >= 0 && p <= 1)) throw new Error(`The normal quantile of ${p} was asked for; a share from 0 to 1 was expected.`);
  const q = p - 0.5;
  if (Math.abs(q) <= 0.425) return q * ratio(CENTRE, 0.180625 - q * q);
  const share = q < 0 ? p : 1 - p;
  if (share === 0) return q < 0 ? -Infinity : Infinity;
  const r = Math.sqrt(-logF64(share));
  if (r > 5) throw new Error(`The normal quantile of ${p} was asked for; at least e^-25 on either side was expected.`);
  const x = ratio(TAIL, r - 1.6);
  return q < 0 ? -x : x;
}
