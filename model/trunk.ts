// The trunk bound to memory: every tensor but the routed experts, as typed fields with addresses.
// Owns the one step from names to fields: shapes are checked here, naming the tensor, and never again.
// Refuses to load bytes; whoever loads hands in a look-up by canonical name (config.ts trunkTensors).

import { ModelError, trunkTensors, type ModelConfig } from "./config.ts";
import { activationFormatOf, formatCode, type ActivationFormat, type MatrixFormat } from "./kernels.ts";

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

export interface LayerWeights {
  readonly attnNorm: number;
  readonly q: Matrix;
  readonly k: Matrix;
  readonly v: Matrix;
  readonly qBias: number; // 0 = none, as for every optional vector here
  readonly kBias: number;
  readonly vBias: number;
  readonly qNorm: number;
  readonly kNorm: number;
  readonly o: Matrix;
  readonly ffnNorm: number;
  readonly router: Matrix | null;
}

export interface TrunkWeights {
  readonly embed: Matrix;
  readonly layers: readonly LayerWeights[];
  readonly norm: number;
  readonly head: Matrix;
  /** f32 [contextLength][2][ropeDim / 2]. */
  readonly rope: number;
  readonly contextLength: number;
}

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
    if (expected?.kind !== "matrix") throw new Error(`${name} is not a matrix of ${config.architecture}.`);
    if (tensor.format === "f32-vector" || tensor.nRows !== expected.nRows || tensor.nCols !== expected.nCols)
      throw new ModelError(`Tensor ${name} is ${tensor.format} [${tensor.nRows}, ${tensor.nCols}]; a matrix [${expected.nRows}, ${expected.nCols}] was expected.`);
    return { ptr: tensor.ptr, code: formatCode(tensor.format), takes: activationFormatOf(tensor.format), nRows: tensor.nRows, nCols: tensor.nCols };
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
      attnNorm: vector(at + "attnNorm"), q: matrix(at + "q"), k: matrix(at + "k"), v: matrix(at + "v"),
      qBias: vector(at + "qBias"), kBias: vector(at + "kBias"), vBias: vector(at + "vBias"),
      qNorm: vector(at + "qNorm"), kNorm: vector(at + "kNorm"), o: matrix(at + "o"), ffnNorm: vector(at + "ffnNorm"),
      router: known.has(at + "router") ? matrix(at + "router") : null,
    };
  });
  const rope = find("rope");
  if (rope.format !== "f32-vector" || rope.nCols !== config.rope.dim || rope.nRows < 1)
    throw new ModelError(`The rope table is ${rope.format} [${rope.nRows}, ${rope.nCols}]; f32 [contextLength, ${config.rope.dim}] was expected.`);
  const embed = matrix("embed");
  return {
    embed, layers, norm: vector("norm"), head: config.tieWordEmbeddings ? embed : matrix("head"),
    rope: rope.ptr, contextLength: rope.nRows,
  };
}
