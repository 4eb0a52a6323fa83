// The trunk bound to memory: every tensor but the routed experts, as typed fields with addresses; or what one stage of a ring holds of it.
// Owns the one step from names to fields: shapes are checked here, naming the tensor, and never again.
// Refuses to load bytes; whoever loads hands in a look-up by canonical name (config.ts trunkTensors).

import { ModelError, trunkTensors, type ModelConfig } from "./config.ts";
import { MATRIX_FORMATS, activationFormatOf, formatCode, matrixBytes, type ActivationFormat, type MatrixFormat } from "./kernels.ts";
import { branchesOf } from "./router-config.ts";
import { checkStage, endsLayers, isEmpty, wholeModel, type Span, type StageSpan } from "./stage-span.ts";

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

/** What a gate reads (gates/): which of these there are is its kind's matter. */
export interface GateWeights {
  readonly router: Matrix | null;
  readonly routerHidden: Matrix | null;
  readonly routerHiddenBias: number;
  readonly routerSpread: Matrix | null;
  readonly taskRouters: MatrixStack | null;
  /** f32 [vocab]: the expert of each token. */
  readonly routerTable: number;
  readonly routerBias: number;
}

/** Product experts (product-experts.ts), by codebook. */
export interface ProductWeights {
  /** Keys with the running statistics of their batch norm, f32 [nHeads]; null where an earlier layer's serve. */
  readonly keys: readonly { readonly w: Matrix; readonly mean: number; readonly variance: number }[] | null;
  /** Vertical: u1, u2; horizontal: u. */
  readonly reads: readonly { readonly u: Matrix; readonly bias: number }[];
  /** Vertical: v11, v12, v21, v22; horizontal: v. */
  readonly v: readonly Matrix[];
  /** Biases of keys, f32 [nKeys, hidden / 2]: vertical b1, b2; horizontal b [nKeys, hidden]. */
  readonly b: readonly number[];
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
  /** One for each branch of the router, which mostly is one; none where a layer has no router. */
  readonly gates: readonly GateWeights[];
  readonly selectionBias: number;
  /** f32 [nExperts, hidden], less one. */
  readonly auxiliaryScales: number;
  /** The mask router of online pruning, f32 [topK, keepRouterColumns]. */
  readonly keepRouter: number;
  /** A matrix of one row. */
  readonly sharedGate: Matrix | null;
  /** What latent experts' rows are made with: the matrices of all latent groups as one, [nGroups * rank, hidden]. */
  readonly latent: Matrix | null;
  readonly product: ProductWeights | null;
}

export interface TrunkWeights {
  /** What it holds. */
  readonly span: StageSpan;
  /** Rows span.embeddingRows; null without any. */
  readonly embed: Matrix | null;
  /** By layer; null of layers beyond span.layers. */
  readonly layers: readonly (LayerWeights | null)[];
  /** 0 without the last layer, as normBias. */
  readonly norm: number;
  readonly normBias: number;
  /** Rows span.headRows, as headBias; null without any. */
  readonly head: Matrix | null;
  readonly headBias: number;
  /** f32 [contextLength][2][ropeDim / 2]; with rope.long as many rows more, of the long frequencies. 0 without layers. */
  readonly rope: number;
  readonly contextLength: number;
}

/** Tables of the rope blob: one, or the short and the long frequencies' one after the other. */
export const ropeTables = (config: ModelConfig): number => (config.rope.long === null ? 1 : 2);

/**
 * Binds the names of what `span` holds to fields; of the vocabulary's matrices `lookup` gives the rows of the span. The rope table's shape is asked for in
 * any case: it tells the context's length. Throws ModelError naming the first tensor that is missing or has another shape.
 */
