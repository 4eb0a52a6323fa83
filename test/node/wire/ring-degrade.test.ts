// A shard of a ring's middle stage is away: generations that opted in go on without its experts and are told the same counts, with the same tokens, as from one engine with the same
// rows left out, whatever breaks meanwhile; others beside them wait, and get the bits they get undisturbed. Out of scope: lines and frames to shards (degrade.test.ts), real objects
// (test/workerd/ring-degrade.test.ts).

import { beforeAll, beforeEach, describe, expect, it } from "vitest";
import { buildKernels } from "../../../cli/build-kernels.mjs";
import { systemClock } from "../../../durable/clock.ts";
import type { GenerateEvent, GenerateRequest } from "../../../durable/generate.ts";
import { LIMITS } from "../../../durable/limits.ts";
import { encodeRing, NO_TALLY, type RingFrame } from "../../../durable/ring-frame.ts";
import { Scheduler, type StepEngine } from "../../../durable/scheduler.ts";
import type { PassOutages, StageCore } from "../../../durable/stage-core.ts";
import { StageRing } from "../../../durable/stage-ring.ts";
import { StepTerms } from "../../../durable/step-terms.ts";
import type { PackManifest } from "../../../formats/manifest.ts";
import { openPack } from "../../../formats/pack-reader.ts";
import { PLAIN_SAMPLING } from "../../../model/sampling.ts";
import { wholeModel, type StageSpan } from "../../../model/stage-span.ts";
import { AwayExperts, ShardOutage } from "../../support/away-experts.ts";
import { openTinyHuggingFace, packToMemory, type MemoryPack } from "../../support/pack-to-memory.ts";
import { openStage, type StageEngine } from "../../support/ring.ts";
import { openStages, ringCluster, type RingCluster } from "../../support/ring-cluster.ts";
import { tinyModel } from "../../support/tiny-models.ts";
import { said } from "./arithmetic-engine.ts";

const VOCAB = 1061;
const SPANS: readonly StageSpan[] = [
  { embeddingRows: [0, VOCAB], layers: [0, 1], headRows: [0, 0] }, { embeddingRows: [0, 0], layers: [1, 3], headRows: [0, 0] }, { embeddingRows: [0, 0], layers: [3, 4], headRows: [0, VOCAB] },
];
const ids = (seed: number, n: number): number[] => Array.from({ length: n }, (_, i) => (i * i * 131 + 17 * i + 5 + seed * 97) % VOCAB);
const request = (seed: number, more: Partial<GenerateRequest> = {}): GenerateRequest =>
  ({ promptIds: ids(seed, 7 + seed), maxTokens: 9, stopIds: [], sampling: { ...PLAIN_SAMPLING, temperature: 0.8, topK: 20, seed }, ...more });
const optedIn = (cacheScope: string): readonly GenerateRequest[] => [
  request(1, { degrade: true, logprobs: 3 }), request(2, { degrade: true, sampling: { ...PLAIN_SAMPLING, temperature: 0, seed: 2 }, maxTokens: 14 }),
  request(30, { degrade: true, echo: true, logprobs: 2, maxTokens: 2 }), request(6, { degrade: true, embedding: true, maxTokens: 0 }), request(40, { degrade: true, cacheScope }),
];
let nScopes = 0;
/** Nothing of theirs was ever kept. */
const fresh = (): readonly GenerateRequest[] => optedIn(`scope ${nScopes++}`);
const OTHERS: readonly GenerateRequest[] = [request(3, { logprobs: 2 }), request(11)];

/** Some experts of each of the middle stage's layers. */
const outage = new ShardOutage("s-1", (layer, expert) => (layer === 1 || layer === 2) && expert % 3 === layer - 1);
let pack: MemoryPack;
let manifest: PackManifest;
let stages: readonly StageEngine[];
let outages: readonly PassOutages[];
let sole: StepEngine;

