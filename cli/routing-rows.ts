// What `inspect` says of a model's routing: its gate, scope, selection and weights, in the words of the registry (model/routing-kinds.ts).
// Owns which of them are worth a line: what every model has is not. Refuses nothing.

import type { ModelConfig } from "../model/config.ts";
import { ROUTING_KINDS, selectKindOf } from "../model/routing-kinds.ts";

/** Lines of a table; none for a dense model, one for a plain router. */
export function routingRows({ nExperts, layerFfns, router: r }: ModelConfig): [string, string][] {
  if (nExperts === 0 || !layerFfns.includes("moe")) return [];
  const { gate, scope, select, score, weigh } = ROUTING_KINDS;
  const nulls = r.nullExperts ?? 0;
  const settings = r.threshold === undefined ? "" : ` (above ${r.threshold.least} at temperature ${r.threshold.temperature})`;
  const rows: [string, string][] = [["router", r.select === "sparsemixer" ? select.sparsemixer.does : `${score[r.score].does}, ${select[selectKindOf(r)].does}${settings}${nulls > 0 ? ` (${nulls} of them)` : ""}, weighed by ${weigh[r.weigh].does}`]];
  if (r.gate !== undefined) rows.push(["  gate", `${gate[r.gate.kind].does}${r.gate.kind === "tasks" ? ` (${r.gate.nTasks} tasks)` : "width" in r.gate ? ` (${r.gate.width} wide)` : ""}`]);
  if (r.scope !== undefined) rows.push(["  scope", `${scope[r.scope.kind].does}${r.scope.kind === "sequence" ? ` (${r.scope.tokens})` : ` (${r.scope.size} numbers)`}`]);
  return rows;
}
