// The command trace as a user runs it: of a text, of a server's traffic, of a file, and what it says where one of them is missing.
// What it records of a text is compared with the engine's own router, window by window.

import { execFile } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openPack } from "../../../cli/open-pack.ts";
import { FolderSink } from "../../../cli/file-source.ts";
import { afterPass, unchanged, writeCanonical } from "../../../formats/canonical-writer.ts";
import { readTrace } from "../../../formats/trace.ts";
import { openTinyHuggingFace, openTinyPlain } from "../../support/pack-to-memory.ts";
import { writeChatPack } from "../../support/serve.ts";
import { tinyModel } from "../../support/tiny-models.ts";

const LAUNCHER = fileURLToPath(new URL("../../../bin/workers-moe.js", import.meta.url));
const KEY = "the-key-of-the-server";
let pack: Awaited<ReturnType<typeof writeChatPack>>;
let folder = "";
let server: Server;
let address = "";
let traceFile = new Uint8Array(0);

const run = (args: readonly string[], environment: Readonly<Record<string, string>> = {}): Promise<{ code: number; stdout: string; stderr: string }> => new Promise((resolve) => {
  execFile(process.execPath, [LAUNCHER, ...args], { cwd: folder, env: { ...process.env, ...environment } }, (error, stdout, stderr) => resolve({ code: error === null ? 0 : Number(error.code), stdout, stderr }));
});

beforeAll(async () => {
  pack = await writeChatPack();
  folder = mkdtempSync(join(tmpdir(), "trace-"));
  // Longer than one window of the context.
  writeFileSync(join(folder, "text.txt"), "a quick brown fox jumps over the lazy dog. ".repeat(250));
  server = createServer((request, response) => {
    const knows = request.headers.authorization === `Bearer ${KEY}`;
    response.writeHead(request.url !== "/v1/traces" ? 404 : knows ? 200 : 401, { "Content-Type": knows ? "application/octet-stream" : "application/json" });
    response.end(knows ? traceFile : JSON.stringify({ error: { message: "The key is not known here." } }));
  });
  await new Promise<void>((resolve) => void server.listen(0, "127.0.0.1", resolve));
  address = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});
afterAll(() => {
  server.close();
  pack.remove();
  rmSync(folder, { recursive: true });
});