beforeAll(async () => {
  await buildKernels({ log: () => {} });
  pack = await packToMemory(await openTinyHuggingFace(tinyModel("olmoe", 11, { config: { vocab_size: VOCAB, num_hidden_layers: 4, num_experts_per_tok: 3, intermediate_size: 64 } })), { quant: "q8" });
  manifest = (await openPack(pack.source)).manifest;
  const hidden = manifest.config.hiddenSize;
  const terms = SPANS.map(() => new StepTerms());
  outages = terms.map((of, stage) => ({ during: (...args) => of.during(...args), away: () => (outage.isDown && stage === 1 ? [outage.shard] : []) }));
  stages = await openStages(pack.source, manifest, SPANS, (stage) => (experts, heap) => new AwayExperts(experts, heap, hidden, outage, terms[stage]!));
  const soleTerms = new StepTerms();
  const { engine } = await openStage(pack.source, manifest, wholeModel(manifest.config), 32, (experts, heap) => new AwayExperts(experts, heap, hidden, outage, soleTerms));
  sole = {
    config: engine.config, kv: engine.kv, maxChunkTokens: engine.maxChunkTokens, contextLength: engine.contextLength, outages: { isAway: () => outage.isDown },
    step: (entries, taps = [], of = null) => (of === null ? engine.step(entries, taps) : soleTerms.during(of, () => engine.step(entries, of.leavesOut ? [of.leftOut.tap, ...taps] : taps))),
  };
});
beforeEach(() => {
  outage.isDown = false;
  Object.assign(outage.met, { ended: 0, leftOut: 0, waited: 0 });
});

interface Story { readonly events: readonly GenerateEvent[]; readonly done: Promise<void> }
function begin(engine: StepEngine, requests: readonly GenerateRequest[]): Story[] {
  const scheduler = new Scheduler(engine, systemClock, LIMITS);
  return requests.map((of) => {
    const events: GenerateEvent[] = [];
    return { events, done: new Promise((resolve) => void scheduler.submit(of, (event) => {
      events.push(event);
      if (event.type === "end" || event.type === "error") resolve();
    })) };
  });
}
/** Everything but times and costs, and with what the end says is missing. */
const plain = ({ events }: Story): unknown[] => [...said(events), events.flatMap((event) => (event.type === "end" ? [event.moe.degraded ?? "nothing"] : []))];
async function all(engine: StepEngine, requests: readonly GenerateRequest[]): Promise<unknown[][]> {
  const stories = begin(engine, requests);
  await Promise.all(stories.map(({ done }) => done));
  return stories.map(plain);
}
const ringOf = (onHop: ((ring: RingCluster, frame: RingFrame, stage: number) => ReturnType<NonNullable<RingCluster["onHop"]>>) | null = null): RingCluster => {
  const ring = ringCluster(stages, manifest, { outages });
  ring.onHop = onHop === null ? null : (frame, stage) => onHop(ring, frame, stage);
  return ring;
};
const flagged = (story: readonly unknown[]): number => story.filter((event) => typeof event === "object" && event !== null && "degraded" in event).length;
const down = async <T>(run: () => Promise<T>): Promise<T> => {
  outage.isDown = true;
  try { return await run(); } finally { outage.isDown = false; }
};

describe("those who opted in", () => {
  it("are told what one engine tells with the same rows left out, and nothing of theirs is kept for others", async () => {
    const undisturbed = await all(sole, fresh());
    const expected = await down(() => all(sole, fresh()));
    expect(expected).not.toEqual(undisturbed);
    expect(expected.slice(0, 2).map(flagged)).toEqual([9, 14]);
    expect(expected.map((story) => story.at(-1))).toEqual(expected.map(() => [{ tokens: expect.any(Number) as unknown, expertRows: expect.toSatisfy((n: number) => n > 8) as unknown }]));
    const ring = ringOf();
    const opted = fresh();
    expect(await down(() => all(ring.engine, opted))).toEqual(expected);
    expect(outage.met).toMatchObject({ ended: 0, waited: 0 });
    // The shard is back, and so are its rows; the prompt of before is evaluated again.
    expect(await all(ring.engine, opted)).toEqual(undisturbed);
    expect(ring.engine.outages.isAway(outage.shard)).toBe(false);
  });

  it("are told the same where the ring breaks between any two frames, and where a stage's memory goes with it", async () => {
    const expected = await down(() => all(sole, fresh()));
    const quiet = ringOf();
    await down(() => all(quiet.engine, fresh()));
    const nHops = quiet.hops.count;
    let rebuilt = 0;
    for (const reset of [null, 1, 2]) for (let at = 3; at < nHops; at += Math.ceil(nHops / 9)) {
      const ring = ringOf((of) => {
        if (of.hops.count === at) of.break(reset);
        return "pass";
      });
      expect(await down(() => all(ring.engine, fresh())), `hop ${at}, reset ${reset}`).toEqual(expected);
      rebuilt += ring.built.count - 1;
    }
    expect(rebuilt).toBeGreaterThan(20);
  });

  it("miss nothing that the step had left out before it was sent again", async () => {
    const expected = await all(sole, fresh().slice(0, 1));
    let [heard, broken] = [0, 0];
    // The ring breaks right after stage 0 was told what is missing; the shard is back when the step comes again.
    const ring = ringOf((_, frame, stage) => {
      if (stage !== 0 || broken > 0) return "pass";
      if (frame.kind === "leftOut") heard++;
      else if (heard > 0) {
        broken++;
        outage.isDown = false;
        return "break";
      }
      return "pass";
    });
    outage.isDown = true;
    expect(await all(ring.engine, fresh().slice(0, 1))).toEqual(expected);
    expect([heard, broken, ring.built.count]).toEqual([1, 1, 2]);
  });
});

