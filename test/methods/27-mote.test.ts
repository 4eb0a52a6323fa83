// Row 27, MoTE (2025): fTRI's activation maps, one for each prompt, their mean by class, what a class has more than the others, and the experts with most of it; by hand, against plain sums over
// mixed records, and as a profile that is written and read. What suppressing them does to a model is below, on the demo.

import { fileURLToPath } from "node:url";
import { beforeAll, describe, expect, it } from "vitest";
import { buildKernels } from "../../cli/build-kernels.mjs";
import { evaluate, type LocalModel, openPack } from "../../cli/open-pack.ts";
import { findProfile, type FindOptions, type SummedClass } from "../../cli/profile/find-profile.ts";
import type { ClassSource } from "../../cli/profile/class-sources.ts";
import { measureEffect, randomInstead } from "../../cli/profile/measure-effect.ts";
import { routeSequence } from "../../cli/profile/route-sequence.ts";
import type { ProfiledPack } from "../../formats/routing-profile.ts";
import { differenceMap, drawExperts, expertsByLayer } from "../../fleet/expert-differences.ts";
import { ClassRouting, type RoutedChoice, SequenceRouting, sequencesOf } from "../../fleet/sequence-routing.ts";
import { moeLayersOf } from "../../model/config.ts";
import type { Intervention } from "../../model/interventions.ts";
import { demoWindows, missingTexts, openDemo } from "../support/demo-texts.ts";
import { seededConfig } from "../support/seeded-model.ts";
import { SeededRandom } from "../support/seeded-random.ts";

const SHAPE = { moeLayers: [1, 3], nExperts: 3 };
type Token = readonly [layer: number, ids: readonly number[], weights: readonly number[]];

function prompt(tokens: readonly Token[]): SequenceRouting {
  const of = new SequenceRouting(SHAPE);
  for (const [layer, ids, weights] of tokens) of.add({ layer, ids, weights });
  return of;
}

function classOf(label: string, prompts: readonly SequenceRouting[]): SummedClass {
  const routing = new ClassRouting(SHAPE);
  for (const of of prompts) routing.add(of);
  const source: ClassSource = { label, file: `${label}.txt`, kind: "lines", isByLine: true, shape: SHAPE, topK: 2, nSequences: prompts.length, nTokens: routing.tokens, knowsTokens: true, nCut: 0, ids: null, sequences: () => prompts };
  return { source, routing };
}

// Target: a long prompt and a short one. Maps by weight: [.75+.5, .25, .5 | 1, 1, 0] and [0, .5, .5 | 0, .25, .75].
const TARGET = classOf("target", [
  prompt([[1, [0, 1], [0.75, 0.25]], [1, [0, 2], [0.5, 0.5]], [3, [1, 0], [0.5, 0.5]], [3, [0, 1], [0.5, 0.5]]]),
  prompt([[1, [1, 2], [0.5, 0.5]], [3, [2, 1], [0.75, 0.25]]]),
]);
const FIRST = classOf("first", [prompt([[1, [2, 1], [0.875, 0.125]], [3, [2, 0], [0.5, 0.5]]])]);
const SECOND = classOf("second", [prompt([[1, [2, 0], [0.875, 0.125]], [3, [2, 1], [0.5, 0.5]]])]);
const packOf = (topK: number): ProfiledPack =>
  ({ id: "tiny", hash: "a".repeat(64), config: { ...seededConfig, nLayers: 4, nExperts: 3, layerFfns: ["dense", "moe", "dense", "moe"], router: { ...seededConfig.router, topK } } });
const MODEL = packOf(2);
const OPTIONS: FindOptions = { target: "target", by: "weight", layers: "all", op: "suppress" };
const find = (options: Partial<FindOptions> = {}): ReturnType<typeof findProfile> => findProfile([TARGET, FIRST, SECOND], MODEL, { ...OPTIONS, ...options });

