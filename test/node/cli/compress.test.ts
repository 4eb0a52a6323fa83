// `compress` as a user runs it: the list of passes, each of them from a published model to a pack that verifies, one after the other, and nothing left of what fails.

import { execFile } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { MemorySink } from "../../../formats/memory-source.ts";
import { parsePassReport, type PassReport } from "../../../passes/pass-report.ts";
import { plainCheckpoint, writePlain } from "../../support/plain-checkpoint.ts";
import { seededConfig, seededWeights } from "../../support/seeded-model.ts";
import { tinyModel } from "../../support/tiny-models.ts";
import { writeGguf, writeHuggingFace } from "../../support/write-tiny.ts";

const LAUNCHER = fileURLToPath(new URL("../../../bin/workers-moe.js", import.meta.url));
let folder = "";

interface Outcome {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

const run = (...args: string[]): Promise<Outcome> => new Promise((resolve) => {
  execFile(process.execPath, [LAUNCHER, ...args], { cwd: folder }, (error, stdout, stderr) => resolve({ code: error === null ? 0 : Number(error.code), stdout, stderr }));
});

async function good(...args: string[]): Promise<Record<string, unknown>> {
  const { code, stdout, stderr } = await run(...args, "--json");
  expect([code, stderr]).toEqual([0, ""]);
  return JSON.parse(stdout) as Record<string, unknown>;
}

const reportIn = (path: string): PassReport => parsePassReport(readFileSync(join(folder, path), "utf8"), path);

const SMALL = ["--samples", "6", "--window", "48"];

const later = new Map<string, string>();
/** A small file of the folder, which is not there yet. */
const writeLater = (name: string, text: string): void => void later.set(name, text);

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "compress-"));
  await writeHuggingFace(tinyModel("qwen3_moe", 61), join(folder, "tiny"));
  await writeGguf(tinyModel("mixtral", 62), join(folder, "tiny.gguf"), { type: "F16" });
  await writeHuggingFace(tinyModel("llama", 63), join(folder, "dense"));
  writeFileSync(join(folder, "text.txt"), Array.from({ length: 60 }, (_, i) => `Line ${i * i % 97} says "${String.fromCharCode(97 + (i % 26)).repeat(3)}", no more.`).join(" "));
  for (const [name, text] of later) writeFileSync(join(folder, name), text);
});
afterAll(() => rmSync(folder, { recursive: true }));

it("lists its passes, each with a sentence and a source", async () => {
  const { code, stdout } = await run("compress", "--list");
  expect(code).toBe(0);
  const lines = stdout.trim().split("\n");
  expect(lines.map((line) => line.split(" ")[0])).toEqual(["gptq", "nearest", "bits", "prune", "merge", "moefy", "auxiliary", "calibration-text", "rotate", "online-pruning", "nulls", "fuse", "latentize"]);
  for (const line of lines) expect(line).toMatch(/^[\w-]+ +[A-Z].+\. \(.+\)$/);
  expect((await run("compress")).code).toBe(2);
});

