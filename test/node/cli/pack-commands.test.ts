// The commands inspect, pack and verify as a user runs them: output, exit codes, and nothing left behind.

import { execFile } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { type RangeServer, startRangeServer } from "../../support/range-server.ts";
import { tinyModel } from "../../support/tiny-models.ts";
import { writeGguf, writeHuggingFace } from "../../support/write-tiny.ts";

const LAUNCHER = fileURLToPath(new URL("../../../bin/workers-moe.js", import.meta.url));
let folder = "";

interface Outcome {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

const run = (...args: string[]): Promise<Outcome> => start(args).outcome;

function start(args: readonly string[], environment: Readonly<Record<string, string>> = {}): { outcome: Promise<Outcome>; signal: (signal: NodeJS.Signals) => void } {
  let signal: (signal: NodeJS.Signals) => void = () => {};
  const outcome = new Promise<Outcome>((resolve) => {
    const child = execFile(process.execPath, [LAUNCHER, ...args], { cwd: folder, env: { ...process.env, ...environment } }, (error, stdout, stderr) => {
      resolve({ code: error === null ? 0 : Number(error.code), stdout, stderr });
    });
    signal = (name) => void child.kill(name);
  });
  return { outcome, signal: (name) => signal(name) };
}

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

  it("types that no kernel has are packed to no fewer bits, and the error of each tensor is told", async () => {
    const model = tinyModel("qwen3_moe", 52, { config: { hidden_size: 256, moe_intermediate_size: 256, head_dim: 128 } });
    await writeGguf(model, join(folder, "q5.gguf"), { type: "Q5_K", overrideType: (name) => (name.includes("down") ? "Q3_K" : null) });
    const packed = await run("pack", "q5.gguf", "-o", "q5");
    expect(packed).toMatchObject({ code: 0 });
    expect(packed.stdout).toMatch(/requantised\s+\d+ tensors whose types no kernel has/);
    expect(packed.stdout).toMatch(/ {2}Q5_K -> q8\s+\d\.\d{3} %, \d\.\d{2}e-\d: blk\.1\.ffn_gate_exps\.weight\n/);
    expect(packed.stdout).not.toContain("Q3_K"); // q6k holds its every value
    await rm(join(folder, "q5"), { recursive: true });
    const json = JSON.parse((await run("pack", "q5.gguf", "-o", "q5", "--json")).stdout) as { requantized: { tensor: string; relative: number }[]; formatBytes: object };
    expect(json.formatBytes).toMatchObject({ "q8+q6k": expect.any(Number) });
    for (const { relative } of json.requantized) expect(relative).toBeLessThan(0.02);
    expect(json.requantized.map((t) => t.tensor)).toContain("token_embd.weight");
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

describe("a model at an address", () => {
  const files = tinyModel("qwen3_moe", 61, { config: { hidden_size: 256, moe_intermediate_size: 512, head_dim: 64, vocab_size: 600 } }).huggingFaceFiles();
  const args = (address: string, ...more: string[]): string[] => ["pack", address, "--out", "far", "--quant", "f32", ...more];
  const same = (name: string): void => {
    const parts = readdirSync(join(folder, "near", "parts"));
    expect(parts.length).toBeGreaterThan(5);
    expect(readdirSync(join(folder, name, "parts"))).toEqual(parts);
    for (const part of parts) expect(Buffer.compare(readFileSync(join(folder, name, "parts", part)), readFileSync(join(folder, "near", "parts", part))), part).toBe(0);
    expect(readFileSync(join(folder, name, "manifest.json"), "utf8")).toBe(readFileSync(join(folder, "near", "manifest.json"), "utf8"));
  };
  let server: RangeServer;
  beforeAll(async () => {
    server = await startRangeServer(new Map([
      ...[...files].map(([name, bytes]) => [`/org/Near/resolve/main/${name}`, bytes] as const), ...[...files].map(([name, bytes]) => [`/bucket/Near/${name}`, bytes] as const),
      ["/tiny.gguf", readFileSync(join(folder, "tiny.gguf"))] as const,
    ]));
    mkdirSync(join(folder, "Near"));
    for (const [name, bytes] of files) writeFileSync(join(folder, "Near", name), bytes);
    expect(await run("pack", "Near", "--out", "near", "--quant", "f32")).toMatchObject({ code: 0 });
  });
  afterAll(() => server.close());
  beforeEach(() => { server.answer = () => ({}); });
  const address = (): string => `${server.address}/org/Near/resolve/main`;

  it("is inspected and packed as from disk: a folder, a GGUF file, a bucket", async () => {
    expect(JSON.parse((await run("inspect", address(), "--json")).stdout)).toMatchObject({ kind: "huggingface", name: "Near", architecture: "qwen3_moe" });
    expect(JSON.parse((await run("inspect", `${server.address}/tiny.gguf`, "--json")).stdout)).toMatchObject({ kind: "gguf", name: "tiny" });
    expect(await run(...args(address()))).toMatchObject({ code: 0 });
    same("far");
    await rm(join(folder, "far"), { recursive: true });
    const keys = { AWS_ENDPOINT_URL: server.address, AWS_ACCESS_KEY_ID: "a", AWS_SECRET_ACCESS_KEY: "b" };
    expect(await start(args("s3://bucket/Near"), keys).outcome).toMatchObject({ code: 0 });
    same("far");
    await rm(join(folder, "far"), { recursive: true });
  });

  it("interrupted, it keeps what is finished; the same command goes on, --fresh starts over", async () => {
    const before = readdirSync(folder).sort();
    /** Interrupts when the second stretch of weights is asked for: several parts are finished then. */
    const interrupted = async (...more: string[]): Promise<Outcome> => {
      const running = start(args(address(), ...more));
      server.answer = (_, __, request) => {
        const from = Number(/^bytes=(\d+)/.exec(request.headers.range ?? "")?.[1]);
        if (from >= 8 * 2 ** 20) running.signal("SIGINT");
        return {};
      };
      return running.outcome;
    };
    const first = await interrupted();
    expect(first.code).toBe(1);
    expect(first.stderr).toMatch(/Packing was stopped by SIGINT\. [3-9] finished parts are kept in \.far\.unfinished: the same command goes on from there, with --fresh it starts over\.\n$/);
    expect(readdirSync(folder).sort()).toEqual([...before, ".far.unfinished"].sort());

    server.answer = () => ({});
    const other = await run("pack", address(), "--out", "far", "--quant", "q8");
    expect(other).toMatchObject({ code: 1, stderr: expect.stringMatching(/holds an unfinished pack of another model, or one made with other options/) });

    server.requests.length = 0;
    expect(await run(...args(address()))).toMatchObject({ code: 0 });
    same("far");
    const ranges = server.requests.filter((r) => r.path.endsWith(".safetensors")).map((r) => Number(/^bytes=(\d+)/.exec(r.range!)![1]));
    expect(ranges.filter((start) => start > 200_000).every((start) => start > 3 * 2 ** 20)).toBe(true); // the beginning was not read again, but for the header
    expect(readdirSync(folder).sort()).toEqual([...before, "far"].sort());

    await rm(join(folder, "far"), { recursive: true });
    await interrupted();
    server.answer = () => ({});
    expect(await run(...args(address(), "--fresh"))).toMatchObject({ code: 0 });
    same("far");
    await rm(join(folder, "far"), { recursive: true });
  });

  it("a source that fails keeps what is finished too, and says what failed", async () => {
    server.answer = (_, __, request) => (Number(/^bytes=(\d+)/.exec(request.headers.range ?? "")?.[1]) >= 8 * 2 ** 20 ? { status: 410 } : {});
    const failed = await run(...args(address()));
    expect(failed).toMatchObject({ code: 1, stderr: expect.stringMatching(/model\.safetensors changed while it was read.*answers 410.* [3-9] finished parts are kept/) });
    server.answer = () => ({ kind: "whole" });
    expect(await run(...args(address()))).toMatchObject({ code: 1, stderr: expect.stringMatching(/the server sends the whole file when a range of it is asked for/) });
    server.answer = () => ({});
    expect(await run(...args(address()))).toMatchObject({ code: 0 });
    same("far");
    await rm(join(folder, "far"), { recursive: true });
  });

  it("two processes do not write the same pack", async () => {
    mkdirSync(join(folder, ".far.unfinished"));
    writeFileSync(join(folder, ".far.unfinished", "lock"), String(process.pid));
    expect(await run(...args("Near"))).toMatchObject({ code: 1, stderr: expect.stringMatching(new RegExp(`far is being written by process ${process.pid}; wait for it or stop it`)) });
    writeFileSync(join(folder, ".far.unfinished", "lock"), "999999999"); // no such process
    expect(await run(...args("Near"))).toMatchObject({ code: 0 });
    same("far");
    await rm(join(folder, "far"), { recursive: true });
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
    ["an address of an unknown kind", ["inspect", "ftp://host/m.gguf"], 1, /ftp:\/\/host\/m\.gguf has the scheme ftp:\/\/, expected https:\/\/, http:\/\/ or s3:\/\//],
    ["a path that is not there", ["inspect", "nowhere"], 1, /nowhere does not exist/],
    ["a context beyond the model's", ["pack", "Tiny Model", "--out", "x", "--context", "129"], 1, /context of 129 .* 1 to 128/],
    ["no --out", ["pack", "Tiny Model"], 2, /--out <dir>' not specified/],
    ["an unknown quantisation", ["pack", "Tiny Model", "--out", "x", "--quant", "q1"], 2, /q1' is invalid\. Allowed choices are source, f32, q8, q4/],
    ["a bit plan of a width without a kernel", ["pack", "Tiny Model", "--out", "x", "--quant", "attn=4; routed=5"], 1, /The bit plan's rule "routed=5" does not end in =2, =3, =4, =8, =16: the widths that kernels have/],
    ["a file that holds no plan", ["pack", "Tiny Model", "--out", "x", "--quant", "Tiny Model/config.json"], 1, /config\.json has no "plan"; expected \{"plan": "\.\.\."\}/],
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