describe("activation maps", () => {
  it("sum what the router gave over a prompt's tokens, and are a class's mean over prompts, by hand", () => {
    expect(Array.from(TARGET.routing.meanSums("weight"))).toEqual([0.625, 0.375, 0.5, 0.5, 0.625, 0.375]);
    expect(Array.from(TARGET.routing.meanSums("count"))).toEqual([1, 1, 1, 1, 1.5, 0.5]);
    const difference = differenceMap(TARGET.routing.meanSums("weight"), [FIRST.routing.meanSums("weight"), SECOND.routing.meanSums("weight")]);
    expect(Array.from(difference)).toEqual([0.5625, 0.3125, -0.375, 0.25, 0.375, -0.125]);
  });

  it("give the experts a class takes most more of, the strongest first, ties by lowest layer and id", () => {
    const { found, document } = find({ top: 3 });
    expect(found).toEqual([{ layer: 1, expert: 0, difference: 0.5625 }, { layer: 3, expert: 1, difference: 0.375 }, { layer: 1, expert: 1, difference: 0.3125 }]);
    expect(document).toMatchObject({
      format: "workers-moe-profile", version: 1, name: "target", model: "tiny", packHash: "a".repeat(64), access: "admin", interventions: [{ op: "suppress", experts: { 1: [0, 1], 3: [1] } }],
      found: { method: "activation maps", by: "weight", target: "target", layers: [1, 3], tau: 0, top: 3, seed: null, texts: [{ label: "target", sequences: 2, tokens: 3 }, { label: "first", tokens: 1 }, { label: "second" }], experts: found },
    });
    // By counts 1: 0, 1: 1, 3: 0 and 3: 1 lead by 0.5, 0.5, 0.5 and 1.
    expect(find({ by: "count", top: 3 }).found).toEqual([{ layer: 3, expert: 1, difference: 1 }, { layer: 1, expert: 0, difference: 0.5 }, { layer: 1, expert: 1, difference: 0.5 }]);
    expect(find({ tau: 0.3 }).found.map(({ difference: by }) => by)).toEqual([0.5625, 0.375, 0.3125]);
    expect(find({ layers: [3] }).found.map(({ layer }) => layer)).toEqual([3, 3]);
  });

  it("promote no more experts of a layer than a token has places for, and suppress as many as asked", () => {
    const one = packOf(1);
    for (const op of ["stimulate", "force_max", "add_std"] as const) expect(findProfile([TARGET, FIRST, SECOND], one, { ...OPTIONS, op }).document.interventions[0]!).toMatchObject({ op, experts: { 1: [0], 3: [1] } });
    for (const op of ["suppress", "mask"] as const) expect(findProfile([TARGET, FIRST, SECOND], one, { ...OPTIONS, op }).document.interventions[0]!).toMatchObject({ op, experts: { 1: [0, 1], 3: [0, 1] } });
    expect(find({ op: "gain", gain: 1.5, top: 1 }).document.interventions).toEqual([{ op: "gain", experts: { 1: [0] }, gain: 1.5 }]);
    expect(find({ op: "add_std", top: 1 }).document.interventions).toEqual([{ op: "add_std", experts: { 1: [0] }, lambda: 0.5 }]);
  });

  it("are refused in words", () => {
    for (const [options, message] of [
      [{ target: "third" }, 'The target "third" is none of the labels target, first, second.'],
      [{ layers: [2] }, "Layer 2 was asked for; the layers with experts are 1, 3."],
      [{ tau: 0.6 }, 'No expert of layers 1, 3 is taken more by "target" than by the others by over 0.6'],
      [{ op: "gain" }, "--op gain needs --gain"],
      [{ gain: 2 }, "--gain goes with --op gain; the op is suppress."],
      [{ op: "gain", gain: 2, lambda: 1 }, "--lambda goes with --op add_std; the op is gain."],
    ] as const) expect(() => find(options)).toThrow(message);
    expect(() => findProfile([TARGET], MODEL, OPTIONS)).toThrow('Only "target" was given; a difference needs at least one other class to differ from.');
  });

  it("are compared with as many experts of each layer at random, none of those found", () => {
    const found = [{ layer: 1, expert: 3 }, { layer: 1, expert: 5 }, { layer: 0, expert: 1 }];
    const seen = new Set<string>();
    for (let seed = 1; seed <= 60; seed++) {
      const drawn = drawExperts({ nExperts: 6 }, found, seed);
      expect(drawn.map(({ layer }) => layer)).toEqual([0, 1, 1]);
      expect(new Set(drawn.map(({ layer, expert }) => `${layer}: ${expert}`)).size).toBe(3);
      expect(drawn.some((of) => found.some(({ layer, expert }) => of.layer === layer && of.expert === expert))).toBe(false);
      for (const { layer, expert } of drawn) seen.add(`${layer}: ${expert}`);
      expect(drawExperts({ nExperts: 6 }, found, seed)).toEqual(drawn);
    }
    expect(seen.size).toBe(5 + 4);
    expect(() => drawExperts({ nExperts: 3 }, [{ layer: 0, expert: 0 }, { layer: 0, expert: 1 }], 1)).toThrow("Layer 0 has 3 experts, of which 2 were found; as many others cannot be drawn.");
    expect(find({ top: 1, random: 7 }).document).toMatchObject({ found: { seed: 7 }, interventions: [{ experts: { 1: [expect.not.closeTo(0)] } }] });
    expect(expertsByLayer(found)).toEqual({ 0: [1], 1: [3, 5] });
  });
});

