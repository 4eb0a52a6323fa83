// The page of a divergence: how differently classes are routed, layer by layer, and how even their routing is. Owns what is plotted and said. The figures are cli/profile/measure-divergence.ts's.

import { basename } from "node:path";
import type { DivergenceFigures, PairFigures } from "../profile/measure-divergence.ts";
import { pageHtml } from "./page.ts";
import { type Plot, plotFigure, tableHtml } from "./plot.ts";

/** Lines of one plot; of more pairs only those with the first class are drawn. */
const DRAWN = 10;

const MEASURES = { score: "softmax of the router's logits", weight: "router's weights", count: "choices" } as const;

const nameOf = ({ a, b }: Pick<PairFigures, "a" | "b">): string => `${a} / ${b}`;
const colours = (n: number): string[] => Array.from({ length: n }, (_, i) => `oklch(${i % 2 === 0 ? 0.62 : 0.72} 0.15 ${Math.round(40 + (360 * i) / n)})`);

export async function divergencePage(figures: DivergenceFigures): Promise<string> {
  const { classes, pairs, by, parallelTexts, middleLayers } = figures;
  const drawn = pairs.length > DRAWN ? pairs.filter(({ a }) => a === classes[0]!.label) : pairs;
  const span = middleLayers.length === 1 ? `layer ${middleLayers[0]}` : `layers ${middleLayers[0]} to ${middleLayers.at(-1)}`;
  const sections = [
    await plotFigure(linePlot({
      title: "Divergence of routing", unit: "divergence", names: drawn.map(nameOf),
      summary: `Jensen-Shannon divergence over the most it could be at these entropies: 0 is routed alike, 1 as differently as can be${drawn.length < pairs.length ? `; drawn against ${classes[0]!.label}, the table has all` : ""}.`,
      values: drawn.flatMap((pair) => pair.layers.map(({ layer, normalized }) => ({ layer, of: nameOf(pair), value: normalized }))),
      table: { head: ["layer", ...pairs.flatMap((pair) => [nameOf(pair), "nats"])], rows: pairs[0]!.layers.map(({ layer }, i) => [String(layer), ...pairs.flatMap((pair) => [pair.layers[i]!.normalized.toFixed(4), pair.layers[i]!.divergence.toFixed(4)])]) },
    })),
    await plotFigure(linePlot({
      title: "Entropy of routing", unit: "bits", names: classes.map(({ label }) => label),
      summary: `Of each class's mean distribution over the ${figures.nExperts} experts, of at most ${Math.log2(figures.nExperts).toFixed(2)} bits.`,
      values: classes.flatMap(({ label, layers }) => layers.map(({ layer, entropy }) => ({ layer, of: label, value: entropy / Math.LN2 }))),
      table: { head: ["layer", ...classes.map(({ label }) => label)], rows: classes[0]!.layers.map(({ layer }, i) => [String(layer), ...classes.map(({ layers }) => (layers[i]!.entropy / Math.LN2).toFixed(3))]) },
    })),
    `<section><h2>In the middle and outside</h2><p>Means of the normalised divergence over ${span}, and over the other layers.</p>${tableHtml({
      head: ["pair", "middle", "others"], rows: pairs.map((pair) => [nameOf(pair), pair.middle.toFixed(4), pair.outer?.toFixed(4) ?? "-"]),
    }, "In the middle and outside")}</section>`,
    `<section><h2>Texts</h2>${tableHtml({
      head: ["class", "file", "sequences", "tokens"], rows: classes.map(({ label, file, kind, sequences, tokens }) => [label, `${basename(file)}, ${kind}`, sequences.toLocaleString("en"), tokens?.toLocaleString("en") ?? "-"]),
    }, "Texts")}</section>`,
  ];
  return pageHtml({
    title: `Divergence: ${classes.map(({ label }) => label).join(", ")}`, lead: parallelTexts === null ? "Between the means of the classes' sequences." : `Mean over ${parallelTexts.toLocaleString("en")} parallel texts, one by one.`,
    facts: [...(figures.model === null ? [] : [["model", `${figures.model} (${figures.packHash!.slice(0, 12)})`]] as const), ["compared by", MEASURES[by]], ["middle", span]], sections,
  });
}

interface Lines {
  readonly title: string;
  readonly summary: string;
  readonly unit: string;
  readonly names: readonly string[];
  readonly values: readonly { readonly layer: number; readonly of: string; readonly value: number }[];
  readonly table: Plot["table"];
}

const linePlot = ({ title, summary, unit, names, values, table }: Lines): Plot => ({
  title, summary, table,
  spec: (width) => ({
    width: width - 60, height: 220, data: { values: [...values] }, mark: { type: "line", point: true },
    encoding: {
      x: { field: "layer", type: "quantitative", title: "layer", axis: { tickMinStep: 1, format: "d" } }, y: { field: "value", type: "quantitative", title: unit, scale: { zero: true } },
      color: { field: "of", type: "nominal", sort: names as string[], scale: { domain: names as string[], range: colours(names.length) }, legend: { title: null, columns: width > 400 ? 4 : 2 } },
    },
  }),
});
