// The fan-out benchmark's Worker: engines over different numbers of shards and over experts in this isolate, stepped in turn by one object;
// rounds of experts alone, over one or two scripts that hold shards; and prompts with and without halves that overlap. Owns the measuring. Refuses text and sampling: ids go in, time
// comes out. Of use on a local machine only: there the clock advances during computation (2026-11), which production's does not.

import { DurableObject } from "cloudflare:workers";
import { openFanOut } from "../durable/fan-out.ts";
import { hostIsolate } from "../durable/host-isolate.ts";
import type { Tenant } from "../durable/isolate.ts";
import { currentPack } from "../durable/opened-packs.ts";
import { maxChunkTokens } from "../durable/protocol.ts";
import { blobsOfSlots, maxSegmentsOf, maxSlotWidth, trunkBlobs } from "../durable/memory-plan.ts";
import { bindSlots } from "../durable/served-experts.ts";
import type { DurableEnv } from "../durable/env.ts";
import { objectWeights } from "../durable/object-weights.ts";
import { bringUp, startProgress, type ServedModel } from "../durable/served-model.ts";
import { trunkReads } from "../durable/weight-reads.ts";
import { bindPackTrunk, bindShared, segmentCounts } from "../formats/load-model.ts";
import type { PackManifest } from "../formats/manifest.ts";
import { expertTable, makePlan } from "../fleet/plan.ts";
import { expertInputSize, expertsPerInputRow, inputRowsPerToken } from "../model/config.ts";
import { Engine } from "../model/engine.ts";
import { ExpertBatchBuilder, PAIR_BYTES } from "../model/expert-batch.ts";
import type { Experts } from "../model/experts.ts";
import { activationRowBytes } from "../model/kernels.ts";
import type { Timeline } from "../model/kv-cache.ts";
import { ExpertRunner, LocalExperts } from "../model/local-experts.ts";
import { lifted, type LocalEnv } from "./serving-worker.ts";

export { ExpertShard, Orchestrator } from "./serving-worker.ts";

interface BenchEnv extends LocalEnv {
  readonly BENCH: DurableObjectNamespace<FanOutBench>;
  /** Shards in two other processes; both absent where everything is in one. */
  readonly SHARDS_A?: LocalEnv["SHARDS"];
  readonly SHARDS_B?: LocalEnv["SHARDS"];
}

/** Milliseconds of each repeat, by name of what was measured. */
export type Samples = Record<string, number[]>;

const PROMPT_TOKENS = 32;

export class FanOutBench extends DurableObject<BenchEnv> {
  constructor(ctx: DurableObjectState, env: BenchEnv) { super(ctx, lifted(env)); }