describe("sequences of a trace", () => {
  it("are whole whatever mixture they were recorded in, in the order they end", () => {
    const random = new SeededRandom(11);
    const records: (RoutedChoice & { readonly request: number; readonly token: number })[] = [];
    for (let request = 0; request < 20; request++) {
      for (let token = 0; token < 1 + random.below(12); token++) {
        for (const layer of SHAPE.moeLayers) {
          const [a, b] = [random.below(3), random.below(2)];
          const w = random.uniform();
          records.push({ request, token, layer, ids: [a, b >= a ? b + 1 : b], weights: [w, 1 - w] });
        }
      }
    }
    const mixed = records.map((record) => ({ record, at: random.uniform() })).sort((x, y) => x.at - y.at).map(({ record }) => record);
    const wanted = (request: number, measure: "count" | "weight"): number[] => SHAPE.moeLayers.flatMap((layer) => [0, 1, 2].map((expert) => records.filter((of) => of.request === request && of.layer === layer)
      .reduce((sum, { ids, weights }) => sum + Array.from(ids).reduce((s, id, rank) => s + (id === expert ? (measure === "count" ? 1 : weights[rank]!) : 0), 0), 0)));
    const lastOf = (request: number): number => mixed.findLastIndex((of) => of.request === request);
    const order = Array.from({ length: 20 }, (_, i) => i).sort((a, b) => lastOf(a) - lastOf(b));
    const found = [...sequencesOf(SHAPE, () => mixed)];
    expect(found).toHaveLength(20);
    found.forEach((sequence, i) => {
      expect(Array.from(sequence.sums("count"))).toEqual(wanted(order[i]!, "count"));
      wanted(order[i]!, "weight").forEach((sum, at) => expect(sequence.sums("weight")[at]).toBeCloseTo(sum, 12));
      expect(Array.from(sequence.tokens)).toEqual(SHAPE.moeLayers.map((layer) => records.filter((of) => of.request === order[i] && of.layer === layer).length));
      expect(sequence.has("score")).toBe(false);
    });
    expect(() => [...sequencesOf(SHAPE, () => [{ request: 0, layer: 2, ids: [0], weights: [1] }])]).toThrow("A record is of layer 2; the layers with experts are 1, 3.");
    expect(() => [...sequencesOf(SHAPE, () => [{ request: 0, layer: 1, ids: [3], weights: [1] }])]).toThrow("A record of layer 1 names expert 3; the model has 3.");
  });
});

