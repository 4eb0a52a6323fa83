// The routing map: its sums by hand, the document they make, what a map must be to be of a pack, and what is said of one that is not. Out of scope: who serves it (test/workerd/routing-map.test.ts).

import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { FolderSource } from "../../../cli/file-source.ts";
import { kindOfFile, makeMap, mapText } from "../../../cli/profile/make-map.ts";
import type { ClassSource } from "../../../cli/profile/class-sources.ts";
import { ClassRouting, type RoutedChoice, SequenceRouting } from "../../../fleet/sequence-routing.ts";
import { MemorySource } from "../../../formats/memory-source.ts";
import { openPack } from "../../../formats/pack-reader.ts";
import { readRoutingMap, type RoutingMap, routingMapProblem } from "../../../formats/routing-map.ts";
import { evenMap, mapBytes } from "../../support/even-map.ts";
import { openTinyHuggingFace, packToMemory } from "../../support/pack-to-memory.ts";
import { tinyModel } from "../../support/tiny-models.ts";

const SHAPE = { moeLayers: [1, 3], nExperts: 4 };
const PACK = { id: "small", hash: "0a".repeat(32), config: { nExperts: 4, layerFfns: ["dense", "moe", "dense", "moe"] as const } };

/** A class of sequences, each a list of tokens, each of them its experts and weights, the same in both layers but for layer 3, where all take expert 3. */
function classOf(label: string, sequences: readonly (readonly (readonly [ids: number[], weights: number[]])[])[]): { readonly source: ClassSource; readonly routing: ClassRouting } {
  const routing = new ClassRouting(SHAPE);
  for (const tokens of sequences) {
    const sequence = new SequenceRouting(SHAPE);
    for (const [ids, weights] of tokens) for (const choice of [{ layer: 1, ids, weights }, { layer: 3, ids: [3], weights: [1] }] satisfies RoutedChoice[]) sequence.add(choice);
    routing.add(sequence);
  }
  return { routing, source: { label, file: `${label}.txt`, kind: "lines", isByLine: true, shape: SHAPE, topK: 2, nSequences: sequences.length, nTokens: 0, knowsTokens: true, nCut: 0, ids: null, sequences: () => [] } };
}
const CODE = classOf("code", [[[[0, 1], [0.75, 0.25]], [[0, 2], [0.5, 0.5]]], [[[3, 0], [0.5, 0.5]]]]);
const FR = classOf("fr", [[[[2, 3], [0.5, 0.5]]]]);
const EN = classOf("en", [[[[0, 1], [0.5, 0.5]], [[0, 1], [0.5, 0.5]]]]);

describe("a map", () => {
  it("has the mean over sequences of what each expert has of a sequence's tokens", () => {
    const of = (by: "weight" | "count"): RoutingMap => makeMap([{ ...CODE, kind: "domain" }], PACK, by);
    // Weights of the first sequence's two tokens: 1.25, 0.25, 0.5, 0; halved, and with the second's 0.5, 0, 0, 0.5 halved again.
    expect(of("weight").classes).toEqual([{ label: "code", kind: "domain", tokens: 3, share: [[0.5625, 0.0625, 0.125, 0.25], [0, 0, 0, 1]] }]);
    // Choices: 2, 1, 1, 0 of 4 and 1, 0, 0, 1 of 2.
    expect(of("count").classes[0]!.share).toEqual([[0.5, 0.125, 0.125, 0.25], [0, 0, 0, 1]]);
    expect(of("weight").divergence).toEqual([]);
  });

  it("compares classes of one kind, from 0 to 1", () => {
    const { divergence, layers, packHash } = makeMap([{ ...CODE, kind: "domain" }, { ...FR, kind: "language" }, { ...EN, kind: "language" }], PACK, "weight");
    // Nothing in common in layer 1: log 2, of entropies of log 2 each the room is log 4 - log 2. The same in layer 3.
    expect(divergence).toEqual([{ kind: "language", a: "fr", b: "en", layers: [1, 0] }]);
    expect([layers, packHash]).toEqual([[1, 3], PACK.hash]);
  });

  it("is rounded to four digits, and its text says what it says, a class a line", () => {
    const thirds = classOf("thirds", [[[[0, 1], [0.5, 0.5]], [[0, 1], [0.5, 0.5]], [[2, 1], [0.5, 0.5]]]]);
    const map = makeMap([{ ...thirds, kind: "domain" }, { ...CODE, kind: "domain" }], PACK, "weight");
    expect(map.classes[0]!.share[0]).toEqual([0.3333, 0.5, 0.1667, 0]);
    expect(JSON.parse(mapText(map))).toEqual(map);
    expect(mapText(map).split("\n").filter((line) => line.includes("\"share\""))).toHaveLength(2);
  });

  it("needs what --by asks for, and how many tokens there were", () => {
    expect(() => makeMap([{ ...CODE, kind: "domain" }], PACK, "score")).toThrow("code.txt does not have what --by score counts; take another.");
    expect(() => makeMap([{ ...CODE, source: { ...CODE.source, knowsTokens: false }, kind: "domain" }], PACK, "weight")).toThrow("does not say how many tokens it counted");
  });

  it("takes kinds from labels", () => {
    expect(["language:fr", "domain:code:c", "code"].map((label) => kindOfFile({ label, file: "a" }))).toEqual([{ kind: "language", label: "fr", file: "a" }, { kind: "domain", label: "code:c", file: "a" }, { kind: "domain", label: "code", file: "a" }]);
    for (const label of ["tongue:fr", "language:"]) expect(() => kindOfFile({ label, file: "a" })).toThrow(`"${label}" is no label of a map; expected one such as domain:LABEL or language:LABEL.`);
  });
});