describe("a model goes through", () => {
  it("bits and gptq, and is packed, verified and told what it was", async () => {
    await good("compress", "bits", "tiny", "--by", "pmq", "--text", "text.txt", "--bits", "2.5", "--out", "plan.txt", ...SMALL);
    const rules = readFileSync(join(folder, "plan.txt"), "utf8");
    expect(rules.match(/=4/g)!.length).toBe(4);
    const planned = reportIn("plan.txt.report.json");
    expect(planned).toMatchObject({ pass: "bits", output: null, after: null, calibrationTokens: 6 * 48 });
    expect(planned.layers.flatMap(({ bits }) => bits!).filter((bits) => bits === 4).length).toBe(4);
    const report = await good("compress", "gptq", "tiny", "--text", "text.txt", "--plan", `all=8; ${rules}`, "--out", "mixed", ...SMALL);
    expect((report["layers"] as object[]).length).toBe(2);
    expect(await good("inspect", "mixed")).toMatchObject({ kind: "canonical", name: "mixed", architecture: "qwen3_moe", tokenizer: "BPE", chatTemplate: true, problems: [] });
    const written = reportIn("mixed/report.json");
    expect(written).toMatchObject({ pass: "gptq", input: { name: "tiny" }, output: { name: "mixed" }, calibrationTokens: 6 * 48 });
    expect(written.layers.map(({ error }) => error)).toEqual((report["layers"] as { error: number }[]).map(({ error }) => error));
    expect(written.after!.experts.flatMap(({ bits }) => bits).sort()).toEqual([...new Array<number>(12).fill(2.5), ...new Array<number>(4).fill(4.5)]);
    await good("pack", "mixed", "--out", "mixed-pack");
    expect(readdirSync(join(folder, "mixed-pack")).sort()).toEqual(["manifest.json", "parts", "tokenizer.json"]);
    expect((await run("verify", "mixed-pack", "--source", "mixed", "--text", "text.txt")).code).toBe(0);
    const formats = Object.keys((await good("inspect", "mixed-pack"))["typeBytes"] as object);
    expect(formats).toEqual(expect.arrayContaining(["q2", "q4", "q8", "f32"]));
    const evaluated = await good("eval", "mixed-pack", "--text", "text.txt");
    expect(evaluated["perplexity"]).toBeGreaterThan(1);
  });

  it.each([["pmq", "2.75", [2, 3, 4]], ["error", "3", [2, 3, 4]], ["structure", "4", [3, 4]]] as const)("bits of three widths by %s, which nearest rounds to and pack takes over", async (by, bits, widths) => {
    const name = `three-${by}`;
    const planned = await good("compress", "bits", "tiny", "--by", by, "--text", "text.txt", "--bits", bits, "--widths", widths.join(), "--out", `${name}.txt`, ...SMALL, "--no-report");
    expect(planned["widths"]).toEqual(widths);
    const rules = readFileSync(join(folder, `${name}.txt`), "utf8");
    expect([...new Set(rules.match(/=\d+/g)!)].sort()).toEqual(expect.arrayContaining(["=3", "=4"]));
    await good("compress", "nearest", "tiny", "--plan", `all=8; ${rules}`, "--out", name);
    await good("pack", name, "--out", `${name}-pack`);
    expect((await run("verify", `${name}-pack`, "--source", name, "--text", "text.txt")).code).toBe(0);
    expect(Object.keys((await good("inspect", `${name}-pack`))["typeBytes"] as object)).toEqual(expect.arrayContaining(["q3", "q4"]));
  });

  it("auxiliary, and is packed, verified and told what stands by; GPTQ is not for it any more", async () => {
    const report = await good("compress", "auxiliary", "tiny", "--text", "text.txt", "text.txt", "--out", "beside", "--epochs", "2", ...SMALL);
    expect(report).toMatchObject({ run: 1, auxiliaries: 1 });
    expect((report["layers"] as object[]).length).toBe(2);
    await good("pack", "beside", "--out", "beside-pack");
    expect(await good("inspect", "beside-pack")).toMatchObject({ config: { router: { topK: 1, auxiliaries: { perToken: 1, weighAmong: "ranked" } } } });
    expect((await run("inspect", "beside-pack")).stdout).toMatch(/experts +8 per layer, 1 per token and 1 that stand by, /);
    expect((await run("verify", "beside-pack", "--source", "beside", "--text", "text.txt")).code).toBe(0);
    const refused = await run("compress", "gptq", "beside", "--text", "text.txt", "--out", "never", ...SMALL);
    expect([refused.code, refused.stderr]).toEqual([1, expect.stringMatching(/has auxiliary experts, which scale what the others get; .+ Quantise first/)]);
    expect((await run("compress", "auxiliary", "tiny", "--text", "text.txt", "--run", "2", "--out", "never", ...SMALL)).stderr).toMatch(/2 experts per token were to be run of 2; expected 1 to 1/);
  });

  it("bits of parts by their error, and experts joined by neurons", async () => {
    const plan = await good("compress", "bits", "tiny", "--text", "text.txt", "--bits", "2.5", "--out", "parts.txt", ...SMALL);
    expect(readFileSync(join(folder, "parts.txt"), "utf8").match(/^exp\[l\de\d\]\.(gateUp|down)=[24];?$/gm)!.length).toBe(32);
    expect(plan).toMatchObject({ by: "error", storedBits: { routed: 3 } });
    const report = await good("compress", "merge", "tiny", "--share", "0.75", "--text", "text.txt", "--out", "joined", ...SMALL);
    const layers = report["layers"] as { of: number[]; errors: number[] }[];
    expect(layers.map(({ errors }) => errors.length)).toEqual(layers.map(({ of }) => new Set(of).size));
    await good("pack", "joined", "--quant", "parts.txt", "--out", "joined-pack");
    expect((await run("verify", "joined-pack", "--source", "joined", "--text", "text.txt")).code).toBe(0);
  });

  it("bits by structure, which pack takes as they are", async () => {
    const report = await good("compress", "bits", "tiny", "--by", "frequency", "--text", "text.txt", "--bits", "4", "--out", "structure.txt", ...SMALL);
    expect(report["by"]).toBe("frequency");
    expect((report["storedBits"] as { layers: number }).layers).toBe(report["average"]);
    expect(report["average"]).toBeLessThanOrEqual(4);
    const packed = await good("pack", "tiny", "--quant", "structure.txt", "--out", "structure-pack");
    expect(Object.keys(packed["formatBytes"] as object)).toEqual(expect.arrayContaining(["q2", "q4", "bf16"]));
    writeFileSync(join(folder, "structure.json"), JSON.stringify(report));
    expect(await good("pack", "tiny", "--quant", "structure.json", "--out", "same-pack", "--id", "tiny")).toMatchObject({ formatBytes: packed["formatBytes"], averageBits: packed["averageBits"] });
    const said = await run("compress", "bits", "tiny", "--by", "outliers", "--bits", "4.5", "--out", "outliers.txt");
    expect(said.stdout).toMatch(/ {2}attn +4\.5000 bits per weight, scales included\n[^]* {2}layers +4\.5000 bits per weight/);
    expect((await run("compress", "bits", "tiny", "--by", "importance", "--bits", "4", "--out", "never.txt")).stderr).toContain("Bits by importance are measured with a text; --text names none.");
  });

  it("latentize, and is packed, verified and told how many numbers its experts read", async () => {
    const report = await good("compress", "latentize", "tiny", "--text", "text.txt", "--keep", "0.9", "--groups", "2", "--out", "latent", ...SMALL);
    expect(report).toMatchObject({ rank: 32, layers: [{ layer: 0 }, { layer: 1 }] });
    await good("pack", "latent", "--out", "latent-pack", "--quant", "q8");
    expect(await good("inspect", "latent-pack")).toMatchObject({ config: { latentExperts: { rank: 32, nGroups: 2 } }, parameters: (report["parameters"] as { after: number }).after });
    expect((await run("inspect", "latent-pack")).stdout).toMatch(/experts +8 per layer, .*, reading 32 numbers of a token \(2 latent groups\)\n/);
    expect((await run("verify", "latent-pack", "--source", "latent", "--text", "text.txt")).code).toBe(0);
    const neither = await run("compress", "latentize", "tiny", "--text", "text.txt", "--out", "x", ...SMALL);
    expect([neither.code, neither.stderr]).toEqual([1, expect.stringMatching(/Neither --rank nor --keep was given; expected one of them\./)]);
  });

  it("prune, merge and nearest, one after the other, from a GGUF file", async () => {
    await good("compress", "prune", "tiny.gguf", "--text", "text.txt", "text.txt", "--keep", "6", "--out", "pruned", ...SMALL);
    await good("compress", "merge", "pruned", "--join", "mean", "--text", "text.txt", "--share", "0.75", "--out", "merged", ...SMALL, "--no-report");
    expect(readdirSync(join(folder, "merged")).filter((name) => name.startsWith("report"))).toEqual([]);
    expect(reportIn("pruned/report.json").layers.map(({ kept }) => kept!.length)).toEqual([6, 6]);
    await good("compress", "nearest", "merged", "--plan", "all=8", "--out", "last");
    await good("pack", "last", "--out", "last-pack");
    expect((await good("inspect", "last-pack"))).toMatchObject({ config: { nExperts: 6 } });
    const { passes } = JSON.parse(readFileSync(join(folder, "last/config.json"), "utf8")) as { passes: { pass: string }[] };
    expect(passes.map(({ pass }) => pass)).toEqual(["prune", "merge", "nearest"]);
    const said = await run("compress", "merge", "pruned", "--text", "text.txt", "--share", "0.5", "--out", "half", ...SMALL);
    expect(said.code).toBe(0);
    expect(said.stdout).toMatch(/model +half, of 6 experts \d+, \d+ in the layers that have them\njoined by +the best of their neurons\ncalibration +\d+ tokens in \d windows\nreport +half\/report\.html\nnext +workers-moe pack half --out <dir>\n/);
    const half = reportIn("half/report.json");
    expect(half.after!.experts.reduce((sum, { distinct }) => sum + distinct, 0)).toBe(6);
    expect(half.after!.distinctBytes).toBeLessThan(half.after!.bytes);
    expect(half.layers.map(({ clusters }) => new Set(clusters).size)).toEqual(half.after!.experts.map(({ distinct }) => distinct));
  });

  it("nulls: a token takes fewer experts, which eval counts", async () => {
    const report = await good("compress", "nulls", "tiny", "--text", "text.txt", "--active", "1.5", "--out", "nulls", ...SMALL);
    expect(report).toMatchObject({ nullExperts: 2 });
    expect(Math.abs((report["active"] as number) - 1.5)).toBeLessThan(0.05);
    expect(reportIn("nulls/report.json")).toMatchObject({ pass: "nulls", output: { name: "nulls" }, calibrationTokens: 6 * 48 });
    await good("pack", "nulls", "--out", "nulls-pack");
    expect((await run("verify", "nulls-pack", "--source", "nulls", "--text", "text.txt")).code).toBe(0);
    expect((await run("inspect", "nulls-pack")).stdout).toMatch(/among experts and null experts/);
    const { activeExperts } = await good("eval", "nulls-pack", "--text", "text.txt");
    expect(Math.abs((activeExperts as number) - 1.5)).toBeLessThan(0.3);
    const refused = await run("compress", "nulls", "tiny", "--text", "text.txt", "--active", "2", "--out", "none", ...SMALL);
    expect([refused.code, refused.stderr]).toEqual([1, expect.stringContaining("expected more than 0 and fewer than 2")]);
    expect(existsSync(join(folder, "none"))).toBe(false);
  });

  it("fuse: of a model routed by a condition, whose condition every command asks for", async () => {
    const config = { ...seededConfig, nExperts: 4, router: { ...seededConfig.router, weigh: "renormalize", scope: { kind: "condition", size: 4 } } } as const;
    const sink = new MemorySink();
    await writePlain(sink, plainCheckpoint(config, seededWeights(config, 5)), "conditions");
    mkdirSync(join(folder, "conditioned"));
    for (const [name, bytes] of sink.files) writeFileSync(join(folder, "conditioned", name), bytes);
    writeFileSync(join(folder, "conditions.json"), "[[1,0,0.5,2],[0,1,-1,0.25]]");
    expect(await good("compress", "fuse", "conditioned", "--conditions", "conditions.json", "--out", "fused")).toMatchObject({ conditions: 2, expertsPerToken: 2 });
    writeFileSync(join(folder, "ids.json"), "[3,17,60,4]");
    const rows: Float32Array[] = [];
    for (const name of ["conditioned", "fused"]) {
      await good("pack", name, "--quant", "f32", "--out", `${name}-pack`);
      expect(await run("logits", `${name}-pack`, "--tokens", "ids.json", "--out", "x.f32")).toMatchObject({ code: 1, stderr: expect.stringContaining("routes by a condition, and none was given") as string });
      expect((await run("logits", `${name}-pack`, "--tokens", "ids.json", "--condition", "0,1,-1,0.25", "--out", `${name}.f32`)).code).toBe(0);
      const bytes = readFileSync(join(folder, `${name}.f32`));
      rows.push(new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length)));
    }
    const scale = Math.max(...rows[0]!.map(Math.abs));
    rows[0]!.forEach((value, i) => expect(Math.abs(value - rows[1]![i]!) / scale).toBeLessThan(1e-5));
    expect(await run("logits", "fused-pack", "--tokens", "ids.json", "--condition", "9,9,9,9", "--out", "x.f32")).toMatchObject({ code: 1, stderr: expect.stringContaining("none of them") as string });
    writeFileSync(join(folder, "wrong.json"), "{}");
    expect(await run("compress", "fuse", "conditioned", "--conditions", "wrong.json", "--out", "none")).toMatchObject({ code: 1, stderr: expect.stringContaining("expected a list of conditions") as string });
  });

  it("moefy: with all experts a dense model says what it said, and with half of them something else", async () => {
    const loss = async (model: string): Promise<number> => {
      await good("pack", model, "--quant", "f32", "--out", `${model}-pack`);
      return Number((await good("eval", `${model}-pack`, "--text", "text.txt"))["perplexity"]);
    };
    await good("compress", "moefy", "dense", "--experts", "6", "--top-k", "6", "--out", "all-on");
    await good("compress", "moefy", "dense", "--experts", "6", "--top-k", "3", "--split", "work", "--router", "fitted", "--text", "text.txt", "--out", "half-on", ...SMALL);
    const [dense, all, half] = [await loss("dense"), await loss("all-on"), await loss("half-on")];
    expect(Math.abs(all / dense - 1)).toBeLessThan(1e-5);
    expect(Math.abs(half / dense - 1)).toBeGreaterThan(1e-5);
  });
});