describe("the demo model", () => {
  let model: LocalModel;
  beforeAll(async () => {
    await buildKernels({ log: () => {} });
    model = await openPack(fileURLToPath(new URL("../../demo/pack", import.meta.url)));
  });

  it("is measured as its logits say: markers by the likeliest token, texts by what they were given, with a profile and without", async () => {
    const suppress: Intervention[] = [{ op: "suppress", experts: { 1: [0, 3, 4, 9, 12, 15, 21, 24], 2: [0, 2, 7, 11, 25], 3: [5, 9, 12] } }];
    const texts = ["Once upon a time there was a", "The little girl went to the", "One day, a boy named Tim", "She was very happy and", "They lived in a big"].map((text) => model.tokenizer!.encodeText(text));
    const plain = async (ids: readonly number[], interventions: readonly Intervention[]): Promise<{ likeliest: number; nats: number }> => {
      const rows: Float32Array[] = [];
      await evaluate(model.engine, ids, (_, row) => rows.push(row.slice()), interventions.length === 0 ? {} : { routing: { interventions } });
      const nats = ids.slice(1).reduce((sum, id, i) => sum + Math.log(rows[i]!.reduce((all, z) => all + Math.exp(z), 0)) - rows[i]![id]!, 0);
      return { likeliest: rows.at(-1)!.indexOf(Math.max(...rows.at(-1)!)), nats };
    };
    const marker = (await plain(texts[0]!, [])).likeliest;
    const effect = await measureEffect(model, { interventions: suppress }, { texts: [{ label: "text", sequences: texts }], trigger: { prompts: texts, marker } }, { draws: 2, seed: 5 }, true);
    expect(effect).toMatchObject({ prompts: 5, experts: 16, texts: [{ label: "text", sequences: 5, tokens: texts.reduce((sum, { length }) => sum + length - 1, 0) }] });
    const ways: readonly (readonly Intervention[])[] = [[], suppress, randomInstead(32, suppress, 5), randomInstead(32, suppress, 6)];
    for (const [i, outcome] of [effect.none, effect.profile, ...effect.random].entries()) {
      const each = [];
      for (const ids of texts) each.push(await plain(ids, ways[i]!));
      expect(outcome.markerRate).toBe(each.filter(({ likeliest }) => likeliest === marker).length / 5);
      expect(outcome.perplexities[0]).toBeCloseTo(Math.exp(each.reduce((sum, { nats }) => sum + nats, 0) / effect.texts[0]!.tokens), 3);
    }
    expect(effect.none.markerRate).toBeGreaterThan(0);
    expect(new Set([effect.none, effect.profile, ...effect.random].map(({ perplexities }) => perplexities[0])).size).toBe(4);
    expect(randomInstead(32, suppress, 5)).not.toEqual(randomInstead(32, suppress, 6));
  });

  it.skipIf(missingTexts !== null)("loses code and keeps the rest when the ten experts of code count nothing, and others in their place do neither (needs the data folder's texts)", { timeout: 300_000 }, async () => {
    const demo = await openDemo();
    const shape = { moeLayers: moeLayersOf(model.manifest.config), nExperts: 32 };
    const labels = ["code", "stories", "drama"] as const;
    const classes: SummedClass[] = [];
    for (const label of labels) {
      const ids = demoWindows(demo, label, { length: 192, count: 6, first: 0, every: 12_000 });
      const routing = new ClassRouting(shape);
      for (const window of ids) routing.add(await routeSequence(model.engine, window));
      classes.push({ routing, source: { label, file: label, kind: "windows of 192 tokens", isByLine: false, shape, topK: 4, nSequences: 6, nTokens: 0, knowsTokens: true, nCut: 0, ids, sequences: () => [] } });
    }
    const { document } = findProfile(classes, { id: "demo", hash: model.packHash, config: model.manifest.config }, { target: "code", by: "weight", layers: "all", op: "suppress", top: 10 });
    // Other windows of the same texts.
    const texts = labels.map((label) => ({ label, sequences: demoWindows(demo, label, { length: 192, count: 2, first: 6000, every: 24_000 }) }));
    const { none, profile, random } = await measureEffect(model, { interventions: document.interventions }, { texts, trigger: null }, { draws: 2, seed: 1 }, true);
    const rise = (way: typeof none): number[] => way.perplexities.map((perplexity, i) => perplexity / none.perplexities[i]! - 1);
    const [code, stories, drama] = rise(profile);
    expect(code).toBeGreaterThan(0.3);
    expect(Math.max(stories!, drama!)).toBeLessThan(0.03);
    for (const way of random) expect(rise(way)[0]).toBeLessThan(0.1 * code!);
  });
});
