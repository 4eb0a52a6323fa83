// What `inspect` says of a model's routing: every kind it has that a plain model has not, in the words of the registry (model/routing-kinds.ts), with its settings.
// Owns which of them are worth a line: what every model has, and what the line of experts says already, is not. Refuses nothing.

import type { ModelConfig } from "../model/config.ts";
import { branchesOf, type RouterConfig } from "../model/router-config.ts";
import { kindsOf, noteOf, ROUTING_KINDS, type RoutingKindName, selectKindOf } from "../model/routing-kinds.ts";

/** Said by the router's own line, by the line of experts, by a branch's line, or of every model. */
const SAID: readonly RoutingKindName[] = ["gate:linear", "scope:token", "table:own", "table:latent", "expert:swiglu", "expert:product", "combine:sum", "combine:shared", "combine:auxiliary", "combine:concat"];
const SAID_BY_ROUTER = /^(score|select|weigh):/;

/** Lines of a table; none for a dense model, one for a plain router. */
export function routingRows(config: ModelConfig): [string, string][] {
  const kinds = kindsOf(config);
  if (!config.layerFfns.includes("moe")) return [];
  const branches = config.router.branches === undefined ? [] : branchesOf(config.router);
  const rest = kinds.filter((kind) => !SAID.includes(kind) && !SAID_BY_ROUTER.test(kind) && !(branches.length > 0 && kind.startsWith("scope:")));
  return [
    ["router", routerText(config.router)],
    ...rest.map((kind): [string, string] => [`  ${kind.split(":")[0]}`, `${noteOf(kind).does}${settingsOf(config, kind)}`]),
    ...branches.map((branch, i): [string, string] => [`  branch ${i}`, branchText(config, branch, i, branches.length)]),
  ];
}

function routerText(r: RouterConfig): string {
  const { score, select, weigh } = ROUTING_KINDS;
  if (r.select === "sparsemixer") return select.sparsemixer.does;
  const bound = r.threshold === undefined ? "" : ` (above ${r.threshold.least} at temperature ${r.threshold.temperature})`;
  const nulls = r.nullExperts === undefined ? "" : ` (${r.nullExperts} of them)`;
  return `${score[r.score].does}, ${select[selectKindOf(r)].does}${bound}${nulls}, weighed by ${weigh[r.weigh].does}`;
}

/** The numbers that a kind has, in brackets; nothing where it has none. */
function settingsOf({ router: { gate, scope }, expertPool, nExperts }: ModelConfig, kind: RoutingKindName): string {
  if (kind === "gate:tasks" && gate?.kind === "tasks") return ` (${gate.nTasks} tasks)`;
  if (kind.startsWith("gate:") && gate !== undefined && "width" in gate) return ` (${gate.width} wide)`;
  if (kind.startsWith("scope:") && scope !== undefined) return scopeSettings(scope);
  if (kind === "table:pool") return ` (${nExperts} for every ${expertPool!.layers} layers)`;
  return "";
}

const scopeSettings = (scope: NonNullable<RouterConfig["scope"]>): string => (scope.kind === "sequence" ? ` (${scope.tokens})` : ` (${scope.size} numbers)`);

function branchText({ nExperts, hiddenSize }: ModelConfig, { topK, scope }: RouterConfig, i: number, n: number): string {
  const each = nExperts / n;
  const { does } = ROUTING_KINDS.scope[scope?.kind ?? "token"];
  return `${topK} of experts ${i * each} to ${(i + 1) * each - 1}, numbers ${i * hiddenSize / n} to ${(i + 1) * hiddenSize / n - 1} of the row; ${does}${scope === undefined ? "" : scopeSettings(scope)}`;
}
