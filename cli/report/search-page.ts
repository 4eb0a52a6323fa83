// The page of a search: size against perplexity with the front drawn through it, bytes a token reads beside that, and how each point of the front is made.
// Owns what is plotted and said. The record is cli/search/search-document.ts.

import { paretoFront } from "../../passes/pareto-front.ts";
import { type FoundCandidate, frontOf, type SearchDocument } from "../search/search-document.ts";
import { showBytes } from "../sizes.ts";
import { escapeHtml, pageHtml } from "./page.ts";
import { type Plot, plotFigure, tableHtml } from "./plot.ts";

const BECAME: Readonly<Record<FoundCandidate["became"], string>> = {
  front: "on the front", measured: "beaten on the whole text", dropped: "beaten on part of it", "over-budget": "over the budget", "saves-nothing": "not tried: saves nothing", failed: "failed",
};

export async function searchPage(document: SearchDocument): Promise<string> {
  const { candidates, model, calibration, evaluation, budget } = document;
  const front = frontOf(document);
  const count = (became: FoundCandidate["became"]): number => candidates.filter((of) => of.became === became).length;
  const others = candidates.filter(({ became }) => became !== "front");
  const sections = front.length === 0 ? [] : [
    await plotFigure(sizePlot("Size against perplexity", "size of the pack, MiB", (of) => of.bytes!, document)),
    await plotFigure(sizePlot("Bytes a token reads against perplexity", "weights read per token, MiB", (of) => of.activeBytes!, document)),
    ...front.map(pointSection),
  ];
  return pageHtml({
    title: `Search: ${baseName(model.path)}`, lead: `${front.length} of ${candidates.length} candidates predict better than everything that is no larger and reads no more.`,
    facts: [
      ["model", `${model.path} (${model.kind}, ${model.sha256.slice(0, 12)})`], ["calibrated with", calibration.file],
      ["measured on", `${evaluation.tokens.toLocaleString("en")} tokens of ${evaluation.file}, ${evaluation.windows} windows of up to ${evaluation.contextLength}`],
      ["budget", [budget.bytes === null ? null : showBytes(budget.bytes), budget.dollars === null ? null : `${budget.dollars} dollars per million tokens`].filter((of) => of !== null).join(", ") || "none"],
      ["others", others.length === 0 ? "none" : (Object.keys(BECAME) as FoundCandidate["became"][]).filter((became) => became !== "front" && count(became) > 0).map((became) => `${count(became)} ${BECAME[became]}`).join(", ")],
    ],
    sections: [...sections, ...(others.length === 0 ? [] : [othersSection(others)])],
  });
}

const baseName = (path: string): string => path.replace(/\/+$/, "").split("/").at(-1) ?? path;

const perplexity = (of: FoundCandidate): string => (of.perplexity === null ? "-" : of.perplexity.toFixed(3));

function sizePlot(title: string, axis: string, bytesOf: (of: FoundCandidate) => number, document: SearchDocument): Plot {
  const front = frontOf(document);
  const measured = document.candidates.filter(({ became }) => became === "front" || became === "measured");
  // What was dropped early was measured on less, and its perplexity is that of another text.
  const values = measured.map((of) => ({ mib: bytesOf(of) / 2 ** 20, perplexity: of.perplexity!, number: front.includes(of) ? String(front.indexOf(of) + 1) : "" }));
  const onFront = values.filter(({ number }) => number !== "");
  const beaten = values.filter(({ number }) => number === "");
  // The front has a figure more than a plot: its line goes through what nothing beats in these two.
  const line = paretoFront(onFront, (of) => [of.mib, of.perplexity]);
  const [best, least] = [front.reduce((a, b) => (b.perplexity! < a.perplexity! ? b : a)), front.reduce((a, b) => (bytesOf(b) < bytesOf(a) ? b : a))];
  const x = { field: "mib", type: "quantitative" as const, title: axis, axis: { tickCount: 6 }, scale: { zero: false, nice: true } };
  const y = { field: "perplexity", type: "quantitative" as const, title: "perplexity", scale: { zero: false, nice: true, type: spread(values.map((of) => of.perplexity)) > 4 ? "log" as const : "linear" as const } };
  return {
    title,
    summary: `From ${showBytes(Math.round(bytesOf(least)))} at ${perplexity(least)} (${least.name}) to ${showBytes(Math.round(bytesOf(best)))} at ${perplexity(best)} (${best.name}). Numbers are points of the front, grey ones are beaten; the line goes through what nothing beats in these two figures.`,
    table: {
      head: ["candidate", "pack, bytes", "read per token, bytes", "perplexity", "became"],
      rows: measured.toSorted((a, b) => bytesOf(a) - bytesOf(b)).map((of) => [`${front.includes(of) ? `${front.indexOf(of) + 1}: ` : ""}${of.name}`, of.bytes!.toLocaleString("en"), Math.round(of.activeBytes!).toLocaleString("en"), perplexity(of), BECAME[of.became]]),
    },
    spec: (width) => ({
      width: width - 70, height: Math.min(340, width * 0.75),
      layer: [
        { data: { values: line }, mark: { type: "line", color: "var(--accent)", strokeWidth: 1.5, opacity: 0.6 }, encoding: { x, y, order: { field: "mib" } } },
        ...(beaten.length === 0 ? [] : [{ data: { values: beaten }, mark: { type: "point" as const, filled: true, size: 50, color: "var(--muted)", opacity: 1 }, encoding: { x, y } }]),
        { data: { values: onFront }, mark: { type: "point", filled: true, size: 70, color: "var(--accent)", opacity: 1 }, encoding: { x, y } },
        { data: { values: onFront }, mark: { type: "text", dx: 9, dy: -9, fontWeight: 600 }, encoding: { x, y, text: { field: "number" } } },
      ],
    }),
  };
}

const spread = (values: readonly number[]): number => Math.max(...values) / Math.min(...values);

const pointSection = (of: FoundCandidate, i: number): string => `<section><h2>${i + 1}: ${escapeHtml(of.name)}</h2>
<p>${showBytes(of.bytes!)} of weights, ${showBytes(Math.round(of.activeBytes!))} read per token, perplexity ${perplexity(of)}${of.dollars === null ? "" : `, ${of.dollars.toFixed(3)} dollars per million tokens`}${of.kept === null ? "" : `; kept in ${escapeHtml(of.kept)}`}</p>
<pre tabindex="0">${escapeHtml(of.commands.join("\n"))}</pre></section>`;

const othersSection = (others: readonly FoundCandidate[]): string => `<section><h2>The others</h2>${tableHtml({
  head: ["candidate", "pack", "perplexity so far", "became", "because"],
  rows: others.map((of) => [of.name, of.bytes === null ? "-" : showBytes(of.bytes), perplexity(of), BECAME[of.became], of.because ?? ""]),
}, "The others")}</section>`;
