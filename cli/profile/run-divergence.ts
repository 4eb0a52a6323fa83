// `profile --divergence`: how differently classes of texts are routed, layer by layer, as figures and a page. Owns files and words around measure-divergence.ts.

import { isOfProducts } from "../../fleet/product-routing.ts";
import type { LocalModel } from "../open-pack.ts";
import { divergencePage } from "../report/divergence-page.ts";
import { writeText } from "../whole-file.ts";
import type { ClassSource } from "./class-sources.ts";
import { measureDivergence } from "./measure-divergence.ts";
import type { ProfileOptions } from "./profile-options.ts";
import { showDivergence } from "./show-profile.ts";

/** Beside the .json that --out names. */
export const divergenceReportFile = (out: string): string => `${out.replace(/\.json$/, "")}.html`;

/** Throws a sentence. */
export async function runDivergence(sources: readonly ClassSource[], model: LocalModel | null, { by, pooled = false, out, report, json = false }: ProfileOptions): Promise<void> {
  if (by === "frequency") throw new Error("--by frequency is of a profile; a divergence compares score, weight or count.");
  // A router of keys scores keys: of all pairs there are no scores.
  const figures = await measureDivergence(sources, model === null ? null : { id: model.manifest.id, packHash: model.packHash }, { by: by ?? (model !== null && isOfProducts(model.manifest.config) ? "weight" : undefined), pooled }, json);
  if (out !== undefined) {
    if (report) await writeText(divergenceReportFile(out), await divergencePage(figures));
    await writeText(out, `${JSON.stringify(figures, null, 1)}\n`);
  }
  process.stdout.write(json ? `${JSON.stringify({ ...(out === undefined ? {} : { out }), ...figures })}\n` : showDivergence(figures));
  if (!json && out !== undefined) process.stdout.write(`${[out, ...(report ? [divergenceReportFile(out)] : [])].join(", ")} written.\n`);
}
