// Plots as SVG text inside a page: vega-lite draws them, once for a desk and once for a telephone, in colours that the page's style sheet gives as variables, so that
// one drawing serves light and dark. Every plot stands in a figure with a sentence and a table of the same numbers. Owns those. Refuses to know what is plotted.

import type { Config, TopLevelSpec } from "vega-lite";
import { escapeHtml } from "./page.ts";

export interface PlotTable {
  readonly head: readonly string[];
  readonly rows: readonly (readonly string[])[];
}

export interface Plot {
  readonly title: string;
  /** What the plot shows, in a sentence or two: read out in its place. */
  readonly summary: string;
  readonly table: PlotTable;
  /** For a width in px. */
  spec(width: number): PlotSpec;
}

/** A vega-lite specification without the frame that all plots share. */
export type PlotSpec = WithoutFrame<TopLevelSpec>;
type WithoutFrame<Spec> = Spec extends unknown ? Omit<Spec, "$schema" | "config"> : never;

const [WIDE_PX, NARROW_PX] = [680, 312];

const FONT = "system-ui, -apple-system, Segoe UI, Roboto, Noto Sans, sans-serif";

const CONFIG: Config = {
  background: "transparent", font: FONT, aria: false,
  view: { stroke: null },
  axis: { labelColor: "var(--soft)", titleColor: "var(--soft)", gridColor: "var(--line)", domainColor: "var(--line)", tickColor: "var(--line)", labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal" },
  legend: { labelColor: "var(--soft)", titleColor: "var(--soft)", labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal", orient: "top" },
  text: { fill: "var(--ink)", fontSize: 12, font: FONT },
};

/** The plot as a figure of a page. */
export async function plotFigure({ title, summary, table, spec }: Plot): Promise<string> {
  const drawings = await Promise.all([["wide", WIDE_PX], ["narrow", NARROW_PX]].map(async ([name, width]) => labelled(await drawSvg(spec(width as number)), name as string, `${title}. ${summary}`)));
  return `<figure><figcaption><h2>${escapeHtml(title)}</h2><p>${escapeHtml(summary)}</p></figcaption>\n${drawings.join("\n")}\n`
    + `<details><summary>The numbers</summary>${tableHtml(table, title)}</details></figure>\n`;
}

/** A specification drawn, as SVG text. vega is loaded when the first plot is asked for: most commands draw none. */
async function drawSvg(spec: PlotSpec): Promise<string> {
  const [{ View, parse, Error: errorsOnly }, { compile }] = await Promise.all([import("vega"), import("vega-lite")]);
  const view = new View(parse(compile({ $schema: "https://vega.github.io/schema/vega-lite/v6.json", ...spec, config: CONFIG } as TopLevelSpec).spec), { renderer: "none", logLevel: errorsOnly });
  try {
    return await view.toSVG();
  } finally {
    view.finalize();
  }
}

/** One picture to those who have it read out; its parts say nothing of their own. */
const labelled = (svg: string, name: string, label: string): string => svg.replace(/^<svg /, `<svg role="img" aria-label="${escapeHtml(label)}" `).replace('class="marks"', `class="${name}"`);

export function tableHtml({ head, rows }: PlotTable, caption: string): string {
  const cells = (of: readonly string[]): string => of.map((cell, i) => (i === 0 ? `<th scope="row">${escapeHtml(cell)}</th>` : `<td>${escapeHtml(cell)}</td>`)).join("");
  return `<div class="table" tabindex="0" role="region" aria-label="${escapeHtml(caption)}, table"><table><thead><tr>${head.map((cell) => `<th scope="col">${escapeHtml(cell)}</th>`).join("")}</tr></thead>`
    + `<tbody>${rows.map((row) => `<tr>${cells(row)}</tr>`).join("\n")}</tbody></table></div>`;
}
