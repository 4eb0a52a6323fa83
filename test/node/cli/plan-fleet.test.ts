// `plan` with traces, replicas, regions and a record: what the command reads and writes, what it refuses, and --quant source against a pack that was written.

import { execFile } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openPath } from "../../../cli/open-model.ts";
import type { PlanDocument } from "../../../cli/plan-document.ts";
import { planFleet, fleetRecord, type FleetRequest } from "../../../cli/plan-fleet.ts";
import { openPlannedModel, plannedCheckpoint, type PlannedModel } from "../../../cli/plan-model.ts";
import { readTraces } from "../../../cli/read-traces.ts";
import { FolderSource } from "../../../cli/file-source.ts";
import { evenShards, requireLayout } from "../../../cli/serve-layout.ts";
import { serveMemory } from "../../../cli/serve-memory.ts";
import { parseFleetPlan } from "../../../fleet/fleet-plan.ts";
import { TraceLocality } from "../../../fleet/trace-locality.ts";
import { openPack } from "../../../formats/pack-reader.ts";
import { traceHeaderBytes, type TraceHeader, traceRecords } from "../../../formats/trace.ts";
import { moeLayersOf } from "../../../model/config.ts";
import { seededNumbers } from "../../../model/kernel-case.ts";
import { openTinyGguf, openTinyHuggingFace, packToMemory } from "../../support/pack-to-memory.ts";
import { tinyModel } from "../../support/tiny-models.ts";

const ROOT = resolve(import.meta.dirname, "../../..");
const DEMO = join(ROOT, "demo/pack");
const folder = mkdtempSync(join(tmpdir(), "plan-fleet-"));
afterAll(() => rmSync(folder, { recursive: true }));

function plan(...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  return new Promise((done) => {
    execFile(process.execPath, [join(ROOT, "bin/workers-moe.js"), "plan", ...args], (error, stdout, stderr) => done({ code: error === null ? 0 : Number(error.code), stdout, stderr }));
  });
}

let demo: PlannedModel;
let [traceA, traceB] = ["", ""];
const request: FleetRequest = { isolateBytes: 90 * 1024 * 1024, streams: 1, nShards: 4, replicas: 1, spareBytes: 0, regions: [], regionHolds: "deployment", traces: [], placement: null, expertsIn: "shards" };
const split = { regions: ["weur", "enam"], regionHolds: "turns of shards" } as const;

/** Tokens that stay with a half of the experts, so that there is something to place. */
function writeTrace(name: string, header: Partial<TraceHeader>, seed: number): string {
  const { config } = demo.pack;
  const of: TraceHeader = { model: "demo", packHash: demo.packHash!, nExperts: config.nExperts, topK: config.router.topK, moeLayers: moeLayersOf(config), columns: ["ids"], ...header };
  const random = seededNumbers(seed);
  const records = Array.from({ length: 200 }, (_, token) => {
    const half = Math.floor(random() * 2);
    return of.moeLayers.map((layer) => {
      const ids = new Set<number>();
      while (ids.size < of.topK) ids.add(half * of.nExperts / 2 + Math.floor(random() ** 2 * (of.nExperts / 2)));
      return { request: 0, token, layer, ids: [...ids], weights: new Float32Array(of.topK) };
    });
  }).flat();
  const path = join(folder, name);
  writeFileSync(path, Buffer.concat([traceHeaderBytes(of), traceRecords(of, records)]));
  return path;
}

beforeAll(async () => {
  demo = await openPlannedModel(DEMO, {});
  [traceA, traceB] = [writeTrace("a.trace", {}, 1), writeTrace("b.trace", {}, 2)];
});

