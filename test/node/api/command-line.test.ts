// The command line as a process: exit codes, one JSON document, and what logits, eval and chat say about a pack.

import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { spawnSync } from "node:child_process";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { windowsOf } from "../../../cli/commands/eval.ts";
import { pinnedNode, ROOT } from "../../../cli/setup.mjs";
import { writeTinyPack } from "../../support/serve.ts";

const work = mkdtempSync(join(tmpdir(), "workers-moe-cli-"));
let pack: { folder: string; remove: () => void };
beforeAll(async () => {
  pack = await writeTinyPack();
});
afterAll(() => {
  pack?.remove();
  rmSync(work, { recursive: true, force: true });
});

const cli = (args: readonly string[], input = "") => spawnSync(pinnedNode, [join(ROOT, "bin/workers-moe.js"), ...args], { cwd: work, encoding: "utf8", input });

describe("exit codes", () => {
  it.each([
    [["--help"], 0], [["--version"], 0], [["serve", "--help"], 0],
    [[], 2], [["fly"], 2], [["logits", "x"], 2], [["serve", "x", "--port", "99999"], 2], [["chat", "x", "--temperature", "hot"], 2],
    [["logits", "nowhere", "--tokens", "a", "--out", "b"], 1], [["serve", "nowhere"], 1], [["eval", "nowhere", "--text", "a"], 1],
  ] as const)("%j -> %i", (args, code) => {
    const done = cli(args);
    expect(done.status, done.stderr).toBe(code);
  });

  it("a failure is one sentence on stderr, or one document with --json", () => {
    const plain = cli(["logits", "nowhere", "--tokens", "a", "--out", "b"]);
    expect(plain.stdout).toBe("");
    expect(plain.stderr).toMatch(/^workers-moe: .*no manifest\.json/);
    const json = cli(["logits", "nowhere", "--tokens", "a", "--out", "b", "--json"]);
    expect(JSON.parse(json.stdout)).toEqual({ error: { message: expect.stringContaining("no manifest.json") as string } });
  });

  it.each([
    [["--port", "1e3"], "option '-p, --port <port>' argument '1e3' is invalid. Expected a whole number above 0."],
    [["--port", "65536"], "option '-p, --port <port>' argument '65536' is invalid. Expected a port number from 1 to 65535."],
    [["--processes", "0"], "option '--processes <n>' argument '0' is invalid. Expected a whole number above 0."],
    [["--isolate-mib", "4097"], "option '--isolate-mib <n>' argument '4097' is invalid. Expected at most"],
    [["--isolates", "some"], "option '--isolates <mode>' argument 'some' is invalid. Expected \"shared\" or \"strict\"."],
  ])("serve %j is refused in words that say what was found and expected", (args, message) => {
    const done = cli(["serve", pack.folder, ...args]);
    expect(done.status).toBe(2);
    expect(done.stderr).toContain(message);
  });

  it("--processes beyond the shards says so, instead of starting idle ones", () => {
    const done = cli(["serve", pack.folder, "--processes", "4", "--shards", "2"]);
    expect(done.status).toBe(1);
    expect(done.stderr).toContain("--processes 4 leaves 3 processes for 2 shards; ask for more shards or for at most 3 processes.");
  });
});

describe("logits", () => {
  it("writes one row per position, the same for a prefix", () => {
    const rowsOf = (ids: number[]): Float32Array => {
      writeFileSync(join(work, "ids.json"), JSON.stringify(ids));
      const done = cli(["logits", pack.folder, "--tokens", "ids.json", "--out", "logits.f32", "--json"]);
      expect(done.status, done.stderr).toBe(0);
      expect(JSON.parse(done.stdout)).toMatchObject({ tokens: ids.length, vocabulary: 97 });
      const bytes = readFileSync(join(work, "logits.f32"));
      expect(bytes.length).toBe(ids.length * 97 * 4);
      return new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
    };
    const three = rowsOf([5, 6, 7]);
    expect(three.every(Number.isFinite)).toBe(true);
    expect(rowsOf([5, 6])).toEqual(three.slice(0, 2 * 97));
  });

  it.each([
    ["[1, 97]", /entry 1 is 97; a token id from 0 to 96/], ["[]", /an empty array; an array of at least one/], ["{}", /a object; an array/],
    ["[1.5]", /entry 0 is 1.5/], ["[1,", /cannot be read as JSON/],
  ])("refuses %s and leaves no file", (ids, message) => {
    writeFileSync(join(work, "bad.json"), ids);
    const done = cli(["logits", pack.folder, "--tokens", "bad.json", "--out", "none.f32"]);
    expect(done.status).toBe(1);
    expect(done.stderr).toMatch(message);
    expect(existsSync(join(work, "none.f32"))).toBe(false);
    expect(existsSync(join(work, "none.f32.partial"))).toBe(false);
  });
});

