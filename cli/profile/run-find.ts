// `profile <pack> --texts ... --target LABEL`: the experts that a class takes more than the others, written as a profile with a page. Owns files and words around find-profile.ts.

import { isOfProducts } from "../../fleet/product-routing.ts";
import type { LocalModel } from "../open-pack.ts";
import { profileFigures, profilePage } from "../report/profile-page.ts";
import { writeText } from "../whole-file.ts";
import type { ClassSource } from "./class-sources.ts";
import { findProfile, sumClasses } from "./find-profile.ts";
import type { ProfileOptions } from "./profile-options.ts";
import { showProfile } from "./show-profile.ts";

/** The page and its figures, beside the profile. */
export const profileReportFiles = (out: string): [json: string, page: string] => [`${out}.report.json`, `${out}.report.html`];

/** Throws a sentence. */
export async function runFind(sources: readonly ClassSource[], model: LocalModel | null, options: ProfileOptions & { readonly target: string }): Promise<void> {
  if (model === null) throw new Error("A profile is of one pack's experts, so its folder must be given.");
  const { manifest: { id, config }, packHash: hash } = model;
  const { by = "weight", out, json = false } = options;
  if (by === "score") throw new Error("--by score is of a divergence; a profile is found by weight, count or frequency.");
  if (options.pooled === true) throw new Error("--pooled goes with --divergence.");
  const classes = await sumClasses(sources, json);
  const found = findProfile(classes, { id, hash, config }, { ...options, op: options.op ?? (isOfProducts(config) ? "mask" : "suppress"), by, layers: options.layers ?? (by === "frequency" ? "middle" : "all") });
  if (out !== undefined) {
    if (options.report) {
      const [jsonFile, pageFile] = profileReportFiles(out);
      await writeText(pageFile, await profilePage(found));
      await writeText(jsonFile, `${JSON.stringify(profileFigures(found), null, 1)}\n`);
    }
    await writeText(out, `${JSON.stringify(found.document, null, 1)}\n`);
  }
  if (json) {
    process.stdout.write(`${JSON.stringify({ ...(out === undefined ? {} : { out }), profile: found.document })}\n`);
    return;
  }
  process.stdout.write(showProfile(found, out === undefined ? [] : [out, ...(options.report ? profileReportFiles(out) : [])]));
}
