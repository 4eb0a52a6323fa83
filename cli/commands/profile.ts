// `workers-moe profile <pack>`: experts that some texts take more than others do, written as a profile that a request can ask for; how differently texts are routed, layer by layer; what a profile does; or
// the map of all that for the page. Owns options and which of the four is asked: cli/profile/run-*.ts do it. Refuses options that do not go together, and to overwrite.

import { type Command, Option } from "commander";
import { existsSync } from "node:fs";
import { ROUTING_MEASURES } from "../../fleet/sequence-routing.ts";
import { openPack } from "../open-pack.ts";
import { positiveInteger } from "../positive-integer.ts";
import { labelledFile, textSource, totalsSource } from "../profile/class-sources.ts";
import { FOUND_BY, PROFILE_OPS } from "../profile/find-profile.ts";
import { finite, layersOf, type ProfileOptions, ratioOf } from "../profile/profile-options.ts";
import { divergenceReportFile, runDivergence } from "../profile/run-divergence.ts";
import { runEffect } from "../profile/run-effect.ts";
import { profileReportFiles, runFind } from "../profile/run-find.ts";
import { runMap } from "../profile/run-map.ts";

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

async function profile(pack: string | undefined, options: ProfileOptions): Promise<void> {
  const { texts, divergence, counts, target, out, effect: effectOf } = options;
  if (options.map !== undefined) return runMap(pack, { ...options, map: options.map });
  if (effectOf !== undefined) return runEffect(pack, { ...options, effect: effectOf });
  if (options.prompts !== undefined || options.marker !== undefined) throw new Error("--prompts and --marker go with --effect.");
  if (texts !== undefined && divergence !== undefined) throw new Error("--texts and --divergence were both given: a profile is found of the one, and the other is compared. Give one of them.");
  if (divergence !== undefined && target !== undefined) throw new Error("--target goes with --texts or --counts; a divergence has none.");
  const files = [...(texts ?? divergence ?? []), ...(counts ?? [])];
  if (files.length === 0) throw new Error("No texts were given; expected --texts, --divergence or --counts with LABEL=FILE.");
  const twice = files.find(({ label }, i) => files.findIndex((of) => of.label === label) < i);
  if (twice !== undefined) throw new Error(`The label "${twice.label}" is there twice; expected one file for each.`);
  if (texts !== undefined && target === undefined) throw new Error(`--target must say whose experts are looked for: one of ${files.map(({ label }) => label).join(", ")}.`);
  const outputs = out === undefined ? [] : [out, ...(options.report ? (target === undefined ? [divergenceReportFile(out)] : profileReportFiles(out)) : [])];
  const there = outputs.find((file) => existsSync(file));
  if (there !== undefined) throw new Error(`${there} exists already; give another --out or remove it first.`);
  const model = pack === undefined ? null : await openPack(pack);
  const sources = [...(texts ?? divergence ?? []).map((of) => textSource(model, of, options)), ...(counts ?? []).map((of) => totalsSource(of, model?.manifest.config.router.topK ?? null))];
  await (target === undefined ? runDivergence(sources, model, options) : runFind(sources, model, { ...options, target }));
}
