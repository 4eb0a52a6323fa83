// What `profile` says on the terminal: experts by layer, divergence by layer, or what a profile does. Owns the words. Refuses files and figures of its own.

import type { FoundExpert } from "../../fleet/expert-differences.ts";
import { percent, showTable } from "../sizes.ts";
import type { FoundProfile } from "./find-profile.ts";
import type { DivergenceFigures } from "./measure-divergence.ts";
import type { Effect, Outcome } from "./measure-effect.ts";

/** Experts of a layer by name; the file has the rest. */
const SHOWN = 40;

/** `files`: what was written; none: nothing was. */
export const showProfile = ({ classes, options, found, layers, document, nameOf }: FoundProfile, files: readonly string[]): string => showTable([
  ...classes.map(({ source, routing }): [string, string] => [source.label, `${source.kind}: ${routing.sequences} sequences${source.knowsTokens ? `, ${Math.round(routing.tokens)} tokens` : ""}${source.nCut === 0 ? "" : `; ${source.nCut} were longer than the context and lost their end`}`]),
  ["profile", `${document.maskExperts == null ? options.op : "a mask"} of ${found.length} experts, found by ${options.by} in layers ${layers.join(", ")}`],
  ...[...Map.groupBy(found, ({ layer }) => layer)].sort(([a], [b]) => a - b).map(([layer, of]): [string, string] => [`layer ${layer}`, showExperts(of, nameOf)]),
  files.length === 0 ? ["next", "--out writes it"] : ["written", files.join(", ")],
]);

const showExperts = (of: readonly FoundExpert[], nameOf: (expert: number) => string): string => `${of.slice(0, SHOWN).map(({ expert, difference }) => `${nameOf(expert)} (${difference > 0 ? "+" : ""}${Number(difference.toPrecision(3))})`).join(", ")}${of.length > SHOWN ? ` and ${of.length - SHOWN} more` : ""}`;

/** A line per layer, a column per pair. */
export function showDivergence({ parallelTexts, by, middleLayers, pairs, classes }: DivergenceFigures): string {
  const names = pairs.map(({ a, b }) => `${a}/${b}`);
  const width = Math.max(8, ...names.map(({ length }) => length + 2));
  const line = (head: string, cells: readonly string[]): string => `${head.padEnd(10)}${cells.map((cell) => cell.padStart(width)).join("")}\n`;
  return `${classes.map(({ label, sequences, tokens }) => `${label}: ${sequences} sequences${tokens === null ? "" : `, ${Math.round(tokens)} tokens`}`).join("; ")}\n`
    + `Divergence of routing by ${by}, 0 to 1, ${parallelTexts === null ? "between means" : "mean over parallel texts"}:\n`
    + line("layer", names)
    + pairs[0]!.layers.map(({ layer }, i) => line(String(layer), pairs.map(({ layers }) => layers[i]!.normalized.toFixed(4)))).join("")
    + line("middle", pairs.map(({ middle }) => middle.toFixed(4)))
    + (pairs[0]!.outer === null ? "" : line("others", pairs.map(({ outer }) => outer!.toFixed(4))))
    + `The middle is ${middleLayers.length === 1 ? `layer ${middleLayers[0]}` : `layers ${middleLayers[0]} to ${middleLayers.at(-1)}`}.\n`;
}

/** A line per text and one for the marker; of the drawings the mean and the range. */
export function showEffect(name: string, { texts, prompts, experts, none, profile, random }: Effect): string {
  const spread = (values: readonly number[], show: (x: number) => string): string =>
    (values.length === 0 ? "" : `; ${values.length} times as many others: ${show(values.reduce((a, b) => a + b, 0) / values.length)} (${show(Math.min(...values))} to ${show(Math.max(...values))})`);
  const change = (to: number, from: number): string => `${to >= from ? "+" : ""}${(100 * (to / from - 1)).toFixed(2)} %`;
  return showTable([
    ["profile", `${name}, ${experts} experts`],
    ...texts.map(({ label, tokens }, i): [string, string] => {
      const of = ({ perplexities }: Outcome): number => perplexities[i]!;
      return [label, `perplexity ${of(none).toFixed(3)}, with it ${of(profile).toFixed(3)} (${change(of(profile), of(none))})${spread(random.map((way) => of(way)), (x) => x.toFixed(3))}; ${tokens} tokens`];
    }),
    ...(none.markerRate === null ? [] : [["marker", `after ${percent(none.markerRate)} of ${prompts} prompts, with it ${percent(profile.markerRate!)}${spread(random.map((way) => way.markerRate!), percent)}`] as [string, string]]),
  ]);
}
