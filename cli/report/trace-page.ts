// The page of a trace: how evenly layers use their experts, who takes how much, how weights are spread, what was left out, and how local routing is where that was asked.
// Owns what is plotted and said. The sums are fleet/expert-load.ts, chosen-weights.ts and trace-locality.ts.

import { type LayerWeights, SHARE_BINS } from "../../fleet/chosen-weights.ts";
import type { LayerLoad } from "../../fleet/expert-load.ts";
import type { LayerLocality } from "../../fleet/trace-locality.ts";
import type { TraceHeader } from "../../formats/trace.ts";
import { percent } from "../sizes.ts";
import { heatMap } from "./heat-map.ts";
import { pageHtml } from "./page.ts";
import { type Plot, plotFigure } from "./plot.ts";

export interface TraceFigures {
  readonly header: TraceHeader;
  readonly requests: number;
  readonly load: readonly LayerLoad[];
  readonly weights: readonly LayerWeights[];
  /** Where it was asked for. */
  readonly locality: readonly LayerLocality[] | undefined;
}

export async function tracePage({ header, requests, load, weights, locality }: TraceFigures): Promise<string> {
  const { model, packHash, nExperts, topK, moeLayers } = header;
  const [leftOut, of] = [sum(weights.map((layer) => layer.leftOut)), sum(weights.map((layer) => layer.of))];
  const plots = [
    loadPlot(load, nExperts), sharePlot(load, moeLayers, nExperts, topK), rankPlot(weights, topK), histogramPlot(weights),
    ...(leftOut === 0 ? [] : [leftOutPlot(weights)]), ...(locality === undefined ? [] : localityPlots(locality)),
  ];
  const sections = [];
  for (const plot of plots) sections.push(await plotFigure(plot));
  return pageHtml({
    title: `Routing of ${model}`, lead: `${(load[0]?.tokens ?? 0).toLocaleString("en")} tokens of ${requests.toLocaleString("en")} ${requests === 1 ? "request" : "requests"}.`,
    facts: [
      ["model", `${model} (${packHash.slice(0, 12)})`], ["experts", `${topK} of ${nExperts} for each token, in ${moeLayers.length} ${moeLayers.length === 1 ? "layer" : "layers"}`],
      ["left out", leftOut === 0 ? "none" : `${leftOut.toLocaleString("en")} of ${of.toLocaleString("en")} expert calls, ${percent(leftOut / of)}`],
    ],
    sections,
  });
}

const sum = (of: readonly number[]): number => of.reduce((all, x) => all + x, 0);

function loadPlot(load: readonly LayerLoad[], nExperts: number): Plot {
  const worst = load.reduce((a, b) => (b.imbalance > a.imbalance ? b : a));
  return {
    title: "Load of the busiest expert",
    summary: `Over the mean of its layer: 1 is even. Most in layer ${worst.layer}, ${worst.imbalance.toFixed(2)} times the mean.`,
    table: {
      head: ["layer", "busiest / mean", `entropy, of ${Math.log2(nExperts).toFixed(2)} bits`, "never chosen", "tokens"],
      rows: load.map(({ layer, imbalance, entropyBits, idle, tokens }) => [String(layer), imbalance.toFixed(3), entropyBits.toFixed(3), String(idle), tokens.toLocaleString("en")]),
    },
    spec: (width) => ({
      width: width - 60, height: 180, data: { values: load.map(({ layer, imbalance }) => ({ layer, imbalance })) }, mark: { type: "bar", color: "var(--accent)", cornerRadiusEnd: 2, width: { band: 0.6 } },
      encoding: { x: { field: "layer", type: "ordinal", title: "layer", axis: { labelAngle: 0, labelOverlap: true } }, y: { field: "imbalance", type: "quantitative", title: "times the mean" } },
    }),
  };
}

const sharePlot = (load: readonly LayerLoad[], moeLayers: readonly number[], nExperts: number, topK: number): Plot => heatMap({
  title: "Share of tokens each expert gets", summary: `By layer and expert; evenly it would be ${percent(topK / nExperts)} of tokens each.`, layers: moeLayers, nExperts, unit: "% of tokens",
  values: load.flatMap(({ chosen, tokens }) => Array.from(chosen, (n) => (tokens === 0 ? 0 : (100 * n) / tokens))),
});

function rankPlot(weights: readonly LayerWeights[], topK: number): Plot {
  const ranks = Array.from({ length: topK }, (_, rank) => String(rank + 1));
  return {
    title: "What each choice weighs",
    summary: "Mean share of a token's weight that its first choice has, its second, and so on.",
    table: { head: ["layer", ...ranks], rows: weights.map(({ layer, meanShares }) => [String(layer), ...meanShares.map(percent)]) },
    spec: (width) => ({
      width: width - 60, height: 180, data: { values: weights.flatMap(({ layer, meanShares }) => meanShares.map((share, rank) => ({ layer, rank: String(rank + 1), share: 100 * share }))) }, mark: { type: "bar", width: { band: 0.7 } },
      encoding: {
        x: { field: "layer", type: "ordinal", title: "layer", axis: { labelAngle: 0, labelOverlap: true } }, y: { field: "share", type: "quantitative", title: "% of weight", stack: "zero" }, order: { field: "rank", type: "ordinal" },
        color: { field: "rank", type: "ordinal", sort: ranks, scale: { domain: ranks, range: ranks.map((_, i) => `var(--heat-${Math.max(0, 5 - Math.round((5 * i) / Math.max(1, topK - 1)))})`) }, legend: { title: "choice", symbolType: "square", columns: width > 400 ? 8 : 4 } },
      },
    }),
  };
}

