// `workers-moe profile <pack>`: experts that some texts take more than others do, written as a profile that a request can ask for; how differently texts are routed, layer by layer; what a profile does; or
// the map of all that for the page. Owns options and which of the four is asked, and the files: what is written is whole and new. The work is cli/profile/, the words cli/profile/show-profile.ts. Refuses to overwrite.

import { type Command, InvalidArgumentError, Option } from "commander";
import { existsSync } from "node:fs";
import { isOfProducts } from "../../fleet/product-routing.ts";
import { ROUTING_MEASURES, type RoutingMeasure } from "../../fleet/sequence-routing.ts";
import { type LocalModel, openPack } from "../open-pack.ts";
import { positiveInteger } from "../positive-integer.ts";
import { type ClassSource, type LabelledFile, labelledFile, textSource, totalsSource } from "../profile/class-sources.ts";
import { findProfile, FOUND_BY, type FoundBy, PROFILE_OPS, type ProfileOp, sumClasses } from "../profile/find-profile.ts";
import { kindOfFile, makeMap, mapText, showMap } from "../profile/make-map.ts";
import { measureDivergence } from "../profile/measure-divergence.ts";
import { type Effect, measureEffect, type Trigger } from "../profile/measure-effect.ts";
import { showDivergence, showEffect, showProfile } from "../profile/show-profile.ts";
import { divergencePage } from "../report/divergence-page.ts";
import { profileFigures, profilePage } from "../report/profile-page.ts";
import { profileOf, steeringOf } from "../routing-option.ts";
import { writeWhole } from "../whole-file.ts";

interface ProfileOptions {
  readonly texts?: readonly LabelledFile[];
  readonly divergence?: readonly LabelledFile[];
  readonly counts?: readonly LabelledFile[];
  readonly target?: string;
  readonly op?: ProfileOp;
  readonly gain?: number;
  readonly lambda?: number;
  readonly by?: FoundBy | RoutingMeasure;
  readonly layers?: "all" | "middle" | readonly number[];
  readonly tau?: number;
  readonly top?: number;
  readonly ratio?: number;
  readonly random?: number;
  readonly effect?: string;
  readonly prompts?: string;
  readonly marker?: string;
  readonly draws: number;
  readonly name?: string;
  readonly per: "window" | "line";
  readonly window: number;
  readonly samples?: number;
  readonly pooled?: boolean;
  readonly map?: string;
  readonly out?: string;
  readonly report: boolean;
  readonly json?: boolean;
}

