// The table of gates: from a config to the kind that makes its logits. A kind that is not here cannot be named by a model; routing-kinds.ts has sources and proofs.

import type { TrunkTensor } from "../config.ts";
import { branchesOf, type GateConfig } from "../router-config.ts";
import { attention } from "./attention.ts";
import { conditions } from "./conditions.ts";
import { cosine } from "./cosine.ts";
import type { Gate, GatedConfig } from "./gate.ts";
import { hash } from "./hash.ts";
import { linear } from "./linear.ts";
import { mlp } from "./mlp.ts";
import { sparsity } from "./sparsity.ts";
import { tasks } from "./tasks.ts";

const GATES: Readonly<Record<GateConfig["kind"], Gate>> = { mlp, cosine, attention, sparsity, hash, tasks, conditions };

export const gateOf = ({ router: { gate } }: Pick<GatedConfig, "router">): Gate => (gate === undefined ? linear : GATES[gate.kind]);

/** The config as one branch of its router sees it; itself where there are none. */
export function branchConfigs(c: GatedConfig): readonly GatedConfig[] {
  const { nExperts, hiddenSize, vocabSize } = c;
  return c.router.branches === undefined ? [c] : branchesOf(c.router).map((router) => ({ nExperts: nExperts / c.router.branches!.length, hiddenSize, vocabSize, router }));
}

/** The tensors of a layer's gates, named within the layer: of several branches matrices are stacks, vectors lie one after the other, and a scope must not change their shapes. */
export function gateTensors(c: GatedConfig): readonly TrunkTensor[] {
  const [first] = branchConfigs(c) as [GatedConfig];
  const own = gateOf(first).tensors(first);
  const count = c.router.branches?.length ?? 1;
  if (count === 1) return own;
  return own.map((t) => (t.kind === "vector" ? { ...t, length: count * t.length } : { ...t, kind: "matrices", count }));
}