  override async fetch(request: Request): Promise<Response> {
    const params = new URL(request.url).searchParams;
    const numbers = (name: string): number[] => params.get(name)!.split(",").map(Number);
    const [repeats] = numbers("repeats") as [number];
    if (params.get("measure") === "steps") return Response.json(await this.#steps(numbers("shards"), numbers("batches"), repeats));
    if (params.get("measure") === "prompts") return Response.json(await this.#prompts(numbers("batches")[0]!, repeats));
    return Response.json(await this.#rounds(numbers("shards")[0]!, numbers("batches")[0]!, repeats));
  }

  #tenant(name: string): Tenant {
    return hostIsolate().enter(name, "orchestrator", name, this, false);
  }

  #broughtUp(env: DurableEnv, name: string): Promise<ServedModel> {
    const tenant = this.#tenant(name);
    return bringUp({ env, tenant, name, plans: null, manifests: null, reads: trunkReads(objectWeights(env, this.ctx.storage, tenant), () => 0) }, startProgress());
  }

  /** Time per step of whole engines, all steps of one sample after another, engines in turn: `<engine>, batch <n>`. */
  async #steps(shards: readonly number[], batches: readonly number[], repeats: number): Promise<Samples> {
    const engines = new Map<string, Pick<Engine, "step"> & { readonly config: Pick<Engine["config"], "vocabSize"> } & { readonly kv: Pick<Engine["kv"], "open" | "close"> }>();
    for (const n of shards) {
      engines.set(`${n} ${n === 1 ? "shard" : "shards"}`, (await this.#broughtUp({ ...this.env, SHARDS_COUNT: String(n) }, `bench-${n}`)).engine);
    }
    engines.set("in-process", await this.#localEngine());
    const samples: Samples = {};
    for (const batch of batches) {
      const stepsPerSample = Math.max(3, Math.round(8 / batch));
      const runs = [...engines].map(([name, engine]) => ({ name: `${name}, batch ${batch}`, engine, timelines: [] as Timeline[] }));
      for (const { name, engine, timelines } of runs) {
        samples[name] = [];
        for (let i = 0; i < batch; i++) {
          const timeline = engine.kv.open(PROMPT_TOKENS + stepsPerSample * (repeats + 1));
          timelines.push(timeline);
          await engine.step([{ timeline, ids: Array.from({ length: PROMPT_TOKENS }, (_, at) => (at * 77 + i * 191 + 1) % engine.config.vocabSize), logits: "none" }]);
        }
      }
      // The first repeat warms up.
      for (let repeat = 0; repeat <= repeats; repeat++) {
        for (const { name, engine, timelines } of runs) {
          const start = performance.now();
          for (let step = 0; step < stepsPerSample; step++) {
            await engine.step(timelines.map((timeline, i) => ({ timeline, ids: [(timeline.length * 913 + i * 331 + 7) % engine.config.vocabSize], logits: "last" as const })));
          }
          if (repeat > 0) samples[name]!.push((performance.now() - start) / stepsPerSample);
        }
      }
      for (const { engine, timelines } of runs) for (const timeline of timelines) engine.kv.close(timeline);
    }
    return samples;
  }

  /** An engine like the served ones, with every expert in this isolate: the shards of the same process have loaded them. */
  async #localEngine(): Promise<Engine> {
    const tenant = this.#tenant("bench-local");
    const { manifest } = await currentPack(this.env);
    const ranges = planOf(manifest, 1).slots.flat();
    if (!tenant.adopt([...trunkBlobs(manifest), ...blobsOfSlots(manifest, ranges)])) throw new Error("The shards' experts are not in this isolate; this measurement expects one process.");
    const { hiddenSize } = manifest.config;
    return this.#engineOver(tenant, manifest, (roundTokens) => new LocalExperts(
      new ExpertRunner(tenant.isolate.kernels, tenant.heap, manifest.config, maxSlotWidth(manifest, ranges), roundTokens), bindSlots(tenant, manifest, ranges)));
  }

