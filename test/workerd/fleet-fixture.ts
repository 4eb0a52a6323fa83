// Deployments inside workerd for tests: tiny packs in the R2 bucket, an orchestrator over them, and the same model in one place to compare with.
// Owns no assertion. A deployment is chosen by the variables the objects read when they are made; each test file has storage of its own.

import { env } from "cloudflare:workers";
import { kernelModules } from "../../durable/kernel-modules.ts";
import { generate } from "../../durable/generate-client.ts";
import type { GenerateEvent, GenerateRequest, OrchestratorStatus } from "../../durable/generate.ts";
import type { DurableEnv } from "../../durable/env.ts";
import type { ExpertShard } from "../../durable/shard.ts";
import type { Orchestrator } from "../../durable/orchestrator.ts";
import { segmentCounts } from "../../durable/served-model.ts";
import { blobsOf, segmentName } from "../../formats/manifest.ts";
import { loadBlobs, openPack } from "../../formats/pack-reader.ts";
import { Engine } from "../../model/engine.ts";
import { Heap } from "../../model/heap.ts";
import { ExpertRunner, LocalExperts } from "../../model/local-experts.ts";
import { argmax } from "../../model/sampling.ts";
import { bindTrunk } from "../../model/trunk.ts";
import { chooseKernels, RESERVED_BYTES } from "../../model/wasm-kernels.ts";
import { openTinyHuggingFace, packToMemory, type MemoryPack } from "../support/pack-to-memory.ts";
import { tinyModel } from "../support/tiny-models.ts";

export const fleetEnv = env as unknown as DurableEnv;

export interface Deployment {
  readonly packId: string;
  readonly shards: number;
  readonly isolates?: "shared" | "strict";
  readonly planUnit?: "expert" | "segment";
}

/** Sets the variables that objects made from now on will read. */
export function deploy({ packId, shards, isolates = "shared", planUnit = "expert" }: Deployment): void {
  Object.assign(env, { PACK_ID: packId, PACK_SOURCE: "r2", SHARDS_COUNT: String(shards), ISOLATES: isolates, PLAN_UNIT: planUnit });
}

/**
 * A tiny OLMoE of 3 layers, 8 experts of width 64, top 3, packed under `packId` into the bucket. Every pack id has weights of its own:
 * equal ones would be adopted from the isolate's memory instead of being read.
 */
export async function packInBucket(packId: string, options: { readonly quant?: "f32" | "q8"; readonly segmentWidth?: number } = {}): Promise<MemoryPack> {
  const seed = Array.from(packId).reduce((h, c) => (Math.imul(h, 31) + c.charCodeAt(0)) >>> 0, 7) % 1_000_000;
  const model = tinyModel("olmoe", seed, { config: { num_hidden_layers: 3, intermediate_size: 64, num_experts_per_tok: 3 } });
  const pack = await packToMemory(await openTinyHuggingFace(model), { id: packId, quant: options.quant ?? "q8", ...(options.segmentWidth === undefined ? {} : { segmentWidth: options.segmentWidth }) });
  for (const [name, bytes] of pack.files) await fleetEnv.PACKS!.put(`packs/${packId}/${name}`, bytes);
  return pack;
}

/** The orchestrator of a deployment. Different names are different objects over the same shards. */
export const orchestrator = (name: string): DurableObjectStub<Orchestrator> => fleetEnv.ORCHESTRATOR.getByName(name);

export async function statusOf(name: string): Promise<OrchestratorStatus> {
  return (await orchestrator(name).fetch("http://orchestrator/status")).json<OrchestratorStatus>();
}

/** Names of the shards of a deployment, as its orchestrator has connected them. */
export const shardsOf = async (name: string): Promise<DurableObjectStub<ExpertShard>[]> =>
  (await statusOf(name)).shards.map((shard) => fleetEnv.SHARDS.getByName(shard.name));

/** Waits until `ready` holds, without a limit of its own: the test's timeout is one. */
export async function until(ready: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await ready())) await new Promise((resolve) => setTimeout(resolve, 5));
}

