// The trunk bound to memory: every tensor but the routed experts, as typed fields with addresses.
// Owns the one step from names to fields: shapes are checked here, naming the tensor, and never again.
// Refuses to load bytes; whoever loads hands in a look-up by canonical name (config.ts trunkTensors).

import { ModelError, trunkTensors, type ModelConfig } from "./config.ts";
import { MATRIX_FORMATS, activationFormatOf, formatCode, matrixBytes, type ActivationFormat, type MatrixFormat } from "./kernels.ts";

/** A tensor in memory as the pack describes it; vectors are `f32-vector` with one row. */
export interface LoadedTensor {
  readonly ptr: number;
  readonly format: MatrixFormat | "f32-vector";
  readonly nRows: number;
  readonly nCols: number;
}

export interface Matrix {
  readonly ptr: number;
  readonly code: number;
  readonly takes: ActivationFormat;
  readonly nRows: number;
  readonly nCols: number;
}

/** Matrices of one shape, one after the other, each padded to whole row blocks. */
export interface MatrixStack extends Matrix {
  readonly count: number;
  readonly eachBytes: number;
}

/** Attention with queries, keys and values of their own. Optional vectors are 0 where the model has none, as everywhere here. */
export interface PlainWeights {
  readonly q: Matrix;
  readonly k: Matrix;
  readonly v: Matrix;
  readonly qBias: number;
  readonly kBias: number;
  readonly vBias: number;
  readonly qNorm: number;
  readonly kNorm: number;
}

/** Latent attention: q, or its low-rank form. */
export interface LatentWeights {
  readonly q: Matrix | null;
  readonly qA: Matrix | null;
  readonly qANorm: number;
  readonly qB: Matrix | null;
  readonly kvA: Matrix;
  readonly kvANorm: number;
  readonly kB: MatrixStack;
  readonly vB: MatrixStack;
}

export interface LayerWeights {
  readonly attnNorm: number;
  readonly attnNormBias: number;
  readonly attention: PlainWeights | LatentWeights;
  readonly sinks: number;
  readonly o: Matrix;
  readonly oBias: number;
  readonly ffnNorm: number;
  readonly ffnNormBias: number;
  readonly router: Matrix | null;
  readonly routerBias: number;
  readonly selectionBias: number;
  /** A matrix of one row. */
  readonly sharedGate: Matrix | null;
}

export interface TrunkWeights {
  readonly embed: Matrix;
  readonly layers: readonly LayerWeights[];
  readonly norm: number;
  readonly normBias: number;
  readonly head: Matrix;
  readonly headBias: number;
  /** f32 [contextLength][2][ropeDim / 2]; with rope.long as many rows more, of the long frequencies. */
  readonly rope: number;
  readonly contextLength: number;
}

/** Tables of the rope blob: one, or the short and the long frequencies' one after the other. */
export const ropeTables = (config: ModelConfig): number => (config.rope.long === null ? 1 : 2);

/** Binds names to fields. Throws ModelError naming the first tensor that is missing or has another shape. */
export function bindTrunk(config: ModelConfig, lookup: (name: string) => LoadedTensor | undefined): TrunkWeights {
  const find = (name: string): LoadedTensor => {
    const tensor = lookup(name);
    if (tensor === undefined) throw new ModelError(`Tensor ${name} is missing; architecture ${config.architecture} needs it.`);
    return tensor;
  };
  const known = new Map(trunkTensors(config).map((tensor) => [tensor.name, tensor]));

  const matrix = (name: string): Matrix => {
    const expected = known.get(name);
    const tensor = find(name);
    if (expected === undefined || expected.kind === "vector") throw new Error(`${name} is not a matrix of ${config.architecture}.`);
    if (tensor.format === "f32-vector" || tensor.nRows !== expected.nRows || tensor.nCols !== expected.nCols)
      throw new ModelError(`Tensor ${name} is ${tensor.format} [${tensor.nRows}, ${tensor.nCols}]; a matrix [${expected.nRows}, ${expected.nCols}] was expected.`);
    return { ptr: tensor.ptr, code: formatCode(tensor.format), takes: activationFormatOf(tensor.format), nRows: tensor.nRows, nCols: tensor.nCols };
  };
  const optional = (name: string): Matrix | null => (known.has(name) ? matrix(name) : null);
  const stack = (name: string): MatrixStack => {
    const expected = known.get(name);
    if (expected?.kind !== "matrices") throw new Error(`${name} is no stack of matrices of ${config.architecture}.`);
    const one = matrix(name);
    return { ...one, count: expected.count, eachBytes: matrixBytes(MATRIX_FORMATS[one.code]!, one.nRows, one.nCols) };
  };
  const vector = (name: string): number => {
    const expected = known.get(name);
    if (expected === undefined) return 0;
    const tensor = find(name);
    if (expected.kind !== "vector" || tensor.format !== "f32-vector" || tensor.nRows * tensor.nCols !== expected.length)
      throw new ModelError(`Tensor ${name} is ${tensor.format} [${tensor.nRows}, ${tensor.nCols}]; a vector of ${expected.kind === "vector" ? expected.length : "?"} f32 was expected.`);
    return tensor.ptr;
  };

  const layers = Array.from({ length: config.nLayers }, (_, n): LayerWeights => {
    const at = `layers.${n}.`;
    return {
      attnNorm: vector(at + "attnNorm"), attnNormBias: vector(at + "attnNormBias"),
      attention: config.mla === null
        ? {
          q: matrix(at + "q"), k: matrix(at + "k"), v: matrix(at + "v"), qBias: vector(at + "qBias"), kBias: vector(at + "kBias"), vBias: vector(at + "vBias"),
          qNorm: vector(at + "qNorm"), kNorm: vector(at + "kNorm"),
        }
        : {
          q: optional(at + "q"), qA: optional(at + "qA"), qANorm: vector(at + "qANorm"), qB: optional(at + "qB"), kvA: matrix(at + "kvA"), kvANorm: vector(at + "kvANorm"),
          kB: stack(at + "kB"), vB: stack(at + "vB"),
        },
      sinks: vector(at + "sinks"), o: matrix(at + "o"), oBias: vector(at + "oBias"),
      ffnNorm: vector(at + "ffnNorm"), ffnNormBias: vector(at + "ffnNormBias"),
      router: optional(at + "router"), routerBias: vector(at + "routerBias"), selectionBias: vector(at + "selectionBias"), sharedGate: optional(at + "sharedGate"),
    };
  });
  const rope = find("rope");
  const tables = ropeTables(config);
  if (rope.format !== "f32-vector" || rope.nCols !== config.rope.dim || rope.nRows < tables || rope.nRows % tables !== 0)
    throw new ModelError(`The rope table is ${rope.format} [${rope.nRows}, ${rope.nCols}]; f32 [${tables} x contextLength, ${config.rope.dim}] was expected.`);
  const embed = matrix("embed");
  return {
    embed, layers, norm: vector("norm"), normBias: vector("normBias"), head: config.tieWordEmbeddings ? embed : matrix("head"), headBias: vector("headBias"),
    rope: rope.ptr, contextLength: rope.nRows / tables,
  };
}