  /** An engine over a trunk that the tenant holds, with steps of one round. */
  #engineOver(tenant: Tenant, manifest: PackManifest, experts: (roundTokens: number) => Experts): Engine {
    const { config, activations, kvFormat } = manifest;
    const roundTokens = maxChunkTokens(config, maxSegmentsOf(manifest), activations);
    return new Engine({
      config, kernels: tenant.isolate.kernels, heap: tenant.heap, kvFormat, activations, maxChunkTokens: roundTokens, segmentCounts: segmentCounts(manifest),
      shared: bindShared(manifest, (hash) => tenant.ptrOf(hash)),
      experts: experts(roundTokens),
      trunk: bindPackTrunk(manifest, (hash) => tenant.ptrOf(hash)),
    });
  }

  /** Wall time of prompts of nTokens with the experts in another process: in steps of one round each, and in steps of two, of which one is computed there while the other is here. */
  async #prompts(nTokens: number, repeats: number): Promise<Samples> {
    const { SHARDS_A: elsewhere } = this.env;
    if (elsewhere === undefined) throw new Error("SHARDS_A is not bound; the shards of another script were expected.");
    const env = { ...this.env, SHARDS: elsewhere, SHARDS_COUNT: "1" };
    const { engine, manifest, packHash } = await this.#broughtUp(env, "bench-two");
    const tenant = this.#tenant("bench-single");
    tenant.adopt(trunkBlobs(manifest));
    const lines = openFanOut(env, manifest, packHash, tenant.isolate.limits, tenant.isolate);
    await lines.connect();
    const single = this.#engineOver(tenant, manifest, (roundTokens) => {
      const experts = lines.experts(tenant.heap, tenant.isolate.kernels, roundTokens);
      return { placement: experts.placement, overlapTokens: Infinity, run: (layer, batch) => experts.run(layer, batch), depart: () => experts.depart() };
    });
    const samples: Samples = {};
    for (let repeat = 0; repeat <= repeats; repeat++) {
      for (const [name, on] of [["one at a time", single], ["two at once", engine]] as const) {
        const timeline = on.kv.open(nTokens);
        const start = performance.now();
        while (timeline.length < nTokens) {
          const length = Math.min(on.maxChunkTokens, nTokens - timeline.length);
          await on.step([{ timeline, ids: Array.from({ length }, (_, i) => ((timeline.length + i) * 77 + repeat * 191 + 1) % on.config.vocabSize), logits: "none" }]);
        }
        if (repeat > 0) (samples[name] ??= []).push(performance.now() - start);
        on.kv.close(timeline);
      }
    }
    return samples;
  }

  /** Wall time of the experts of one step (all layers), over shards in one other process and over the same number in two. */
  async #rounds(nShards: number, nTokens: number, repeats: number): Promise<Samples> {
    const { SHARDS_A: a, SHARDS_B: b } = this.env;
    if (a === undefined || b === undefined) throw new Error("SHARDS_A and SHARDS_B are not bound; the shards of two other scripts were expected.");
    const tenant = this.#tenant("bench-rounds");
    const { manifest, packHash } = await currentPack(this.env);
    // Shard numbers alternate between the two processes.
    const alternating = { getByName: (name: string) => (Number(/\/(\d+)-of-/.exec(name)![1]) % 2 === 0 ? a : b).getByName(name) } as LocalEnv["SHARDS"];
    const kinds = new Map<string, readonly (() => Promise<unknown>)[]>();
    for (const [name, shards] of [["one process", a], ["two processes", alternating]] as const) {
      const lines = openFanOut({ ...this.env, SHARDS: shards, SHARDS_COUNT: String(nShards) }, manifest, packHash, tenant.isolate.limits, tenant.isolate);
      await lines.connect();
      kinds.set(name, roundsOf(tenant, manifest, lines.experts(tenant.heap, tenant.isolate.kernels, nTokens), nTokens));
    }
    const samples: Samples = Object.fromEntries([...kinds.keys()].map((name) => [name, []]));
    for (let repeat = 0; repeat <= repeats; repeat++) {
      for (const [name, layers] of kinds) {
        const start = performance.now();
        for (const run of layers) await run();
        if (repeat > 0) samples[name]!.push(performance.now() - start);
      }
    }
    return samples;
  }
}

const planOf = (manifest: PackManifest, nShards: number) =>
  makePlan(expertTable(manifest), nShards);

/** One round per layer: nTokens rows, each to topK experts drawn evenly. */
function roundsOf(tenant: Tenant, manifest: PackManifest, experts: Experts, nTokens: number): (() => Promise<unknown>)[] {
  const { heap } = tenant;
  const { config: c, activations } = manifest;
  const { topK } = c.router;
  const maxSegments = maxSegmentsOf(manifest);
  const counts = segmentCounts(manifest);
  const alloc = (bytes: number): number => heap.alloc(bytes, "benchmark");
  const stride = activationRowBytes(activations, expertInputSize(c));
  const rowsPerToken = inputRowsPerToken(c);
  const [acts, rows] = [alloc(nTokens * rowsPerToken * stride), alloc(nTokens * topK * maxSegments * c.hiddenSize * 4)];
  const [ids, weights, pairs] = [alloc(nTokens * topK * 4), alloc(nTokens * topK * 4), alloc(nTokens * topK * PAIR_BYTES)];
  heap.u8.fill(3, acts, acts + nTokens * rowsPerToken * stride);
  return Array.from({ length: c.nLayers }, (_, layer) => {
    const builder = new ExpertBatchBuilder(heap, { maxTokens: nTokens, topK, nExperts: c.nExperts, maxSegments, hidden: c.hiddenSize, rowsPerToken, expertsPerRow: expertsPerInputRow(c), expertsPerBranch: c.nExperts }, experts);
    for (let t = 0; t < nTokens; t++) {
      for (let rank = 0; rank < topK; rank++) heap.u32[ids / 4 + t * topK + rank] = (t * 5 + layer * 3 + rank * Math.floor(c.nExperts / topK)) % c.nExperts;
    }
    const { batch } = builder.build(layer, 1, nTokens, ids, weights, counts[layer]!, acts, stride, rows, pairs);
    return async () => experts.run(layer, batch);
  });
}

export default {
  async fetch(request: Request, env: BenchEnv): Promise<Response> {
    return env.BENCH.getByName("bench").fetch(request);
  },
};