function histogramPlot(weights: readonly LayerWeights[]): Plot {
  const all = Array.from({ length: SHARE_BINS }, (_, bin) => sum(weights.map(({ histogram }) => histogram[bin]!)));
  const total = Math.max(1, sum(all));
  const edge = (bin: number): number => bin / SHARE_BINS;
  return {
    title: "Weights",
    summary: "Choices of all layers by the share of a token's weight they have: what is far left could be left out for little.",
    table: {
      head: ["share of a token's weight", "% of choices", ...weights.map(({ layer }) => `layer ${layer}`)],
      rows: all.map((n, bin) => [`${edge(bin).toFixed(2)} to ${edge(bin + 1).toFixed(2)}`, ((100 * n) / total).toFixed(2), ...weights.map(({ histogram }) => ((100 * histogram[bin]!) / Math.max(1, sum(histogram))).toFixed(2))]),
    },
    spec: (width) => ({
      width: width - 60, height: 180, data: { values: all.map((n, bin) => ({ from: edge(bin), to: edge(bin + 1), share: (100 * n) / total })) }, mark: { type: "bar", color: "var(--second)" },
      encoding: {
        x: { field: "from", type: "quantitative", bin: { binned: true, step: 1 / SHARE_BINS }, title: "share of a token's weight", scale: { domain: [0, 1] } }, x2: { field: "to" },
        y: { field: "share", type: "quantitative", title: "% of choices" },
      },
    }),
  };
}

const leftOutPlot = (weights: readonly LayerWeights[]): Plot => ({
  title: "Choices left out",
  summary: "Of the experts tokens would have asked, those they did without.",
  table: { head: ["layer", "left out", "of", "%"], rows: weights.map(({ layer, leftOut, of }) => [String(layer), leftOut.toLocaleString("en"), of.toLocaleString("en"), ((100 * leftOut) / Math.max(1, of)).toFixed(2)]) },
  spec: (width) => ({
    width: width - 60, height: 160, data: { values: weights.map(({ layer, leftOut, of }) => ({ layer, share: (100 * leftOut) / Math.max(1, of) })) }, mark: { type: "bar", color: "var(--muted)", cornerRadiusEnd: 2, width: { band: 0.6 } },
    encoding: { x: { field: "layer", type: "ordinal", title: "layer", axis: { labelAngle: 0, labelOverlap: true } }, y: { field: "share", type: "quantitative", title: "% of expert calls" } },
  }),
});

function localityPlots(locality: readonly LayerLocality[]): Plot[] {
  const segments = [...new Set(locality.flatMap((layer) => layer.segments.map(({ segmentTokens }) => segmentTokens)))].map(String);
  const hits = locality.flatMap(({ layer, caches }) => caches.flatMap(({ experts, recentlyUsed, segment, best }) => [["LRU", recentlyUsed], ["SCH", segment], ["best", best]].map(([policy, share]) => ({ layer, experts, policy: policy as string, share: 100 * (share as number) }))));
  const sizes = [...new Set(hits.map(({ experts }) => experts))];
  // One size is drawn, the advised one; the table has all.
  const [drawn] = sizes.length > 1 ? [sizes[1]!] : sizes;
  const shade = (n: number): string[] => Array.from({ length: n }, (_, i) => `oklch(0.66 0.15 ${Math.round(40 + (360 * i) / n)})`);
  const policies = ["LRU", "SCH", "best"];
  return [
    {
      title: "Segments that few experts serve", summary: "SRP: the best F1 between experts kept for a whole segment of tokens and those its tokens asked, by the segment's length.",
      table: { head: ["layer", ...segments.map((m) => `${m} tokens`)], rows: locality.map((layer) => [String(layer.layer), ...segments.map((m) => layer.segments.find(({ segmentTokens }) => String(segmentTokens) === m)?.srp.toFixed(4) ?? "-")]) },
      spec: (width) => ({
        width: width - 60, height: 200, data: { values: locality.flatMap((layer) => layer.segments.map(({ segmentTokens, srp }) => ({ layer: layer.layer, tokens: String(segmentTokens), srp }))) }, mark: { type: "line", point: true },
        encoding: {
          x: { field: "layer", type: "quantitative", title: "layer", axis: { tickMinStep: 1, format: "d" } }, y: { field: "srp", type: "quantitative", title: "SRP", scale: { zero: true } },
          color: { field: "tokens", type: "nominal", sort: segments, scale: { domain: segments, range: shade(segments.length) }, legend: { title: "tokens" } },
        },
      }),
    },
    {
      title: "What a cache of experts would hit", summary: `Of ${drawn} experts a layer, by what it lets go: the least recently used, what the coming tokens ask least (SCH), or the best possible.`,
      table: { head: ["layer", "cache", ...policies], rows: locality.flatMap(({ layer, caches }) => caches.map(({ experts, recentlyUsed, segment, best }) => [String(layer), String(experts), percent(recentlyUsed), percent(segment), percent(best)])) },
      spec: (width) => ({
        width: width - 60, height: 200, data: { values: hits.filter(({ experts }) => experts === drawn) }, mark: { type: "line", point: true },
        encoding: {
          x: { field: "layer", type: "quantitative", title: "layer", axis: { tickMinStep: 1, format: "d" } }, y: { field: "share", type: "quantitative", title: "% of choices", scale: { domain: [0, 100] } },
          color: { field: "policy", type: "nominal", sort: policies, scale: { domain: policies, range: ["var(--muted)", "var(--second)", "var(--accent)"] }, legend: { title: null } },
        },
      }),
    },
  ];
}
