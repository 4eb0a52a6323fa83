// The routing map of a pack: of every class of texts the share of each expert in each layer, and how differently every two classes of one kind are routed (docs/formats.md, "The routing map").
// Owns what a class's kind is (KIND:LABEL=FILE), the rounding, and the words for it. The sums are fleet/sequence-routing.ts, the divergence fleet/routing-divergence.ts. Refuses to say what follows from it.

import { distributionOf, mapDivergence } from "../../fleet/routing-divergence.ts";
import type { RoutingMeasure } from "../../fleet/sequence-routing.ts";
import { CLASS_KINDS, type ClassKind, type MappedPack, type RoutingMap, routingMapProblem, SHARE_DIGITS } from "../../formats/routing-map.ts";
import type { LabelledFile } from "./class-sources.ts";
import type { SummedClass } from "./find-profile.ts";

export interface KindOfFile extends LabelledFile {
  readonly kind: ClassKind;
}

export interface KindOfClass extends SummedClass {
  readonly kind: ClassKind;
}

/** "language:fr" is a language; a label without a kind is a domain's. Throws a sentence on a kind that there is not. */
export function kindOfFile({ label, file }: LabelledFile): KindOfFile {
  const at = label.indexOf(":");
  if (at < 0) return { kind: "domain", label, file };
  const kind = CLASS_KINDS.find((name) => name === label.slice(0, at));
  if (kind === undefined || at === label.length - 1) throw new Error(`"${label}" is no label of a map; expected one such as ${CLASS_KINDS.map((name) => `${name}:LABEL`).join(" or ")}.`);
  return { kind, label: label.slice(at + 1), file };
}

/** Throws a sentence where the classes do not have what `by` asks for, or the result would not be served. */
export function makeMap(classes: readonly KindOfClass[], pack: MappedPack, by: RoutingMeasure): RoutingMap {
  const { shape } = classes[0]!.source;
  const missing = classes.find(({ routing }) => !routing.has(by));
  if (missing !== undefined) throw new Error(`${missing.source.file} does not have what --by ${by} counts; take another.`);
  const means = classes.map(({ routing }) => routing.meanShares(by));
  const map: RoutingMap = {
    format: "workers-moe-routing-map", version: 1, model: pack.id, packHash: pack.hash, by, layers: [...shape.moeLayers],
    classes: classes.map(({ kind, source: { label, knowsTokens, file }, routing }, i) => {
      if (!knowsTokens) throw new Error(`${file} does not say how many tokens it counted; a map says it of every class.`);
      return { label, kind, tokens: Math.round(routing.tokens), share: shape.moeLayers.map((_, layer) => Array.from(distributionOf(means[i]!, shape, layer), rounded)) };
    }),
    divergence: classes.flatMap((a, i) => classes.slice(i + 1).flatMap((b, j) => (a.kind !== b.kind ? [] : [{
      kind: a.kind, a: a.source.label, b: b.source.label, layers: mapDivergence(shape, means[i]!, means[i + 1 + j]!).map(({ normalized }) => rounded(normalized)),
    }]))),
  };
  const problem = routingMapProblem(map, pack);
  if (problem !== null) throw new Error(problem);
  return map;
}

const rounded = (share: number): number => Number(share.toFixed(SHARE_DIGITS));

/** One line a class and one a pair, so that a map can be read and compared as text. */
export function mapText({ classes, divergence, ...head }: RoutingMap): string {
  const lines = (rows: readonly object[]): string => (rows.length === 0 ? "[]" : `[\n${rows.map((row) => `  ${JSON.stringify(row)}`).join(",\n")}\n ]`);
  return `${JSON.stringify(head, null, 1).replace(/\[[^\]]*\]/, (list) => list.replace(/\s+/g, "")).slice(0, -2)},\n "classes": ${lines(classes)},\n "divergence": ${lines(divergence)}\n}\n`;
}

/** For people: of each class its strongest expert in each layer, and which two of a kind differ most. */
export function showMap({ model, by, layers, classes, divergence }: RoutingMap, file: string | null): string {
  const strongest = ({ share }: RoutingMap["classes"][number]): string => share.map((row, i) => {
    const most = Math.max(...row);
    return `${layers[i]}: ${row.indexOf(most)} (${(100 * most).toFixed(0)} %)`;
  }).join(", ");
  const lines = [`${model}: ${classes.length} classes by ${by}; the most taken expert of each layer`, ...classes.map((of) => `  ${of.kind} ${of.label}, ${of.tokens} tokens: ${strongest(of)}`)];
  for (const kind of CLASS_KINDS) {
    const pairs = divergence.filter((of) => of.kind === kind).map((of) => ({ ...of, mean: of.layers.reduce((sum, x) => sum + x, 0) / of.layers.length })).sort((x, y) => y.mean - x.mean);
    if (pairs.length === 0) continue;
    const [most, least] = [pairs[0]!, pairs.at(-1)!];
    lines.push(`divergence of ${kind}s, from ${least.mean.toFixed(3)} (${least.a} / ${least.b}) to ${most.mean.toFixed(3)} (${most.a} / ${most.b}), means of all layers`);
  }
  return `${lines.join("\n")}\n${file === null ? "" : `${file} written.\n`}`;
}
