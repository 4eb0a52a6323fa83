// Generations over a ring of stages that talk by frames, against the same over one whole engine: every event is the same bits, however the model is cut, however
// many steps are under way, whatever breaks: the ring between two frames, a stage's memory, a frame that comes twice.

import { beforeAll, describe, expect, it } from "vitest";
import { buildKernels } from "../../../cli/build-kernels.mjs";
import { systemClock } from "../../../durable/clock.ts";
import type { GenerateEvent, GenerateRequest } from "../../../durable/generate.ts";
import { LIMITS } from "../../../durable/limits.ts";
import { Scheduler, type StepEngine } from "../../../durable/scheduler.ts";
import type { PackManifest } from "../../../formats/manifest.ts";
import { openPack } from "../../../formats/pack-reader.ts";
import { PLAIN_SAMPLING } from "../../../model/sampling.ts";
import { wholeModel, type Span, type StageSpan } from "../../../model/stage-span.ts";
import { openTinyHuggingFace, packToMemory, type MemoryPack } from "../../support/pack-to-memory.ts";
import { openStage, type StageEngine } from "../../support/ring.ts";
import { openStages, ringCluster, type RingCluster } from "../../support/ring-cluster.ts";
import { tinyModel, type TinyArchitecture } from "../../support/tiny-models.ts";
import { said } from "./arithmetic-engine.ts";

beforeAll(() => buildKernels({ log: () => {} }));

const VOCAB = 1061;
const NONE: Span = [0, 0];
const ALL: Span = [0, VOCAB];
const span = (embeddingRows: Span, layers: Span, headRows: Span): StageSpan => ({ embeddingRows, layers, headRows });
const UNTIED: Readonly<Record<string, readonly StageSpan[]>> = {
  "two stages": [span(ALL, [0, 2], NONE), span(NONE, [2, 3], ALL)],
  "the head half where tokens are drawn": [span(ALL, [0, 1], [0, 512]), span(NONE, [1, 2], NONE), span(NONE, [2, 3], [512, VOCAB])],
  "embedding and head apart, each over several": [span([0, 512], NONE, NONE), span([512, VOCAB], NONE, NONE), span(NONE, [0, 1], NONE), span(NONE, [1, 3], [0, 512]), span(NONE, NONE, [512, 1024]), span(NONE, NONE, [1024, VOCAB])],
};
const TIED: Readonly<Record<string, readonly StageSpan[]>> = {
  "two stages": [span(ALL, [0, 2], ALL), span(NONE, [2, 3], NONE)],
  "embedding over several": [span([0, 512], NONE, [0, 512]), span([512, 1024], NONE, [512, 1024]), span([1024, VOCAB], [0, 1], [1024, VOCAB]), span(NONE, [1, 3], NONE)],
};

interface Model { readonly pack: MemoryPack; readonly manifest: PackManifest }
async function modelOf(architecture: TinyArchitecture, config: Record<string, unknown> = {}): Promise<Model> {
  const pack = await packToMemory(await openTinyHuggingFace(tinyModel(architecture, 11, { config: { vocab_size: VOCAB, num_hidden_layers: 3, ...config } })), { quant: "q8" });
  return { pack, manifest: (await openPack(pack.source)).manifest };
}

const ids = (seed: number, n: number): number[] => Array.from({ length: n }, (_, i) => (i * i * 131 + 17 * i + 5 + seed * 97) % VOCAB);
const request = (seed: number, more: Partial<GenerateRequest> = {}): GenerateRequest =>
  ({ promptIds: ids(seed, 7 + seed), maxTokens: 6, stopIds: [], sampling: { ...PLAIN_SAMPLING, temperature: 0.8, topK: 20, seed }, ...more });
const beginning = ids(3, 45);
/** Every form that logits are asked for, and prompts that share pages: whole ones and a part of one. */
const REQUESTS: readonly GenerateRequest[] = [
  request(1), request(2, { sampling: { ...PLAIN_SAMPLING, temperature: 0, seed: 2 } }), request(3, { logprobs: 3 }), request(4, { sampling: { ...PLAIN_SAMPLING, temperature: 1.1, topP: 0.9, seed: 4 } }),
  request(5, { echo: true, logprobs: 2, maxTokens: 2 }), request(6, { embedding: true, maxTokens: 0 }), request(9, { trace: true }), request(10, { trace: { layer: 1 }, echo: true }), request(7, { promptIds: beginning, cacheScope: "one" }), request(8, { promptIds: [...beginning.slice(0, 40), 9, 8, 7], cacheScope: "one" }),
];

/** All events; the second half of the requests comes when the first is done, so that kept pages are found. */
async function story(engine: StepEngine, requests: readonly GenerateRequest[] = REQUESTS): Promise<unknown[][]> {
  const scheduler = new Scheduler(engine, systemClock, LIMITS);
  const run = (of: readonly GenerateRequest[]): Promise<unknown[][]> => Promise.all(of.map((r) => new Promise<unknown[]>((resolve) => {
    const events: GenerateEvent[] = [];
    void scheduler.submit(r, (event) => {
      events.push(event);
      if (event.type === "end" || event.type === "error") resolve(said(events).map((e) => (typeof e === "object" && e !== null && "cachedTokens" in e ? { ...e, cachedTokens: undefined } : e)));
    }).accepted.then((refusal) => { if (refusal !== null) resolve([refusal]); });
  })));
  return [...await run(requests.slice(0, requests.length - 1)), ...await run(requests.slice(requests.length - 1))];
}

