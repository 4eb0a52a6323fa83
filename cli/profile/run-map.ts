// `profile <pack> --map FILE`: which experts each of some texts takes, as the map that the page draws. Owns the file and the words around make-map.ts. Refuses to overwrite.

import { existsSync } from "node:fs";
import { isOfProducts } from "../../fleet/product-routing.ts";
import { openPack } from "../open-pack.ts";
import { writeText } from "../whole-file.ts";
import { textSource, totalsSource } from "./class-sources.ts";
import { sumClasses } from "./find-profile.ts";
import { kindOfFile, makeMap, mapText, showMap } from "./make-map.ts";
import type { ProfileOptions } from "./profile-options.ts";

/** Throws a sentence. */
export async function runMap(pack: string | undefined, { map: file, texts = [], divergence, counts = [], target, effect: effectOf, out, by = "weight", json = false, ...options }: ProfileOptions & { readonly map: string }): Promise<void> {
  if (pack === undefined) throw new Error("A routing map is of one pack's experts, so its folder must be given.");
  if (divergence !== undefined || target !== undefined || effectOf !== undefined || out !== undefined) throw new Error("--map goes with --texts and --counts, and names its own file; --divergence, --target, --effect and --out are asked without it.");
  if (by === "frequency") throw new Error("--by frequency is of a profile; a map has shares of weight, count or score.");
  const files = [...texts, ...counts].map(kindOfFile);
  if (files.length === 0) throw new Error("No texts were given; expected --texts or --counts with KIND:LABEL=FILE.");
  const twice = files.find(({ kind, label }, i) => files.findIndex((of) => of.kind === kind && of.label === label) < i);
  if (twice !== undefined) throw new Error(`The ${twice.kind} "${twice.label}" is there twice; expected one file for each.`);
  if (existsSync(file)) throw new Error(`${file} exists already; give another --map or remove it first.`);
  const model = await openPack(pack);
  const { manifest: { id, config }, packHash: hash } = model;
  if (isOfProducts(config)) throw new Error(`A routing map has a share for each expert of each layer; "${id}" has ${config.productExperts!.nKeys ** 2} product experts a layer, of which none is made. \`workers-moe trace\` counts their keys.`);
  const sources = files.map((of, i) => (i < texts.length ? textSource(model, of, options) : totalsSource(of, config.router.topK)));
  const classes = (await sumClasses(sources, json)).map((of, i) => ({ ...of, kind: files[i]!.kind }));
  const made = makeMap(classes, { id, hash, config }, by);
  await writeText(file, mapText(made));
  process.stdout.write(json ? `${JSON.stringify({ map: file, ...made })}\n` : showMap(made, file));
}
