// Which keys of product experts tokens keep, counted by the layer that routes: how many each head keeps, and for how many tokens some head keeps a key. Fed by a tap at `keys`.
// Owns the counters. Refuses pairs: 262,144 experts a layer are counted by their halves.

import { type ModelConfig, productRouterLayers } from "./config.ts";
import type { Tap, TapEvent } from "./taps.ts";

/** Of one routing layer and codebook. */
export interface CodebookUse {
  /** Kept keys of all heads and tokens together. */
  readonly kept: number;
  /** Of a single head of a token. */
  readonly least: number;
  readonly most: number;
  /** Tokens of which some head keeps the key, [nKeys]. */
  readonly tokensOfKeys: Uint32Array;
}

export interface ProductLayerUse {
  readonly layer: number;
  readonly tokens: number;
  readonly codebooks: readonly [first: CodebookUse, second: CodebookUse];
}

interface Counts { tokens: number; readonly codebooks: readonly [Codebook, Codebook] }
interface Codebook { kept: number; least: number; most: number; readonly tokensOfKeys: Uint32Array }

export class ProductUse {
  readonly #nKeys: number;
  readonly #nHeads: number;
  readonly #layers: ReadonlyMap<number, Counts>;
  readonly tap: Tap;

  /** Of a model with product layers. */
  constructor(c: Pick<ModelConfig, "productExperts" | "layerFfns">) {
    const { nKeys, nHeads } = c.productExperts!;
    this.#nKeys = nKeys;
    this.#nHeads = nHeads;
    const layers = productRouterLayers(c);
    const codebook = (): Codebook => ({ kept: 0, least: nKeys, most: 0, tokensOfKeys: new Uint32Array(nKeys) });
    this.#layers = new Map(layers.map((layer) => [layer, { tokens: 0, codebooks: [codebook(), codebook()] as const }]));
    this.tap = { at: "keys", layers, run: (event) => this.#count(event) };
  }

  /** By routing layer, ascending; it goes on counting. */
  get layers(): ProductLayerUse[] { return [...this.#layers].map(([layer, counts]) => ({ layer, ...counts })); }

  #count({ layer, nTokens, values, rowLength }: TapEvent): void {
    const counts = this.#layers.get(layer)!;
    const nKeys = this.#nKeys;
    const seen = new Uint8Array(nKeys);
    counts.tokens += nTokens;
    for (let t = 0; t < nTokens; t++) {
      counts.codebooks.forEach((of, codebook) => {
        seen.fill(0);
        for (let h = 0; h < this.#nHeads; h++) {
          const at = t * rowLength + (codebook * this.#nHeads + h) * nKeys;
          let kept = 0;
          for (let key = 0; key < nKeys; key++) {
            if (values[at + key] === 0) continue;
            kept++;
            seen[key] = 1;
          }
          of.kept += kept;
          of.least = Math.min(of.least, kept);
          of.most = Math.max(of.most, kept);
        }
        for (let key = 0; key < nKeys; key++) of.tokensOfKeys[key]! += seen[key]!;
      });
    }
  }
}
