// Experts (i, j) of product layers that a request leaves out (knowledge masks, Monet 2024): as data of a step's entry, and as what a layer looks up while it adds.
// Owns the record, its making, its check against a model and the look-up. Refuses weights: what is masked falls out of the sums, and nobody's share grows (docs/arithmetic.md
// section 11). Expert (i, j): key i of the first codebook with key j of the second.

import { ModelError, type ModelConfig, productRouterLayer } from "./config.ts";

/** Of one layer: experts one by one, and whole keys of a codebook with all their experts. */
export interface ProductLayerMask {
  readonly layer: number;
  /** Expert (i, j) for every j. */
  readonly firstKeys?: readonly number[];
  /** Expert (i, j) for every i. */
  readonly secondKeys?: readonly number[];
  readonly pairs?: readonly (readonly [i: number, j: number])[];
}

export interface ProductMask { readonly layers: readonly ProductLayerMask[] }

type MaskedConfig = Pick<ModelConfig, "nLayers" | "layerFfns" | "productExperts">;

/** Why the model cannot go by the mask, as a sentence; null where it can. */
export function productMaskProblem(c: MaskedConfig, { layers }: ProductMask): string | null {
  const seen = new Set<number>();
  for (const { layer, firstKeys = [], secondKeys = [], pairs = [] } of layers) {
    if (c.layerFfns[layer] !== "product") return `A mask of experts names layer ${layer}, which has no product experts; ${c.productExperts === undefined ? "no layer of this model has" : "only layers of that kind were expected"}.`;
    if (seen.has(layer)) return `A mask of experts names layer ${layer} twice; one entry for each layer was expected.`;
    seen.add(layer);
    const { nKeys } = c.productExperts!;
    const wrong = [...firstKeys, ...secondKeys, ...pairs.flat()].find((key) => !Number.isInteger(key) || key < 0 || key >= nKeys);
    if (wrong !== undefined) return `A mask of experts names key ${wrong} in layer ${layer}; keys from 0 to ${nKeys - 1} were expected.`;
  }
  return null;
}

/** Keys of expert number i * nKeys + j. */
export const pairOf = (nKeys: number, expert: number): readonly [i: number, j: number] => [Math.floor(expert / nKeys), expert % nKeys];

/** Experts (i, j) as numbers i * nKeys + j, by the layer that routes, left out of every layer that goes by its keys. */
export function maskOfRouters(c: Pick<ModelConfig, "layerFfns" | "productExperts">, experts: ReadonlyMap<number, readonly number[]>): ProductMask {
  const { nKeys } = c.productExperts!;
  return {
    layers: c.layerFfns.flatMap((kind, layer): ProductLayerMask[] => {
      const own = experts.get(productRouterLayer(c, layer)) ?? [];
      return kind !== "product" || own.length === 0 ? [] : [{ layer, pairs: own.map((expert) => pairOf(nKeys, expert)) }];
    }),
  };
}

/** Who is masked in one layer. */
export class LayerMask {
  readonly #nKeys: number;
  readonly #first: Uint8Array; // [nKeys]
  readonly #second: Uint8Array; // [nKeys]
  /** A bit for each (i, j); null without pairs. */
  readonly #pairs: Uint32Array | null; // [ceil(nKeys^2 / 32)]

  constructor(nKeys: number, { firstKeys = [], secondKeys = [], pairs = [] }: ProductLayerMask) {
    this.#nKeys = nKeys;
    this.#first = new Uint8Array(nKeys);
    this.#second = new Uint8Array(nKeys);
    for (const i of firstKeys) this.#first[i] = 1;
    for (const j of secondKeys) this.#second[j] = 1;
    this.#pairs = pairs.length === 0 ? null : new Uint32Array(Math.ceil(nKeys * nKeys / 32));
    for (const [i, j] of pairs) {
      const bit = i * nKeys + j;
      this.#pairs![bit >>> 5]! |= 1 << (bit & 31);
    }
  }

  has(i: number, j: number): boolean {
    if (this.#first[i] === 1 || this.#second[j] === 1) return true;
    if (this.#pairs === null) return false;
    const bit = i * this.#nKeys + j;
    return ((this.#pairs[bit >>> 5]! >>> (bit & 31)) & 1) === 1;
  }
}

/** Masks as layers look them up: made once, since a request brings the same record with every step. */
const made = new WeakMap<ProductMask, ReadonlyMap<number, LayerMask>>();

/** By layer. Throws ModelError where the model cannot go by it. */
export function layerMasks(c: MaskedConfig, mask: ProductMask): ReadonlyMap<number, LayerMask> {
  const known = made.get(mask);
  if (known !== undefined) return known;
  const problem = productMaskProblem(c, mask);
  if (problem !== null) throw new ModelError(problem);
  const found = new Map(mask.layers.map((of) => [of.layer, new LayerMask(c.productExperts!.nKeys, of)]));
  made.set(mask, found);
  return found;
}
