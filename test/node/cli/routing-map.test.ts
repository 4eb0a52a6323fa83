// `workers-moe profile --map` as a user runs it: texts, lines and traces of two kinds become one document beside a pack, the same whichever way they went in; and what it says where something does not
// go together. Out of scope: the sums (test/node/formats/routing-map.test.ts).

import { execFile } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { FolderSource } from "../../../cli/file-source.ts";
import { openPack } from "../../../formats/pack-reader.ts";
import { readRoutingMap, type RoutingMap } from "../../../formats/routing-map.ts";
import { writeChatPack } from "../../support/serve.ts";

const LAUNCHER = fileURLToPath(new URL("../../../bin/workers-moe.js", import.meta.url));
let pack: Awaited<ReturnType<typeof writeChatPack>>;
let folder = "";
const run = (args: readonly string[]): Promise<{ code: number; stdout: string; stderr: string }> => new Promise((resolve) => {
  execFile(process.execPath, [LAUNCHER, "profile", pack.folder, ...args], { cwd: folder }, (error, stdout, stderr) => resolve({ code: error === null ? 0 : Number(error.code), stdout, stderr }));
});

beforeAll(async () => {
  pack = await writeChatPack();
  folder = mkdtempSync(join(tmpdir(), "routing-map-"));
  writeFileSync(join(folder, "fox.txt"), "a quick brown fox jumps over the lazy dog.\n");
  writeFileSync(join(folder, "sums.txt"), "1 + 2 = 3; 3 + 4 = 7; 7 + 8 = 15\n");
  writeFileSync(join(folder, "both.jsonl"), `${JSON.stringify({ en: "the dog is lazy", fr: "le chien dort" })}\n`);
});
afterAll(() => {
  pack.remove();
  rmSync(folder, { recursive: true });
});

describe("profile --map", () => {
  it("writes the map that lies beside the pack and is read as its own", async () => {
    const out = join(pack.folder, "routing-map.json");
    const made = await run(["--texts", "domain:fox=fox.txt", "sums=sums.txt", "language:en=both.jsonl", "language:fr=both.jsonl", "--map", out]);
    expect([made.code, made.stdout]).toEqual([0, expect.stringMatching(/^chat: 4 classes by weight; the most taken expert of each layer\n {2}domain fox, \d+ tokens: 0: \d+ \(\d+ %\), 1: .*\n {2}domain sums, .*\n {2}language en, .*\n {2}language fr, .*\ndivergence of domains, from .* \(fox \/ sums\)/)]);
    const source = new FolderSource(pack.folder);
    const { manifest: { id, config }, packHash: hash } = await openPack(source);
    const map = (await readRoutingMap(source, { id, hash, config }))!;
    expect(map.classes.map(({ kind, label }) => `${kind} ${label}`)).toEqual(["domain fox", "domain sums", "language en", "language fr"]);
    expect(map.divergence.map(({ kind, a, b }) => `${kind} ${a} ${b}`)).toEqual(["domain fox sums", "language en fr"]);
    for (const { layers } of map.divergence) for (const value of layers) expect(value).toBeGreaterThan(0);
    const printed = await run(["--texts", "domain:fox=fox.txt", "sums=sums.txt", "language:en=both.jsonl", "language:fr=both.jsonl", "--map", "again.json", "--json"]);
    expect(JSON.parse(printed.stdout)).toEqual({ map: "again.json", ...map });
    expect(JSON.parse(readFileSync(join(folder, "again.json"), "utf8")) as RoutingMap).toEqual(map);
  });

  it("says in words what is wrong, and leaves no file", async () => {
    for (const [args, message] of [
      [[], "No texts were given; expected --texts or --counts with KIND:LABEL=FILE."],
      [["--texts", "tongue:fr=fox.txt"], '"tongue:fr" is no label of a map; expected one such as domain:LABEL or language:LABEL.'],
      [["--texts", "fox=fox.txt", "domain:fox=sums.txt"], 'The domain "fox" is there twice; expected one file for each.'],
      [["--texts", "fox=fox.txt", "--target", "fox"], "--map goes with --texts and --counts, and names its own file"],
      [["--texts", "fox=fox.txt", "--out", "a.json"], "--map goes with --texts and --counts, and names its own file"],
      [["--texts", "fox=fox.txt", "--by", "frequency"], "--by frequency is of a profile"],
      [["--texts", "fox=none.txt"], "none.txt cannot be read"],
    ] as const) {
      const { code, stderr } = await run([...args, "--map", "refused.json"]);
      expect([code, stderr]).toEqual([1, expect.stringContaining(message)]);
      expect(existsSync(join(folder, "refused.json"))).toBe(false);
    }
    const { code, stderr } = await run(["--texts", "fox=fox.txt", "--map", "fox.txt"]);
    expect([code, stderr]).toEqual([1, expect.stringContaining("fox.txt exists already; give another --map or remove it first.")]);
  });
});
