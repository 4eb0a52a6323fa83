// `plan` from the command line: a pack, a config alone, the document, refusals and their exit codes.

import { execFile } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, it } from "vitest";
import { regionList, sizeInBytes } from "../../../cli/commands/plan.ts";
import type { PlanDocument } from "../../../cli/plan-document.ts";
import { serveMemory } from "../../../cli/serve-memory.ts";
import { openPath } from "../../../cli/open-model.ts";

const ROOT = fileURLToPath(new URL("../../..", import.meta.url));
const LAUNCHER = join(ROOT, "bin/workers-moe.js");
const DEMO = join(ROOT, "demo/pack");
const folder = mkdtempSync(join(tmpdir(), "plan-"));
afterAll(() => rmSync(folder, { recursive: true }));

function plan(...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  return new Promise((resolve) => {
    execFile(process.execPath, [LAUNCHER, "plan", ...args], (error, stdout, stderr) => resolve({ code: error === null ? 0 : Number(error.code), stdout, stderr }));
  });
}
const documentOf = async (...args: string[]): Promise<PlanDocument> => {
  const { code, stdout, stderr } = await plan(...args, "--json");
  expect([code, stderr]).toEqual([0, ""]);
  return JSON.parse(stdout) as PlanDocument;
};

const MIXTRAL = {
  architectures: ["MixtralForCausalLM"], model_type: "mixtral", vocab_size: 32000, hidden_size: 4096, intermediate_size: 14336, num_hidden_layers: 32, num_attention_heads: 32,
  num_key_value_heads: 8, num_local_experts: 8, num_experts_per_tok: 2, rms_norm_eps: 1e-5, rope_theta: 1e6, sliding_window: null, max_position_embeddings: 32768, hidden_act: "silu",
  tie_word_embeddings: false, bos_token_id: 1, eos_token_id: 2,
};
function configFolder(name: string, json: string): string {
  const path = join(folder, name);
  mkdirSync(path);
  writeFileSync(join(path, "config.json"), json);
  return path;
}

describe("the demo's pack", () => {
  it("is planned as it is served: the same bytes in the orchestrator and in each shard", async () => {
    const opened = await openPath(DEMO);
    if (opened.kind !== "pack") throw new Error("demo/pack is no pack.");
    const context = opened.manifest.contextLength;
    const found = await documentOf(DEMO, "--shards", "4", "--context", String(context));
    const served = serveMemory(opened.manifest, { shards: 4, processes: 1 });
    expect(found.lanes.stages.map(({ bytes }) => bytes)).toEqual([served.trunkBytes]);
    expect([found.shards.shards, found.shards.largestBytes, found.shards.smallestBytes]).toEqual([4, Math.max(...served.shardBytes), Math.min(...served.shardBytes)]);
    expect(found.isolates.all).toBe(5);
    expect(found.model.quant).toBeNull();
  });

  it("as a table says the same", async () => {
    const [found, { code, stdout }] = [await documentOf(DEMO, "--shards", "4", "--regions", "weur,enam", "--streams", "3"), await plan(DEMO, "--shards", "4", "--regions", "weur, enam", "--streams", "3")];
    expect(code).toBe(0);
    expect(found.isolates).toMatchObject({ all: 10, perDeployment: 5, deployments: 2 });
    expect(stdout).toContain("isolates                   10 in 2 regions, 5 in each;");
    expect(stdout).toContain("3 streams of ");
    expect(stdout).toContain("4, whole experts; ");
    expect(stdout).toContain(`Prices as of ${found.prices.asOf}`);
    for (const line of found.assumptions) expect(stdout).toContain(line);
  });

  it("at a round trip and a rate that are given is planned with those", async () => {
    const [slow, fast] = [await documentOf(DEMO, "--round-trip-ms", "10"), await documentOf(DEMO, "--round-trip-ms", "1")];
    expect(slow.speed.at.map(({ roundTripMs, roundTripFrom }) => [roundTripMs, roundTripFrom])).toEqual([[10, "given"]]);
    const hops = slow.traffic.token.hops;
    expect(slow.speed.at[0]!.alone.stepMs - fast.speed.at[0]!.alone.stepMs).toBeCloseTo(hops * 9 / 2, 9);
    const half = await documentOf(DEMO, "--round-trip-ms", "1", "--kernel-gb-per-s", String(slow.speed.rates.kernelGbPerSecond / 2));
    expect(half.speed.at[0]!.alone.expertsMs).toBeCloseTo(2 * fast.speed.at[0]!.alone.expertsMs, 9);
  });
});

