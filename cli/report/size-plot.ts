// Size against perplexity, of candidates of a search or of models side by side: the bytes of the pack, and those that a token reads, each with the line through what nothing beats.
// Owns these two plots.

import { paretoFront } from "../../passes/pareto-front.ts";
import { showBytes } from "../sizes.ts";
import { type Plot, plotFigure } from "./plot.ts";

export interface SizePoint {
  readonly name: string;
  readonly bytes: number;
  readonly activeBytes: number;
  readonly perplexity: number;
  /** On the front, which one; null: beaten. */
  readonly number: number | null;
  readonly became: string;
}

/** Perplexities further apart than so many times are shown on a logarithmic scale. */
const LOG_SPREAD = 4;

export async function sizeFigures(points: readonly SizePoint[]): Promise<string> {
  const plots = [sizePlot("Size against perplexity", "size of the pack, MiB", ({ bytes }) => bytes, points), sizePlot("Bytes a token reads against perplexity", "weights read per token, MiB", ({ activeBytes }) => activeBytes, points)];
  return (await Promise.all(plots.map(plotFigure))).join("\n");
}

function sizePlot(title: string, axis: string, bytesOf: (of: SizePoint) => number, points: readonly SizePoint[]): Plot {
  const values = points.map((of) => ({ mib: bytesOf(of) / 2 ** 20, perplexity: of.perplexity, number: of.number === null ? "" : String(of.number) }));
  const onFront = values.filter(({ number }) => number !== "");
  const beaten = values.filter(({ number }) => number === "");
  // The front has a figure more than a plot: its line goes through what nothing beats in these two.
  const line = paretoFront(onFront, (of) => [of.mib, of.perplexity]);
  const [best, least] = [points.reduce((a, b) => (b.perplexity < a.perplexity ? b : a)), points.reduce((a, b) => (bytesOf(b) < bytesOf(a) ? b : a))];
  const perplexities = points.map((of) => of.perplexity);
  const x = { field: "mib", type: "quantitative" as const, title: axis, axis: { tickCount: 6 }, scale: { zero: false, nice: true } };
  const y = { field: "perplexity", type: "quantitative" as const, title: "perplexity", scale: { zero: false, nice: true, type: Math.max(...perplexities) / Math.min(...perplexities) > LOG_SPREAD ? "log" as const : "linear" as const } };
  return {
    title,
    summary: `The smallest is ${least.name}: ${showBytes(Math.round(bytesOf(least)))}, perplexity ${least.perplexity.toFixed(3)}; the best ${best.name}: ${showBytes(Math.round(bytesOf(best)))}, ${best.perplexity.toFixed(3)}. `
      + "Numbers are points of the front, grey ones are beaten; the line goes through what nothing beats in these two figures.",
    table: {
      head: ["", "pack, bytes", "read per token, bytes", "perplexity", ""],
      rows: points.toSorted((a, b) => bytesOf(a) - bytesOf(b)).map((of) => [`${of.number === null ? "" : `${of.number}: `}${of.name}`, of.bytes.toLocaleString("en"), Math.round(of.activeBytes).toLocaleString("en"), of.perplexity.toFixed(3), of.became]),
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
