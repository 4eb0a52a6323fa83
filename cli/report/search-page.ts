// The page of a search: size against perplexity with the front drawn through it, bytes a token reads beside that, and how each point of the front is made.
// Owns what is plotted and said. The record is cli/search/search-document.ts.

import { type FoundCandidate, frontOf, type SearchDocument } from "../search/search-document.ts";
import { showBytes } from "../sizes.ts";
import { escapeHtml, pageHtml } from "./page.ts";
import { tableHtml } from "./plot.ts";
import { sizeFigures, type SizePoint } from "./size-plot.ts";

const BECAME: Readonly<Record<FoundCandidate["became"], string>> = {
  front: "on the front", measured: "beaten on the whole text", dropped: "beaten on part of it", "over-budget": "over the budget", "saves-nothing": "not tried: saves nothing", failed: "failed",
};

export async function searchPage(document: SearchDocument): Promise<string> {
  const { candidates, model, calibration, evaluation, budget } = document;
  const front = frontOf(document);
  const count = (became: FoundCandidate["became"]): number => candidates.filter((of) => of.became === became).length;
  const others = candidates.filter(({ became }) => became !== "front");
  const sections = front.length === 0 ? [] : [
    await sizeFigures(measuredPoints(document)),
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

/** What was dropped early was measured on less, and its perplexity is that of another text. */
const measuredPoints = (document: SearchDocument): SizePoint[] => {
  const front = frontOf(document);
  return document.candidates.filter(({ became }) => became === "front" || became === "measured")
    .map((of) => ({ name: of.name, bytes: of.bytes!, activeBytes: of.activeBytes!, perplexity: of.perplexity!, number: front.includes(of) ? front.indexOf(of) + 1 : null, became: BECAME[of.became] }));
};

const perplexity = (of: FoundCandidate): string => (of.perplexity === null ? "-" : of.perplexity.toFixed(3));

const pointSection = (of: FoundCandidate, i: number): string => `<section><h2>${i + 1}: ${escapeHtml(of.name)}</h2>
<p>${showBytes(of.bytes!)} of weights, ${showBytes(Math.round(of.activeBytes!))} read per token, perplexity ${perplexity(of)}${of.dollars === null ? "" : `, ${of.dollars.toFixed(3)} dollars per million tokens`}${of.kept === null ? "" : `; kept in ${escapeHtml(of.kept)}`}</p>
<pre tabindex="0">${escapeHtml(of.commands.join("\n"))}</pre></section>`;

const othersSection = (others: readonly FoundCandidate[]): string => `<section><h2>The others</h2>${tableHtml({
  head: ["candidate", "pack", "perplexity so far", "became", "because"],
  rows: others.map((of) => [of.name, of.bytes === null ? "-" : showBytes(of.bytes), perplexity(of), BECAME[of.became], of.because ?? ""]),
}, "The others")}</section>`;