describe("trace", () => {
  it("of a text has what the router chose for every token of every window, and reads back from the file and from a server", async () => {
    const made = await run(["trace", pack.folder, "--text", "text.txt", "--out", "text.trace", "--json"]);
    expect([made.code, made.stderr]).toEqual([0, ""]);
    const summary = JSON.parse(made.stdout) as { requests: number; layers: { tokens: number; chosen: number[] }[] };
    traceFile = readFileSync(join(folder, "text.trace"));
    const trace = readTrace(traceFile, "text.trace");
    const records = Array.from({ length: trace.length }, (_, i) => trace.record(i));

    const { engine, tokenizer } = await openPack(pack.folder);
    const ids = tokenizer!.encodeText(readFileSync(join(folder, "text.txt"), "utf8"));
    expect(ids.length).toBeGreaterThan(engine.contextLength);
    expect(summary.requests).toBe(Math.ceil(ids.length / engine.contextLength));
    expect(summary.layers.map(({ tokens }) => tokens)).toEqual([ids.length, ids.length]);
    // The second window by hand: by itself, in chunks of another size.
    const window = ids.slice(engine.contextLength, engine.contextLength + 40);
    const timeline = engine.kv.open(window.length);
    const wanted: unknown[] = [];
    for (let at = 0; at < window.length; at += 7) {
      await engine.step([{ timeline, ids: window.slice(at, at + 7), logits: "none" }], [{ at: "selection", run: ({ layer, nTokens, positions, ids: chosen, weights }) => {
        const k = engine.config.router.topK;
        for (let t = 0; t < nTokens; t++) wanted.push({ request: 1, token: positions[t], layer, ids: Array.from(chosen.subarray(t * k, (t + 1) * k)), weights: Array.from(weights.subarray(t * k, (t + 1) * k)) });
      } }]);
    }
    const found = records.filter(({ request, token }) => request === 1 && token < window.length);
    expect(found).toHaveLength(2 * window.length);
    expect(new Set(found.map((record) => JSON.stringify(record)))).toEqual(new Set(wanted.map((record) => JSON.stringify(record))));

    const withoutOut = ({ out: _, ...rest }: { out?: string }): object => rest;
    const expected = withoutOut(JSON.parse(made.stdout) as object);
    for (const [source, environment] of [["text.trace", {}], [address, { WORKERS_MOE_KEY: KEY }]] as const) {
      const again = await run(["trace", source, "--json"], environment);
      expect([again.code, JSON.parse(again.stdout)]).toEqual([0, expected]);
    }
    const fetched = await run(["trace", address, "--key", KEY, "--out", "fetched.trace"]);
    expect(fetched.stdout).toContain(`fetched.trace has ${records.length} records.`);
    expect(readFileSync(join(folder, "fetched.trace"))).toEqual(Buffer.from(traceFile));
  });

  it.each<[string, () => readonly string[], string]>([
    ["a pack without a text", () => [pack.folder], "--text must say which text"],
    ["a text that is not there", () => [pack.folder, "--text", "nothing.txt", "--out", "refused.trace"], "nothing.txt cannot be read"],
    ["an address with a text", () => [address, "--text", "text.txt"], "a served model's trace is of its own traffic"],
    ["a wrong key", () => [address, "--key", "another", "--out", "refused.trace"], "answered 401: The key is not known here."],
    ["nobody at the address", () => ["http://127.0.0.1:2/"], "cannot be reached"],
    ["a file that is no trace", () => ["text.txt"], "text.txt is no trace"],
    ["a file with a text", () => ["text.txt", "--text", "text.txt"], "is a file"],
  ])("refuses %s", async (_, args, message) => {
    const { code, stderr, stdout } = await run(["trace", ...args()]);
    expect([code, stdout]).toEqual([1, ""]);
    expect(stderr).toContain(message);
    expect(existsSync(join(folder, "refused.trace"))).toBe(false);
    expect(existsSync(join(folder, "refused.trace.partial"))).toBe(false);
  });

  it("says how local routing is, the same of a text and of its file", async () => {
    const [ofText, ofFile] = [await run(["trace", pack.folder, "--text", "text.txt", "--locality", "--json"]), await run(["trace", "text.trace", "--locality", "--json"])];
    expect([ofText.code, ofFile.code]).toEqual([0, 0]);
    const { locality } = JSON.parse(ofText.stdout) as { locality: { layer: number; segments: { srp: number }[]; caches: { recentlyUsed: number; segment: number; best: number }[] }[] };
    expect((JSON.parse(ofFile.stdout) as { locality: unknown }).locality).toEqual(locality);
    expect(locality.map(({ layer }) => layer)).toEqual([0, 1]);
    for (const { caches } of locality) for (const { recentlyUsed, segment, best } of caches) expect(recentlyUsed <= best && segment <= best).toBe(true);
    const told = await run(["trace", "text.trace", "--locality"]);
    expect(told.stdout).toMatch(/ {2}segments of 4 +SRP 0\.\d{3}.*, \d+\.\d\d times the places asked for\n[^]* {2}cache of \d+ +LRU \d+\.\d %, SCH \d+\.\d %, best possible \d+\.\d % of choices hit\nA cache of \d+ experts a layer, twice those of a token, would serve/);
    expect((JSON.parse((await run(["trace", "text.trace", "--json"])).stdout) as { locality?: unknown }).locality).toBeUndefined();
  });

  it("counts the neurons that work, of a model whose experts have ReLU, and refuses a pack and a missing text", async () => {
    const model = tinyModel("olmoe", 3, { expertKind: "relu-mlp" });
    for (const [name, { values }] of model.weights) if (name.endsWith("layers.1.experts.0.upBias")) values.fill(-1e6);
    const [plain, { tokenizer }] = [openTinyPlain(model), await openTinyHuggingFace(tinyModel("olmoe", 3))];
    await writeCanonical(await FolderSink.create(join(folder, "relu")), { ...afterPass(plain, { pass: "drawn", options: {} }), tokenizer }, [...plain.places()].map(({ name }) => unchanged(plain, name)));
    writeFileSync(join(folder, "short.txt"), "a quick brown fox jumps over the lazy dog. ".repeat(4));
    const json = await run(["trace", "relu", "--text", "short.txt", "--l0", "--json"]);
    expect([json.code, json.stderr]).toEqual([0, ""]);
    const { expertKind, tokens, layers } = JSON.parse(json.stdout) as { expertKind: string; tokens: number; layers: { layer: number; width: number; meanL0: number; experts: { tokens: number; working: number }[] }[] };
    expect([expertKind, layers.map(({ layer, width }) => [layer, width])]).toEqual(["relu-mlp", [[0, 32], [1, 32]]]);
    for (const { meanL0, experts } of layers) {
      expect(experts.reduce((sum, of) => sum + of.tokens, 0)).toBe(2 * tokens);
      expect(meanL0).toBeGreaterThan(2);
      expect(meanL0).toBeLessThan(30);
    }
    expect(layers[1]!.experts[0]).toMatchObject({ working: 0 });
    expect((await run(["trace", "relu", "--text", "short.txt", "--l0"])).stdout).toMatch(/^relu: relu-mlp experts over \d+ tokens, neurons that work on a token\.\nlayer 0 {2}\d+\.\d of 32 \(\d+\.\d %\); by expert \d+\.\d to \d+\.\d\n/);
    expect((await run(["inspect", "relu"])).stdout).toContain("8 per layer, 2 per token, 32 wide (relu-mlp), ");
    for (const [args, message] of [[["relu", "--l0"], "--l0 goes with --text"], [[pack.folder, "--text", "short.txt", "--l0"], "is a pack already"]] as const) {
      const { code, stderr, stdout } = await run(["trace", ...args]);
      expect([code, stdout]).toEqual([1, ""]);
      expect(stderr).toContain(message);
    }
  });
});
