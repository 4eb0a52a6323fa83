// `compress` as a user runs it: the list of passes, each of them from a published model to a pack that verifies, one after the other, and nothing left of what fails.

import { execFile } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
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
  expect(lines.map((line) => line.split(" ")[0])).toEqual(["gptq", "nearest", "bits", "prune", "merge", "latentize"]);
  for (const line of lines) expect(line).toMatch(/^\w+ +[A-Z].+\. \(.+\)$/);
  expect((await run("compress")).code).toBe(2);
});

describe("a model goes through", () => {
  it("bits and gptq, and is packed, verified and told what it was", async () => {
    await good("compress", "bits", "tiny", "--text", "text.txt", "--bits", "2.5", "--out", "plan.txt", ...SMALL);
    const rules = readFileSync(join(folder, "plan.txt"), "utf8");
    expect(rules.match(/=4/g)!.length).toBe(4);
    const report = await good("compress", "gptq", "tiny", "--text", "text.txt", "--plan", `all=8; ${rules}`, "--out", "mixed", ...SMALL);
    expect((report["layers"] as object[]).length).toBe(2);
    expect(await good("inspect", "mixed")).toMatchObject({ kind: "canonical", name: "mixed", architecture: "qwen3_moe", tokenizer: "BPE", chatTemplate: true, problems: [] });
    await good("pack", "mixed", "--out", "mixed-pack");
    expect((await run("verify", "mixed-pack", "--source", "mixed", "--text", "text.txt")).code).toBe(0);
    const formats = Object.keys((await good("inspect", "mixed-pack"))["typeBytes"] as object);
    expect(formats).toEqual(expect.arrayContaining(["q2", "q4", "q8", "f32"]));
    const evaluated = await good("eval", "mixed-pack", "--text", "text.txt");
    expect(evaluated["perplexity"]).toBeGreaterThan(1);
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
    await good("compress", "merge", "pruned", "--text", "text.txt", "--share", "0.75", "--out", "merged", ...SMALL);
    await good("compress", "nearest", "merged", "--plan", "all=8", "--out", "last");
    await good("pack", "last", "--out", "last-pack");
    expect((await good("inspect", "last-pack"))).toMatchObject({ config: { nExperts: 6 } });
    const { passes } = JSON.parse(readFileSync(join(folder, "last/config.json"), "utf8")) as { passes: { pass: string }[] };
    expect(passes.map(({ pass }) => pass)).toEqual(["prune", "merge", "nearest"]);
    const said = await run("compress", "merge", "pruned", "--text", "text.txt", "--share", "0.5", "--out", "half", ...SMALL);
    expect(said.code).toBe(0);
    expect(said.stdout).toMatch(/model +half, of 6 experts \d+, \d+ in the layers that have them\ncalibration +\d+ tokens in \d windows\nnext +workers-moe pack half --out <dir>\n/);
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
