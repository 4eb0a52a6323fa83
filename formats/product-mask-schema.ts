// The schema of masks of product experts, as requests (`moe.mask_experts`) and profiles (`maskExperts`) have them: by layer, experts that are left out. Owns what a valid one is, the way to the engine's record
// (model/product-mask.ts) and back, and two of them in one. Refuses unknown keys. What a model has for them is checked where the model is known.

import { z } from "zod";
import { CONFIG_MOST } from "../model/config.ts";
import type { ProductMask } from "../model/product-mask.ts";

const expected = "an object from layers to { first_keys, second_keys, pairs }, such as {\"2\": {\"first_keys\": [7], \"pairs\": [[1, 5]]}}";
const keyExpected = `an integer from 0 to ${CONFIG_MOST.productKeys - 1}`;
const key = z.number(keyExpected).int(keyExpected).min(0, keyExpected).max(CONFIG_MOST.productKeys - 1, keyExpected);

/** `mostPairs`: of one layer, one by one; whole keys take thousands with them. */
export const maskedExpertsSchema = (mostPairs: number) => z.record(z.string(expected).regex(/^(0|[1-9]\d{0,8})$/, expected), z.strictObject({
  first_keys: z.array(key).max(CONFIG_MOST.productKeys).nullish(), second_keys: z.array(key).max(CONFIG_MOST.productKeys).nullish(), pairs: z.array(z.tuple([key, key])).max(mostPairs).nullish(),
}, expected), expected);
export type MaskedExperts = Readonly<z.infer<ReturnType<typeof maskedExpertsSchema>>>;

export const productMaskOf = (masked: MaskedExperts): ProductMask => ({
  layers: Object.entries(masked).map(([layer, { first_keys: firstKeys, second_keys: secondKeys, pairs }]) => ({
    layer: Number(layer), ...(firstKeys == null ? {} : { firstKeys }), ...(secondKeys == null ? {} : { secondKeys }), ...(pairs == null ? {} : { pairs }),
  })),
});

export const maskedExpertsOf = ({ layers }: ProductMask): MaskedExperts => Object.fromEntries(layers.map(({ layer, firstKeys, secondKeys, pairs }) => [String(layer), {
  ...(firstKeys === undefined ? {} : { first_keys: [...firstKeys] }), ...(secondKeys === undefined ? {} : { second_keys: [...secondKeys] }),
  ...(pairs === undefined ? {} : { pairs: pairs.map(([i, j]): [number, number] => [i, j]) }),
}]));

/** What either leaves out. */
export function eitherMasked(a: MaskedExperts, b: MaskedExperts): MaskedExperts {
  const of = <T>(...lists: readonly (readonly T[] | null | undefined)[]): T[] => lists.flatMap((list) => list ?? []);
  return Object.fromEntries([...new Set([...Object.keys(a), ...Object.keys(b)])].map((layer) => {
    const [one, other] = [a[layer], b[layer]];
    return [layer, { first_keys: of(one?.first_keys, other?.first_keys), second_keys: of(one?.second_keys, other?.second_keys), pairs: of(one?.pairs, other?.pairs) }];
  }));
}
