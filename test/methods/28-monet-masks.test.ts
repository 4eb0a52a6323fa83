// Row 28, Monet (Park et al., 2024), section 5: whose product experts are, found in labelled texts, and a profile that leaves them out: the sums by hand, and the commands profile and eval on files.
// What a mask does to the bits is 28-monet.test.ts, the API's side test/workerd/asked-routing.test.ts.

import { execFile } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { buildKernels } from "../../cli/build-kernels.mjs";
import { FolderSource } from "../../cli/file-source.ts";
import { openPackFrom } from "../../cli/open-pack.ts";
import { randomMask, type Effect } from "../../cli/profile/measure-effect.ts";
import type { DivergenceFigures } from "../../cli/profile/measure-divergence.ts";
import { routeSequence } from "../../cli/profile/route-sequence.ts";
import { pinnedNode, ROOT } from "../../cli/setup.mjs";
import { chooseExperts, differenceMap, ownDifferences } from "../../fleet/expert-differences.ts";
import { productShape } from "../../fleet/product-routing.ts";
import { openHuggingFace } from "../../formats/huggingface.ts";
import { MemorySource } from "../../formats/memory-source.ts";
import { eitherMasked, maskedExpertsOf, productMaskOf } from "../../formats/product-mask-schema.ts";
import { parseProfile, type RoutingProfile } from "../../formats/routing-profile.ts";
import { maskOfRouters, productMaskProblem } from "../../model/product-mask.ts";
import { createScalarKernels } from "../../model/scalar-kernels.ts";
import { directEngine } from "../support/direct-engine.ts";
import { tinyMonet } from "../support/monet-files.ts";
import { packToMemory } from "../support/pack-to-memory.ts";
import { productConfig, productWeights } from "../support/product-model.ts";

const config = productConfig({ routerLayers: 2 }, 4);
const { nKeys, nHeads } = config.productExperts!;
const IDS = Array.from({ length: 30 }, (_, i) => (i * i * 5 + 3 * i + 7) % config.vocabSize);

describe("what a sequence takes of pairs", () => {
  it("is, by the layer that routes, the sum over heads of both keys' weights multiplied, and one choice for a token whatever heads chose it", async () => {
    const engine = directEngine(config, productWeights(config, 3), 65536, { kernels: createScalarKernels(new WebAssembly.Memory({ initial: 2 })), contextLength: 64, maxChunkTokens: 32 }).engine;
    const routing = await routeSequence(engine, IDS);
    expect([routing.shape, productShape(config)]).toEqual([{ moeLayers: [0, 2], nExperts: nKeys ** 2 }, routing.shape]);
    const [weight, count] = [new Float64Array(2 * nKeys ** 2), new Float64Array(2 * nKeys ** 2)];
    const timeline = engine.kv.open(IDS.length);
    await engine.step([{ timeline, ids: IDS, logits: "none" }], [{ at: "keys", layers: [0, 2], run: ({ layer, values, rowLength, nTokens }) => {
      for (let t = 0; t < nTokens; t++) for (let i = 0; i < nKeys; i++) for (let j = 0; j < nKeys; j++) {
        let sum = 0;
        for (let head = 0; head < nHeads; head++) sum += values[t * rowLength + head * nKeys + i]! * values[t * rowLength + (nHeads + head) * nKeys + j]!;
        weight[(layer / 2) * nKeys ** 2 + i * nKeys + j]! += sum;
        if (sum !== 0) count[(layer / 2) * nKeys ** 2 + i * nKeys + j]!++;
      }
    } }]);
    expect([...routing.sums("count")]).toEqual([...count]);
    routing.sums("weight").forEach((sum, at) => expect(sum).toBeCloseTo(weight[at]!, 10));
    // A head's weights sum to 1 in either codebook, so a token's do to the number of heads.
    expect(routing.sums("weight").reduce((a, b) => a + b)).toBeCloseTo(2 * IDS.length * nHeads, 3);
    expect(Math.max(...count)).toBeGreaterThan(4 * Math.min(...count));
    expect([routing.has("score"), [...routing.tokens]]).toEqual([false, [IDS.length, IDS.length]]);
  });

  it("is one class's own where it has so many times the share of every other", () => {
    const shape = { moeLayers: [4], nExperts: 5 };
    const [own, one, other] = [[0.4, 0.3, 0.2, 0.1, 0], [0.1, 0.15, 0.2, 0.1, 0.5], [0.2, 0, 0.1, 0.05, 0]].map((of) => Float64Array.from(of));
    const difference = differenceMap(own!, [one!, other!]);
    const found = (ratio: number): number[] => chooseExperts(shape, ownDifferences(difference, own!, [one!, other!], ratio), { layers: [4], tau: 0 }).map(({ expert }) => expert);
    expect([found(1), found(2), found(3)]).toEqual([[0, 1, 2, 3], [0, 1], []]);
  });
});

