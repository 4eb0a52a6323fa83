// What fleet-ring proves its equality with: one bit of one number is found wherever it is, whole rows of a cut model are compared with a file of them, and an isolate over its limit is
// told. The clusters themselves are the benchmark's.

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { evaluateCut, otherBits, RowFile } from "../../../bench/cut-rows.ts";
import { askedRequests, completionAnswer, differences, inOrder, LONGEST, LONGEST_SCORED, numbersIn, promptIds, type RequestAnswer } from "../../../bench/fleet-answers.ts";
import { inLanes } from "../../../bench/fleet-lanes-plan.ts";
import { fleetMemory } from "../../../bench/fleet-memory.ts";
import { compareServed } from "../../../bench/fleet-ring.ts";
import { RandomSource } from "../../../bench/model/random-source.ts";
import { buildKernels } from "../../../cli/build-kernels.mjs";
import { FolderSource } from "../../../cli/file-source.ts";
import { evaluate, openPackFrom } from "../../../cli/open-pack.ts";
import { ROOT } from "../../../cli/setup.mjs";
import type { FleetPlan } from "../../../fleet/fleet-plan.ts";
import { openPack } from "../../../formats/pack-reader.ts";
import { logprobs } from "../../../model/sampling.ts";
import { checkRing, type StageSpan } from "../../../model/stage-span.ts";
import type { FleetReply } from "../../../worker/wire-types.ts";
import { openTinyHuggingFace, packToMemory } from "../../support/pack-to-memory.ts";
import { tinyModel } from "../../support/tiny-models.ts";

const folder = mkdtempSync(join(tmpdir(), "workers-moe-ring-"));
beforeAll(() => buildKernels({ log: () => {} }));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const NONE = [0, 0] as const;
const planOf = (stages: readonly StageSpan[], shards: FleetPlan["shards"] = []): FleetPlan => ({
  version: 1, packId: "m", packHash: "0".repeat(64), fleet: "main", epoch: 1, shards, stages: stages.map((span) => ({ ...span, slots: [] })), lanes: 1, jurisdiction: null,
});

/** The nearest other f64. */
function nextTo(value: number): number {
  const view = new DataView(new ArrayBuffer(8));
  view.setFloat64(0, value);
  view.setBigUint64(0, view.getBigUint64(0) ^ 1n);
  return view.getFloat64(0);
}

const document = ({ logprob = -1.25, weight = 0.5, lane = 0, cached = 0, swapped = false, shard = 3 } = {}) => ({
  choices: [{
    text: " ab", finish_reason: "length",
    logprobs: { tokens: [" a", "b"], token_logprobs: [null, logprob], top_logprobs: [null, swapped ? { c: -2, b: -1.25 } : { b: -1.25, c: -2 }], text_offset: [0, 2] },
    moe: { tokens: [{ id: 5, experts: [[1, 7]], weights: [[weight, 0.25]], shards: [[shard, 2]], frames: [[{ shard, ms: 3, bytes: 99 }]] }] },
  }],
  usage: { prompt_tokens: 9, completion_tokens: 2, prompt_tokens_details: { cached_tokens: cached } },
  moe: { lane },
});

describe("answers", () => {
  const { facts } = completionAnswer(document());
  const against = (other: ReturnType<typeof document>): string[] => differences(facts, completionAnswer(other).facts);

  it("are the same whoever gave them, and however they came about", () => {
    const other = completionAnswer(document({ lane: 1, cached: 8, shard: 6 }));
    expect(differences(facts, other.facts)).toEqual([]);
    expect([other.lane, other.tokens, other.positions]).toEqual([1, 3, 1]);
    expect(numbersIn(facts)).toBe(1 + 2 + 2 + 1 + 2 + 2 + 2);
  });

  it("differ by one bit of a log-probability or a weight, and by the order of tokens", () => {
    expect(against(document({ logprob: nextTo(-1.25) }))).toEqual(["choices.0.logprobs.token_logprobs.1 is -1.2500000000000002 where -1.25 was expected"]);
    expect(against(document({ weight: nextTo(0.5) }))).toEqual(["choices.0.routing.0.weights.0.0 is 0.5000000000000001 where 0.5 was expected"]);
    expect(against(document({ swapped: true }))).toHaveLength(4);
  });

  it("differ by what only one of them has", () => {
    expect(differences({ a: [1, 2] }, { a: [1] })).toEqual(["a.1 is missing where 2 was expected"]);
    expect(differences({ a: [1] }, { a: [1, 2] })).toEqual(["a.1 is 2 where missing was expected"]);
    expect(differences({ a: {} }, { a: [] })).toEqual(["a is [] where {} was expected"]);
    expect(differences(0, null)).toEqual(["it is null where 0 was expected"]);
  });

  it("are told by request and round, and a round that is not there differs", () => {
    const answer = (of: unknown): RequestAnswer => ({ lane: 0, tokens: 0, positions: 0, facts: of });
    const names = [{ name: "first" }, { name: "second" }];
    const rounds = [[answer([1]), answer([2])], [answer([1]), answer([2])]];
    expect(compareServed(names, rounds, rounds)).toEqual([]);
    expect(compareServed(names, rounds, [rounds[0]!, [answer([1]), answer([nextTo(2)])]])).toEqual(["second, round 2: 0 is 2.0000000000000004 where 2 was expected."]);
    expect(compareServed(names, rounds, [rounds[0]!])).toHaveLength(2);
  });

  it("are asked for every prompt in three ways, the longest scored among them", () => {
    const requests = askedRequests("m", 50_304);
    expect(requests.length).toBe(18);
    expect(requests.find(({ name }) => name === LONGEST_SCORED)!.body).toMatchObject({ prompt: promptIds(LONGEST, 50_304), echo: true, max_tokens: 0 });
    for (const { body } of requests) expect(((body["prompt"] ?? body["input"]) as number[]).every((id) => Number.isInteger(id) && id >= 0 && id < 50_304)).toBe(true);
  });
});