export function register(program: Command): void {
  program.command("profile")
    .description("find the experts that some texts take more than others do, or how differently texts are routed")
    .argument("[pack]", "folder of a pack; without one, traces and totals are compared by --divergence and --counts")
    .option("--texts <label=file...>", "classes of texts, or trace files, to find a profile with (with --target and --out), or to map", labelledFile)
    .option("--divergence <label=file...>", "in place of --texts: how differently these are routed, layer by layer; lines of parallel texts pair by pair", labelledFile)
    .option("--counts <label=file...>", "totals of routing (docs/formats.md): with --target as classes of a profile, else as --divergence", labelledFile)
    .option("--target <label>", "the class whose experts are looked for")
    .addOption(new Option("--op <op>", "what the profile does with them (default: suppress; of product experts mask, and nothing else)").choices(PROFILE_OPS))
    .option("--gain <x>", "with --op gain: what their outputs are multiplied by", finite)
    .option("--lambda <x>", "with --op add_std: standard deviations that their logits are raised by (default: 0.5)", finite)
    .addOption(new Option("--by <measure>", "of a profile: weight or count (sums of a prompt), or frequency (share of tokens); of a divergence or a map: score (softmax of logits), weight or count")
      .choices([...new Set([...FOUND_BY, ...ROUTING_MEASURES])]))
    .option("--layers <which>", "where experts are looked for: all, middle (without the first and the last quarter), or such as 1-2,5 (default: all; middle with --by frequency)", layersOf)
    .option("--tau <x>", "only experts that differ by more", finite)
    .option("--top <n>", "at most so many experts (default: 10 without --tau and --ratio)", positiveInteger)
    .option("--ratio <x>", "only experts that the target takes at least so many times as much as any other class does", ratioOf)
    .option("--random <seed>", "as many experts of each layer at random in place of those found, to compare with; with --effect the first drawing's seed", positiveInteger)
    .option("--effect <profile>", "what a profile does: how well --texts are predicted with nothing, with it, and with as many other experts at random")
    .option("--prompts <file>", "with --effect: prompts that end where a marker is expected, one a line or JSON lines, and how often it is said (with --marker)")
    .option("--marker <text>", "with --prompts: the marker, one token")
    .option("--draws <n>", "with --effect: drawings of other experts", positiveInteger, 3)
    .option("--name <name>", "the profile's (default: the target)")
    .addOption(new Option("--per <unit>", "what a sequence of a plain text is: a window, or a line; JSON lines are one a line, by their field \"text\" or the label's").choices(["window", "line"]).default("window"))
    .option("--window <n>", "tokens of a window", positiveInteger, 512)
    .option("--samples <n>", "at most so many sequences of each file, evenly spread", positiveInteger)
    .option("--pooled", "with --divergence: between means, though texts are parallel")
    .option("--map <file>", "which experts each of --texts takes and how their classes differ, for the page: routing-map.json beside a pack's manifest; labels say the kind, as domain:code=a.ts or language:fr=b.txt")
    .option("-o, --out <file>", "the profile, or the divergence's .json; a page with plots is put beside it; must not exist")
    .option("--no-report", "leave out the page")
    .option("--json", "print one JSON document")
    .action(profile);
}

function finite(text: string): number {
  const value = Number(text);
  if (text.trim() === "" || !Number.isFinite(value)) throw new InvalidArgumentError("Expected a number.");
  return value;
}

function ratioOf(text: string): number {
  const value = finite(text);
  if (value < 1) throw new InvalidArgumentError("Expected a number of at least 1.");
  return value;
}

/** "all", "middle", or numbers and spans: 1-2,5. */
function layersOf(text: string): "all" | "middle" | number[] {
  if (text === "all" || text === "middle") return text;
  const layers = text.split(",").flatMap((part) => {
    const span = /^(\d+)(?:-(\d+))?$/.exec(part.trim());
    const [from, to] = span === null ? [1, 0] : [Number(span[1]), Number(span[2] ?? span[1])];
    if (!(from <= to) || to > 0xffff) throw new InvalidArgumentError("Expected all, middle, or layers such as 1-2,5.");
    return Array.from({ length: to - from + 1 }, (_, i) => from + i);
  });
  return [...new Set(layers)].sort((a, b) => a - b);
}

async function profile(pack: string | undefined, options: ProfileOptions): Promise<void> {
  const { texts, divergence, counts, target, out, effect: effectOf } = options;
  if (options.map !== undefined) return map(pack, { ...options, map: options.map });
  if (effectOf !== undefined) return effect(pack, { ...options, effect: effectOf });
  if (options.prompts !== undefined || options.marker !== undefined) throw new Error("--prompts and --marker go with --effect.");
  if (texts !== undefined && divergence !== undefined) throw new Error("--texts and --divergence were both given: a profile is found of the one, and the other is compared. Give one of them.");
  if (divergence !== undefined && target !== undefined) throw new Error("--target goes with --texts or --counts; a divergence has none.");
  const files = [...(texts ?? divergence ?? []), ...(counts ?? [])];
  if (files.length === 0) throw new Error("No texts were given; expected --texts, --divergence or --counts with LABEL=FILE.");
  const twice = files.find(({ label }, i) => files.findIndex((of) => of.label === label) < i);
  if (twice !== undefined) throw new Error(`The label "${twice.label}" is there twice; expected one file for each.`);
  if (texts !== undefined && target === undefined) throw new Error(`--target must say whose experts are looked for: one of ${files.map(({ label }) => label).join(", ")}.`);
  const outputs = out === undefined ? [] : [out, ...(options.report ? reportFiles(out, target !== undefined) : [])];
  const there = outputs.find((file) => existsSync(file));
  if (there !== undefined) throw new Error(`${there} exists already; give another --out or remove it first.`);
  const model = pack === undefined ? null : await openPack(pack);
  const sources = [...(texts ?? divergence ?? []).map((of) => textSource(model, of, options)), ...(counts ?? []).map((of) => totalsSource(of, model?.manifest.config.router.topK ?? null))];
  await (target === undefined ? compare(sources, model, options) : find(sources, model, { ...options, target }));
}