describe("a mask", () => {
  const experts = new Map([[0, [0, 9, nKeys + 2]], [2, [5]]]);

  it("of the layers that route is one of every layer that goes by them, and the API's form says the same", () => {
    const mask = maskOfRouters(config, experts);
    const pairs = [[0, 0], [Math.floor(9 / nKeys), 9 % nKeys], [1, 2]];
    expect(mask).toEqual({ layers: [{ layer: 0, pairs }, { layer: 1, pairs }, { layer: 2, pairs: [[0, 5]] }, { layer: 3, pairs: [[0, 5]] }] });
    expect(productMaskProblem(config, mask)).toBeNull();
    expect(productMaskOf(maskedExpertsOf(mask))).toEqual(mask);
    expect(maskOfRouters(config, new Map([[2, []]]))).toEqual({ layers: [] });
    expect(eitherMasked({ 1: { first_keys: [3], pairs: [[1, 2]] }, 2: { second_keys: [0] } }, { 1: { pairs: [[4, 4]] }, 3: {} }))
      .toEqual({ 1: { first_keys: [3], second_keys: [], pairs: [[1, 2], [4, 4]] }, 2: { first_keys: [], second_keys: [0], pairs: [] }, 3: { first_keys: [], second_keys: [], pairs: [] } });
  });

  it("is compared with one of as many others, the same in layers that share a router", () => {
    const mask = { layers: maskOfRouters(config, experts).layers.map((of) => ({ ...of, firstKeys: [1, 2] })) };
    const drawn = randomMask(config, mask, 7);
    expect(productMaskProblem(config, drawn)).toBeNull();
    drawn.layers.forEach(({ layer, firstKeys, pairs }, i) => {
      expect([layer, firstKeys!.length, pairs!.length]).toEqual([mask.layers[i]!.layer, 2, mask.layers[i]!.pairs!.length]);
      expect(firstKeys!.filter((key) => [1, 2].includes(key))).toEqual([]);
      expect(new Set(pairs!.map(String)).size).toBe(pairs!.length);
      expect(pairs!.filter((pair) => mask.layers[i]!.pairs!.some((own) => String(own) === String(pair)))).toEqual([]);
    });
    const [first, second] = drawn.layers;
    expect({ ...second, layer: 0 }).toEqual(first);
    expect(randomMask(config, mask, 7)).toEqual(drawn);
    expect(randomMask(config, mask, 8)).not.toEqual(drawn);
  });
});