describe("a model's own text", () => {
  it("is written as text and as token ids, and calibrates what it was written for", async () => {
    const options = ["--tokens", "190", "--length", "48", "--tau", "0.5"];
    const report = await good("compress", "calibration-text", "tiny", "--out", "own.jsonl", ...options);
    expect(report).toMatchObject({ out: "own.jsonl", tokens: 192, seed: 1, beams: 4, tau: 0.5, candidates: "drawn" });
    const lines = readFileSync(join(folder, "own.jsonl"), "utf8").trim().split("\n").map((line) => JSON.parse(line) as { text: string; ids: number[] });
    expect(lines.map(({ ids }) => ids.length)).toEqual([48, 48, 48, 48]);
    await good("compress", "calibration-text", "tiny", "--out", "own.txt", ...options);
    expect(readFileSync(join(folder, "own.txt"), "utf8")).toBe(`${lines.map(({ text }) => text).join("\n")}\n`);
    const rotated = await good("compress", "rotate", "tiny", "--out", "rotated");
    expect(rotated["untied"]).toBe(false);
    for (const text of ["own.jsonl", "own.txt"]) {
      const { calibrationTokens } = await good("compress", "gptq", "rotated", "--text", text, "--out", `by-${text}`, ...SMALL);
      if (text === "own.jsonl") expect(calibrationTokens).toBe(192);
    }
    const said = await run("compress", "calibration-text", "tiny", "--out", "plain.jsonl", "--beams", "1", "--tokens", "40", "--length", "20");
    expect(said.code).toBe(0);
    expect(said.stdout).toMatch(/text +plain\.jsonl, 40 tokens in 2 sequences, seed 1\nperplexity +[\d.]+ to the model itself\nexperts .+\nas text .+; ids are kept\nnext +workers-moe compress gptq tiny --text plain\.jsonl --samples 2 --window 20 --out <dir>\n/);
  });
});