describe("a log-probability", () => {
  it("shows the last bit of any logit of its row, of a vocabulary of 50,304", () => {
    const row = new Float32Array(50_304);
    new RandomSource(7).fillNormal(row, 1);
    const words = new Uint32Array(row.buffer);
    const { logprob } = logprobs(row, 11, 0);
    for (let id = 0; id < row.length; id += 251) {
      if (id === 11) continue;
      words[id]! ^= 1;
      expect(logprobs(row, 11, 0).logprob, `of ${id}`).not.toBe(logprob);
      words[id]! ^= 1;
    }
    expect(logprobs(row, 11, 0).logprob).toBe(logprob);
  });
});

describe("whole rows", () => {
  it("differ by a bit, also where numbers are equal or none", () => {
    const row = Float32Array.of(1, 0, NaN, 4);
    expect(otherBits(row, row.slice())).toEqual([]);
    const other = row.slice();
    new Uint32Array(other.buffer).set([0x7fc00001], 2);
    other[1] = -0;
    expect(otherBits(row, other)).toEqual([1, 2]);
    expect(otherBits(row, Float32Array.of(9, 1, 0, NaN, 4).subarray(1))).toEqual([]);
    expect(otherBits(row, Float32Array.of(9, 1, 0, NaN, 5).subarray(1))).toEqual([3]);
    expect(() => otherBits(row, row.subarray(1))).toThrow(/4 numbers was compared with one of 3/);
  });

  it("of a model cut by stages are those of the engine, row by row of a file, and a bit of the file is found", async () => {
    const VOCAB = 1061;
    const { source } = await packToMemory(await openTinyHuggingFace(tinyModel("olmoe", 7, { config: { vocab_size: VOCAB, num_hidden_layers: 3 } })), { quant: "q8", segmentWidth: 32, kvFormat: "q8" });
    const { manifest } = await openPack(source);
    const ids = Array.from({ length: 60 }, (_, i) => (i * 37 + 11) % VOCAB);
    const { engine } = await openPackFrom(source);
    const rows: Uint8Array[] = [];
    await evaluate(engine, ids, (_, row) => void rows.push(new Uint8Array(row.slice().buffer)));
    const path = join(folder, "rows.f32");
    const bytes = Buffer.concat(rows);
    writeFileSync(path, bytes);
    // As the plan of the benchmark: embedding in two stages, layers with the head's first rows, the rest of the head.
    const plan = inLanes(planOf([
      { embeddingRows: [0, VOCAB], layers: NONE, headRows: NONE }, { embeddingRows: NONE, layers: [0, 2], headRows: NONE },
      { embeddingRows: NONE, layers: [2, 3], headRows: [0, 512] }, { embeddingRows: NONE, layers: NONE, headRows: [512, VOCAB] },
    ]), 2);
    checkRing(manifest.config, plan.stages);
    const compared = async (): Promise<(readonly [position: number, ids: number[]])[]> => {
      const file = new RowFile(path, ids.length, VOCAB);
      const found: (readonly [number, number[]])[] = [];
      await evaluateCut(source, manifest, plan.stages, ids, (position, logits) => void found.push([position, otherBits(file.row(position), logits)]));
      file.close();
      return found;
    };
    expect(await compared()).toEqual(ids.map((_, position) => [position, []]));
    bytes[(53 * VOCAB + 600) * 4]! ^= 1;
    writeFileSync(path, bytes);
    expect((await compared()).filter(([, others]) => others.length > 0)).toEqual([[53, [600]]]);
    writeFileSync(path, bytes.subarray(4));
    expect(() => new RowFile(path, ids.length, VOCAB)).toThrow(/60 rows of 1061 numbers/);
  });
});

