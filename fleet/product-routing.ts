// What tokens take of product experts (Monet, 2024), summed as that of other experts is (sequence-routing.ts): by the layer that routes, expert (i, j) under the number i * nKeys + j. Fed by a tap at `keys`.
// Owns the weight of a pair, which is the sum over heads of both keys' weights multiplied, and its choice, once for a token whatever heads chose it. Refuses scores of all experts: a router of keys makes none of pairs.

import { type ModelConfig, moeLayersOf, productRouterLayers } from "../model/config.ts";
import { keptKeys } from "../model/product-router.ts";
import type { Tap } from "../model/taps.ts";
import type { RoutingShape, SequenceRouting } from "./sequence-routing.ts";

type ProductConfig = Pick<ModelConfig, "productExperts" | "layerFfns">;

/** Whether a model's experts are made of halves, and it has no others: then experts are pairs of keys. */
export const isOfProducts = ({ productExperts, layerFfns }: ProductConfig): boolean => productExperts !== undefined && moeLayersOf({ layerFfns }).length === 0;

/** Of a model with product experts: layers are those that route. */
export const productShape = (c: ProductConfig): RoutingShape => ({ moeLayers: productRouterLayers(c), nExperts: c.productExperts!.nKeys ** 2 });

/** What sums of a model's routing are of: its experts, or pairs of keys where it has no others. */
export const routingShape = (c: ProductConfig & Pick<ModelConfig, "nExperts">): RoutingShape => (isOfProducts(c) ? productShape(c) : { moeLayers: moeLayersOf(c), nExperts: c.nExperts });

/** Adds what a step's tokens take to `routing`, whose shape is the model's productShape. */
export function productRoutingTap(c: ProductConfig, routing: SequenceRouting): Tap {
  const { nKeys, nHeads } = c.productExperts!;
  return {
    at: "keys", layers: productShape(c).moeLayers,
    run: ({ layer, nTokens, values, rowLength }) => {
      for (let t = 0; t < nTokens; t++) {
        const row = values.subarray(t * rowLength, (t + 1) * rowLength);
        const [first, second] = keptKeys(c.productExperts!, row);
        const weights = new Map<number, number>();
        for (let head = 0; head < nHeads; head++) {
          for (const i of first[head]!) for (const j of second[head]!) weights.set(i * nKeys + j, (weights.get(i * nKeys + j) ?? 0) + row[head * nKeys + i]! * row[(nHeads + head) * nKeys + j]!);
        }
        routing.add({ layer, ids: [...weights.keys()], weights: [...weights.values()] });
      }
    },
  };
}
