// The table of gates: from a config to the kind that makes its logits. A kind that is not here cannot be named by a model; routing-kinds.ts has sources and proofs.

import type { GateConfig } from "../router-config.ts";
import { attention } from "./attention.ts";
import { cosine } from "./cosine.ts";
import type { Gate, GatedConfig, GateTensor } from "./gate.ts";
import { hash } from "./hash.ts";
import { linear } from "./linear.ts";
import { mlp } from "./mlp.ts";
import { sparsity } from "./sparsity.ts";
import { tasks } from "./tasks.ts";

const GATES: Readonly<Record<GateConfig["kind"], Gate>> = { mlp, cosine, attention, sparsity, hash, tasks };

export const gateOf = ({ router: { gate } }: Pick<GatedConfig, "router">): Gate => (gate === undefined ? linear : GATES[gate.kind]);

/** The gate's tensors, named within a layer. */
export const gateTensors = (c: GatedConfig): readonly GateTensor[] => gateOf(c).tensors(c);
