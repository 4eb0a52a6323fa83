// The page of several models side by side: size against perplexity, and of each what was done to it and what its layers lost. Owns what is said of them.
// The figures are cli/commands/report.ts's, the plots size-plot.ts's.

import type { MeasuredModel } from "../commands/report.ts";
import { showBytes } from "../sizes.ts";
import { pageHtml } from "./page.ts";
import { plotFigure, tableHtml } from "./plot.ts";
import { sizeFigures } from "./size-plot.ts";

export async function modelsPage(models: readonly MeasuredModel[], text: string): Promise<string> {
  const bySize = models.toSorted((a, b) => a.bytes - b.bytes);
  const front = bySize.filter(({ onFront }) => onFront);
  const errors = bySize.flatMap(({ model, report }) => (report?.layers ?? []).flatMap(({ layer, error }) => (error === null ? [] : [{ model, layer, error: 100 * error }])));
  const layers = [...new Set(errors.map(({ layer }) => layer))].sort((a, b) => a - b);
  const lossy = [...new Set(errors.map(({ model }) => model))];
  return pageHtml({
    title: "Models side by side", lead: `${front.length} of ${models.length} predict better than everything that is no larger and reads no more.`,
    facts: [["measured on", `${models[0]!.tokens.toLocaleString("en")} tokens of ${text}`]],
    sections: [
      await sizeFigures(bySize.map((of) => ({ ...of, name: of.model, number: of.onFront ? front.indexOf(of) + 1 : null, became: of.onFront ? "on the front" : "beaten" }))),
      ...(errors.length === 0 ? [] : [await plotFigure({
        title: "Error of each layer", summary: "Of what a layer adds to each token, by the last pass of each model that measured it.",
        table: { head: ["layer", ...lossy], rows: layers.map((layer) => [String(layer), ...lossy.map((model) => errors.find((of) => of.layer === layer && of.model === model)?.error.toPrecision(4) ?? "-")]) },
        spec: (width) => ({
          width: width - 60, height: 200, data: { values: errors }, mark: { type: "line", point: true },
          encoding: {
            x: { field: "layer", type: "quantitative", title: "layer", axis: { tickMinStep: 1 } }, y: { field: "error", type: "quantitative", title: "%" },
            color: { field: "model", type: "nominal", sort: lossy, scale: { domain: lossy, range: lossy.map((_, i) => `oklch(${i % 2 === 0 ? 0.62 : 0.72} 0.15 ${Math.round(40 + (360 * i) / lossy.length)})`) }, legend: { title: null, columns: width > 400 ? 3 : 1 } },
          },
        }),
      })]),
      `<section><h2>What they are</h2>${tableHtml({
        head: ["model", "passes", "pack", "read per token", "perplexity", "calibration tokens"],
        rows: bySize.map((of) => [`${of.onFront ? `${front.indexOf(of) + 1}: ` : ""}${of.model}`, of.passes.join(" > ") || "none", showBytes(of.bytes), showBytes(Math.round(of.activeBytes)), of.perplexity.toFixed(3), of.report === null ? "-" : String(of.report.calibrationTokens)]),
      }, "What they are")}</section>`,
    ],
  });
}