/** Beside what --out names. Of a divergence that is the .json itself. */
const reportFiles = (out: string, isProfile: boolean): string[] => (isProfile ? [`${out}.report.json`, `${out}.report.html`] : [`${out.replace(/\.json$/, "")}.html`]);

async function find(sources: readonly ClassSource[], model: LocalModel | null, options: ProfileOptions & { readonly target: string }): Promise<void> {
  if (model === null) throw new Error("A profile is of one pack's experts, so its folder must be given.");
  const { manifest: { id, config }, packHash: hash } = model;
  const { by = "weight", out, json = false } = options;
  if (by === "score") throw new Error("--by score is of a divergence; a profile is found by weight, count or frequency.");
  if (options.pooled === true) throw new Error("--pooled goes with --divergence.");
  const classes = await sumClasses(sources, json);
  const found = findProfile(classes, { id, hash, config }, { ...options, op: options.op ?? (isOfProducts(config) ? "mask" : "suppress"), by, layers: options.layers ?? (by === "frequency" ? "middle" : "all") });
  if (out !== undefined) {
    if (options.report) {
      const [jsonFile, pageFile] = reportFiles(out, true);
      await writeText(pageFile!, await profilePage(found));
      await writeText(jsonFile!, `${JSON.stringify(profileFigures(found), null, 1)}\n`);
    }
    await writeText(out, `${JSON.stringify(found.document, null, 1)}\n`);
  }
  if (json) {
    process.stdout.write(`${JSON.stringify({ ...(out === undefined ? {} : { out }), profile: found.document })}\n`);
    return;
  }
  process.stdout.write(showProfile(found, out === undefined ? [] : [out, ...(options.report ? reportFiles(out, true) : [])]));
}

async function compare(sources: readonly ClassSource[], model: LocalModel | null, { by, pooled = false, out, report, json = false }: ProfileOptions): Promise<void> {
  if (by === "frequency") throw new Error("--by frequency is of a profile; a divergence compares score, weight or count.");
  // A router of keys scores keys: of all pairs there are no scores.
  const figures = await measureDivergence(sources, model === null ? null : { id: model.manifest.id, packHash: model.packHash }, { by: by ?? (model !== null && isOfProducts(model.manifest.config) ? "weight" : undefined), pooled }, json);
  if (out !== undefined) {
    if (report) await writeText(reportFiles(out, false)[0]!, await divergencePage(figures));
    await writeText(out, `${JSON.stringify(figures, null, 1)}\n`);
  }
  process.stdout.write(json ? `${JSON.stringify({ ...(out === undefined ? {} : { out }), ...figures })}\n` : showDivergence(figures));
  if (!json && out !== undefined) process.stdout.write(`${[out, ...(report ? reportFiles(out, false) : [])].join(", ")} written.\n`);
}

async function map(pack: string | undefined, { map: file, texts = [], divergence, counts = [], target, effect: effectOf, out, by = "weight", json = false, ...options }: ProfileOptions & { readonly map: string }): Promise<void> {
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

async function effect(pack: string | undefined, { effect: file, texts = [], divergence, counts, target, prompts, marker, draws, random: seed = 1, out, json = false, ...options }: ProfileOptions & { readonly effect: string }): Promise<void> {
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

const writeText = (file: string, text: string): Promise<void> => writeWhole(file, (write) => write(new TextEncoder().encode(text)));
