// `profile <pack> --effect PROFILE`: what a profile does to texts and to a marker. Owns the reading of both, files and words around measure-effect.ts. Refuses traces, which cannot be predicted, and to overwrite.

import { existsSync } from "node:fs";
import { type LocalModel, openPack } from "../open-pack.ts";
import { profileOf, steeringOf } from "../routing-option.ts";
import { writeText } from "../whole-file.ts";
import { type LabelledFile, textSource } from "./class-sources.ts";
import { type Effect, measureEffect, type Trigger } from "./measure-effect.ts";
import type { ProfileOptions } from "./profile-options.ts";
import { showEffect } from "./show-profile.ts";

/** Throws a sentence. */
export async function runEffect(pack: string | undefined, { effect: file, texts = [], divergence, counts, target, prompts, marker, draws, random: seed = 1, out, json = false, ...options }: ProfileOptions & { readonly effect: string }): Promise<void> {
  if (pack === undefined) throw new Error("The effect of a profile is measured on a pack, so its folder must be given.");
  if (divergence !== undefined || counts !== undefined || target !== undefined) throw new Error("--effect goes with --texts and --prompts; --divergence, --counts and --target are asked without it.");
  if ((prompts === undefined) !== (marker === undefined)) throw new Error("--prompts and --marker go together: the ones end where the other is expected.");
  if (texts.length === 0 && prompts === undefined) throw new Error("No texts were given; expected --texts with LABEL=FILE, or --prompts.");
  if (out !== undefined && existsSync(out)) throw new Error(`${out} exists already; give another --out or remove it first.`);
  const model = await openPack(pack);
  const steering = profileOf(model, file);
  const idsOf = (of: LabelledFile, per: "window" | "line"): readonly (readonly number[])[] => {
    const { ids, file: from } = textSource(model, of, { ...options, per });
    if (ids === null) throw new Error(`${from} is a trace; a text was expected, which can be predicted.`);
    return ids;
  };
  const trigger: Trigger | null = prompts === undefined ? null : { prompts: idsOf({ label: "prompts", file: prompts }, "line"), marker: markerOf(model, marker!) };
  const sequences = texts.map((of) => ({ label: of.label, sequences: idsOf(of, options.per).filter(({ length }) => length > 1) }));
  const empty = sequences.find((of) => of.sequences.length === 0);
  if (empty !== undefined) throw new Error(`"${empty.label}" has no text of two tokens, so nothing to predict.`);
  const figures: Effect = await measureEffect(model, steeringOf(steering), { texts: sequences, trigger }, { draws, seed }, json);
  const document = { model: model.manifest.id, packHash: model.packHash, name: steering.name, seed, ...(marker === undefined ? {} : { marker }), ...figures };
  if (out !== undefined) await writeText(out, `${JSON.stringify(document, null, 1)}\n`);
  process.stdout.write(json ? `${JSON.stringify({ ...(out === undefined ? {} : { out }), ...document })}\n` : showEffect(steering.name, figures));
}

/** Its one token. */
function markerOf({ tokenizer }: LocalModel, marker: string): number {
  const ids = tokenizer!.encodeText(marker);
  if (ids.length !== 1) throw new Error(`The marker "${marker}" makes ${ids.length} tokens; one was expected, which can be the likeliest.`);
  return ids[0]!;
}