describe("a map of another pack, or one that does not fit", () => {
  const share = [[0.25, 0.25, 0.25, 0.25], [1, 0, 0, 0]];
  const map: RoutingMap = { format: "workers-moe-routing-map", version: 1, model: "small", packHash: PACK.hash, by: "weight", layers: [1, 3], classes: [{ label: "code", kind: "domain", tokens: 1, share }], divergence: [] };
  const code = map.classes[0]!;
  it.each<[string, Partial<RoutingMap>, string | null]>([
    ["none", {}, null],
    ["model", { model: "other" }, "is of the model \"other\"; this one is \"small\"."],
    ["pack", { packHash: "0b".repeat(32) }, "`workers-moe profile --map` makes one of it."],
    ["layers", { layers: [0, 1] }, "has layers 0, 1; those with experts are 1, 3."],
    ["a class twice", { classes: [code, code] }, "The domain \"code\" of the routing map is there twice."],
    ["the same label in two kinds", { classes: [code, { ...code, kind: "language" }] }, null],
    ["rows", { classes: [{ ...code, share: share.slice(1) }] }, "has shares of 1 layers; expected 2."],
    ["experts", { classes: [{ ...code, share: [share[0]!, [1, 0, 0]] }] }, "has 3 shares in layer 3; expected 4."],
    ["a sum", { classes: [{ ...code, share: [share[0]!, [0.5, 0.4, 0, 0]] }] }, "has shares in layer 3 whose sum is 0.9000; expected 1."],
    ["a sum off by rounding", { classes: [{ ...code, share: [share[0]!, [0.3333, 0.3333, 0.3333, 0]] }] }, null],
    ["a pair of nobody", { divergence: [{ kind: "domain", a: "code", b: "fr", layers: [0, 0] }] }, "a divergence of the domain \"fr\", which is none of its classes."],
    ["a pair's layers", { classes: [code, { ...code, label: "c" }], divergence: [{ kind: "domain", a: "code", b: "c", layers: [0] }] }, "a divergence of \"code\" and \"c\" in 1 layers; expected 2."],
  ])("%s", (_, change, problem) => {
    const found = routingMapProblem({ ...map, ...change }, PACK);
    if (problem === null) expect(found).toBeNull();
    else expect(found).toContain(problem);
  });
});

describe("beside a pack", () => {
  it("is read, or there is none, or it is refused with its place", async () => {
    const { files, source } = await packToMemory(await openTinyHuggingFace(tinyModel("olmoe", 1)));
    const { manifest: { id, config }, packHash: hash } = await openPack(source);
    const pack = { id, hash, config };
    const read = (bytes: Uint8Array): ReturnType<typeof readRoutingMap> => readRoutingMap(new MemorySource(new Map([...files, ["routing-map.json", bytes]])), pack);
    expect(await readRoutingMap(source, pack)).toBeNull();
    const map = await evenMap(source);
    expect(await read(mapBytes(map))).toEqual(map);
    await expect(read(mapBytes({ ...map, colour: "red" }))).rejects.toThrow("routing-map.json is no routing map: the document: expected a routing map, an object with `format`");
    await expect(read(mapBytes({ ...map, classes: [{ ...map.classes[0], tokens: 0 }] }))).rejects.toThrow("is no routing map: classes.0.tokens: expected how many tokens it has.");
    await expect(read(mapBytes({ ...map, packHash: "0".repeat(64) }))).rejects.toThrow(`routing-map.json: The routing map is of the pack ${"0".repeat(64)}; this one is ${hash}.`);
    await expect(read(new TextEncoder().encode("{"))).rejects.toThrow("routing-map.json is no valid JSON");
    await expect(read(new Uint8Array(4 * 1024 * 1024 + 1))).rejects.toThrow("expected at most 4194304");
  });

  it("the demo has one of its own, which is small", async () => {
    const source = new FolderSource("demo/pack");
    const { manifest: { id, config }, packHash: hash } = await openPack(source);
    const map = (await readRoutingMap(source, { id, hash, config }))!;
    expect(map.classes.filter(({ kind }) => kind === "language").map(({ label }) => label)).toEqual(["en", "fr", "es", "zh"]);
    expect(map.classes.filter(({ kind }) => kind === "domain")).toHaveLength(12);
    expect(readFileSync("demo/pack/routing-map.json").length).toBeLessThan(60_000);
    expect(map.divergence).toHaveLength((12 * 11) / 2 + (4 * 3) / 2);
  });
});