describe("a config alone", () => {
  it("is planned without weights, its experts cut where one exceeds an isolate", async () => {
    const path = configFolder("Mixtral", JSON.stringify(MIXTRAL));
    const found = await documentOf(path);
    expect(found.model).toMatchObject({ id: "Mixtral", quant: "q4", parameters: 46_702_792_704 });
    expect(found.shards).toMatchObject({ isSliced: true, expertBytes: 32 * 8 * 94.5 * 1024 * 1024 });
    // A whole expert fits an isolate of 128 MiB, with its frames.
    expect((await documentOf(path, "--memory", "128MiB")).shards.isSliced).toBe(false);
    expect((await documentOf(path, "--quant", "q8")).bytes.expertBytes / found.bytes.expertBytes).toBeCloseTo(8.5 / 4.5, 9);
  });

  it.each([["no JSON", "{", /config\.json is no JSON/], ["no object", "[]", /expected an object of settings/], ["no known architecture", "{}", /config\.json/]])("of %s is refused in one sentence", async (name, text, message) => {
    const { code, stdout, stderr } = await plan(configFolder(name, text));
    expect([code, stdout]).toEqual([1, ""]);
    expect(stderr).toMatch(message);
    expect(stderr.trim().split("\n")).toHaveLength(1);
  });
});

it("a dense model has no shards, and one stage sends nothing", async () => {
  const found = await documentOf(configFolder("Dense", JSON.stringify({
    architectures: ["LlamaForCausalLM"], model_type: "llama", vocab_size: 1024, hidden_size: 64, intermediate_size: 128, num_hidden_layers: 2, num_attention_heads: 2, num_key_value_heads: 2,
    rms_norm_eps: 1e-5, rope_theta: 1e4, max_position_embeddings: 2048, hidden_act: "silu", tie_word_embeddings: true, bos_token_id: 1, eos_token_id: 2,
  })));
  expect(found.isolates.all).toBe(1);
  expect(found.shards.shards).toBe(0);
  expect(found.traffic).toMatchObject({ token: { expertFrames: 0, ringFrames: 0, hops: 0, bytes: 0 }, guideTokensPerSecond: null });
  expect(found.speed.at[0]!.dollarsPerMillionTokens.messages).toBe(0);
});

describe("refusals", () => {
  it.each([
    ["a memory in which no layer fits", [DEMO, "--memory", "9500KiB"], /but an isolate of 9\.3 MiB has 1\.3 MiB for an object/],
    ["more context than the pack has", [DEMO, "--context", "1000000"], /1000000 tokens was asked for; .* has positions for \d+/],
    ["formats for a pack", [DEMO, "--quant", "q4"], /is a pack, whose formats are fixed/],
    ["what is not there", [join(folder, "nothing")], /does not exist/],
  ])("%s: exit code 1 and the numbers", async (_, args, message) => {
    const [text, json] = [await plan(...args), await plan(...args, "--json")];
    expect([text.code, text.stdout]).toEqual([1, ""]);
    expect(text.stderr).toMatch(message);
    expect(json.code).toBe(1);
    expect((JSON.parse(json.stdout) as { error: { message: string } }).error.message).toMatch(message);
  });

  it.each([
    [["--memory", "90"], /Expected a size above 0 and below 4 GiB, like 90MiB/], [["--streams", "100001"], /at most 100000/], [["--shards", "65536"], /at most 65535/], [["--round-trip-ms", "-1"], /number above 0/],
    [["--quant", "q5"], /Allowed choices are source, f32/], [["--replicas", "17"], /at most 16/], [["--placement", "best"], /Allowed choices are contiguous, two-stage, joint/], [["--fleet", "a/b"], /letters, digits/],
  ])("%j is wrong usage", async (args, message) => {
    const { code, stdout, stderr } = await plan(DEMO, ...args);
    expect([code, stdout]).toEqual([2, ""]);
    expect(stderr).toMatch(message);
  });

  it("sizes and regions", () => {
    expect([sizeInBytes("90MiB"), sizeInBytes("1.5 GiB"), sizeInBytes("512KiB")]).toEqual([90 * 1024 ** 2, 1.5 * 1024 ** 3, 512 * 1024]);
    for (const text of ["5GiB", "0MiB", "90 MB", "-1MiB", ""]) expect(() => sizeInBytes(text)).toThrow(/below 4 GiB/);
    expect(regionList("weur, apac-ne")).toEqual(["weur", "apac-ne"]);
    expect(() => regionList("weur,mars")).toThrow(/"mars" is no region; expected a comma list of wnam/);
    expect(() => regionList("weur,weur")).toThrow(/named twice/);
  });
});