export function bindTrunk(config: ModelConfig, lookup: (name: string) => LoadedTensor | undefined, span: StageSpan = wholeModel(config)): TrunkWeights {
  checkStage(config, span);
  const find = (name: string): LoadedTensor => {
    const tensor = lookup(name);
    if (tensor === undefined) throw new ModelError(`Tensor ${name} is missing; architecture ${config.architecture} needs it.`);
    return tensor;
  };
  const known = new Map(trunkTensors(config).map((tensor) => [tensor.name, tensor]));

  const matrix = (name: string, rows: Span | null = null): Matrix => {
    const expected = known.get(name);
    const tensor = find(name);
    if (expected === undefined || expected.kind === "vector") throw new Error(`${name} is not a matrix of ${config.architecture}.`);
    const nRows = rows === null ? expected.nRows : rows[1] - rows[0];
    if (tensor.format === "f32-vector" || tensor.nRows !== nRows || tensor.nCols !== expected.nCols)
      throw new ModelError(`Tensor ${name} is ${tensor.format} [${tensor.nRows}, ${tensor.nCols}]; a matrix [${nRows}, ${expected.nCols}] was expected.`);
    return { ptr: tensor.ptr, code: formatCode(tensor.format), takes: activationFormatOf(tensor.format), nRows: tensor.nRows, nCols: tensor.nCols };
  };
  const optional = (name: string): Matrix | null => (known.has(name) ? matrix(name) : null);
  const stack = (name: string): MatrixStack => {
    const expected = known.get(name);
    if (expected?.kind !== "matrices") throw new Error(`${name} is no stack of matrices of ${config.architecture}.`);
    const one = matrix(name);
    return { ...one, count: expected.count, eachBytes: matrixBytes(MATRIX_FORMATS[one.code]!, one.nRows, one.nCols) };
  };
  /** A stack as one matrix, which it is where its matrices fill their row blocks. */
  const joined = (name: string): Matrix | null => {
    if (!known.has(name)) return null;
    const { ptr, code, takes, nRows, nCols, count } = stack(name);
    return { ptr, code, takes, nRows: count * nRows, nCols };
  };
  const vector = (name: string, rows: Span | null = null): number => {
    const expected = known.get(name);
    if (expected === undefined) return 0;
    const tensor = find(name);
    if (expected.kind !== "vector") throw new Error(`${name} is not a vector of ${config.architecture}.`);
    const length = rows === null ? expected.length : rows[1] - rows[0];
    if (tensor.format !== "f32-vector" || tensor.nRows * tensor.nCols !== length)
      throw new ModelError(`Tensor ${name} is ${tensor.format} [${tensor.nRows}, ${tensor.nCols}]; a vector of ${length} f32 was expected.`);
    return tensor.ptr;
  };

  /** The gate of a branch: where there are several, their matrices are stacks and their vectors lie one after the other. */
  const gate = (at: string, branch: number): GateWeights => {
    const nBranches = branchesOf(config.router).length;
    const own = (name: string): Matrix | null => {
      if (nBranches === 1 || !known.has(at + name)) return optional(at + name);
      const { ptr, eachBytes, code, takes, nRows, nCols } = stack(at + name);
      return { ptr: ptr + branch * eachBytes, code, takes, nRows, nCols };
    };
    const part = (name: string): number => {
      const expected = known.get(at + name);
      return expected?.kind === "vector" ? vector(at + name) + (4 * expected.length * branch) / nBranches : 0;
    };
    return {
      router: own("router"), routerHidden: own("routerHidden"), routerHiddenBias: part("routerHiddenBias"), routerSpread: own("routerSpread"),
      taskRouters: known.has(at + "taskRouter") ? stack(at + "taskRouter") : null, routerTable: vector(at + "routerTable"), routerBias: part("routerBias"),
    };
  };

  const product = (layer: number): ProductWeights | null => {
    if (config.layerFfns[layer] !== "product") return null;
    const at = `layers.${layer}.product.`;
    const isVertical = config.productExperts!.form === "vertical";
    return {
      keys: known.has(`${at}w1`) ? ["1", "2"].map((n) => ({ w: matrix(`${at}w${n}`), mean: vector(`${at}mean${n}`), variance: vector(`${at}variance${n}`) })) : null,
      reads: (isVertical ? ["u1", "u2"] : ["u"]).map((u) => ({ u: matrix(at + u), bias: vector(`${at}${u}Bias`) })),
      v: (isVertical ? ["v11", "v12", "v21", "v22"] : ["v"]).map((v) => matrix(at + v)),
      b: (isVertical ? ["b1", "b2"] : ["b"]).map((b) => vector(at + b)),
    };
  };

  const layers = Array.from({ length: config.nLayers }, (_, n): LayerWeights | null => {
    if (n < span.layers[0] || n >= span.layers[1]) return null;
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
      gates: config.layerFfns[n] === "moe" && config.router.score !== "one" ? Array.from({ length: branchesOf(config.router).length }, (_, branch) => gate(at, branch)) : [],
      selectionBias: vector(at + "selectionBias"), auxiliaryScales: vector(at + "auxiliaryScales"), keepRouter: vector(at + "keepRouter"), sharedGate: optional(at + "sharedGate"),
      latent: joined(at + "latent"), product: product(n),
    };
  });
  const rope = find("rope");
  const tables = ropeTables(config);
  if (rope.format !== "f32-vector" || rope.nCols !== config.rope.dim || rope.nRows < tables || rope.nRows % tables !== 0)
    throw new ModelError(`The rope table is ${rope.format} [${rope.nRows}, ${rope.nCols}]; f32 [${tables} x contextLength, ${config.rope.dim}] was expected.`);
  const { embeddingRows, headRows } = span;
  const embed = isEmpty(embeddingRows) ? null : matrix("embed", embeddingRows);
  const ends = endsLayers(config, span);
  return {
    span, embed, layers, norm: ends ? vector("norm") : 0, normBias: ends ? vector("normBias") : 0,
    head: config.tieWordEmbeddings ? embed : isEmpty(headRows) ? null : matrix("head", headRows), headBias: isEmpty(headRows) ? 0 : vector("headBias", headRows),
    rope: isEmpty(span.layers) ? 0 : rope.ptr, contextLength: rope.nRows / tables,
  };
}
