// Ways in which checkpoints store a matrix: alone, in a stack of all experts or heads, fused with others along its rows, transposed, as blocks and
// scales. Each is a record with one function from the wanted shape to a region of the stored tensor; formats/row-views.ts reads regions.
// Refuses file access. Layouts: architectures' own checkpoints as transformers reads them, and llama.cpp's converter.

import type { ModelConfig } from "../config.ts";

/** The matrix that is looked for. A vector has one row. */
export interface Wanted {
  readonly config: ModelConfig;
  readonly nRows: number;
  readonly nCols: number;
  readonly isVector: boolean;
  /** Routed expert; 0 elsewhere. */
  readonly expert: number;
  /** Of a tensor of kind "matrices"; 0 elsewhere. */
  readonly head: number;
}

/** Where in a stored tensor the matrix lies. The tensor counts as rows of `rowLength` elements, leading dimensions taken together. */
export interface Region {
  /** Shapes the stored tensor may have, the usual one first; all give the same bytes. */
  readonly shapes: readonly (readonly number[])[];
  readonly rowLength: number;
  /** Stored rows firstRow, firstRow + rowStep, ...; `nRows` of them. */
  readonly firstRow: number;
  readonly rowStep: number;
  readonly nRows: number;
  /** Transposed only: the matrix's row i is the stored column firstCol + i * colStep. */
  readonly transposed: boolean;
  readonly firstCol: number;
  readonly colStep: number;
}

export interface Location {
  /** Name of the stored tensor; {layer} and {expert} stand for numbers. */
  readonly tensor: string;
  /** MXFP4 in two tensors: `tensor` holds the nibbles ("blocks"), this one the exponents; null elsewhere. */
  readonly scales: string | null;
  region(wanted: Wanted): Region;
}

const rows = (shapes: Region["shapes"], rowLength: number, firstRow: number, nRows: number, rowStep = 1): Region =>
  ({ shapes, rowLength, firstRow, rowStep, nRows, transposed: false, firstCol: 0, colStep: 1 });

/** A tensor of the matrix's own: [nRows, nCols]; a vector also as [1, n] or [n, 1]. */
export const ownTensor = (tensor: string): Location => ({
  tensor, scales: null,
  region: ({ nRows, nCols, isVector }) =>
    rows(isVector ? [[nCols], [1, nCols], [nCols, 1]] : nRows === 1 ? [[1, nCols], [nCols]] : [[nRows, nCols]], nCols, 0, nRows),
});

/** One of `parts` matrices of one shape above each other: [parts * nRows, nCols]. */
export const fusedTensor = (tensor: string, parts: number, part: number): Location => ({
  tensor, scales: null,
  region: ({ nRows, nCols }) => rows([[parts * nRows, nCols]], nCols, part * nRows, nRows),
});

/** Matrices of all experts, `parts` of them fused along the rows of each: [nExperts, parts * nRows, nCols]. Vectors: [nExperts, parts * n]. */
export const stackedTensor = (tensor: string, parts = 1, part = 0): Location => ({
  tensor, scales: null,
  region: ({ config: { nExperts }, nRows, nCols, isVector, expert }) => isVector
    ? rows([[nExperts, parts * nCols]], nCols, expert * parts + part, 1)
    : rows([[nExperts, parts * nRows, nCols]], nCols, (expert * parts + part) * nRows, nRows),
});

/** gpt-oss in BF16: all experts, transposed, rows of `parts` matrices taking turns: [nExperts, nCols, parts * nRows]. */
export const stackedTransposed = (tensor: string, parts: number, part: number): Location => ({
  tensor, scales: null,
  region: ({ config: { nExperts }, nRows, nCols, expert }) => ({
    shapes: [[nExperts, nCols, parts * nRows]], rowLength: parts * nRows, firstRow: expert * nCols, rowStep: 1, nRows: nCols,
    transposed: true, firstCol: part, colStep: parts,
  }),
});

/** gpt-oss: vectors of all experts, elements of `parts` vectors taking turns: [nExperts, parts * n]. */
export const alternatingVectors = (tensor: string, parts: number, part: number): Location => ({
  tensor, scales: null,
  region: ({ config: { nExperts }, nCols, expert }) => ({
    shapes: [[nExperts, parts * nCols]], rowLength: 1, firstRow: expert * parts * nCols + part, rowStep: parts, nRows: nCols,
    transposed: true, firstCol: 0, colStep: 1,
  }),
});

/**
 * gpt-oss in MXFP4: blocks u8 [nExperts, parts * nRows, nCols / 32, 16] and exponents u8 [nExperts, parts * nRows, nCols / 32], rows of
 * `parts` matrices taking turns. The region counts in rows of nCols values.
 */
export const mxfp4Blocks = (stem: string, parts: number, part: number): Location => ({
  tensor: `${stem}_blocks`, scales: `${stem}_scales`,
  region: ({ config: { nExperts }, nRows, nCols, expert }) =>
    rows([[nExperts, parts * nRows, nCols / 32, 16]], nCols, expert * parts * nRows + part, nRows, parts),
});

/** q, k and v above each other: [(nHeads + 2 nKvHeads) * headDim, nCols]; biases likewise. */
export const fusedQkv = (tensor: string, which: "q" | "k" | "v"): Location => ({
  tensor, scales: null,
  region: ({ config: c, nRows, nCols, isVector }) => {
    const [q, kv] = [c.nHeads * c.headDim, c.nKvHeads * c.headDim];
    const first = which === "q" ? 0 : which === "k" ? q : q + kv;
    if (!isVector) return rows([[q + 2 * kv, nCols]], nCols, first, nRows);
    // A row of one element each, transposed into one row.
    return { shapes: [[q + 2 * kv]], rowLength: 1, firstRow: first, rowStep: 1, nRows: nCols, transposed: true, firstCol: 0, colStep: 1 };
  },
});

/** DeepSeek's fused kv_b: per head nope rows of keys, then rows of values, [nHeads * (nope + v), kvLoraRank]. The key part is wanted transposed. */
export const fusedKvB = (tensor: string, which: "k" | "v"): Location => ({
  tensor, scales: null,
  region: ({ config: c, head }) => {
    const { nopeHeadDim, valueHeadDim, kvLoraRank } = c.mla!;
    const perHead = nopeHeadDim + valueHeadDim;
    const shapes = [[c.nHeads * perHead, kvLoraRank]];
    return which === "v" ? rows(shapes, kvLoraRank, head * perHead + nopeHeadDim, valueHeadDim)
      : { ...rows(shapes, kvLoraRank, head * perHead, nopeHeadDim), transposed: true };
  },
});

/** Matrices of all heads: [nHeads, nRows, nCols], or the same bytes as [nHeads * nRows, nCols]. */
export const perHeadTensor = (tensor: string): Location => ({
  tensor, scales: null,
  region: ({ config: { nHeads }, nRows, nCols, head }) => rows([[nHeads, nRows, nCols], [nHeads * nRows, nCols]], nCols, head * nRows, nRows),
});

/** Monet: a vector for each key of a codebook, [nKeys, n / nKeys], taken as one. */
export const rowsOfKeys = (tensor: string): Location => ({
  tensor, scales: null,
  region: ({ config: { productExperts }, nCols }) => rows([[productExperts!.nKeys, nCols / productExperts!.nKeys]], nCols, 0, 1),
});
