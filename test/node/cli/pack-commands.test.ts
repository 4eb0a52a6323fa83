// The commands inspect, pack and verify as a user runs them: output, exit codes, and nothing left behind.

import { execFile } from "node:child_process";
import { mkdtempSync, readFileSync, readdirSync, rmSync, truncateSync, writeFileSync } from "node:fs";
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

const run = (...args: string[]): Promise<Outcome> =>
  new Promise((resolve) => {
    execFile(process.execPath, [LAUNCHER, ...args], { cwd: folder }, (error, stdout, stderr) => {
      resolve({ code: error === null ? 0 : Number(error.code), stdout, stderr });
    });
  });

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "pack-commands-"));
  const model = tinyModel("qwen3_moe", 51);
  await writeHuggingFace(model, join(folder, "Tiny Model"), { shards: 2 });
  await writeGguf(model, join(folder, "tiny.gguf"), { type: "Q8_0" });
  await writeGguf(model, join(folder, "short.gguf"), { type: "Q8_0" });
  truncateSync(join(folder, "short.gguf"), 100_000);
  // Fails when most of the pack is written: the last matrix holds a value that no format of groups can.
  model.weights.get("layers.1.experts.7.down")!.values[5] = NaN;
  await writeGguf(model, join(folder, "nan.gguf"), { type: "F32" });
});
afterAll(() => rmSync(folder, { recursive: true }));

describe("a model becomes a pack", () => {
  it("inspect, pack, inspect, verify, and the same again gives the same bytes", async () => {
    const inspected = await run("inspect", "Tiny Model", "--json");
    expect(inspected.code).toBe(0);
    expect(JSON.parse(inspected.stdout)).toMatchObject({
      kind: "huggingface", name: "Tiny Model", architecture: "qwen3_moe", tokenizer: "BPE", chatTemplate: true, eosTokenIds: [0], problems: [],
      // Two layers: q, o 128 x 64, k, v 64 x 64, norms 64, 64, 32, 32, router 8 x 64; experts of 3 x 64 x 64.
      parameters: 2 * 97 * 64 + 64 + 2 * (2 * 128 * 64 + 2 * 64 * 64 + 2 * 64 + 2 * 32 + 8 * 64) + 16 * 3 * 64 * 64,
      activeParameters: 2 * 97 * 64 + 64 + 2 * (2 * 128 * 64 + 2 * 64 * 64 + 2 * 64 + 2 * 32 + 8 * 64) + 4 * 3 * 64 * 64,
      expertBytes: { first: 3 * 64 * 64 * 2 },
    });

    const packed = await run("pack", "Tiny Model", "--out", "a", "--quant", "q4", "--context", "50", "--segment", "32");
    expect(packed.code).toBe(0);
    expect(packed.stdout).toMatch(/^pack\s+tiny-model in a, 1 parts, revision [0-9a-f]{12}\n/);
    expect(packed.stdout).toMatch(/error of down\s+\d\.\d{3} % relative/);
    expect(packed.stderr).toContain("packing tiny-model");

    const again = await run("pack", "Tiny Model", "--out", "b", "--quant", "q4", "--context", "50", "--segment", "32", "--json");
    expect(again.stderr).toBe("");
    expect(JSON.parse(again.stdout)).toMatchObject({ id: "tiny-model", contextLength: 50, activations: "qa8", kvFormat: "f16", quantizationError: { down: { relative: expect.closeTo(0.086, 2) } } });
    for (const file of ["manifest.json", "tokenizer.json", "parts/00000.bin"]) expect(readFileSync(join(folder, "a", file))).toEqual(readFileSync(join(folder, "b", file)));

    expect((await run("inspect", "a")).stdout).toMatch(/context\s+50 of 128 tokens[^]*32 expert segments/);
    expect(await run("verify", "a")).toMatchObject({ code: 0, stdout: expect.stringMatching(/^tiny-model: \d+ blobs in 1 parts, .* all as the manifest says/) });
  });

  it("a GGUF file packs without loss by default", async () => {
    const packed = await run("pack", "tiny.gguf", "-o", "from-gguf", "--id", "tiny", "--json");
    expect(packed.code).toBe(0);
    expect(JSON.parse(packed.stdout)).toMatchObject({ id: "tiny", quantizationError: {}, warnings: [], formatBytes: { q8: expect.any(Number) } });
  });

  it("a pack may ask for a KV cache in q8, and is evaluated with it", async () => {
    writeFileSync(join(folder, "ids.json"), "[1, 5, 9, 13, 2, 7]");
    const bits: Buffer[] = [];
    for (const kv of ["q8", "f16"]) {
      const packed = await run("pack", "tiny.gguf", "-o", `kv-${kv}`, "--id", "tiny", "--kv", kv, "--json");
      expect(JSON.parse(packed.stdout)).toMatchObject({ kvFormat: kv });
      expect(await run("logits", `kv-${kv}`, "--tokens", "ids.json", "--out", `${kv}.f32`)).toMatchObject({ code: 0 });
      bits.push(readFileSync(join(folder, `${kv}.f32`)));
    }
    const [q8, f16] = bits.map((b) => new Float32Array(b.buffer, b.byteOffset, b.length / 4)) as [Float32Array, Float32Array];
    expect(q8).not.toEqual(f16);
    const largest = Math.max(...f16.map(Math.abs));
    expect(Math.max(...q8.map((x, i) => Math.abs(x - f16[i]!)))).toBeLessThan(0.05 * largest);
  });
});

