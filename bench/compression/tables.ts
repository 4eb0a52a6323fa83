// Tables and plots of docs/compression.md from what bench/compression.ts measured. Owns medians, ranges and which row a loss is compared with: the first of its domain.
// Refuses to measure, and to round away what is small: rises are in thousandths of a nat.

import { compile, type TopLevelSpec } from "vega-lite";
import { parse, View } from "vega";
import { showBytes } from "../../cli/sizes.ts";
import { median } from "../statistics.ts";
import type { Measured } from "../compression.ts";

export interface Document {
  readonly model: string;
  readonly measured: readonly Measured[];
}

/** Samples of one figure. */
export interface Figure {
  readonly group: string;
  readonly label: string;
  readonly samples: number;
  readonly bytes: number;
  readonly perplexity: number;
  readonly least: number;
  readonly most: number;
  /** Nats per token above the model as published, on the same text. */
  readonly rise: number;
  /** Of all expert calls. */
  readonly leftOut: number;
}

/** In the order of the experiments. Medians over samples. */
export function figuresOf({ measured }: Document): Figure[] {
  const baselines = new Map<string, number>();
  for (const { steps, quant, domain, scoring, result } of measured) if (steps.length === 0 && scoring.length === 0 && quant === "f32") baselines.set(domain, result.meanNll);
  const labels = [...new Set(measured.map(({ group, label }) => `${group}\n${label}`))];
  return labels.map((key): Figure => {
    const of = measured.filter(({ group, label }) => `${group}\n${label}` === key);
    const perplexities = of.map(({ result }) => result.perplexity);
    const baseline = baselines.get(of[0]!.domain);
    if (baseline === undefined) throw new Error(`Nothing was measured of the model as published on ${of[0]!.domain}, which ${key.replace("\n", ": ")} is compared with.`);
    return {
      group: of[0]!.group, label: of[0]!.label, samples: of.length, bytes: median(of.map(({ result }) => result.bytes)),
      perplexity: median(perplexities), least: Math.min(...perplexities), most: Math.max(...perplexities), rise: median(of.map(({ result }) => result.meanNll)) - baseline, leftOut: median(of.map(({ result }) => result.leftOut)),
    };
  });
}

/** Rows of Markdown. */
export function table(figures: readonly Figure[]): string {
  const row = ({ label, samples, bytes, perplexity, least, most, rise, leftOut }: Figure): string =>
    `| ${label}${leftOut > 0 ? `, ${(100 * leftOut).toFixed(1)} % of calls left out` : ""} | ${showBytes(bytes)} | ${perplexity.toFixed(3)}${samples > 1 ? ` (${least.toFixed(3)} to ${most.toFixed(3)}, ${samples})` : ""} | ${rise === 0 ? "" : `${rise > 0 ? "+" : ""}${rise.toFixed(4)}`} |`;
  return ["| | pack | perplexity: median (range, samples) | loss above published, nats |", "|---|---|---|---|", ...figures.map(row)].join("\n");
}

/** Size against perplexity, as SVG. */
export async function plot(figures: readonly Figure[], title: string): Promise<string> {
  const spec: TopLevelSpec = {
    title, width: 520, height: 300, background: "white",
    data: { values: figures.map(({ label, bytes, perplexity, least, most }) => ({ label, mib: bytes / 2 ** 20, perplexity, least, most })) },
    layer: [
      { mark: { type: "rule", strokeWidth: 2, opacity: 0.5 }, encoding: { y: { field: "least", type: "quantitative" }, y2: { field: "most" } } },
      { mark: { type: "point", filled: true, size: 60, opacity: 1 }, encoding: { y: { field: "perplexity", type: "quantitative", scale: { zero: false }, axis: { title: "perplexity" } } } },
    ],
    encoding: { x: { field: "mib", type: "quantitative", scale: { zero: false }, axis: { title: "MiB of weights in the pack" } }, color: { field: "label", type: "nominal", sort: null, legend: { title: null, labelLimit: 400 } } },
  };
  return new View(parse(compile(spec).spec), { renderer: "none" }).toSVG();
}