export const PROMPT = [5, 17, 40, 3, 88, 61, 9, 30, 72, 14];

export const greedy = (maxTokens: number, more: Partial<GenerateRequest> = {}): GenerateRequest => ({
  promptIds: PROMPT, maxTokens, sampling: { temperature: 0, topK: 0, topP: 1, minP: 0, seed: 1 }, stopIds: [], logprobs: 5, ...more,
});

/** All events of one generation. */
export async function eventsOf(name: string, request: GenerateRequest): Promise<GenerateEvent[]> {
  const events: GenerateEvent[] = [];
  for await (const event of generate(() => orchestrator(name), request)) events.push(event);
  return events;
}

/** The parts of events that must be the same bits wherever the experts are: ids, log-probabilities and the chosen experts with their weights. */
export const outputOf = (events: readonly GenerateEvent[]): unknown[] => events.flatMap((event): readonly unknown[] => {
  switch (event.type) {
    case "prompt": return event.tokens;
    case "token": return [[event.index, event.id, event.logprob, event.top, event.experts, event.weights]];
    case "end": return [[event.reason, event.completionTokens]];
    case "error": return [event];
  }
});

/** The same model with everything in one place and no wire: an engine over LocalExperts. */
export async function inProcess(pack: MemoryPack): Promise<Engine> {
  const { manifest } = await openPack(pack.source);
  const memory = new WebAssembly.Memory({ initial: 64 });
  const heap = new Heap(memory, RESERVED_BYTES, 64 << 20);
  const { kernels } = chooseKernels({ modules: kernelModules, memory });
  const at = new Map<string, number>();
  await loadBlobs(pack.source, manifest, Array.from(blobsOf(manifest), ({ name, blob }) => {
    const ptr = heap.alloc(blob.bytes, "weights");
    at.set(name, ptr);
    return { name, blob, write: (bytes: Uint8Array, offset: number) => heap.u8.set(bytes, ptr + offset) };
  }));
  const experts = new Map(manifest.experts.map((e) => [e.layer * 1000 + e.expert, e]));
  const hidden = manifest.config.hiddenSize;
  return new Engine({
    config: manifest.config, kernels, heap, kvFormat: manifest.kvFormat, activations: manifest.activations, maxChunkTokens: 64, segmentCounts: segmentCounts(manifest),
    trunk: bindTrunk(manifest.config, (name) => {
      const blob = manifest.blobs[name];
      return blob === undefined ? undefined : { ptr: at.get(name)!, format: blob.format, nRows: blob.rows, nCols: blob.cols };
    }),
    experts: new LocalExperts(new ExpertRunner(kernels, heap, hidden, manifest.config.expertIntermediateSize, 64), (layer, expert, segment) => {
      const e = experts.get(layer * 1000 + expert)!;
      const { start, end } = e.segments[segment]!;
      return { ptr: at.get(segmentName(layer, expert, segment))!, width: end - start, gateUp: e.gateUp, down: e.down };
    }, hidden),
  });
}

/** Logits of the prompt and of `nTokens` greedy tokens after it, one row per position, by an engine in this isolate. */
export async function greedyLogits(engine: Engine, nTokens: number): Promise<{ ids: number[]; logits: Float32Array[] }> {
  const timeline = engine.kv.open(PROMPT.length + nTokens);
  const vocab = engine.config.vocabSize;
  const ids: number[] = [];
  const logits: Float32Array[] = [];
  let next: readonly number[] = PROMPT;
  while (ids.length < nTokens) {
    const rows = (await engine.step([{ timeline, ids: next, logits: "all" }])).logits[0]!;
    for (let i = 0; i < next.length; i++) logits.push(rows.slice(i * vocab, (i + 1) * vocab));
    ids.push(argmax(logits.at(-1)!));
    next = [ids.at(-1)!];
  }
  engine.kv.close(timeline);
  return { ids, logits };
}