describe("profile", () => {
  const work = mkdtempSync(join(tmpdir(), "workers-moe-masks-"));
  const run = (...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> => new Promise((resolve) => {
    execFile(pinnedNode, [join(ROOT, "bin", "workers-moe.js"), ...args], { cwd: work }, (error, stdout, stderr) => resolve({ code: error === null ? 0 : Number(error.code), stdout, stderr }));
  });
  beforeAll(async () => {
    await buildKernels({ log: () => {} });
    const pack = await packToMemory(await openHuggingFace(new MemorySource(tinyMonet(3).files), "tiny-monet"), { quant: "q8", id: "monet" });
    for (const [name, bytes] of pack.files) {
      mkdirSync(dirname(join(work, "pack", name)), { recursive: true });
      writeFileSync(join(work, "pack", name), bytes);
    }
    writeFileSync(join(work, "cats.txt"), "the cat sat on the mat and the dog ran. ".repeat(6));
    writeFileSync(join(work, "sums.txt"), "1 + 2 = 3; 7 + 8 = 15; f(x) = x * x. ".repeat(6));
    for (const name of ["cats", "sums"]) writeFileSync(join(work, `${name}.jsonl`), `${JSON.stringify({ text: readFileSync(join(work, `${name}.txt`), "utf8").slice(0, 60) })}\n`);
  });
  afterAll(() => rmSync(work, { recursive: true }));
  const texts = ["--texts", "cats=cats.txt", "sums=sums.txt", "--window", "48"];

  it("finds whose experts they are, and writes a mask that eval goes by and --effect measures", async () => {
    const made = await run("profile", "pack", ...texts, "--target", "sums", "--ratio", "2", "--out", "sums.json");
    expect(made.code, made.stderr).toBe(0);
    expect(made.stdout).toMatch(/a mask of \d+ experts, found by weight in layers 0, 2\nlayer 0 +\(\d+, \d+\) \(\+/);
    const profile = parseProfile(readFileSync(join(work, "sums.json"), "utf8"), "sums.json");
    const found = profile.found as { ratio: number; experts: { layer: number; expert: number; difference: number }[] };
    expect([profile.interventions, found.ratio, Object.keys(profile.maskExperts!)]).toEqual([[], 2, ["0", "1", "2", "3"]]);
    // As it says, counted here: at least twice the share of the other class, and nobody who has it is missing.
    const { engine, tokenizer } = await openPackFrom(new FolderSource(join(work, "pack")));
    const sharesOf = async (name: string): Promise<Float64Array> => {
      const ids = tokenizer!.encodeText(readFileSync(join(work, name), "utf8"));
      const windows = Array.from({ length: Math.ceil(ids.length / 48) }, (_, i) => ids.slice(i * 48, (i + 1) * 48));
      const sum = new Float64Array(2 * 256);
      for (const window of windows) (await routeSequence(engine, window)).sums("weight").forEach((weight, at) => { sum[at]! += weight / window.length / windows.length; });
      return sum;
    };
    const [sums, cats] = [await sharesOf("sums.txt"), await sharesOf("cats.txt")];
    const own = [...sums.keys()].filter((at) => sums[at]! > 0 && sums[at]! >= 2 * cats[at]!);
    // The profile's order is by sums of windows, of which the last is shorter; whom it names is the shares'.
    expect(found.experts.map(({ layer, expert }) => (layer / 2) * 256 + expert).sort((a, b) => a - b)).toEqual(own);
    expect(profile.maskExperts!["1"]!.pairs!.map(([i, j]) => i * 16 + j)).toEqual(own.filter((at) => at < 256));
    const page = readFileSync(join(work, "sums.json.report.html"), "utf8");
    expect(page.includes("<title>Profile: sums</title>") && page.match(/<figure>/g)!.length === 1).toBe(true);

    const lossOf = async (...args: string[]): Promise<number> => (JSON.parse((await run("eval", "pack", "--text", "sums.txt", "--json", ...args)).stdout) as { meanNll: number }).meanNll;
    expect(await lossOf("--profile", "sums.json")).not.toBe(await lossOf());
    writeFileSync(join(work, "none.json"), JSON.stringify({ ...profile, maskExperts: { 1: { pairs: [] } } } satisfies RoutingProfile));
    expect(await lossOf("--profile", "none.json")).toBe(await lossOf());

    const effect = JSON.parse((await run("profile", "pack", "--effect", "sums.json", "--texts", "sums=sums.txt", "cats=cats.txt", "--window", "48", "--draws", "2", "--json")).stdout) as Effect;
    expect([effect.experts, effect.random.length]).toEqual([own.length, 2]);
    const [none, masked] = [effect.none.perplexities, effect.profile.perplexities];
    expect(Math.abs(masked[0]! / none[0]! - 1)).toBeGreaterThan(0);
    const nothing = JSON.parse((await run("profile", "pack", "--effect", "none.json", "--texts", "sums=sums.txt", "cats=cats.txt", "--window", "48", "--json")).stdout) as Effect;
    expect([nothing.experts, nothing.profile.perplexities, nothing.none.perplexities]).toEqual([0, none, none]);
  });

  it("compares how texts are routed by the weight of pairs", async () => {
    const { by, nExperts, pairs } = JSON.parse((await run("profile", "pack", "--divergence", "cats=cats.jsonl", "sums=sums.jsonl", "--json")).stdout) as DivergenceFigures;
    expect([by, nExperts, pairs[0]!.layers.map(({ layer }) => layer)]).toEqual(["weight", 256, [0, 2]]);
    expect(pairs[0]!.layers.every(({ normalized }) => normalized > 0 && normalized < 1)).toBe(true);
  });

  it("refuses what product experts are not made for", async () => {
    for (const [args, sentence] of [
      [["--target", "sums", "--op", "gain", "--gain", "2"], "Product experts can be left out and nothing else; expected --op mask, not gain."],
      [["--map", "map.json"], "\"monet\" has 256 product experts a layer, of which none is made"],
      [["--target", "sums", "--ratio", "2", "--tau", "1000"], "over 1000, and 2 times as much as by any; a lower --tau or --ratio"],
    ] as const) {
      const { code, stderr } = await run("profile", "pack", ...texts, ...args);
      expect([code, stderr]).toEqual([1, expect.stringContaining(sentence)]);
    }
    expect(await run("profile", "pack", ...texts, "--target", "sums", "--ratio", "0.5")).toMatchObject({ code: 2, stderr: expect.stringContaining("Expected a number of at least 1.") as string });
    expect(existsSync(join(work, "map.json"))).toBe(false);
    const document = { format: "workers-moe-profile", version: 1, name: "it", description: "", model: "monet", access: "admin", interventions: [], found: null };
    writeFileSync(join(work, "far.json"), JSON.stringify({ ...document, maskExperts: { 4: { pairs: [[0, 0]] } } }));
    writeFileSync(join(work, "odd.json"), JSON.stringify({ ...document, maskExperts: { 0: { keys: [1] } } }));
    for (const [file, sentence] of [["far.json", "names layer 4, which has no product experts"], ["odd.json", "odd.json is no routing profile: maskExperts.0: expected an object from layers"]] as const) {
      const { code, stderr } = await run("eval", "pack", "--text", "sums.txt", "--profile", file);
      expect([code, stderr]).toEqual([1, expect.stringContaining(sentence)]);
    }
  });
});
