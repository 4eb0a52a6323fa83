// Bad models through the command line as a user runs it: exit code 1, one sentence on stderr, nothing on stdout, no file left behind.

import { spawnSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { pinnedNode, ROOT } from "../../../cli/setup.mjs";
import { isSentence } from "../../support/refusal.ts";
import { tinyModel } from "../../support/tiny-models.ts";
import { writeGguf, writeHuggingFace } from "../../support/write-tiny.ts";

const folder = mkdtempSync(join(tmpdir(), "bad-models-"));
const edit = (file: string, change: (text: string) => string): void => writeFileSync(join(folder, file), change(readFileSync(join(folder, file), "utf8")));

beforeAll(async () => {
  const model = tinyModel("olmoe", 67, { config: { num_experts: 2 } });
  await writeGguf(model, join(folder, "short.gguf"), { type: "F16" });
  truncateSync(join(folder, "short.gguf"), 40_000);
  await writeGguf(model, join(folder, "header.gguf"));
  truncateSync(join(folder, "header.gguf"), 3500);
  writeFileSync(join(folder, "empty.gguf"), "");
  await writeHuggingFace(model, join(folder, "good"));
  for (const name of ["config", "cut", "index", "tokenizer", "missing"]) cpSync(join(folder, "good"), join(folder, name), { recursive: true });
  edit("config/config.json", (text) => text.replace('"hidden_size": 64', '"hidden_size": 128'));
  truncateSync(join(folder, "cut/model.safetensors"), 20_000);
  writeFileSync(join(folder, "index/model.safetensors.index.json"), '{"weight_map": {"model.norm.weight": "../good/model.safetensors"}}');
  edit("tokenizer/tokenizer.json", (text) => text.slice(0, -100));
  rmSync(join(folder, "missing/model.safetensors"));
  mkdirSync(join(folder, "pack"));
  writeFileSync(join(folder, "pack/manifest.json"), '{"format": "workers-moe-pack"}');
  // Wrong where only packing looks: a weight of the last expert.
  model.weights.get("layers.1.experts.1.down")!.values[3] = NaN;
  await writeGguf(model, join(folder, "nan.gguf"), { type: "F32" });
});
afterAll(() => rmSync(folder, { recursive: true }));

const run = (...args: string[]) => spawnSync(pinnedNode, [join(ROOT, "bin/workers-moe.js"), ...args], { cwd: folder, encoding: "utf8" });

describe.each<[string, readonly string[], RegExp]>([
  ["short.gguf", ["inspect", "pack"], /^folder \., short\.gguf: tensor \S+ \(F16 \[\d+, .*\]\) ends at byte \d+, but the file has only 40000 bytes; it is cut short\.$/],
  ["header.gguf", ["inspect", "pack"], /^folder \., header\.gguf: the file is cut short within its header: expected \d+ more bytes for .* at byte 3500, the end of the file\.$/],
  ["empty.gguf", ["inspect"], /^folder \., empty\.gguf: the file is cut short within its header/],
  ["config", ["inspect", "pack"], /^folder config: tensor model\.embed_tokens\.weight in model\.safetensors \(embed\) has shape \[97, 64\], expected \[97, 128\]\.$/],
  ["cut", ["inspect", "pack"], /^folder cut, model\.safetensors: tensor \S+ ends at byte \d+ of the data, but the file has only \d+ bytes of data; it is cut short or its header is wrong\.$/],
  ["index", ["pack"], /^folder index, model\.safetensors\.index\.json: tensor model\.norm\.weight is said to be in "\.\.\/good\/model\.safetensors", expected the name of a \.safetensors file beside it\.$/],
  ["tokenizer", ["pack"], /^folder tokenizer, tokenizer\.json is no valid JSON: .*\.$/],
  ["missing", ["pack"], /^folder missing has neither model\.safetensors nor model\.safetensors\.index\.json\.$/],
  ["pack", ["inspect"], /^folder pack, manifest\.json: version: Invalid input: expected 2, found nothing\.$/],
  ["nan.gguf", ["pack"], /^Tensor blk\.1\.ffn_down_exps\.weight of folder \., nan\.gguf, row 0, column 3 is NaN, expected a finite value\.$/],
])("%s", (model, commands, message) => {
  it.each(commands)("%s", (command) => {
    const before = readdirSync(folder).sort();
    const done = run(command, model, ...(command === "pack" ? ["--out", "out"] : []));
    expect(done.status, done.stderr).toBe(1);
    expect(done.stdout).toBe("");
    const lines = done.stderr.split("\n").filter((line) => line !== "" && !line.startsWith("packing "));
    expect(lines).toHaveLength(1);
    const said = lines[0]!.replace(/^workers-moe: /, "");
    expect(said).toMatch(message);
    expect(isSentence(said)).toBe(true);
    expect(done.stderr).not.toMatch(/^\s+at /m);
    expect(readdirSync(folder).sort()).toEqual(before);
  });
});

it("--json says the same as one document", () => {
  const done = run("pack", "short.gguf", "--out", "out", "--json");
  expect(done.status).toBe(1);
  expect(done.stderr).toBe("");
  expect(JSON.parse(done.stdout)).toEqual({ error: { message: expect.stringContaining("it is cut short") as string } });
});
