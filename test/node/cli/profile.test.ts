// The command profile as a user runs it: a profile found in texts, lines and traces, the divergence of parallel lines and of totals, pages of both and of a trace, and what it says where something
// is missing. What is found is tested in test/methods/01 and 27; here, that the same comes out whichever way the texts went in, and that files are whole or not there.

import { execFile } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Effect } from "../../../cli/profile/measure-effect.ts";
import type { DivergenceFigures } from "../../../cli/profile/measure-divergence.ts";
import { parseProfile, type RoutingProfile } from "../../../formats/routing-profile.ts";
import { type TraceHeader, traceHeaderBytes, traceRecords } from "../../../formats/trace.ts";
import { writeChatPack } from "../../support/serve.ts";

const LAUNCHER = fileURLToPath(new URL("../../../bin/workers-moe.js", import.meta.url));
const FOX = ["a quick brown fox jumps over the lazy dog.", "the dog is lazy, and the fox is quick.", "brown is the colour of a fox."];
const SUMS = ["1 + 2 = 3; 3 + 4 = 7; 7 + 8 = 15", "f(x) = x * x + 2 * x + 1", "[0, 1, 1, 2, 3, 5, 8, 13, 21]"];
let pack: Awaited<ReturnType<typeof writeChatPack>>;
let folder = "";

const run = (args: readonly string[]): Promise<{ code: number; stdout: string; stderr: string }> => new Promise((resolve) => {
  execFile(process.execPath, [LAUNCHER, ...args], { cwd: folder }, (error, stdout, stderr) => resolve({ code: error === null ? 0 : Number(error.code), stdout, stderr }));
});

beforeAll(async () => {
  pack = await writeChatPack();
  folder = mkdtempSync(join(tmpdir(), "profile-"));
  const write = (name: string, text: string): void => writeFileSync(join(folder, name), text);
  write("fox.txt", `${FOX.join("\n")}\n`);
  write("sums.txt", `${SUMS.join("\n")}\n`);
  write("both.jsonl", `${FOX.map((fox, i) => JSON.stringify({ fox, sums: SUMS[i] })).join("\n")}\n`);
  write("sums.jsonl", `${SUMS.map((text) => JSON.stringify({ text })).join("\n")}\n`);
  write("long.txt", `${FOX.join(" ").repeat(60)}\n`);
  write("two.txt", `${FOX[0]}\n${FOX[1]}\n`);
  write("gap.txt", `${FOX[0]}\n\n${FOX[1]}\n`);
});
afterAll(() => {
  pack.remove();
  rmSync(folder, { recursive: true });
});

