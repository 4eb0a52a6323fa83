// What a page of the KV cache holds: 32 positions of keys and values of an engine's layers and, where the router reads the sequence (router-config.ts), of the rows it
// read at these positions. So what a router knows of a sequence is where everything else about it is: shared, copied, taken back and moved with its pages.
// Owns the layout beyond keys and values, whose own is kvLayerBytes. Refuses to read: attention and gate-stage.ts do.

import { latentDim, type ModelConfig } from "./config.ts";
import { activationRowBytes, kvLayerBytes, kvPageBytes, KV_BLOCK, type KvFormat } from "./kernels.ts";
import { readsSequence } from "./router-config.ts";

type PagedConfig = Pick<ModelConfig, "nKvHeads" | "headDim" | "mla" | "hiddenSize" | "router">;

/** Of keys and values of one layer. */
export const layerKvBytes = (c: Pick<PagedConfig, "nKvHeads" | "headDim" | "mla">, format: KvFormat): number => kvLayerBytes(format, c.nKvHeads, c.headDim, latentDim(c));

/** Of the rows that one layer's router read; 0 where it reads tokens. */
const layerScopeBytes = ({ router, hiddenSize }: PagedConfig): number => (readsSequence(router) ? KV_BLOCK * activationRowBytes("f32", hiddenSize) : 0);

/** Of a page of `nLayers` layers. */
export const pageBytesOf = (c: PagedConfig, format: KvFormat, nLayers: number): number =>
  kvPageBytes(format, nLayers, c.nKvHeads, c.headDim, latentDim(c)) + nLayers * layerScopeBytes(c);

/** Where in a page of `nLayers` layers the row lies that the router of the page's layer `layer` read at a position; f32 [hidden]. */
export const scopeRowOffset = (c: PagedConfig, format: KvFormat, nLayers: number, layer: number, position: number): number =>
  nLayers * layerKvBytes(c, format) + layer * layerScopeBytes(c) + (position % KV_BLOCK) * activationRowBytes("f32", c.hiddenSize);