writeLater("broken.jsonl", "{\"ids\": [1, 2]}\nno json\n");
writeLater("empty.jsonl", "\n");
writeLater("beyond.jsonl", "{\"ids\": [1, 9999]}\n");
writeLater("other.jsonl", "{\"text\": \"words\"}\n");

it.each([
  ["ids that are not JSON", ["gptq", "tiny", "--text", "broken.jsonl"], "broken.jsonl, line 2 is not JSON; expected {\"ids\": [...]}, the token ids of a sequence."],
  ["a file without ids", ["gptq", "tiny", "--text", "empty.jsonl"], "empty.jsonl holds no sequence"],
  ["ids of another vocabulary", ["gptq", "tiny", "--text", "beyond.jsonl"], "beyond.jsonl, line 1 holds the token id 9999; the model's vocabulary ends at 96."],
  ["lines without ids", ["gptq", "tiny", "--text", "other.jsonl"], "other.jsonl, line 1 has no \"ids\" of at least 2 token ids"],
  ["a dense model that should balance experts", ["calibration-text", "dense", "--tokens", "40"], "is a dense model: it has no experts that a text could ask evenly."],
  ["sequences longer than the model's positions", ["calibration-text", "tiny", "--length", "9000"], "Sequences of 9000 tokens were asked for; the model was made for 2 to 128 positions."],
  ["a dense model", ["prune", "dense", "--text", "text.txt", "--keep", "2"], "is a dense model: it has no experts to take out."],
  ["a text that is not there", ["gptq", "tiny", "--text", "nowhere.txt"], "nowhere.txt cannot be read as UTF-8 text"],
  ["a rule that cannot be", ["nearest", "tiny", "--plan", "attn=5"], "The bit plan's rule \"attn=5\" does not end in"],
  ["a model that has experts already", ["moefy", "tiny", "--experts", "2", "--top-k", "1", "--text", "text.txt"], "has 8 experts already; a dense model was expected."],
  ["a width that experts do not divide", ["moefy", "dense", "--experts", "7", "--top-k", "1", "--text", "text.txt"], "which 7 experts do not divide"],
  ["a router without a text to fit it to", ["moefy", "dense", "--experts", "6", "--top-k", "1", "--router", "fitted"], "needs --text, a text to calibrate with"],
  ["a pack", ["nearest", "mixed-pack", "--plan", "all=8"], "is a pack already"],
  ["more experts than there are", ["prune", "tiny", "--text", "text.txt", "--keep", "9"], "9 experts per layer were to stay; expected 2, which a token takes, to 8."],
])("refuses %s in one sentence, and leaves nothing", async (_, args, message) => {
  const before = readdirSync(folder).sort();
  const { code, stderr } = await run("compress", ...args, "--out", "never", ...(["nearest", "calibration-text", "rotate"].includes(args[0]!) ? [] : SMALL));
  expect(code).toBe(1);
  expect(stderr).toContain(message);
  expect(stderr).not.toMatch(/\n {4}at /);
  expect(readdirSync(folder).sort()).toEqual(before);
});

it("refuses usage that cannot be", async () => {
  expect((await run("compress", "bits", "tiny", "--text", "text.txt", "--bits", "2.5", "--widths", "2,5", "--out", "x")).stderr).toContain("Expected some of 2, 3, 4, 8, such as 2,4.");
  for (const args of [["bits", "tiny", "--text", "text.txt", "--bits", "2.5", "--widths", "5", "--out", "x"], ["merge", "tiny", "--text", "text.txt", "--share", "2", "--out", "x"], ["prune", "tiny", "--keep", "2", "--out", "x"]]) {
    expect((await run("compress", ...args)).code).toBe(2);
  }
});