/** One file that asks nobody for anything, with a table under each plot. */
function expectPage(html: string, title: string, plots: number): void {
  for (const part of [`<title>${title}</title>`, "default-src 'none'", "prefers-color-scheme: dark"]) expect(html.includes(part)).toBe(true);
  expect(/<script|(?:src|href)="(?!data:,")|@import|url\((?!#)|NaN/.exec(html)).toBeNull();
  expect(html.match(/<figure>/g)).toHaveLength(plots);
  expect(html.match(/<details><summary>The numbers<\/summary><div class="table"/g)).toHaveLength(plots);
  expect(html.match(/<svg role="img" aria-label="[^"]+"/g)).toHaveLength(2 * plots);
}

describe("profile", () => {
  it("finds the experts of a class, the same of lines, of JSON lines and of a trace, and writes them with a page", async () => {
    const made = await run(["profile", pack.folder, "--texts", "fox=fox.txt", "sums=sums.txt", "--per", "line", "--target", "sums", "--top", "4", "--out", "sums.profile.json"]);
    expect([made.code, made.stdout]).toEqual([0, expect.stringContaining("suppress of 4 experts, found by weight in layers 0, 1")]);
    const profile = parseProfile(readFileSync(join(folder, "sums.profile.json"), "utf8"), "sums.profile.json");
    expect(profile).toMatchObject({ format: "workers-moe-profile", version: 1, name: "sums", access: "admin", found: { by: "weight", target: "sums", texts: [{ label: "fox", sequences: 3 }, { label: "sums", kind: "lines" }] } });
    expect(Object.values((profile.interventions[0] as { experts: Record<string, number[]> }).experts).flat()).toHaveLength(4);
    expectPage(readFileSync(join(folder, "sums.profile.json.report.html"), "utf8"), "Profile: sums", 3);
    const figures = JSON.parse(readFileSync(join(folder, "sums.profile.json.report.json"), "utf8")) as { difference: number[][]; profile: RoutingProfile };
    expect(figures.profile).toEqual(profile);
    const found = profile.found!["experts"] as { layer: number; expert: number; difference: number }[];
    for (const { layer, expert, difference } of found) expect(figures.difference[layer]![expert]).toBe(difference);
    expect(Math.max(...figures.difference.flat())).toBe(found[0]!.difference);

    const bothWays = await run(["profile", pack.folder, "--texts", "fox=both.jsonl", "sums=sums.jsonl", "--target", "sums", "--top", "4", "--json"]);
    expect((JSON.parse(bothWays.stdout) as { profile: RoutingProfile }).profile.interventions).toEqual(profile.interventions);
    expect(readdirSync(folder).filter((name) => name.endsWith(".partial"))).toEqual([]);

    const again = await run(["profile", pack.folder, "--texts", "fox=fox.txt", "sums=sums.txt", "--target", "sums", "--out", "sums.profile.json"]);
    expect([again.code, again.stderr]).toEqual([1, expect.stringContaining("sums.profile.json exists already; give another --out or remove it first.")]);
  });

  it("reads a text as windows, and a trace of it as the same sequences", async () => {
    const window = ["--window", "4096"]; // longer than the context: windows are the trace's own
    for (const name of ["long", "sums"]) expect((await run(["trace", pack.folder, "--text", `${name}.txt`, "--out", `${name}.trace`])).code).toBe(0);
    const ofTexts = JSON.parse((await run(["profile", pack.folder, "--texts", "fox=long.txt", "sums=sums.txt", ...window, "--target", "fox", "--json"])).stdout) as { profile: RoutingProfile };
    const ofTraces = JSON.parse((await run(["profile", pack.folder, "--texts", "fox=long.trace", "sums=sums.trace", "--target", "fox", "--json"])).stdout) as { profile: RoutingProfile };
    expect(ofTexts.profile.found!["texts"]).toMatchObject([{ sequences: expect.not.closeTo(1), kind: expect.stringMatching(/^windows of \d+ tokens$/) }, { sequences: 1 }]);
    // The file has weights in f32 as the engine does, so nothing is lost on the way.
    expect(ofTraces.profile.found!["experts"]).toEqual(ofTexts.profile.found!["experts"]);
    const random = JSON.parse((await run(["profile", pack.folder, "--texts", "fox=long.trace", "sums=sums.trace", "--target", "fox", "--top", "2", "--random", "3", "--json"])).stdout) as { profile: RoutingProfile };
    expect(random.profile).toMatchObject({ description: "2 experts drawn at random, to compare those of fox with", found: { seed: 3 } });
  });

  it("compares parallel lines pair by pair, others by their means, and totals without a pack", async () => {
    const made = await run(["profile", pack.folder, "--divergence", "fox=both.jsonl", "sums=both.jsonl", "again=fox.txt", "--per", "line", "--out", "div.json"]);
    expect([made.code, made.stdout]).toEqual([0, expect.stringContaining("fox: 3 sequences")]);
    const figures = JSON.parse(readFileSync(join(folder, "div.json"), "utf8")) as DivergenceFigures;
    expect(figures).toMatchObject({ by: "score", parallelTexts: 3, pairs: [{ a: "fox", b: "sums" }, { a: "fox", b: "again" }, { a: "sums", b: "again" }] });
    const [different, same, back] = figures.pairs.map(({ layers }) => layers.map(({ normalized }) => normalized));
    expect(same).toEqual([0, 0]);
    different!.forEach((x, layer) => expect(back![layer]).toBeCloseTo(x, 12));
    for (const x of different!) expect(x).toBeGreaterThan(0);
    expectPage(readFileSync(join(folder, "div.html"), "utf8"), "Divergence: fox, sums, again", 2);

    const pooled = JSON.parse((await run(["profile", pack.folder, "--divergence", "fox=both.jsonl", "sums=both.jsonl", "--pooled", "--json"])).stdout) as DivergenceFigures;
    expect([pooled.parallelTexts, pooled.pairs[0]!.layers[0]!.normalized < different![0]!]).toEqual([null, true]);

    const traced = await run(["trace", pack.folder, "--text", "fox.txt", "--json"]);
    writeFileSync(join(folder, "fox.counts.json"), traced.stdout);
    writeFileSync(join(folder, "sums.counts.json"), (await run(["trace", pack.folder, "--text", "sums.txt", "--json"])).stdout);
    const totals = JSON.parse((await run(["profile", "--counts", "fox=fox.counts.json", "sums=sums.counts.json", "--json"])).stdout) as DivergenceFigures;
    const texts = JSON.parse((await run(["profile", pack.folder, "--divergence", "fox=fox.txt", "sums=sums.txt", "--by", "count", "--json"])).stdout) as DivergenceFigures;
    expect(totals).toMatchObject({ model: null, by: "count" });
    expect(totals.pairs).toEqual(texts.pairs);
    const counted = JSON.parse((await run(["profile", pack.folder, "--counts", "fox=fox.counts.json", "sums=sums.counts.json", "--target", "fox", "--by", "frequency", "--op", "add_std", "--layers", "all", "--json"])).stdout) as { profile: RoutingProfile };
    const routed = JSON.parse((await run(["profile", pack.folder, "--texts", "fox=fox.txt", "sums=sums.txt", "--target", "fox", "--by", "frequency", "--op", "add_std", "--layers", "all", "--json"])).stdout) as { profile: RoutingProfile };
    expect(counted.profile.interventions).toEqual(routed.profile.interventions);
  });

  it("measures what a profile does, and refuses what is none of this pack", async () => {
    writeFileSync(join(folder, "fox.profile.json"), `${JSON.stringify({
      format: "workers-moe-profile", version: 1, name: "fox", description: "", model: "chat", access: "admin", interventions: [{ op: "suppress", experts: { 0: [0, 1], 1: [3] } }], found: null,
    })}\n`);
    const made = await run(["profile", pack.folder, "--effect", "fox.profile.json", "--texts", "fox=fox.txt", "sums=sums.txt", "--per", "line", "--prompts", "two.txt", "--marker", "a", "--draws", "2", "--out", "effect.json"]);
    expect([made.code, made.stdout]).toEqual([0, expect.stringMatching(/^profile +fox, 3 experts\nfox +perplexity [\d.]+, with it [\d.]+ \([+-][\d.]+ %\); 2 times as many others: .*\nsums .*\nmarker +after [\d.]+ % of 2 prompts, with it /)]);
    const effect = JSON.parse(readFileSync(join(folder, "effect.json"), "utf8")) as Effect;
    expect(effect).toMatchObject({ name: "fox", seed: 1, marker: "a", experts: 3, prompts: 2, texts: [{ label: "fox", sequences: 3 }, { label: "sums", sequences: 3 }], random: [{}, {}] });
    const evaluated = JSON.parse((await run(["profile", pack.folder, "--effect", "fox.profile.json", "--texts", "sums=sums.txt", "--per", "line", "--draws", "2", "--json"])).stdout) as Effect;
    expect([evaluated.none, evaluated.profile, ...evaluated.random].map(({ perplexities, markerRate }) => [perplexities[0], markerRate])).toEqual([effect.none, effect.profile, ...effect.random].map(({ perplexities }) => [perplexities[1], null]));
    writeFileSync(join(folder, "other.profile.json"), readFileSync(join(folder, "fox.profile.json"), "utf8").replace('"model":"chat"', '"model":"other"'));
    for (const [args, message] of [
      [["--effect", "other.profile.json", "--texts", "fox=fox.txt"], 'The profile "fox" is for the model "other"; this one is "chat".'],
      [["--effect", "fox.profile.json"], "No texts were given; expected --texts with LABEL=FILE, or --prompts."],
      [["--effect", "fox.profile.json", "--prompts", "two.txt"], "--prompts and --marker go together"],
      [["--effect", "fox.profile.json", "--prompts", "two.txt", "--marker", "abc"], 'The marker "abc" makes'],
      [["--effect", "fox.profile.json", "--texts", "fox=fox.txt", "--target", "fox"], "--effect goes with --texts and --prompts"],
      [["--texts", "fox=fox.txt", "--marker", "a"], "--prompts and --marker go with --effect."],
    ] as const) {
      const { code, stderr } = await run(["profile", pack.folder, ...args]);
      expect([code, stderr]).toEqual([1, expect.stringContaining(message)]);
    }
  });

  it("says in words what is wrong", async () => {
    for (const [args, message, code = 1] of [
      [[], "No texts were given; expected --texts, --divergence or --counts with LABEL=FILE."],
      [["--texts", "fox"], "Expected LABEL=FILE, such as code=main.ts.", 2],
      [["--texts", "fox=fox.txt", "fox=sums.txt"], 'The label "fox" is there twice', 2],
      [["--texts", "fox=fox.txt", "sums=sums.txt"], "--target must say whose experts are looked for: one of fox, sums."],
      [["--texts", "fox=fox.txt", "--target", "fox"], 'Only "fox" was given; a difference needs at least one other class'],
      [["--texts", "fox=fox.txt", "x=none.txt", "--target", "x"], "none.txt cannot be read"],
      [["--texts", "fox=fox.txt", "x=gap.txt", "--per", "line", "--target", "x"], "gap.txt, line 2 has no text; expected one in every line."],
      [["--texts", "fox=fox.txt", "x=both.jsonl", "--target", "x"], 'both.jsonl, line 1 has no field "text" or "x" with a text.'],
      [["--divergence", "fox=fox.txt", "x=two.txt", "--per", "line"], "fox.txt has 3 texts and two.txt 2; parallel texts have one for each of the others'. --pooled compares means instead."],
      [["--divergence", "fox=fox.txt"], "A divergence is between two classes"],
      [["--texts", "fox=fox.txt", "sums=sums.txt", "--target", "fox", "--by", "score"], "--by score is of a divergence"],
      [["--texts", "fox=fox.txt", "sums=sums.txt", "--target", "fox", "--layers", "2-1"], "Expected all, middle, or layers such as 1-2,5.", 2],
      [["--texts", "fox=fox.txt", "sums=sums.txt", "--target", "fox", "--layers", "7"], "Layer 7 was asked for; the layers with experts are 0, 1."],
    ] as const) {
      const { code: found, stderr } = await run(["profile", pack.folder, ...args, "--out", "refused.json"]);
      expect([found, stderr]).toEqual([code, expect.stringContaining(message)]);
      expect(existsSync(join(folder, "refused.json"))).toBe(false);
    }
    const { code, stderr } = await run(["profile", "--divergence", "fox=fox.txt", "sums=sums.txt"]);
    expect([code, stderr]).toEqual([1, expect.stringContaining("fox.txt is a text, so the folder of a pack must say which model routes it")]);
  });
});

describe("trace --report", () => {
  it("draws load, weights and locality of a text or a file, with the figures beside the page", async () => {
    const made = await run(["trace", pack.folder, "--text", "long.txt", "--out", "reported.trace", "--report", "trace.html"]);
    expect([made.code, made.stdout]).toEqual([0, expect.stringContaining("trace.html, trace.json written.")]);
    expectPage(readFileSync(join(folder, "trace.html"), "utf8"), "Routing of chat", 4);
    const figures = JSON.parse(readFileSync(join(folder, "trace.json"), "utf8")) as { expertsPerToken: number; layers: { tokens: number }[]; weights: { tokens: number; leftOut: number; of: number; meanShares: number[]; histogram: number[] }[] };
    figures.weights.forEach(({ tokens, leftOut, of, meanShares, histogram }, i) => {
      expect([tokens, leftOut, of]).toEqual([figures.layers[i]!.tokens, 0, tokens * figures.expertsPerToken]);
      expect(meanShares.reduce((a, b) => a + b, 0)).toBeCloseTo(1, 9);
      expect(histogram.reduce((a, b) => a + b, 0)).toBe(of);
    });
    const ofFile = await run(["trace", "reported.trace", "--locality", "--report", "file.html"]);
    expect(ofFile.code).toBe(0);
    expectPage(readFileSync(join(folder, "file.html"), "utf8"), "Routing of chat", 6);
    // Two layers, of whose choices three of eight were left out.
    const header = { model: "chat", packHash: "0".repeat(64), nExperts: 4, topK: 2, moeLayers: [0, 1], columns: ["ids", "weights"] } as const satisfies TraceHeader;
    const records = traceRecords(header, [{ request: 0, token: 0, layer: 0, ids: [1, 2], weights: [0.5, 0.5] }, { request: 0, token: 0, layer: 1, ids: [3], weights: [1] }, { request: 0, token: 1, layer: 0, ids: [0], weights: [0.5] }, { request: 0, token: 1, layer: 1, ids: [2], weights: [0.75] }]);
    writeFileSync(join(folder, "pruned.trace"), Buffer.concat([traceHeaderBytes(header), records]));
    expect((await run(["trace", "pruned.trace", "--report", "pruned.html"])).code).toBe(0);
    const pruned = readFileSync(join(folder, "pruned.html"), "utf8");
    expectPage(pruned, "Routing of chat", 5);
    expect(pruned.includes("<dt>left out</dt><dd>3 of 8 expert calls, 37.5 %</dd>")).toBe(true);
    const again = await run(["trace", "reported.trace", "--report", "file.html"]);
    expect([again.code, again.stderr]).toEqual([1, expect.stringContaining("file.html exists already; give another --report or remove it first.")]);
  });
});