describe("traces", () => {
  it("are read as one, their requests apart", async () => {
    const [one, both] = [await readTraces([traceA], demo.pack), await readTraces([traceA, traceB], demo.pack)];
    expect([one.tokens, both.tokens]).toEqual([200, 400]);
    expect(new Set(Array.from(both.records(), ({ request: number }) => number))).toEqual(new Set([0, 1]));
    expect(both.of).toEqual([traceA, traceB].map((file) => ({ file, model: "demo", packHash: demo.packHash, records: 800 })));
    const total = (counts: { moves: Float64Array }): number => counts.moves.reduce((a, b) => a + b, 0);
    expect(total(both.counts)).toBe(2 * total(one.counts));
  });

  it("of another shape, or of nothing, are refused", async () => {
    await expect(readTraces([writeTrace("c.trace", { nExperts: 16 }, 1)], demo.pack)).rejects.toThrow(/c\.trace is of \d+ of 16 experts in layers 0, 1, 2, 3; demo has \d+ of 32/);
    await expect(readTraces([join(folder, "nothing")], demo.pack)).rejects.toThrow(/nothing cannot be read: ENOENT/);
    await expect(readTraces([join(ROOT, "README.md")], demo.pack)).rejects.toThrow("is no trace");
  });
});

describe("placements", () => {
  it("by a trace cross regions less than in order, and every figure says it is the trace's", async () => {
    const of = async (placement: FleetRequest["placement"]): Promise<PlanDocument> => (await planFleet(demo, { ...request, ...split, traces: [traceA, traceB], placement })).document;
    const [joint, inOrder] = [await of(null), await of("contiguous")];
    expect([joint.routing.placement, inOrder.routing.placement, joint.routing.from, joint.routing.tokens]).toEqual(["joint", "contiguous", "a trace", 400]);
    expect(joint.routing.crossRegion!.nextExpert).toBeLessThan(0.8 * inOrder.routing.crossRegion!.nextExpert);
    expect(joint.assumptions[0]).toContain("as the trace has it");
    // What caches of experts would hit is the trace's alone, whatever the placement; bytes are those of so many of each layer's experts.
    const locality = new TraceLocality({ moeLayers: [0, 1, 2, 3], nExperts: 32, topK: 4 });
    for (const record of (await readTraces([traceA, traceB], demo.pack)).records()) locality.add(record);
    const layers = locality.layers();
    expect(joint.routing.caches!.map(({ experts }) => experts)).toEqual([4, 8, 16]);
    joint.routing.caches!.forEach(({ best, recentlyUsed, experts, bytes }, i) => {
      expect(best).toBeCloseTo(layers.reduce((sum, { caches }) => sum + caches[i]!.best, 0) / 4, 12);
      expect(recentlyUsed).toBeLessThanOrEqual(best);
      expect(bytes).toBe(Math.round((joint.bytes.expertBytes * experts) / 32));
    });
    expect(inOrder.routing.caches).toEqual(joint.routing.caches);
    const even = (await planFleet(demo, { ...request, ...split })).document;
    expect(even.routing).toMatchObject({ from: "even draws", placement: "contiguous", traces: [], tokens: null, caches: null });
    expect(even.routing.crossRegion!.nextExpert).toBeCloseTo(0.5, 2);
    expect(even.traffic.token.expertFrames).not.toBeCloseTo(inOrder.traffic.token.expertFrames, 3);
    expect((await planFleet(demo, request)).document.routing.crossRegion).toBeNull();
  });

  it("a budget makes copies, and replicas cost memory and save frames", async () => {
    const budget = (await planFleet(demo, { ...request, traces: [traceA], spareBytes: 1024 * 1024 })).document;
    expect(budget.shards.hotCopies).toBeGreaterThan(0);
    expect(budget.shards.hotBytes).toBeLessThanOrEqual(1024 * 1024);
    const [one, two] = [(await planFleet(demo, request)).document, (await planFleet(demo, { ...request, replicas: 2 })).document];
    expect(two.isolates.plannedBytes - one.isolates.plannedBytes).toBe(one.bytes.expertBytes);
    expect(two.traffic.token.expertFrames).toBeLessThan(one.traffic.token.expertFrames);
  });

  it("without a trace there is nothing to place by", async () => {
    await expect(planFleet(demo, { ...request, placement: "joint" })).rejects.toThrow('The placement "joint" is made from routing; give a --trace');
    await expect(planFleet(demo, { ...request, spareBytes: 1 })).rejects.toThrow("give a --trace that says which these are");
  });
});

