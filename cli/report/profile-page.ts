// The page of a found profile: which experts, by how much, and the map they were found in. Owns what is plotted and said. The figures are cli/profile/find-profile.ts's.

import { basename } from "node:path";
import type { FoundProfile } from "../profile/find-profile.ts";
import { heatMap } from "./heat-map.ts";
import { escapeHtml, pageHtml } from "./page.ts";
import { type Plot, plotFigure, tableHtml } from "./plot.ts";

/** Bars of the strongest experts. */
const SHOWN = 40;

const UNITS = { weight: "weight a prompt", count: "choices a prompt", frequency: "share of tokens" } as const;

/** Figures as the JSON beside the page has them. */
export const profileFigures = ({ shape, options, layers, target, difference, document }: FoundProfile): Record<string, unknown> => ({
  profile: document, unit: UNITS[options.by], layers, moeLayers: shape.moeLayers, nExperts: shape.nExperts,
  ...(document.maskExperts == null ? { target: rowsOf(target, shape.nExperts), difference: rowsOf(difference, shape.nExperts) } : {}), // of 262,144 experts a layer those found say enough
});

const rowsOf = (map: ArrayLike<number>, nExperts: number): number[][] => Array.from({ length: map.length / nExperts }, (_, i) => Array.from(map).slice(i * nExperts, (i + 1) * nExperts));

export async function profilePage(profile: FoundProfile): Promise<string> {
  const { classes, options, found, experts, document, nameOf } = profile;
  const unit = UNITS[options.by];
  const plots: Plot[] = [
    foundPlot(profile, unit),
    ...(document.maskExperts == null ? heatMaps(profile, unit) : []),
  ];
  const sections = [];
  for (const plot of plots) sections.push(await plotFigure(plot));
  return pageHtml({
    title: `Profile: ${document.name}`, lead: document.description,
    facts: [
      ["model", `${document.model} (${document.packHash?.slice(0, 12) ?? "any pack"})`],
      ["what a request gets", `${whatIsDone(document)} of ${found.length} experts in layers ${Object.keys(experts).join(", ")}`],
      ["found by", options.random === undefined ? `${document.found!["method"] as string}, ${unit}` : `chance, seed ${options.random}`],
    ],
    sections: [...sections, `<section><h2>Texts</h2>${tableHtml({
      head: ["class", "file", "sequences", "tokens"],
      rows: classes.map(({ source, routing }) => [source.label === options.target ? `${source.label} (target)` : source.label, `${basename(source.file)}, ${source.kind}`, routing.sequences.toLocaleString("en"), source.knowsTokens ? Math.round(routing.tokens).toLocaleString("en") : "-"]),
    }, "Texts")}</section>`,
    `<section><h2>Its experts</h2><pre tabindex="0">${escapeHtml(Object.entries(experts).map(([layer, ids]) => `layer ${layer}: ${ids.map(nameOf).join(", ")}`).join("\n"))}</pre></section>`],
  });
}

function whatIsDone({ interventions: [of], maskExperts }: FoundProfile["document"]): string {
  if (of === undefined) return maskExperts == null ? "nothing" : "a mask";
  return `${of.op}${"gain" in of ? ` ${of.gain}` : "lambda" in of ? ` ${of.lambda}` : ""}`;
}

const heatMaps = ({ shape: { moeLayers, nExperts }, classes, options, layers, target, difference }: FoundProfile, unit: string): Plot[] => [
  heatMap({ title: `What ${options.target} takes more and less`, summary: `${options.target} minus the mean of the others, ${unit}, by layer and expert. Experts are looked for in layers ${layers.join(", ")}.`, layers: moeLayers, values: difference, nExperts, unit }),
  heatMap({ title: `What ${options.target} takes`, summary: `Mean over its ${classes.find(({ source }) => source.label === options.target)!.routing.sequences} sequences, ${unit}.`, layers: moeLayers, values: target, nExperts, unit }),
];

function foundPlot({ found, options, nameOf }: FoundProfile, unit: string): Plot {
  const shown = found.slice(0, SHOWN);
  const values = shown.map(({ layer, expert, difference }) => ({ expert: `${layer}: ${nameOf(expert)}`, difference }));
  return {
    title: options.random === undefined ? "The experts found" : "The experts drawn",
    summary: `${unit[0]!.toUpperCase()}${unit.slice(1)} that ${options.target} takes more than the others, as "layer: expert"${shown.length < found.length ? `; the first ${shown.length} of ${found.length}` : ""}.`,
    table: { head: ["layer", "expert", "difference"], rows: found.map(({ layer, expert, difference }) => [String(layer), nameOf(expert), difference.toPrecision(6)]) },
    spec: (width) => ({
      width: width - 100, height: { step: 18 }, data: { values }, mark: { type: "bar", color: "var(--accent)", cornerRadiusEnd: 2 },
      encoding: { y: { field: "expert", type: "nominal", sort: values.map(({ expert }) => expert), axis: { title: null, ticks: false, domain: false } }, x: { field: "difference", type: "quantitative", title: unit, axis: { tickCount: 5 } } },
    }),
  };
}
