// `compress` as a user runs it: the list of passes, each of them from a published model to a pack that verifies, one after the other, and nothing left of what fails.

import { execFile } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { parsePassReport, type PassReport } from "../../../passes/pass-report.ts";
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

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "compress-"));
  await writeHuggingFace(tinyModel("qwen3_moe", 61), join(folder, "tiny"));
  await writeGguf(tinyModel("mixtral", 62), join(folder, "tiny.gguf"), { type: "F16" });
  await writeHuggingFace(tinyModel("llama", 63), join(folder, "dense"));
  writeFileSync(join(folder, "text.txt"), Array.from({ length: 60 }, (_, i) => `Line ${i * i % 97} says "${String.fromCharCode(97 + (i % 26)).repeat(3)}", no more.`).join(" "));
});
afterAll(() => rmSync(folder, { recursive: true }));

it("lists its passes, each with a sentence and a source", async () => {
  const { code, stdout } = await run("compress", "--list");
  expect(code).toBe(0);
  const lines = stdout.trim().split("\n");
  expect(lines.map((line) => line.split(" ")[0])).toEqual(["gptq", "nearest", "bits", "prune", "merge"]);
  for (const line of lines) expect(line).toMatch(/^\w+ +[A-Z].+\. \(.+\)$/);
  expect((await run("compress")).code).toBe(2);
});

describe("a model goes through", () => {
  it("bits and gptq, and is packed, verified and told what it was", async () => {
    await good("compress", "bits", "tiny", "--text", "text.txt", "--bits", "2.5", "--out", "plan.txt", ...SMALL);
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

  it("prune, merge and nearest, one after the other, from a GGUF file", async () => {
    await good("compress", "prune", "tiny.gguf", "--text", "text.txt", "text.txt", "--keep", "6", "--out", "pruned", ...SMALL);
    await good("compress", "merge", "pruned", "--text", "text.txt", "--share", "0.75", "--out", "merged", ...SMALL, "--no-report");
    expect(readdirSync(join(folder, "merged")).filter((name) => name.startsWith("report"))).toEqual([]);
    expect(reportIn("pruned/report.json").layers.map(({ kept }) => kept!.length)).toEqual([6, 6]);
    await good("compress", "nearest", "merged", "--plan", "all=8", "--out", "last");
    await good("pack", "last", "--out", "last-pack");
    expect((await good("inspect", "last-pack"))).toMatchObject({ config: { nExperts: 6 } });
    const { passes } = JSON.parse(readFileSync(join(folder, "last/config.json"), "utf8")) as { passes: { pass: string }[] };
    expect(passes.map(({ pass }) => pass)).toEqual(["prune", "merge", "nearest"]);
    const said = await run("compress", "merge", "pruned", "--text", "text.txt", "--share", "0.5", "--out", "half", ...SMALL);
    expect(said.code).toBe(0);
    expect(said.stdout).toMatch(/model +half, of 6 experts \d+, \d+ in the layers that have them\ncalibration +\d+ tokens in \d windows\nreport +half\/report\.html\nnext +workers-moe pack half --out <dir>\n/);
    const half = reportIn("half/report.json");
    expect(half.after!.experts.reduce((sum, { distinct }) => sum + distinct, 0)).toBe(6);
    expect(half.after!.distinctBytes).toBeLessThan(half.after!.bytes);
    expect(half.layers.map(({ clusters }) => new Set(clusters).size)).toEqual(half.after!.experts.map(({ distinct }) => distinct));
  });
});

it.each([
  ["a dense model", ["prune", "dense", "--text", "text.txt", "--keep", "2"], "is a dense model: it has no experts to take out."],
  ["a text that is not there", ["gptq", "tiny", "--text", "nowhere.txt"], "nowhere.txt cannot be read as UTF-8 text"],
  ["a rule that cannot be", ["nearest", "tiny", "--plan", "attn=5"], "The bit plan's rule \"attn=5\" does not end in"],
  ["a pack", ["nearest", "mixed-pack", "--plan", "all=8"], "is a pack already"],
  ["more experts than there are", ["prune", "tiny", "--text", "text.txt", "--keep", "9"], "9 experts per layer were to stay; expected 2, which a token takes, to 8."],
])("refuses %s in one sentence, and leaves nothing", async (_, args, message) => {
  const before = readdirSync(folder).sort();
  const { code, stderr } = await run("compress", ...args, "--out", "never", ...(args[0] === "nearest" ? [] : SMALL));
  expect(code).toBe(1);
  expect(stderr).toContain(message);
  expect(stderr).not.toMatch(/\n {4}at /);
  expect(readdirSync(folder).sort()).toEqual(before);
});

it("refuses usage that cannot be", async () => {
  for (const args of [["bits", "tiny", "--text", "text.txt", "--bits", "2.5", "--widths", "3", "--out", "x"], ["merge", "tiny", "--text", "text.txt", "--share", "2", "--out", "x"], ["prune", "tiny", "--keep", "2", "--out", "x"]]) {
    expect((await run("compress", ...args)).code).toBe(2);
  }
});
