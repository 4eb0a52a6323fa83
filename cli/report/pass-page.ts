// The page of one pass's report: size before and after by part, error of each layer, bits of each expert, and who stayed or became one.
// Owns what is plotted and said of a report. The record is passes/pass-report.ts, the drawing plot.ts.

import type { ModelSizes } from "../../passes/model-sizes.ts";
import type { PassReport } from "../../passes/pass-report.ts";
import { showBytes, showCount } from "../sizes.ts";
import { type Page, escapeHtml, pageHtml } from "./page.ts";
import { type Plot, plotFigure, tableHtml } from "./plot.ts";

const HEAT = 6;
/** Matrices shown by name: the worst of them. */
const LISTED_MATRICES = 20;

const bits = (x: number): string => String(Math.round(100 * x) / 100);
const percent = (x: number): string => `${(100 * x).toPrecision(3)} %`;
const meanBits = ({ bytes, weights }: { readonly bytes: number; readonly weights: number }): string => (weights === 0 ? "-" : `${((8 * bytes) / weights).toFixed(2)}`);

export async function passPage(report: PassReport): Promise<string> {
  const { pass, source, input, output, before, after, layers } = report;
  const plots: (Plot | null)[] = [after === null ? null : sizePlot(before, after), errorPlot(layers), expertPlot(after?.experts ?? layers.flatMap(({ layer, bits: of }) => (of === null ? [] : [{ layer, bits: of }])), after === null), keptPlot(report)];
  const sections = [];
  for (const plot of plots) if (plot !== null) sections.push(await plotFigure(plot));
  return pageHtml({ title: `${output?.name ?? input.name}: ${pass}`, lead: `${pass} (${source}) of ${input.name}`, facts: facts(report), sections: [...sections, ...matrixSection(report), optionSection(report)] });
}

function facts({ input, output, before, after, calibrationTokens, seconds }: PassReport): Page["facts"] {
  const size = ({ bytes, weights, distinctBytes }: ModelSizes): string =>
    `${showBytes(bytes)} (${bytes.toLocaleString("en")} bytes), ${showCount(weights)} weights${distinctBytes < bytes ? `; ${showBytes(distinctBytes)} with equal experts once` : ""}`;
  return [
    ["model read", `${input.name} (${input.kind}, ${input.sha256.slice(0, 12)})`],
    ["before", size(before)],
    ...(after === null || output === null ? [] : [["after", `${size(after)}: ${percent(after.distinctBytes / before.distinctBytes)} of before`], ["model written", `${output.name} (${output.sha256.slice(0, 12)})`]] as const),
    ["calibration", calibrationTokens === 0 ? "none" : `${calibrationTokens.toLocaleString("en")} tokens`],
    ["took", `${seconds.toFixed(1)} s`],
  ];
}

function sizePlot(before: ModelSizes, after: ModelSizes): Plot {
  const parts = [...new Set([...before.parts, ...after.parts].map(({ part }) => part))];
  const of = ({ parts: known }: ModelSizes, part: string): { bytes: number; weights: number } => known.find((p) => p.part === part) ?? { bytes: 0, weights: 0 };
  const values = parts.flatMap((part) => [["before", before], ["after", after]].map(([when, sizes]) => ({ part, when: when as string, mib: of(sizes as ModelSizes, part).bytes / 2 ** 20 })));
  return {
    title: "Size by part",
    summary: `From ${showBytes(before.bytes)} to ${showBytes(after.bytes)}, as stored in the model's files.`,
    table: {
      head: ["part", "before, bytes", "after, bytes", "bits before", "bits after"],
      rows: parts.map((part) => {
        const [a, b] = [of(before, part), of(after, part)];
        return [part, a.bytes.toLocaleString("en"), b.bytes.toLocaleString("en"), meanBits(a), meanBits(b)];
      }),
    },
    spec: (width) => ({
      width: width - 90, height: { step: 16 }, data: { values }, mark: { type: "bar", cornerRadiusEnd: 2 },
      encoding: {
        y: { field: "part", type: "nominal", sort: parts, axis: { title: null, ticks: false, domain: false } }, yOffset: { field: "when", sort: ["before", "after"] },
        x: { field: "mib", type: "quantitative", title: "MiB", axis: { tickCount: 5 } },
        color: { field: "when", type: "nominal", sort: ["before", "after"], scale: { domain: ["before", "after"], range: ["var(--muted)", "var(--accent)"] }, legend: { title: null } },
      },
    }),
  };
}

function errorPlot(layers: PassReport["layers"]): Plot | null {
  const values = layers.flatMap(({ layer, error }) => (error === null ? [] : [{ layer, error: 100 * error }]));
  if (values.length === 0) return null;
  const worst = values.reduce((a, b) => (b.error > a.error ? b : a));
  return {
    title: "Error of each layer",
    summary: `Of what a layer adds to each token, against the same layer as it was on the same inputs, root mean square; most in layer ${worst.layer}, ${worst.error.toPrecision(3)} %.`,
    table: { head: ["layer", "error, %"], rows: values.map(({ layer, error }) => [String(layer), error.toPrecision(4)]) },
    spec: (width) => ({
      width: width - 60, height: 180, data: { values }, mark: { type: "bar", color: "var(--accent)", cornerRadiusEnd: 2, width: { band: 0.6 } },
      encoding: { x: { field: "layer", type: "ordinal", title: "layer", axis: { labelAngle: 0, labelOverlap: true } }, y: { field: "error", type: "quantitative", title: "%" } },
    }),
  };
}

