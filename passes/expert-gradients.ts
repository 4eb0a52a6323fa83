// A layer's experts and their derivatives by their inputs: what they give to rows, and how that changes with the rows. Products are the kernels', in f32, with each
// matrix held beside its transpose; what lies between is float64. Owns these matrices and the way back through units. Refuses derivatives by weights: nobody
// here trains experts. The forward arithmetic is that of docs/arithmetic.md section 6, but for the sums' rounding.

import { expertName, type MatrixSource } from "../formats/checkpoint.ts";
import { expertShape, type ModelConfig } from "../model/config.ts";
import { expertBiases, expertMatrices } from "../model/expert-kinds.ts";
import { erfF64 } from "../model/float-math.ts";
import type { Heap } from "../model/heap.ts";
import { activationRowBytes, formatCode, type Kernels, matmulScratchBytes, matrixBytes } from "../model/kernels.ts";

/** A row on its way through an expert. */
export interface ExpertPair {
  readonly token: number;
  readonly expert: number;
  readonly weight: number;
}

interface Tiles { readonly ptr: number; readonly nRows: number; readonly nCols: number }

interface HeldExpert {
  /** Absent where the kind has none. */
  readonly gate?: Tiles; readonly gateT?: Tiles;
  readonly up: Tiles; readonly down: Tiles;
  readonly upT: Tiles; readonly downT: Tiles;
  /** Those that the kind has. */
  readonly biases: { readonly gateBias?: Float32Array; readonly upBias?: Float32Array; readonly downBias?: Float32Array };
}

/** gpt-oss' factor within its gate (docs/arithmetic.md section 6). */
const CLAMPED_ALPHA = 1.702;

const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));

/** What a unit gives, and its derivatives by gate and up; without a gate the first of them is 0. */
export function unitOf({ expertKind, swigluLimit: limit }: Pick<ModelConfig, "expertKind" | "swigluLimit">, gate: number, up: number): { readonly value: number; readonly byGate: number; readonly byUp: number } {
  if (expertKind === "swiglu") {
    const s = sigmoid(gate);
    return { value: gate * s * up, byGate: up * s * (1 + gate * (1 - s)), byUp: gate * s };
  }
  if (expertKind === "relu-mlp") return { value: Math.max(up, 0), byGate: 0, byUp: up > 0 ? 1 : 0 };
  if (expertKind === "gelu-mlp") {
    const below = (1 + erfF64(up / Math.SQRT2)) / 2;
    return { value: up * below, byGate: 0, byUp: below + (up * Math.exp((-up * up) / 2)) / Math.sqrt(2 * Math.PI) };
  }
  const [g, u] = [Math.min(gate, limit), Math.max(-limit, Math.min(up, limit))];
  const s = sigmoid(CLAMPED_ALPHA * g);
  return { value: (u + 1) * g * s, byGate: gate < limit ? (u + 1) * s * (1 + CLAMPED_ALPHA * g * (1 - s)) : 0, byUp: Math.abs(up) < limit ? g * s : 0 };
}

export class ExpertGradients {
  readonly #config: ModelConfig;
  readonly #kernels: Kernels;
  readonly #heap: Heap;
  readonly #experts: readonly HeldExpert[];
  readonly #taken: number[];
  readonly #maxTokens: number;
  readonly #maxPairs: number;
  // Regions: rows of tokens, then of pairs. [tokens, hidden], [pairs, width], [pairs, hidden]
  readonly #rows: number;
  readonly #gates: number;
  readonly #ups: number;
  readonly #inner: number;
  readonly #outs: number;
  readonly #addresses: number;
  readonly #scratch: number;
  #pairs: readonly ExpertPair[] = [];

