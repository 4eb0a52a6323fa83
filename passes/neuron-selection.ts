// Which neurons of several experts do best as one: forward selection by orthogonal least squares (S. Chen, S. Billings and W. Luo, 1989). The neuron comes next with which the best linear
// map of those chosen so far comes nearest to what was to be given; a pivoted Cholesky factor keeps every step cheap. Owns the choice and the map. Refuses to know what neurons or rows are.

export interface SelectedNeurons {
  /** In the order they were chosen. */
  readonly chosen: readonly number[];
  /** Row p: what a unit of chosen[p] gives. f64 [keep, nOutputs] */
  readonly outputs: Float64Array;
  /** Of the squares that were to be given, those that these neurons do give. */
  readonly explained: number;
}

/** Added to each neuron's own moment, as a share of their mean: what keeps few rows from being learned by heart. */
const RIDGE = 0.01;

/**
 * `moments`: sums of products of neurons, both triangles, f64 [n, n]; `target`: their products with what was to be given, f64 [n, nOutputs].
 * Throws RangeError for more than there are, or where no neuron ever fired.
 */
export function selectNeurons(moments: Float64Array, target: Float64Array, n: number, nOutputs: number, keep: number): SelectedNeurons {
  if (!Number.isInteger(keep) || keep < 1 || keep > n) throw new RangeError(`${keep} of ${n} neurons were to be chosen; expected 1 to ${n}.`);
  let trace = 0;
  for (let i = 0; i < n; i++) trace += moments[i * n + i]!;
  const ridge = (RIDGE * trace) / n;
  if (!(ridge > 0)) throw new RangeError(`The moments of ${n} neurons sum up to ${trace}; expected more than zero.`);
  const left = Float64Array.from({ length: n }, (_, i) => moments[i * n + i]! + ridge); // of each neuron's own moment, what those chosen do not say
  const residual = target.slice(); // [n, nOutputs]
  const factor = new Float64Array(n * keep); // row of a neuron, column of a step
  const steps = new Float64Array(keep * nOutputs);
  const chosen: number[] = [];
  const isChosen = new Uint8Array(n);
  let explained = 0;
  const gain = (i: number): number => {
    let sum = 0;
    for (let o = i * nOutputs; o < (i + 1) * nOutputs; o++) sum += residual[o]! ** 2;
    return sum / left[i]!;
  };
  for (let step = 0; step < keep; step++) {
    let [next, most] = [-1, -1];
    for (let i = 0; i < n; i++) {
      const of = isChosen[i] === 1 ? -1 : gain(i);
      if (of > most) [next, most] = [i, of];
    }
    const root = Math.sqrt(left[next]!);
    const row = next * keep;
    for (let o = 0; o < nOutputs; o++) steps[step * nOutputs + o] = residual[next * nOutputs + o]! / root;
    isChosen[next] = 1;
    chosen.push(next);
    explained += most;
    factor[row + step] = root;
    for (let i = 0; i < n; i++) {
      if (isChosen[i] === 1) continue;
      let product = moments[i * n + next]!;
      for (let p = 0; p < step; p++) product -= factor[i * keep + p]! * factor[row + p]!;
      const share = product / root;
      factor[i * keep + step] = share;
      left[i] = Math.max(left[i]! - share ** 2, ridge); // never less, but for rounding
      for (let o = 0; o < nOutputs; o++) residual[i * nOutputs + o]! -= share * steps[step * nOutputs + o]!;
    }
  }
  // steps = L^T outputs, from the last row up.
  const outputs = steps;
  for (let p = keep - 1; p >= 0; p--) {
    for (let q = p + 1; q < keep; q++) {
      const share = factor[chosen[q]! * keep + p]!;
      if (share !== 0) for (let o = 0; o < nOutputs; o++) outputs[p * nOutputs + o]! -= share * outputs[q * nOutputs + o]!;
    }
    for (let o = 0; o < nOutputs; o++) outputs[p * nOutputs + o]! /= factor[chosen[p]! * keep + p]!;
  }
  return { chosen, outputs, explained };
}