describe("what fails", () => {
  it("verify tells damage with part, blob, found and expected", async () => {
    await run("pack", "Tiny Model", "--out", "damaged", "--quant", "q8");
    const part = join(folder, "damaged", "parts", "00000.bin");
    const bytes = readFileSync(part);
    bytes[4000]! ^= 1;
    writeFileSync(part, bytes);
    const altered = await run("verify", "damaged");
    expect(altered.code).toBe(1);
    expect(altered.stderr).toMatch(/Pack tiny-model \(folder damaged\), parts\/00000\.bin, bytes 0 to \d+, blob embed: found SHA-256 \w+, expected \w+/);
    truncateSync(part, bytes.length - 1);
    expect((await run("verify", "damaged", "--json")).stdout).toMatch(/^\{"error":\{"message":".*parts\/00000\.bin has \d+ bytes, expected \d+ bytes/);
  });

  it.each([
    ["a GGUF cut short", ["pack", "short.gguf", "--out", "x"], 1, /short\.gguf: tensor \S+ \(Q8_0 \[.*\]\) ends at byte \d+, but the file has only 100000 bytes/],
    ["a weight that is no number, met at the end", ["pack", "nan.gguf", "--out", "x", "--quant", "q8"], 1, /blk\.1\.ffn_down_exps\.weight of folder \., nan\.gguf, row 0, column 5 is NaN/],
    ["a folder that is no model", ["pack", ".", "--out", "x"], 1, /neither config\.json .* nor manifest\.json/],
    ["a path that is not there", ["inspect", "nowhere"], 1, /nowhere does not exist/],
    ["a context beyond the model's", ["pack", "Tiny Model", "--out", "x", "--context", "129"], 1, /context of 129 .* 1 to 128/],
    ["no --out", ["pack", "Tiny Model"], 2, /--out <dir>' not specified/],
    ["an unknown quantisation", ["pack", "Tiny Model", "--out", "x", "--quant", "q3"], 2, /q3' is invalid\. Allowed choices are source, f32, q8, q4/],
    ["a segment that is no multiple of 32", ["pack", "Tiny Model", "--out", "x", "--segment", "40"], 2, /multiple of 32/],
  ])("%s", async (_, args, code, message) => {
    const before = readdirSync(folder).sort();
    const outcome = await run(...args);
    expect(outcome.code).toBe(code);
    expect(outcome.stderr).toMatch(message);
    expect(readdirSync(folder).sort()).toEqual(before);
  });

  it("a target that exists is left alone", async () => {
    writeFileSync(join(folder, "taken"), "mine");
    expect(await run("pack", "tiny.gguf", "--out", "taken")).toMatchObject({ code: 1, stderr: expect.stringMatching(/taken exists already/) });
    expect(readFileSync(join(folder, "taken"), "utf8")).toBe("mine");
  });
});