describe("those who did not", () => {
  it("wait beside them, and get the bits they get undisturbed", async () => {
    const [undisturbed, expected] = [await all(sole, OTHERS), await down(() => all(sole, fresh()))];
    const ring = ringOf();
    outage.isDown = true;
    // In turns, so that steps have some of both.
    const stories = begin(ring.engine, fresh().flatMap((of, i) => [of, ...OTHERS.slice(i, i + 1)]));
    const isOther = (i: number): boolean => i === 1 || i === 3;
    const [opted, others] = [stories.filter((_, i) => !isOther(i)), stories.filter((_, i) => isOther(i))];
    await Promise.all(opted.map(({ done }) => done));
    expect(opted.map(plain)).toEqual(expected);
    expect(others.map(({ events }) => events.length)).toEqual([0, 0]);
    expect(outage.met.ended).toBeGreaterThan(0);
    outage.isDown = false;
    await Promise.all(others.map(({ done }) => done));
    expect(others.map(plain)).toEqual(undisturbed);
  });

  it("take part again while the others go on, as soon as the shard is back", async () => {
    const undisturbed = await all(sole, OTHERS);
    const long = request(4, { degrade: true, maxTokens: 100, draftTokens: 0 });
    const ring = ringOf();
    outage.isDown = true;
    const [first, ...others] = begin(ring.engine, [long, ...OTHERS]) as [Story, Story, Story];
    while (first.events.length < 20) await new Promise((resolve) => void setTimeout(resolve, 2));
    expect([ring.engine.outages.isAway(outage.shard), ring.engine.outages.isAway("another")]).toEqual([true, false]);
    outage.isDown = false;
    await Promise.all(others.map(({ done }) => done));
    expect(first.events.some(({ type }) => type === "end")).toBe(false);
    await first.done;
    expect(others.map(plain)).toEqual(undisturbed);
    const rows = first.events.flatMap((event) => (event.type === "token" ? [event.degraded ?? 0] : []));
    expect([rows[0]! > 0, rows.at(-1)]).toEqual([true, 0]);
  });
});

it("a stage evaluates a step that leaves rows out once in a ring, and others as often as they come", () => {
  const taken: RingFrame[] = [];
  const ring = new StageRing(7, { take: (frame: RingFrame) => void taken.push(frame) } as unknown as StageCore, () => []);
  const send = (step: number, leavesOut: boolean | null): void => ring.received(encodeRing({
    kind: "rows", ring: 7, step, stage: 0, epoch: 1, tally: NO_TALLY, entries: [{ timeline: 1, start: 0, nTokens: 1, maxTokens: 9, ropeOffset: 0, pages: [3], routing: 0 }], routings: [], asks: [], copies: [],
    ids: Uint32Array.of(5), hidden: 1, rows: new Float32Array(1), isTraced: false, terms: leavesOut === null ? null : { leavesOut },
  }));
  for (const [step, leavesOut] of [[0xfffffffe, null], [0xfffffffe, null], [0xffffffff, true], [0xffffffff, true], [0, true], [0, true], [1, false], [1, false], [2, true]] as const) send(step, leavesOut);
  expect(taken.map(({ step }) => step)).toEqual([0xfffffffe, 0xfffffffe, 0xffffffff, 0, 1, 1, 2]);
});
