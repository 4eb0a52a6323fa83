// What a kind of gate is: its tensors, the rows of its own that it needs, and how rows become logits. One kind a file; index.ts is their table.
// Owns the form alone. Refuses state: a gate's logits of a token depend on its row, its id and its request, never on who is in the batch.

import type { ActivationRows, RowProducts } from "../activation-rows.ts";
import type { ModelConfig, TrunkTensor } from "../config.ts";
import type { Heap } from "../heap.ts";
import type { ActivationFormat, Kernels } from "../kernels.ts";
import type { RoutedConfig } from "../router-config.ts";
import type { GateWeights } from "../trunk.ts";

export type GatedConfig = RoutedConfig & Pick<ModelConfig, "vocabSize">;

/** One wave of tokens at a layer's gate. */
export interface GateCall {
  readonly config: GatedConfig;
  readonly w: GateWeights;
  readonly kernels: Kernels;
  readonly heap: Heap;
  readonly products: RowProducts;
  /** Rows [first, first + nTokens) are the tokens'. */
  readonly rows: ActivationRows;
  readonly first: number;
  readonly nTokens: number;
  /** Address of f32 [nTokens, logits], rows of `stride` bytes: the result, before the router's bias. */
  readonly logits: number;
  readonly stride: number;
  /** Rows of its own, of `ownColumns`; the same numbers of rows are the wave's. */
  readonly own: ActivationRows;
  /** Address of f32 rows of its own, of `wideColumns` each, `wideStride` bytes apart: the first is the wave's first. */
  readonly wide: number;
  readonly wideStride: number;
  /** Of each token of the wave. */
  readonly tokenIds: Uint32Array;
  readonly tasks: Uint32Array;
}

export interface Gate {
  /** Of the trunk, named within their layer. */
  tensors(c: GatedConfig): readonly TrunkTensor[];
  ownColumns(c: GatedConfig): number;
  wideColumns(c: GatedConfig): number;
  /** Formats in which it reads the tokens' rows. */
  takes(w: GateWeights): readonly ActivationFormat[];
  run(call: GateCall): void;
}

/** The settings of a kind, where it is the config's. */
export function settingsOf<Kind extends NonNullable<RoutedConfig["router"]["gate"]>["kind"]>(c: RoutedConfig, kind: Kind) {
  const { gate } = c.router;
  if (gate?.kind !== kind) throw new Error(`A gate of kind ${kind} was asked of a router whose gate is ${gate?.kind ?? "one product"}.`);
  return gate as Extract<typeof gate, { kind: Kind }>;
}
