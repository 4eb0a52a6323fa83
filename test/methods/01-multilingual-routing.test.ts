// Row 1, Multilingual Routing in Mixture-of-Experts (2025): frequencies, Delta and the experts above a threshold in the middle layers, and the entropy-normalised Jensen-Shannon divergence of routing
// between languages: by hand, equal to plain sums over parallel texts on the demo model, and on Qwen3-30B-A3B's totals for a mathematics test in five languages.

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { gunzipSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { buildKernels } from "../../cli/build-kernels.mjs";
import { evaluate, type LocalModel, openPack } from "../../cli/open-pack.ts";
import { type ClassSource, textSource, totalsSource } from "../../cli/profile/class-sources.ts";
import { findProfile, sumClasses } from "../../cli/profile/find-profile.ts";
import { measureDivergence } from "../../cli/profile/measure-divergence.ts";
import { chooseExperts, differenceMap, middleLayers } from "../../fleet/expert-differences.ts";
import { entropy, jensenShannon, mapDivergence, normalizedDivergence, ParallelDivergence } from "../../fleet/routing-divergence.ts";
import { ClassRouting, SequenceRouting } from "../../fleet/sequence-routing.ts";
import type { RoutingProfile } from "../../formats/routing-profile.ts";
import { parseRoutingTotals } from "../../formats/routing-totals.ts";
import type { Intervention } from "../../model/interventions.ts";
import { dataFile } from "../support/data-folder.ts";
import { SeededRandom } from "../support/seeded-random.ts";

const SHAPE = { moeLayers: [0, 2], nExperts: 4 };

function sequence(tokens: readonly (readonly [layer: number, ids: readonly number[], weights?: readonly number[], logits?: readonly number[]])[], shape = SHAPE): SequenceRouting {
  const of = new SequenceRouting(shape);
  for (const [layer, ids, weights = ids.map(() => 1 / ids.length), logits] of tokens) of.add({ layer, ids, weights, ...(logits === undefined ? {} : { logits }) });
  return of;
}

describe("frequencies", () => {
  it("are means over sequences of the share of tokens that chose an expert, by hand", () => {
    const of = new ClassRouting(SHAPE);
    of.add(sequence([[0, [0, 1]], [0, [0, 2]], [2, [3, 1]], [2, [3, 1]]])); // two tokens
    of.add(sequence([[0, [1, 2]], [2, [3, 0]]])); // one
    expect(Array.from(of.meanShares("count"))).toEqual([0.5, 0.75, 0.75, 0, 0.5, 0.5, 0, 1]);
    expect([of.sequences, of.tokens]).toEqual([2, 3]);
    expect(() => of.meanShares("score")).toThrow('A class has sequences without "score".');
    expect(() => of.add(sequence([[0, [1, 2]]]))).toThrow("A sequence has no token in layer 2, so no share of its tokens there; expected one in every layer with experts.");
  });

  it("differ by Delta, and the experts above a threshold are the strongest of each layer, ties by lowest layer and id", () => {
    const [task, generic, other] = [Float64Array.of(0.5, 0.9, 0.1, 0.5, 1, 0.25, 0.75, 0), Float64Array.of(0.25, 0.25, 0.5, 0, 0.25, 0.5, 0.25, 1), Float64Array.of(0.25, 0.15, 0.5, 0, 0.25, 0, 0.25, 1)];
    const delta = differenceMap(task, [generic, other]);
    expect(Array.from(delta, (x) => Number(x.toFixed(12)))).toEqual([0.25, 0.7, -0.4, 0.5, 0.75, 0, 0.5, -1]);
    const all = { layers: [0, 2], tau: 0 };
    expect(chooseExperts(SHAPE, delta, all).map(({ layer, expert }) => [layer, expert])).toEqual([[2, 0], [0, 1], [0, 3], [2, 2], [0, 0]]);
    expect(chooseExperts(SHAPE, delta, { ...all, tau: 0.5 }).map(({ layer, expert }) => [layer, expert])).toEqual([[2, 0], [0, 1]]); // not those of exactly 0.5
    expect(chooseExperts(SHAPE, delta, { ...all, mostPerLayer: 1 }).map(({ layer, expert }) => [layer, expert])).toEqual([[2, 0], [0, 1]]);
    expect(chooseExperts(SHAPE, delta, { ...all, layers: [0], top: 2 }).map(({ expert, difference }) => [expert, Number(difference.toFixed(12))])).toEqual([[1, 0.7], [3, 0.5]]);
    expect(() => chooseExperts(SHAPE, delta, { ...all, layers: [1] })).toThrow("Experts of layer 1 were asked for; the layers with experts are 0, 2.");
    expect(() => differenceMap(task, [])).toThrow("there is nothing the target differs from");
  });

  it("count in the middle: without the first and the last quarter of the layers", () => {
    expect(middleLayers([0, 1, 2, 3])).toEqual([1, 2]);
    expect(middleLayers([3, 4, 5])).toEqual([3, 4, 5]);
    expect(middleLayers(Array.from({ length: 48 }, (_, i) => i))).toEqual(Array.from({ length: 24 }, (_, i) => i + 12));
  });
});

describe("divergence", () => {
  it("by hand", () => {
    expect(jensenShannon([1, 0], [0, 1])).toBeCloseTo(Math.LN2, 12);
    expect(normalizedDivergence([1, 0], [0, 1])).toBe(1);
    // H(3/4, 1/4) = 0.562335, less half of log 2: 0.215762; of log 2 less half of it: 0.622556.
    expect(jensenShannon([0.5, 0.5], [1, 0])).toBeCloseTo(0.215762, 6);
    expect(normalizedDivergence([0.5, 0.5], [1, 0])).toBeCloseTo(0.622556, 6);
    expect([jensenShannon([0.3, 0.7], [0.3, 0.7]), normalizedDivergence([0.3, 0.7], [0.3, 0.7]), normalizedDivergence([0.5, 0.5], [0.5, 0.5])]).toEqual([0, 0, 0]);
    expect(entropy([0.25, 0.25, 0.25, 0.25])).toBeCloseTo(Math.log(4), 12);
  });

  it("is the entropy of the middle less the mean entropy, over the most that could be, whatever the distributions, and symmetric", () => {
    const random = new SeededRandom(3);
    const draw = (n: number): number[] => {
      const raw = Array.from({ length: n }, () => (random.uniform() < 0.3 ? 0 : random.uniform() ** 3));
      const sum = raw.reduce((a, b) => a + b, 0);
      return sum === 0 ? raw.map(() => 1 / n) : raw.map((x) => x / sum);
    };
    const h = (p: readonly number[]): number => -p.filter((x) => x > 0).reduce((sum, x) => sum + x * Math.log(x), 0);
    for (let round = 0; round < 500; round++) {
      const n = 2 + random.below(20);
      const [p, q] = [draw(n), draw(n)];
      const between = h(p.map((x, i) => (x + q[i]!) / 2)) - (h(p) + h(q)) / 2;
      expect(jensenShannon(p, q)).toBeCloseTo(between, 10);
      const normalized = normalizedDivergence(p, q);
      expect(normalized).toBeCloseTo(between / (Math.log(n) - (h(p) + h(q)) / 2), 8);
      expect(normalizedDivergence(q, p)).toBeCloseTo(normalized, 12);
      expect(normalized).toBeLessThanOrEqual(1);
    }
  });

  it("of parallel texts is the mean over pairs of each sequence's mean softmax", () => {
    const shape = { moeLayers: [5], nExperts: 2 };
    const ln = Math.log;
    const a = sequence([[5, [0], [1], [0, 0]], [5, [1], [1], [ln(3), 0]]], shape); // (1/2, 1/2), (3/4, 1/4): mean (5/8, 3/8)
    const b = sequence([[5, [0], [1], [0, ln(7)]]], shape); // (1/8, 7/8)
    expect(Array.from(a.sums("score"), (x) => Number((x / 2).toFixed(12)))).toEqual([0.625, 0.375]);
    const mean = new ParallelDivergence(shape, "score");
    mean.add(a, b);
    mean.add(a, a);
    const [layer] = mean.layers();
    expect(layer).toMatchObject({ layer: 5 });
    expect(layer!.normalized).toBeCloseTo(normalizedDivergence([0.625, 0.375], [0.125, 0.875]) / 2, 12);
    expect(mapDivergence(shape, a.sums("count"), b.sums("count"))[0]!.normalized).toBeCloseTo(normalizedDivergence([0.5, 0.5], [1, 0]), 12);
    expect(() => mapDivergence(SHAPE, sequence([[0, [1]]]).sums("count"), sequence([[0, [1]]]).sums("count"))).toThrow("Layer 2 has no distribution over experts: nothing was routed there.");
  });
});

describe("totals", () => {
  const bytes = (json: unknown): Uint8Array => new TextEncoder().encode(JSON.stringify(json));

  it("are read in three forms, and refused in words where they are none", () => {
    const gated = parseRoutingTotals(bytes({ 0: { 0: { activation_tokens: 3, gate_values_sum: 1.5 }, 1: { activation_tokens: 1, gate_values_sum: 0.5 }, total_tokens: 2 }, 1: { 1: { activation_tokens: 4, gate_values_sum: 2 }, 0: { activation_tokens: 0, gate_values_sum: 0 }, total_tokens: 2 } }), "a.json");
    expect(gated).toEqual({ moeLayers: [0, 1], nExperts: 2, tokens: [2, 2], count: Float64Array.of(3, 1, 0, 4), weight: Float64Array.of(1.5, 0.5, 0, 2) });
    expect(parseRoutingTotals(bytes({ model: "m", experts: 2, layers: [{ layer: 3, tokens: 4, chosen: [1, 3], idle: 0 }] }), "b.json")).toEqual({ moeLayers: [3], nExperts: 2, tokens: [4], count: Float64Array.of(1, 3), weight: null });
    expect(parseRoutingTotals(bytes([{ 2: 5 }, { 0: 1, 1: 4 }]), "c.json")).toEqual({ moeLayers: [0, 1], nExperts: 3, tokens: null, count: Float64Array.of(0, 0, 5, 1, 4, 0), weight: null });
    for (const [json, message] of [
      [{ 0: { 0: { activation_tokens: -1 }, total_tokens: 2 } }, "d.json has no totals of routing (layers by number): 0.0.activation_tokens"],
      [{ 0: { 0: { activation_tokens: 1 }, 2: { activation_tokens: 1 }, total_tokens: 2 } }, "d.json has experts 0, 2 in layer 0; expected every number from 0 on."],
      [{ experts: 3, layers: [{ layer: 0, tokens: 1, chosen: [1] }] }, "d.json has counts of 1 experts in layer 0; expected 3."],
      [[{ x: 1 }], "d.json has no totals of routing (a list of layers)"],
    ] as const) expect(() => parseRoutingTotals(bytes(json), "d.json")).toThrow(message);
  });

  const languages = ["en", "de", "es", "fr", "zh"];
  const files = languages.map((label) => dataFile(`traces/qwen3moe_mgsm/mgsm_${label}.json`));
  it.skipIf(files.includes(null))("of Qwen3-30B-A3B on MGSM diverge less in the middle than outside between every two languages (needs the data folder's traces/qwen3moe_mgsm)", async () => {
    const { pairs, by } = await measureDivergence(languages.map((label, i) => totalsSource({ label, file: files[i]! }, null)), null, { pooled: false }, true);
    expect([by, pairs.length]).toEqual(["weight", 10]);
    for (const { middle, outer } of pairs) expect(middle).toBeLessThan(0.6 * outer!);
    const chinese = pairs.find(({ a, b }) => a === "en" && b === "zh")!;
    expect([chinese.layers[0]!.normalized, chinese.middle, chinese.layers.at(-1)!.normalized].map((x) => x.toFixed(3))).toEqual(["0.420", "0.066", "0.485"]);
    // Against plain sums, from the files.
    const share = (file: string, layer: number): number[] => {
      const { total_tokens: _, ...experts } = (JSON.parse(readFileSync(file, "utf8")) as Record<string, Record<string, { gate_values_sum: number }>>)[layer]!;
      const sums = Array.from({ length: 128 }, (_, e) => experts[e]!.gate_values_sum);
      return sums.map((x) => x / sums.reduce((a, b) => a + b, 0));
    };
    for (const layer of [0, 20, 47]) expect(chinese.layers[layer]!.normalized).toBeCloseTo(plainDivergence(share(files[0]!, layer), share(files[4]!, layer)), 10);
  });
});

/** By entropies, as a check on the sums of logarithms of quotients. */
function plainDivergence(p: readonly number[], q: readonly number[]): number {
  const h = (of: readonly number[]): number => -of.reduce((sum, x) => sum + (x > 0 ? x * Math.log(x) : 0), 0);
  const mean = (h(p) + h(q)) / 2;
  return (h(p.map((x, i) => (x + q[i]!) / 2)) - mean) / (Math.log(p.length) - mean);
}

const aligned = dataFile("text/parallel_pydocs/aligned4.train.jsonl.gz");
const LANGUAGES = ["en", "fr", "es", "zh"];
const LINES = 12;

describe.skipIf(aligned === null)("the demo model on Python's documentation in four languages (needs the data folder's text/parallel_pydocs)", () => {
  let model: LocalModel;
  let folder = "";
  let lines: readonly Record<string, string>[] = [];
  /** [language][text][layer][token]: by taps of its own, everything kept. */
  let routed: Map<string, { ids: number[]; softmax: number[] }[][][]>;
  const sources = (): ClassSource[] => LANGUAGES.map((label) => textSource(model, { label, file: join(folder, "aligned.jsonl") }, { per: "line", window: 512 }));

  beforeAll(async () => {
    await buildKernels({ log: () => {} });
    model = await openPack(fileURLToPath(new URL("../../demo/pack", import.meta.url)));
    lines = gunzipSync(readFileSync(aligned!)).toString("utf8").split("\n").filter((_, i) => i % 1900 === 7).slice(0, LINES).map((line) => JSON.parse(line) as Record<string, string>);
    folder = mkdtempSync(join(tmpdir(), "parallel-"));
    writeFileSync(join(folder, "aligned.jsonl"), `${lines.map((line) => JSON.stringify(line)).join("\n")}\n`);
    const { engine, tokenizer } = model;
    routed = new Map();
    for (const language of LANGUAGES) {
      const texts = [];
      for (const line of lines) {
        const ids = tokenizer!.encodeText(line[language]!);
        const timeline = engine.kv.open(ids.length);
        const layers = Array.from({ length: 4 }, () => ids.map((): { ids: number[]; softmax: number[] } => ({ ids: [], softmax: [] })));
        for (let at = 0; at < ids.length; at += 9) {
          await engine.step([{ timeline, ids: ids.slice(at, at + 9), logits: "none" }], [
            { at: "logits", run: ({ layer, nTokens, positions, values, rowLength }) => {
              for (let t = 0; t < nTokens; t++) {
                const exps = Array.from(values.subarray(t * rowLength, (t + 1) * rowLength), (z) => Math.exp(z));
                layers[layer]![positions[t]!]!.softmax = exps.map((x) => x / exps.reduce((a, b) => a + b, 0));
              }
            } },
            { at: "selection", run: ({ layer, nTokens, positions, ids: chosen }) => { for (let t = 0; t < nTokens; t++) layers[layer]![positions[t]!]!.ids = Array.from(chosen.subarray(4 * t, 4 * t + 4)); } },
          ]);
        }
        engine.kv.close(timeline);
        texts.push(layers);
      }
      routed.set(language, texts);
    }
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  it("diverges as plain sums over its tokens say, English and Chinese further in every layer than French and Spanish", async () => {
    const { pairs, by, parallelTexts, classes } = await measureDivergence(sources(), null, { pooled: false }, true);
    expect([by, parallelTexts, pairs.length]).toEqual(["score", LINES, 6]);
    const q = (language: string, text: number, layer: number): number[] => {
      const tokens = routed.get(language)![text]![layer]!;
      return Array.from({ length: 32 }, (_, e) => tokens.reduce((sum, { softmax }) => sum + softmax[e]!, 0) / tokens.length);
    };
    for (const { a, b, layers } of pairs) {
      for (const { layer, normalized } of layers) {
        const plain = lines.reduce((sum, _, text) => sum + plainDivergence(q(a, text, layer), q(b, text, layer)), 0) / LINES;
        expect(Math.abs(normalized - plain)).toBeLessThan(1e-6);
      }
    }
    expect(classes.map(({ tokens }) => tokens)).toEqual(LANGUAGES.map((language) => routed.get(language)!.reduce((sum, text) => sum + text[0]!.length, 0)));
    const of = (a: string, b: string): readonly number[] => pairs.find((pair) => pair.a === a && pair.b === b)!.layers.map(({ normalized }) => normalized);
    of("fr", "es").forEach((near, layer) => expect(near).toBeLessThan(of("en", "zh")[layer]!));
  });

  it("has the Delta that counting says, and finds the same experts", async () => {
    const classes = await sumClasses(sources(), true);
    const profile = findProfile(classes, { id: "demo", hash: model.packHash, config: model.manifest.config }, { target: "zh", by: "frequency", layers: "middle", tau: 0.1, op: "add_std" });
    const f = (language: string, layer: number, expert: number): number =>
      routed.get(language)!.reduce((sum, text) => sum + text[layer]!.filter(({ ids }) => ids.includes(expert)).length / text[layer]!.length, 0) / LINES;
    const plain = [0, 1, 2, 3].flatMap((layer) => Array.from({ length: 32 }, (_, e) => f("zh", layer, e) - (f("en", layer, e) + f("fr", layer, e) + f("es", layer, e)) / 3));
    plain.forEach((delta, at) => expect(Math.abs(profile.difference[at]! - delta)).toBeLessThan(1e-6));
    const wanted = [1, 2].flatMap((layer) => Array.from({ length: 32 }, (_, expert) => ({ layer, expert, delta: plain[layer * 32 + expert]! })).filter(({ delta }) => delta > 0.1).sort((x, y) => y.delta - x.delta).slice(0, 4));
    expect(new Set(profile.found.map(({ layer, expert }) => `${layer}: ${expert}`))).toEqual(new Set(wanted.map(({ layer, expert }) => `${layer}: ${expert}`)));
    expect(profile.layers).toEqual([1, 2]);
    expect(profile.document.interventions[0]).toMatchObject({ op: "add_std", lambda: 0.5 });
  });

  it("takes the experts found for every token of the middle layers when they are forced, up to as many as a token takes, and is as it was with a lambda of 0", async () => {
    const classes = await sumClasses(sources(), true);
    const { engine, packHash: hash, manifest: { config }, tokenizer } = model;
    const steered = (op: "force_max" | "add_std", lambda?: number): RoutingProfile => findProfile(classes, { id: "demo", hash, config }, { target: "en", by: "frequency", layers: "middle", top: 6, op, lambda }).document;
    const forced = steered("force_max").interventions;
    const experts = (forced[0] as { experts: Record<string, number[]> }).experts;
    expect(Object.values(experts).flat()).toHaveLength(6);
    expect(Math.max(...Object.values(experts).map(({ length }) => length))).toBeLessThanOrEqual(4);
    for (const line of lines.slice(0, 3)) {
      const ids = tokenizer!.encodeText(line["zh"]!);
      const logits = async (interventions: readonly Intervention[]): Promise<{ rows: number[][]; chosen: number[][][] }> => {
        const [rows, chosen]: [number[][], number[][][]] = [[], [0, 1, 2, 3].map(() => [])];
        await evaluate(engine, ids, (_, row) => rows.push(Array.from(row)), {
          ...(interventions.length === 0 ? {} : { routing: { interventions } }),
          taps: [{ at: "selection", run: ({ layer, nTokens, ids: of }) => { for (let t = 0; t < nTokens; t++) chosen[layer]!.push(Array.from(of.subarray(4 * t, 4 * t + 4))); } }],
        });
        return { rows, chosen };
      };
      const [plain, hard, nothing] = [await logits([]), await logits(forced), await logits(steered("add_std", 0).interventions)];
      expect(nothing).toEqual(plain);
      for (const [layer, wanted] of Object.entries(experts)) for (const of of hard.chosen[Number(layer)]!) expect(wanted.every((expert) => of.includes(expert))).toBe(true);
      expect(hard.chosen[0]).toEqual(plain.chosen[0]);
      expect(hard.rows).not.toEqual(plain.rows);
    }
  });
});
