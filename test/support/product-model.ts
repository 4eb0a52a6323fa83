// Small models with product experts as plain numbers: the seeded model's attention, layers of both forms, and batch norms whose statistics are those of its logits, so that
// heads keep about as many keys as they are asked to. Owns the numbers. Refuses files: those come through formats/.

import type { ModelConfig, ProductExpertsConfig } from "../../model/config.ts";
import type { PlainWeights } from "./direct-engine.ts";
import { seededConfig, seededWeights } from "./seeded-model.ts";

export const PRODUCT: ProductExpertsConfig = { form: "vertical", nKeys: 8, nHeads: 3, topK: 3, expertSize: 4, routerLayers: 1 };

/** `nLayers` layers, all of them product; no other experts. */
export function productConfig(of: Partial<ProductExpertsConfig>, nLayers = 2, more: Partial<ModelConfig> = {}): ModelConfig {
  return {
    ...seededConfig, nLayers, slidingWindows: new Array<number>(nLayers).fill(0), layerFfns: new Array<"product">(nLayers).fill("product"), nExperts: 0, expertIntermediateSize: 0,
    router: { ...seededConfig.router, score: "one", topK: 0 }, productExperts: { ...PRODUCT, ...of }, ...more,
  };
}

export function productWeights(config: ModelConfig, seed: number): PlainWeights {
  const seeded = seededWeights(config, seed);
  return (name) => {
    const m = seeded(name);
    // Logits have a variance of about 4 / 3; seeded vectors lie within half of zero.
    return /\.variance[12]$/.test(name) ? { ...m, values: Float32Array.from(m.values, (v) => 1.3 + v) } : m;
  };
}