const soleStory = async ({ pack, manifest }: Model): Promise<unknown[][]> => {
  const { engine } = await openStage(pack.source, manifest, wholeModel(manifest.config), 32);
  return story(engine);
};
const over = async ({ manifest }: Model, stages: readonly StageEngine[], arrange: (ring: RingCluster) => void = () => {}, isImpatient = false): Promise<{ events: unknown[][]; ring: RingCluster }> => {
  const ring = ringCluster(stages, manifest, { isImpatient });
  arrange(ring);
  return { events: await story(ring.engine), ring };
};

describe.each(["olmoe", "qwen3_moe", "deepseek_v2", "gpt_oss"] as const)("%s over a ring", (architecture) => {
  it("says what it says in one place", async () => {
    const model = await modelOf(architecture);
    const cuts = model.manifest.config.tieWordEmbeddings ? TIED : UNTIED;
    const expected = await soleStory(model);
    for (const [cut, spans] of Object.entries(cuts)) {
      const { events } = await over(model, await openStages(model.pack.source, model.manifest, spans));
      events.forEach((of, i) => expect(of, `${cut}, request ${i}`).toEqual(expected[i]));
    }
  });
});

it("says the same with a tied head over several stages, whose final rows go round twice", async () => {
  const model = await modelOf("qwen3_moe", { tie_word_embeddings: true });
  expect(model.manifest.config.tieWordEmbeddings).toBe(true);
  const expected = await soleStory(model);
  for (const [cut, spans] of Object.entries(TIED)) {
    const { events } = await over(model, await openStages(model.pack.source, model.manifest, spans));
    events.forEach((of, i) => expect(of, `${cut}, request ${i}`).toEqual(expected[i]));
  }
});

describe("what breaks", () => {
  const spans = UNTIED["the head half where tokens are drawn"]!;
  let stages: readonly StageEngine[];
  let model: Model;
  let expected: unknown[][];
  let nHops = 0;
  beforeAll(async () => {
    model = await modelOf("olmoe");
    expected = await soleStory(model);
    stages = await openStages(model.pack.source, model.manifest, spans);
    const { ring } = await over(model, stages);
    nHops = ring.hops.count;
  });
  const check = (events: unknown[][], what: string): void => events.forEach((of, i) => expect(of, `${what}, request ${i}`).toEqual(expected[i]));

  it("the ring, between any two frames: steps are sent again", async () => {
    for (let at = 1; at < nHops; at += Math.ceil(nHops / 12)) {
      const { events, ring } = await over(model, stages, (cluster) => { cluster.onHop = () => (cluster.hops.count === at ? "break" : "pass"); });
      check(events, `hop ${at}`);
      expect(ring.built.count, `hop ${at}`).toBe(2);
    }
  });

  it("any stage's memory, at any time: timelines are evaluated again", async () => {
    let rebuilt = 0;
    for (let stage = 1; stage < spans.length; stage++) for (let at = 2 + stage; at < nHops; at += Math.ceil(nHops / 8)) {
      const { events, ring } = await over(model, stages, (cluster) => {
        cluster.onHop = () => {
          if (cluster.hops.count === at) cluster.break(stage);
          return "pass";
        };
      });
      check(events, `stage ${stage} at hop ${at}`);
      rebuilt += ring.hops.count > nHops ? 1 : 0;
    }
    expect(rebuilt).toBeGreaterThan(5);
  });

  it("again and again, as long as something is said in between", async () => {
    const { events } = await over(model, stages, (cluster) => {
      cluster.onHop = () => {
        if (cluster.hops.count % 121 === 120) cluster.break(1 + (cluster.hops.count % 2));
        return "pass";
      };
    });
    check(events, "many breaks");
  });

  it("a frame that is swallowed, or a ring that falls silent, is noticed and sent again", async () => {
    for (const at of [5, 40]) {
      const { events, ring } = await over(model, stages, (cluster) => { cluster.onHop = (frame) => (cluster.hops.count === at && frame.kind !== "probe" ? "swallow" : "pass"); }, true);
      check(events, `swallowed hop ${at}`);
      expect(ring.built.count).toBeGreaterThan(1);
    }
    const { events, ring } = await over(model, stages, (cluster) => { cluster.onHop = () => (cluster.built.count === 1 && cluster.hops.count > 30 ? "swallow" : "pass"); }, true);
    check(events, "silent");
    expect(ring.built.count).toBeGreaterThan(1);
  });

  it("a frame that comes twice harms nobody", async () => {
    const { events } = await over(model, stages, (cluster) => { cluster.onHop = (frame) => (frame.kind === "answer" || frame.kind === "done" ? "twice" : "pass"); });
    check(events, "answers twice");
  });
});

it("has no more pages than its smallest stage, and takes them back", async () => {
  const model = await modelOf("olmoe");
  const ring = ringCluster(await openStages(model.pack.source, model.manifest, UNTIED["two stages"]!), model.manifest, { nPages: 3 });
  const requests = [request(1, { maxTokens: 30 }), request(2, { maxTokens: 30 }), request(3, { maxTokens: 30 })];
  const whole = await openStage(model.pack.source, model.manifest, wholeModel(model.manifest.config), 32);
  expect(await story(ring.engine, requests)).toEqual(await story(whole.engine, requests));
  expect(ring.engine.kv.open(96).pages.length).toBe(3);
  expect(() => ring.engine.kv.open(1)).toThrow("All 3 pages of the KV cache");
});