/** Widths as they are, or in even steps where there are more than colours. */
export function heatSteps(values: readonly number[]): { readonly labels: readonly string[]; labelOf(value: number): string } {
  const distinct = [...new Set(values.map((x) => Math.round(100 * x) / 100))].sort((a, b) => a - b);
  if (distinct.length <= HEAT) return { labels: distinct.map(bits), labelOf: (value) => bits(value) };
  const [least, most] = [distinct[0]!, distinct.at(-1)!];
  const edge = (i: number): number => least + ((most - least) * i) / HEAT;
  const labels = Array.from({ length: HEAT }, (_, i) => `${bits(edge(i))} to ${bits(edge(i + 1))}`);
  return { labels, labelOf: (value) => labels[Math.max(0, Math.min(HEAT - 1, Math.floor(((value - least) / (most - least)) * HEAT)))]! };
}

/** Colours from few to many, spread over the scale. */
const heatColours = (n: number): string[] => Array.from({ length: n }, (_, i) => `var(--heat-${n === 1 ? 3 : Math.round((i * (HEAT - 1)) / (n - 1))})`);

function expertPlot(experts: readonly { readonly layer: number; readonly bits: readonly number[] }[], isPlanned: boolean): Plot | null {
  const what = isPlanned ? "as planned, without scales" : "scales included";
  if (experts.length === 0) return null;
  const { labels, labelOf } = heatSteps(experts.flatMap((of) => of.bits));
  const values = experts.flatMap((of) => of.bits.map((value, expert) => ({ layer: of.layer, expert, bits: labelOf(value) })));
  const nExperts = Math.max(...experts.map((of) => of.bits.length));
  const most = 64;
  return {
    title: "Bits per expert",
    summary: labels.length === 1 ? `Every expert of every layer has ${labels[0]} bits per weight, ${what}.` : `Bits per weight of each expert, ${what}: ${labels.join(", ")}.`,
    table: {
      head: ["layer", "mean", ...Array.from({ length: Math.min(most, nExperts) }, (_, e) => String(e))],
      rows: experts.map((of) => [String(of.layer), bits(of.bits.reduce((a, b) => a + b, 0) / of.bits.length), ...of.bits.slice(0, most).map(bits)]),
    },
    spec: (width) => ({
      width: width - 60, height: { step: Math.max(6, Math.min(22, 440 / experts.length)) }, data: { values }, mark: { type: "rect", stroke: "var(--card)", strokeWidth: nExperts > 64 ? 0 : 1 },
      encoding: {
        x: { field: "expert", type: "ordinal", title: "expert", axis: { labelAngle: 0, labelOverlap: true, ticks: false } }, y: { field: "layer", type: "ordinal", title: "layer", axis: { ticks: false } },
        color: { field: "bits", type: "ordinal", sort: labels as string[], scale: { domain: labels as string[], range: heatColours(labels.length) }, legend: { title: "bits", symbolType: "square" } },
      },
    }),
  };
}

/** Where experts were taken out or made one: how many of each layer are left different. */
function keptPlot({ layers, before }: PassReport): Plot | null {
  const left = layers.flatMap(({ layer, kept, clusters }) => (kept === null && clusters === null ? [] : [{ layer, left: kept?.length ?? new Set(clusters).size, kept, clusters }]));
  if (left.length === 0) return null;
  const isMerge = left.some(({ clusters }) => clusters !== null);
  return {
    title: isMerge ? "Different experts left" : "Experts left",
    summary: isMerge ? "Experts of each layer that are still different; the others share a slot." : "Experts of each layer that stay.",
    table: {
      head: ["layer", "before", "left", isMerge ? "experts that are one" : "who stays"],
      rows: left.map(({ layer, left: n, kept, clusters }) => [String(layer), String(before.experts.find((of) => of.layer === layer)?.bits.length ?? "-"), String(n), kept?.join(" ") ?? groupsOf(clusters!)]),
    },
    spec: (width) => ({
      width: width - 60, height: 160, data: { values: left.map(({ layer, left: n }) => ({ layer, n })) }, mark: { type: "bar", color: "var(--second)", cornerRadiusEnd: 2, width: { band: 0.6 } },
      encoding: { x: { field: "layer", type: "ordinal", title: "layer", axis: { labelAngle: 0, labelOverlap: true } }, y: { field: "n", type: "quantitative", title: "experts", axis: { tickMinStep: 1 } } },
    }),
  };
}

const groupsOf = (clusters: readonly number[]): string =>
  [...Map.groupBy(clusters.map((cluster, expert) => ({ cluster, expert })), ({ cluster }) => cluster).values()].filter((of) => of.length > 1).map((of) => of.map(({ expert }) => expert).join("=")).join(" ");

function matrixSection({ matrices }: PassReport): string[] {
  if (matrices.length === 0) return [];
  const worst = matrices.toSorted((a, b) => b.error - a.error).slice(0, LISTED_MATRICES);
  const title = worst.length < matrices.length ? `The ${worst.length} matrices that lost most, of ${matrices.length}` : "What matrices lost";
  return [`<section><h2>${title}</h2><p>Error of a matrix's outputs on its calibration inputs, relative; without inputs, of its weights.</p>${tableHtml({
    head: ["matrix", "type", "error", "rows of calibration"], rows: worst.map(({ name, type, rows, error }) => [name, type, percent(error), String(rows)]),
  }, title)}</section>`];
}

const optionSection = ({ options }: PassReport): string => `<section><h2>Options</h2><pre tabindex="0">${escapeHtml(JSON.stringify(options, null, 1))}</pre></section>`;