  private constructor(config: ModelConfig, kernels: Kernels, heap: Heap, experts: readonly HeldExpert[], taken: number[], maxTokens: number, maxPairs: number) {
    const { hiddenSize, expertIntermediateSize: width } = config;
    const alloc = (bytes: number): number => {
      taken.push(heap.alloc(bytes, "gradients"));
      return taken.at(-1)!;
    };
    this.#config = config;
    this.#kernels = kernels;
    this.#heap = heap;
    this.#experts = experts;
    this.#taken = taken;
    this.#maxTokens = maxTokens;
    this.#maxPairs = maxPairs;
    this.#rows = alloc(maxTokens * activationRowBytes("f32", hiddenSize));
    [this.#gates, this.#ups, this.#inner] = [0, 1, 2].map(() => alloc(maxPairs * activationRowBytes("f32", width))) as [number, number, number];
    this.#outs = alloc(2 * maxPairs * activationRowBytes("f32", hiddenSize));
    this.#addresses = alloc(maxPairs * 4);
    this.#scratch = alloc(matmulScratchBytes(Math.max(hiddenSize, width)));
  }

  /** The experts of a layer, for at most `maxTokens` rows with `perToken` experts each. Throws CapacityError where they and their transposes do not fit. */
  static async load(matrices: MatrixSource, layer: number, kernels: Kernels, heap: Heap, maxTokens: number, perToken: number): Promise<ExpertGradients> {
    const { config } = matrices;
    const taken: number[] = [];
    const experts: HeldExpert[] = [];
    for (let expert = 0; expert < config.nExperts; expert++) {
      const held: Record<string, Tiles> = {};
      for (const matrix of expertMatrices(config)) {
        const { nRows, nCols } = expertShape(config, matrix);
        const values = await matrices.readF32(expertName(layer, expert, matrix));
        held[matrix] = place(heap, taken, nRows, nCols, (row, col) => values[row * nCols + col]!);
        held[`${matrix}T`] = place(heap, taken, nCols, nRows, (row, col) => values[col * nCols + row]!);
      }
      const biases = await Promise.all(expertBiases(config).map(async (bias) => [bias, await matrices.readF32(expertName(layer, expert, bias))] as const));
      experts.push({ ...held as unknown as Omit<HeldExpert, "biases">, biases: Object.fromEntries(biases) });
    }
    return new ExpertGradients(config, kernels, heap, experts, taken, maxTokens, maxTokens * perToken);
  }

  /** Gives its memory back. */
  close(): void {
    for (const ptr of this.#taken) this.#heap.free(ptr);
  }

  /** Per row of f32 [tokens, hidden] the sum of what the experts of its pairs give, times their weights: f64 [tokens, hidden]. */
  forward(rows: Float32Array, pairs: readonly ExpertPair[]): Float64Array {
    const { hiddenSize: n, expertIntermediateSize: width } = this.#config;
    if (rows.length > this.#maxTokens * n || pairs.length > this.#maxPairs) throw new RangeError(`${rows.length / n} rows and ${pairs.length} pairs were given; there is room for ${this.#maxTokens} and ${this.#maxPairs}.`);
    this.#pairs = [...pairs].sort((a, b) => a.expert - b.expert || a.token - b.token);
    this.#write(this.#rows, rows, n);
    const [stride, innerStride] = [activationRowBytes("f32", n), activationRowBytes("f32", width)];
    const out = new Float64Array(rows.length);
    const f32 = this.#heap.f32;
    this.#eachExpert((expert, first, end) => {
      const [gates, ups, inner, outs] = [this.#gates + first * innerStride, this.#ups + first * innerStride, this.#inner + first * innerStride, this.#outs + first * stride];
      const { gateBias, upBias, downBias } = expert.biases;
      const byToken = (i: number): number => this.#rows + this.#pairs[i]!.token * stride;
      if (expert.gate !== undefined) this.#multiply(expert.gate, first, end, byToken, gates, innerStride);
      this.#multiply(expert.up, first, end, byToken, ups, innerStride);
      for (let i = 0; i < end - first; i++) {
        const at = i * innerStride / 4;
        for (let j = 0; j < width; j++) {
          f32[gates / 4 + at + j]! += gateBias?.[j] ?? 0;
          f32[ups / 4 + at + j]! += upBias?.[j] ?? 0;
          f32[inner / 4 + at + j] = unitOf(this.#config, f32[gates / 4 + at + j]!, f32[ups / 4 + at + j]!).value;
        }
      }
      this.#multiply(expert.down, first, end, (i) => this.#inner + i * innerStride, outs, stride);
      for (let i = first; i < end; i++) {
        const { token, weight } = this.#pairs[i]!;
        const from = (this.#outs + i * stride) / 4;
        for (let j = 0; j < n; j++) out[token * n + j]! += weight * (f32[from + j]! + (downBias?.[j] ?? 0));
      }
    });
    return out;
  }

  /** After `forward`: the derivative by its rows of a loss whose derivative by its result is f32 [tokens, hidden]; f64 [tokens, hidden]. */
  backward(byResult: Float32Array): Float64Array {
    const { hiddenSize: n, expertIntermediateSize: width } = this.#config;
    this.#write(this.#rows, byResult, n);
    const [stride, innerStride] = [activationRowBytes("f32", n), activationRowBytes("f32", width)];
    const byRows = new Float64Array(byResult.length);
    const f32 = this.#heap.f32;
    this.#eachExpert((expert, first, end) => {
      this.#multiply(expert.downT, first, end, (i) => this.#rows + this.#pairs[i]!.token * stride, this.#inner + first * innerStride, innerStride);
      for (let i = first; i < end; i++) {
        const { weight } = this.#pairs[i]!;
        const at = i * innerStride / 4;
        for (let j = 0; j < width; j++) {
          const { byGate, byUp } = unitOf(this.#config, f32[this.#gates / 4 + at + j]!, f32[this.#ups / 4 + at + j]!);
          const byInner = weight * f32[this.#inner / 4 + at + j]!;
          f32[this.#gates / 4 + at + j] = byInner * byGate;
          f32[this.#ups / 4 + at + j] = byInner * byUp;
        }
      }
      const halves = [this.#outs + first * stride, this.#outs + (this.#maxPairs + first) * stride] as const;
      if (expert.gateT !== undefined) this.#multiply(expert.gateT, first, end, (i) => this.#gates + i * innerStride, halves[0], stride);
      this.#multiply(expert.upT, first, end, (i) => this.#ups + i * innerStride, halves[1], stride);
      for (let i = 0; i < end - first; i++) {
        const to = this.#pairs[first + i]!.token * n;
        const [a, b] = [(halves[0] + i * stride) / 4, (halves[1] + i * stride) / 4];
        for (let j = 0; j < n; j++) byRows[to + j]! += (expert.gateT === undefined ? 0 : f32[a + j]!) + f32[b + j]!;
      }
    });
    return byRows;
  }

  #write(to: number, rows: Float32Array, n: number): void {
    const stride = activationRowBytes("f32", n) / 4;
    for (let t = 0; t * n < rows.length; t++) this.#heap.f32.set(rows.subarray(t * n, (t + 1) * n), to / 4 + t * stride);
  }

  /** Calls with each expert that has pairs, and where they lie. */
  #eachExpert(run: (expert: HeldExpert, first: number, end: number) => void): void {
    for (let first = 0, end = 0; first < this.#pairs.length; first = end) {
      const { expert } = this.#pairs[first]!;
      for (end = first; end < this.#pairs.length && this.#pairs[end]!.expert === expert; end++);
      run(this.#experts[expert]!, first, end);
    }
  }

  /** Products of a matrix with the rows of pairs [first, end), whose addresses `rowOf` tells. */
  #multiply({ ptr, nRows, nCols }: Tiles, first: number, end: number, rowOf: (pair: number) => number, out: number, outStride: number): void {
    for (let i = first; i < end; i++) this.#heap.u32[this.#addresses / 4 + i - first] = rowOf(i);
    this.#kernels.matmul(formatCode("f32"), ptr, nRows, nCols, this.#addresses, end - first, out, outStride, this.#scratch);
  }
}

/** A matrix in tile layout (docs/arithmetic.md section 3). */
function place(heap: Heap, taken: number[], nRows: number, nCols: number, value: (row: number, col: number) => number): Tiles {
  const bytes = matrixBytes("f32", nRows, nCols);
  const ptr = heap.alloc(bytes, "gradients");
  taken.push(ptr);
  const f32 = heap.f32.fill(0, ptr / 4, (ptr + bytes) / 4);
  for (let row = 0; row < nRows; row++) for (let col = 0; col < nCols; col++) f32[ptr / 4 + ((row >> 5) * nCols + col) * 32 + (row & 31)] = value(row, col);
  return { ptr, nRows, nCols };
}