describe("eval", () => {
  it("agrees with the logits", () => {
    writeFileSync(join(work, "text.txt"), "abcab");
    const done = cli(["eval", pack.folder, "--text", "text.txt", "--json"]);
    expect(done.status, done.stderr).toBe(0);
    const result = JSON.parse(done.stdout) as { tokens: number; countedTokens: number; countedBytes: number; meanNll: number; perplexity: number; bitsPerByte: number };
    // In the tiny vocabulary "!" (33) is id 3, so "a" (97) is id 67.
    const ids = [67, 68, 69, 67, 68];
    writeFileSync(join(work, "ids.json"), JSON.stringify(ids));
    expect(cli(["logits", pack.folder, "--tokens", "ids.json", "--out", "eval.f32"]).status).toBe(0);
    const bytes = readFileSync(join(work, "eval.f32"));
    const logits = new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
    let nll = 0;
    for (let i = 0; i + 1 < ids.length; i++) {
      const row = logits.subarray(i * 97, (i + 1) * 97);
      nll += Math.log(row.reduce((sum, x) => sum + Math.exp(x), 0)) - row[ids[i + 1]!]!;
    }
    expect(result).toMatchObject({ tokens: 5, countedTokens: 4, countedBytes: 4 });
    expect(result.meanNll).toBeCloseTo(nll / 4, 6);
    expect(result.perplexity).toBeCloseTo(Math.exp(nll / 4), 4);
    expect(result.bitsPerByte).toBeCloseTo(nll / Math.LN2 / 4, 6);
  });

  it.each([
    [10, 4, false], [11, 4, false], [3, 8, false], [2, 8, false], [9, 5, true], [1, 4, true], [100, 7, false], [50, 1, true],
  ])("windows of %i tokens in %i places count every token once", (nTokens, room, predictsFirst) => {
    const counted: number[] = [];
    for (const { start, end, countFrom } of windowsOf(nTokens, room, predictsFirst)) {
      expect(end - start).toBeLessThanOrEqual(room);
      // Something stands before each counted token in its window.
      expect(countFrom > start || predictsFirst).toBe(true);
      for (let i = countFrom; i < end; i++) counted.push(i);
    }
    expect(counted).toEqual(Array.from({ length: nTokens - (predictsFirst ? 0 : 1) }, (_, i) => i + (predictsFirst ? 0 : 1)));
  });
});

describe("chat", () => {
  it("answers each line of stdin, the same with the same seed", () => {
    const once = cli(["chat", pack.folder, "--seed", "7", "--max-tokens", "12"], "abc\nxyz\n");
    expect(once.status, once.stderr).toBe(0);
    expect(once.stdout.split("\n").length).toBeGreaterThanOrEqual(3);
    expect(cli(["chat", pack.folder, "--seed", "7", "--max-tokens", "12"], "abc\nxyz\n").stdout).toBe(once.stdout);
    expect(cli(["chat", pack.folder, "--seed", "8", "--max-tokens", "12"], "abc\nxyz\n").stdout).not.toBe(once.stdout);
  });

  it("may leave experts out, as a request may", () => {
    const said = (...prune: string[]): string => cli(["chat", pack.folder, "--temperature", "0", "--max-tokens", "24", ...prune], "abc\n").stdout;
    expect(said("--prune", "0")).toBe(said());
    expect(said("--prune", "1", "--protect-first", "0")).not.toBe(said());
    const refused = cli(["chat", pack.folder, "--prune", "learned"], "abc\n");
    expect([refused.status, refused.stderr]).toEqual([1, expect.stringContaining("this model has no mask router")]);
  });
});