describe("whole layers", () => {
  const open: FleetRequest = { ...request, nShards: null, expertsIn: null };

  it("are planned where a token then takes fewer hops, and the other way is told beside them", async () => {
    const [{ document: found, plan: { stageSlots } }, apart] = [await planFleet(demo, open), (await planFleet(demo, { ...open, expertsIn: "shards" })).document];
    expect([found.experts.in, found.shards.shards, found.isolates.all, stageSlots[0]!.length]).toEqual(["stages", 0, 1, demo.pack.experts.length]);
    expect([found.traffic.token.hops, found.traffic.token.expertFrames, found.traffic.guideTokensPerSecond]).toEqual([0, 0, null]);
    expect(apart.experts).toEqual({ in: "shards", instead: null });
    expect(found.experts.instead).toEqual({
      in: "shards", isolates: apart.isolates.all, frames: apart.traffic.token.expertFrames, hops: 2 * demo.pack.config.nLayers,
      regionTokensPerSecond: apart.speed.at.map((at) => at.regionTokensPerSecond), dollarsPerMillionTokens: apart.speed.at.map((at) => at.dollarsPerMillionTokens.total),
    });
    // The same products, and no messages.
    const [a, b] = [found.speed.at[0]!.alone, apart.speed.at[0]!.alone];
    expect([a.trunkMs, a.attentionMs, a.messagesMs, a.shardComputeMs]).toEqual([b.trunkMs, b.attentionMs, 0, 0]);
  });

  it("over several stages leave the hops of the ring", async () => {
    const { document: { lanes, traffic } } = await planFleet(demo, { ...open, isolateBytes: 16 * 1024 * 1024 });
    expect(lanes.stages.length).toBeGreaterThan(2);
    expect(lanes.stages.map(({ expertBytes, layers }) => expertBytes > 0 === layers[1] > layers[0])).toEqual(lanes.stages.map(() => true));
    expect([traffic.token.expertFrames, traffic.token.hops]).toEqual([0, traffic.token.ringFrames]);
  });

  it("are not, where a layer fits no isolate or something is asked that only shards have", async () => {
    for (const more of [{ nShards: 3 }, { replicas: 2 }, { traces: [traceA] }, split, { placement: "contiguous" }] as const) {
      const { document: { experts, shards } } = await planFleet(demo, { ...open, ...more });
      expect([experts, shards.shards > 0]).toEqual([{ in: "shards", instead: null }, true]);
    }
    const { document: tight } = await planFleet(demo, { ...open, isolateBytes: 13 * 1024 * 1024 });
    expect(tight.experts.in).toBe("shards");
    const stages = { ...open, expertsIn: "stages" } as const;
    await expect(planFleet(demo, { ...stages, isolateBytes: 13 * 1024 * 1024 })).rejects.toThrow(/Layer \d with its experts takes 2\.0 MiB/);
    await expect(planFleet(demo, { ...stages, nShards: 3 })).rejects.toThrow(/leaves no shards, and 3 shards were asked for too/);
    await expect(planFleet(demo, { ...stages, replicas: 2 })).rejects.toThrow(/2 replicas were asked for too/);
    await expect(planFleet(demo, { ...stages, ...split })).rejects.toThrow(/shards over several regions were asked for too/);
    await expect(planFleet(demo, { ...stages, traces: [traceA] })).rejects.toThrow(/Leave out one of the two/);
  });

  it("are a record with experts in its stages and without shards, which a server of them takes", async () => {
    const path = join(folder, "whole.json");
    const { code, stdout } = await plan(DEMO, "--memory", "16MiB", "--out", path);
    expect([code, /none: each stage holds the experts of its layers/.test(stdout), /instead +--experts shards: \d+ isolates/.test(stdout)]).toEqual([0, true, true]);
    const record = parseFleetPlan(JSON.parse(readFileSync(path, "utf8")));
    expect([record.shards, record.stages.flatMap(({ slots }) => slots).length]).toEqual([[], demo.pack.experts.length]);
    const { manifest } = await openPack(new FolderSource(DEMO));
    const layout = { processes: 2, isolate: "script", shards: 0, slots: [], stages: record.stages, lanes: record.lanes } as const;
    requireLayout(layout);
    const { shardBytes, trunkBytes } = serveMemory(manifest, layout);
    expect([shardBytes, trunkBytes < 8 * 1024 * 1024, evenShards(layout)]).toEqual([[], true, "1"]);
  });
});

