// Low-rank forms of matrices that read the same inputs: W_i ~ A_i B with one B [rank, n] for all (MoLAE, Z. Liu et al., 2025). With C = L L^T the second moments of the
// inputs, the error that counts is that of W_i L, and of all B's of a rank the best is V^T L^-1, V being the first right singular vectors of the matrices W_i L stacked
// (Eckart-Young). They are taken as eigenvectors of the stack's Gram matrix [n, n]: the same vectors, however many matrices there are, and far cheaper.
// Owns that algebra, in float64. Refuses texts and models: latentize-model.ts.

import { CholeskyDecomposition, EigenvalueDecomposition, Matrix } from "ml-matrix";

/** Added to the diagonal of second moments, of its mean, where they have no Cholesky factor; ten times as much at each further attempt. */
const LEAST_DAMPING = 1e-9;
const DAMPING_ATTEMPTS = 10;

/** Second moments C [n, n] and their factor, C = L L^T. */
export interface Metric {
  readonly c: Matrix;
  readonly factor: CholeskyDecomposition;
}

/** Throws RangeError where C is no matrix of second moments. */
export function metricOf(moments: Float64Array, n: number): Metric {
  // Products give the two triangles rounded apart.
  const c = Matrix.from1DArray(n, n, moments.map((x, at) => (x + moments[(at % n) * n + Math.floor(at / n)]!) / 2));
  const mean = c.trace() / n || 1;
  for (let attempt = 0, share = 0; attempt < DAMPING_ATTEMPTS; attempt++, share = Math.max(LEAST_DAMPING, 10 * share)) {
    const damped = share === 0 ? c : Matrix.add(c, Matrix.eye(n, n, share * mean));
    const factor = new CholeskyDecomposition(damped);
    if (factor.isPositiveDefinite()) return { c: damped, factor };
  }
  throw new RangeError(`Second moments of ${n} inputs have no Cholesky factor even with their diagonal raised; the calibration inputs are broken.`);
}

/** Inputs that are uncorrelated and of one size. */
export const plainMetric = (n: number): Metric => {
  const c = Matrix.eye(n, n);
  return { c, factor: new CholeskyDecomposition(c) };
};

/** A matrix [rows, n] of a stack, and how much its errors count. */
export interface Weighted {
  readonly w: Matrix;
  readonly weight: number;
}

export interface Basis {
  /** [rank, n]. */
  readonly b: Matrix;
  /** Singular values of the stack in the metric, descending: the squares of those behind the first `rank` add up to the squared error. */
  readonly singularValues: readonly number[];
}

/** The B that loses least of the stacked matrices, where inputs have this metric. Its rows give z of uncorrelated numbers of one size, the weightiest first. */
export function sharedBasis(stack: readonly Weighted[], { factor }: Metric, rank: number): Basis {
  const lower = factor.lowerTriangularMatrix;
  // Of one expert the smaller Gram matrix, rows by rows, has the same singular values: V = (W L)^T U / s.
  const [only] = stack as [Weighted];
  const own = stack.length === 1 && only.w.rows < lower.rows && rank <= only.w.rows ? only.w.mmul(lower).mul(Math.sqrt(only.weight)) : null;
  const gram = own === null ? lower.transpose().mmul(stackedGram(stack, lower.rows)).mmul(lower) : own.mmul(own.transpose());
  const { realEigenvalues: values, eigenvectorMatrix: vectors } = new EigenvalueDecomposition(gram, { assumeSymmetric: true });
  const order = Array.from(values.keys()).sort((a, b) => values[b]! - values[a]!);
  const singularValues = order.map((i) => Math.sqrt(Math.max(0, values[i]!)));
  const first = vectors.subMatrixColumn(order.slice(0, rank));
  const right = own === null ? first : own.transpose().mmul(first).divRowVector(singularValues.slice(0, rank).map((s) => s || 1));
  // V^T L^-1 = (C^-1 L V)^T.
  return { b: factor.solve(lower.mmul(right)).transpose(), singularValues };
}

/** Sum over matrices of weight W^T W: the Gram matrix of them one below the other, [n, n]. */
function stackedGram(stack: readonly Weighted[], n: number): Matrix {
  const gram = Matrix.zeros(n, n);
  for (const { w, weight } of stack) gram.add(w.transpose().mmul(w).mul(weight));
  return gram;
}

/** The A [rows, rank] for which A B is nearest to W [rows, n], where W's own inputs have these moments: least squares, A = W C B^T (B C B^T)^-1. */
export function fittedTo(w: Matrix, { c }: Metric, b: Matrix): Matrix {
  const cb = c.mmul(b.transpose());
  const inner = metricOf(Float64Array.from(b.mmul(cb).to1DArray()), b.rows);
  return inner.factor.solve(w.mmul(cb).transpose()).transpose();
}

/** W cut down to `rank` directions of its own, as its inputs weigh them. */
export function rankReduced(w: Matrix, metric: Metric, rank: number): Matrix {
  if (rank >= Math.min(w.rows, w.columns)) return w;
  const { b } = sharedBasis([{ w, weight: 1 }], metric, rank);
  return fittedTo(w, metric, b).mmul(b);
}

/** Sum of squares of (W - A B) L: what inputs with this metric lose, over their number. */
export function factorError(w: Matrix, a: Matrix, b: Matrix, { factor }: Metric): number {
  return Matrix.sub(w, a.mmul(b)).mmul(factor.lowerTriangularMatrix).norm("frobenius") ** 2;
}
