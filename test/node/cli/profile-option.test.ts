// `--profile` of eval, logits, chat and trace, as a user runs them: what a profile's interventions do to a pack, the same in all of them, and what is said where a file is no profile of it.

import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { pinnedNode, ROOT } from "../../../cli/setup.mjs";
import { openPack } from "../../../cli/open-pack.ts";
import type { RoutingProfile } from "../../../formats/routing-profile.ts";
import { readTrace } from "../../../formats/trace.ts";
import type { Intervention } from "../../../model/interventions.ts";
import { writeChatPack } from "../../support/serve.ts";

const work = mkdtempSync(join(tmpdir(), "workers-moe-profile-"));
let pack: { folder: string; remove: () => void };
beforeAll(async () => {
  pack = await writeChatPack();
  writeFileSync(join(work, "text.txt"), "a quick brown fox jumps over the lazy dog. ".repeat(6));
  writeFileSync(join(work, "ids.json"), JSON.stringify(Array.from({ length: 40 }, (_, i) => (i * i) % 90)));
});
afterAll(() => {
  pack?.remove();
  rmSync(work, { recursive: true, force: true });
});

const cli = (args: readonly string[], input = "") => spawnSync(pinnedNode, [join(ROOT, "bin/workers-moe.js"), ...args], { cwd: work, encoding: "utf8", input });
let written = 0;
const profile = (interventions: readonly Intervention[], more: Partial<RoutingProfile> | { colour: string } = {}): string => {
  const file = `profile-${written++}.json`;
  writeFileSync(join(work, file), JSON.stringify({ format: "workers-moe-profile", version: 1, name: "it", description: "", model: "chat", access: "admin", interventions, found: null, ...more }));
  return file;
};
const logits = (...args: string[]): Uint8Array => {
  const done = cli(["logits", pack.folder, "--tokens", "ids.json", "--out", "out.f32", "--json", ...args]);
  expect(done.status, done.stderr).toBe(0);
  return readFileSync(join(work, "out.f32"));
};

describe("--profile", () => {
  it("does to logits, loss, chat and trace what its interventions say, and nothing where they say nothing", async () => {
    const plain = logits();
    expect(logits("--profile", profile([]))).toEqual(plain);
    expect(logits("--profile", profile([{ op: "gain", experts: { 0: [1] }, gain: 1 }]))).toEqual(plain);
    const few = profile([{ op: "top_k", k: 1 }, { op: "suppress", experts: { 1: [0, 1] } }]);
    expect(logits("--profile", few)).not.toEqual(plain);
    const { engine } = await openPack(pack.folder);
    const ids = JSON.parse(readFileSync(join(work, "ids.json"), "utf8")) as number[];
    const { logits: [expected] } = await engine.step([{ timeline: engine.kv.open(64), ids, logits: "all", routing: { interventions: [{ op: "top_k", k: 1 }, { op: "suppress", experts: { 1: [0, 1] } }] } }]);
    expect(new Uint8Array(logits("--profile", few))).toEqual(new Uint8Array(expected!.buffer, expected!.byteOffset, expected!.byteLength));

    const nll = (...args: string[]): number => (JSON.parse(cli(["eval", pack.folder, "--text", "text.txt", "--json", ...args]).stdout) as { meanNll: number }).meanNll;
    expect(nll("--profile", few)).not.toBe(nll());
    expect(nll("--profile", profile([{ op: "add_std", experts: { 0: [1] }, lambda: 0 }]))).toBe(nll());
    const said = (...args: string[]): string => cli(["chat", pack.folder, "--temperature", "0", "--max-tokens", "24", ...args], "abc\n").stdout;
    expect(said("--profile", profile([{ op: "suppress", experts: { 0: [0, 1, 2, 3] } }]))).not.toBe(said());

    const made = cli(["trace", pack.folder, "--text", "text.txt", "--out", "text.trace", "--columns", "all", "--json", "--profile", few]);
    expect([made.status, made.stderr]).toEqual([0, ""]);
    const trace = readTrace(readFileSync(join(work, "text.trace")), "text.trace");
    const records = Array.from({ length: trace.length }, (_, i) => trace.record(i));
    expect(records.filter(({ layer }) => layer === 0).every(({ ids: own, norms }) => own.length === 1 && norms!.length === 1)).toBe(true);
    const second = records.filter(({ layer }) => layer === 1);
    expect(second.every(({ ids: own, cosine }) => own.length <= 1 && !Array.from(own).some((id) => id < 2) && cosine!.length === 1)).toBe(true);
    expect(second.some(({ ids: own }) => own.length === 0)).toBe(true);
  });

  it("is refused in a sentence where the file is no profile, or of another pack", () => {
    for (const [file, sentence] of [
      ["nowhere.json", "nowhere.json cannot be read"], ["text.txt", "text.txt is no JSON"], ["ids.json", "ids.json is no routing profile: the document: expected a profile"],
      [profile([], { model: "other" }), "is for the model \"other\"; this one is \"chat\""],
    ] as const) {
      const done = cli(["logits", pack.folder, "--tokens", "ids.json", "--out", "never.f32", "--profile", file]);
      expect([done.status, done.stderr]).toEqual([1, expect.stringContaining(sentence)]);
    }
    const refused = (name: string): string => cli(["eval", pack.folder, "--text", "text.txt", "--profile", name]).stderr;
    expect(refused(profile([], { packHash: "0".repeat(64) }))).toContain("was found in the pack 0000");
    expect(refused(profile([{ op: "mask", experts: { 0: [900] } }]))).toContain("does not fit this model: `mask` names expert 900 of layer 0");
    expect(refused(profile([], { colour: "red" }))).toContain("is no routing profile");
    expect(cli(["trace", "text.trace", "--profile", profile([])]).stderr).toContain("--profile goes with --text");
  });
});