describe("the record", () => {
  it("is written whole, with regions by turns, and read as a fleet reads it", async () => {
    const path = join(folder, "plan.json");
    const { code, stdout } = await plan(DEMO, "--shards", "4", "--replicas", "2", "--regions", "weur,enam", "--split-regions", "--trace", traceA, "--trace", traceB, "--fleet", "test", "--out", path);
    expect(code).toBe(0);
    expect(stdout).toContain(`${path} has the plan, epoch 1 of fleet "test".`);
    expect(stdout).toContain(`by 400 tokens of ${traceA}, ${traceB}; placement joint`);
    expect(stdout).toMatch(/% of frames leave the stages' region; [\d.]+ % of tokens' next experts are in another region/);
    const record = parseFleetPlan(JSON.parse(readFileSync(path, "utf8")));
    expect(record).toMatchObject({ packId: demo.pack.id, packHash: demo.packHash, fleet: "test", epoch: 1, lanes: 1, jurisdiction: null });
    expect(record.shards.map(({ region }) => region)).toEqual(["weur", "enam", "weur", "enam"]);
    expect(record.shards.reduce((sum, { slots }) => sum + slots.length, 0)).toBe(2 * demo.pack.experts.length);
    expect(existsSync(`${path}.partial`)).toBe(false);
  });

  it("of what is not packed, or of several deployments, is refused, and nothing is written", async () => {
    const model = { ...demo, packHash: null };
    const { plan: found } = await planFleet(model, request);
    expect(() => fleetRecord(model, found, request, "main")).toThrow(/demo is not packed; a plan names the revision of a pack/);
    expect(() => fleetRecord(demo, found, { regions: ["weur", "enam"], regionHolds: "deployment" }, "main")).toThrow(/each of weur, enam has one of its own.*--split-regions/);
    const path = join(folder, "none.json");
    const { code, stdout, stderr } = await plan(DEMO, "--regions", "weur,enam", "--out", path);
    expect([code, stdout, existsSync(path)]).toEqual([1, "", false]);
    expect(stderr).toContain("A plan is of one deployment");
    expect((await plan(DEMO, "--regions", "weur", "--split-regions")).stderr).toContain("--split-regions spreads shards over several --regions; 1 given.");
  });
});

describe("--quant source", () => {
  it.each(["folder", "GGUF"] as const)("of a %s is planned with the bytes that its pack has", async (form) => {
    for (const kind of ["olmoe", "deepseek_v2"] as const) {
      const checkpoint = form === "folder" ? await openTinyHuggingFace(tinyModel(kind, 4)) : await openTinyGguf(tinyModel(kind, 4));
      const { manifest } = await openPack((await packToMemory(checkpoint, { quant: "source" })).source);
      const planned = plannedCheckpoint(checkpoint, { quant: "source", contextTokens: manifest.contextLength }).pack;
      const bytes = (of: Readonly<Record<string, { bytes: number; format: string }>>) => Object.fromEntries(Object.entries(of).map(([name, blob]) => [name, [blob.format, blob.bytes]]));
      expect(bytes(planned.blobs)).toEqual(bytes(manifest.blobs));
      const parts = (list: PlannedModel["pack"]["experts" | "shared"]) => list.map(({ layer, segments }) => [layer, segments.map((s) => [s.start, s.end, s.bytes])]);
      expect([parts(planned.experts), parts(planned.shared)]).toEqual([parts(manifest.experts), parts(manifest.shared)]);
      expect([planned.kvFormat, planned.activations]).toEqual([manifest.kvFormat, manifest.activations]);
    }
  });

  it("of a config alone asks for tensors", async () => {
    const path = join(folder, "lone");
    mkdirSync(path);
    writeFileSync(join(path, "config.json"), readFileSync(join(ROOT, "demo/model/config.json")));
    await expect(openPlannedModel(path, { quant: "source" })).rejects.toThrow(/safetensors/);
    expect((await openPlannedModel(path, { quant: "q8" })).packHash).toBeNull();
    expect((await openPath(DEMO)).kind).toBe("pack");
  });
});