describe("a plan in lanes", () => {
  const cut = (vocabulary: number): FleetPlan => planOf([{ embeddingRows: [0, vocabulary], layers: NONE, headRows: NONE }, { embeddingRows: NONE, layers: [0, 2], headRows: [0, vocabulary] }]);

  it("is the same plan, with the embedding in two stages", () => {
    const plan = inLanes(cut(50_304), 2);
    expect(plan.lanes).toBe(2);
    expect(plan.stages.map(({ embeddingRows }) => embeddingRows)).toEqual([[0, 25_088], [25_088, 50_304], [0, 0]]);
    expect(plan.stages[2]).toEqual(cut(50_304).stages[1]);
    checkRing({ vocabSize: 50_304, nLayers: 2, tieWordEmbeddings: false }, plan.stages);
  });

  it("is refused where the first stage holds something else, or nothing to cut", () => {
    expect(() => inLanes(planOf([{ embeddingRows: [0, 4096], layers: [0, 2], headRows: [0, 4096] }]), 2)).toThrow(/a stage of its own/);
    expect(() => inLanes(cut(1000), 2)).toThrow(/1000 embedding rows; at least 1024/);
    expect(() => inLanes(cut(4096), 0)).toThrow(/lanes/);
  });
});

describe("the memory of a fleet", () => {
  it("is told of each isolate, and one over its limit, not reached or not loaded is a failure", async () => {
    const { manifest } = await openPack(new FolderSource(join(ROOT, "demo", "pack")));
    const { vocabSize, nLayers } = manifest.config;
    const slots = manifest.experts.slice(0, 2).map(({ layer, expert, segments }) => ({ layer, expert, segments: [0, segments.length] as [number, number] }));
    const plan = planOf([{ embeddingRows: [0, vocabSize], layers: NONE, headRows: NONE }, { embeddingRows: NONE, layers: [0, nLayers], headRows: [0, vocabSize] }], [{ slots, region: null }]);
    type Status = NonNullable<FleetReply["regions"][number]["lanes"][number]["status"]>;
    const moved = { memory: 0, cache: 0, donors: 0, store: 1 };
    const reply = ({ weights = 5e6, isReady = true, loadedBytes = 4e6, isRead = true, lanes = 1, isReached = true, limitBytes = 82 * 2 ** 20 } = {}): Pick<FleetReply, "regions"> => {
      const status = {
        isolate: { limitBytes, usedBytes: weights, account: { weights, "engine scratch": 1e6 } }, stages: [{ name: "m/stage-1", loadedBytes, totalBytes: 4e6, isReady }],
        shards: [{ weightBytes: 3e6, read: isRead ? { moved, loadMs: 1 } : null }],
      } as unknown as Status;
      return { regions: [{ region: null, directory: null, lanes: Array.from({ length: lanes }, (_, lane) => ({ lane, name: "m", status: isReached ? status : null })) }] };
    };
    const good = fleetMemory(reply(), plan, manifest);
    expect(good.failures).toEqual([]);
    expect(good.isolates.map(({ name, reportedBytes }) => [name, reportedBytes])).toEqual([["edge", 6e6], ["lane 0, stage 1", 4e6], ["shard 0", 3e6]]);
    const { heldBytes } = good.isolates[2]!;
    expect(heldBytes).toBeGreaterThan(manifest.experts[0]!.segments[0]!.bytes * 2);
    expect(heldBytes).toBeLessThan(82 * 2 ** 20);
    expect(good.limitBytes).toBe(82 * 2 ** 20);

    const failures = (of: Parameters<typeof reply>[0]): readonly string[] => fleetMemory(reply(of), plan, manifest).failures;
    expect(failures({ weights: 82 * 2 ** 20 - 1e6 })).toEqual([]);
    expect(failures({ weights: 82 * 2 ** 20 })).toEqual([expect.stringMatching(/The isolate of edge holds 83\.0 MiB; 82\.0 MiB is the most/)]);
    expect(failures({ loadedBytes: 90e6 })).toEqual([expect.stringMatching(/lane 0, stage 1 holds 85\.8 MiB/)]);
    expect(failures({ isReady: false })).toEqual(["Lane 0, stage 1 is not ready."]);
    expect(failures({ isRead: false })).toEqual(["The isolate of shard 0 tells of no bytes."]);
    expect(failures({ lanes: 2 })).toEqual(["The fleet tells of 2 lanes; 1 were expected."]);
    expect(failures({ isReached: false })).toContain("Lane 0 could not be reached.");
    expect(failures({ limitBytes: 2000 * 2 ** 20 })).toEqual([expect.stringMatching(/limit of 2000\.0 MiB; 82\.0 MiB/)]);
  });
});
