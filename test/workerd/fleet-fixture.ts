// Deployments inside workerd for tests: tiny packs in the R2 bucket, an orchestrator over them, and the same model in one place to compare with.
// Owns no assertion. A deployment is chosen by the variables the objects read when they are made; each test file has storage of its own.

import { env } from "cloudflare:workers";
import { kernelModules } from "../../durable/kernel-modules.ts";
import { generate } from "../../durable/generate-client.ts";
import type { GenerateEvent, GenerateRequest, OrchestratorStatus } from "../../durable/generate.ts";
import type { DurableEnv } from "../../durable/env.ts";
import type { ExpertShard } from "../../durable/shard.ts";
import type { Orchestrator } from "../../durable/orchestrator.ts";
import { InFlightBudget } from "../../durable/in-flight-budget.ts";
import { openFanOut } from "../../durable/fan-out.ts";
import { LIMITS } from "../../durable/limits.ts";
import { loadModel } from "../../formats/load-model.ts";
import type { PackManifest } from "../../formats/manifest.ts";
import { openPack } from "../../formats/pack-reader.ts";
import type { PackOptions } from "../../formats/pack-writer.ts";
import type { ExpertKind, LatentExpertsConfig } from "../../model/config.ts";
import { Engine } from "../../model/engine.ts";
import type { Experts } from "../../model/experts.ts";
import { Heap } from "../../model/heap.ts";
import type { Kernels } from "../../model/kernels.ts";
import { ExpertRunner, LocalExperts, type SegmentLookup } from "../../model/local-experts.ts";
import { argmax, PLAIN_SAMPLING } from "../../model/sampling.ts";
import { chooseKernels, RESERVED_BYTES } from "../../model/wasm-kernels.ts";
import { openTinyHuggingFace, openTinyPlain, packToMemory, type MemoryPack } from "../support/pack-to-memory.ts";
import { tinyModel, type TinyArchitecture } from "../support/tiny-models.ts";

export const fleetEnv = env as unknown as DurableEnv;

export interface Deployment {
  readonly packId: string;
  readonly shards: number;
  readonly isolates?: "shared" | "strict";
  readonly planUnit?: "expert" | "segment";
  readonly source?: "r2" | "assets";
  readonly orchestratorHolds?: "trunk" | "experts";
}

/** Sets the variables that objects made from now on will read. */
export function deploy({ packId, shards, isolates = "shared", planUnit = "expert", source = "r2", orchestratorHolds = "trunk" }: Deployment): void {
  Object.assign(env, { ORCHESTRATOR_HOLDS: orchestratorHolds, PACK_ID: packId, PACK_SOURCE: source, SHARDS_COUNT: String(shards), ISOLATES: isolates, PLAN_UNIT: planUnit });
}

type TinyPackOptions = Pick<PackOptions, "segmentWidth" | "kvFormat"> & { readonly quant?: PackOptions["quant"]; readonly config?: Readonly<Record<string, unknown>>; readonly latentExperts?: LatentExpertsConfig; readonly expertKind?: ExpertKind };

/** A tiny OLMoE of 3 layers, 8 experts of width 64, top 3, packed under `packId` into the bucket. */
export const packInBucket = (packId: string, options: TinyPackOptions = {}): Promise<MemoryPack> =>
  packOf("olmoe", packId, { ...options, config: { num_hidden_layers: 3, intermediate_size: 64, num_experts_per_tok: 3, ...options.config } });

/**
 * A tiny model of any architecture, packed under `packId` into the bucket. Every pack id has weights of its own: equal ones would be adopted
 * from the isolate's memory instead of being read.
 */
export async function packOf(architecture: TinyArchitecture, packId: string, { config = {}, quant = "q8", latentExperts, expertKind, ...options }: TinyPackOptions): Promise<MemoryPack> {
  const seed = Array.from(packId).reduce((h, c) => (Math.imul(h, 31) + c.charCodeAt(0)) >>> 0, 7) % 1_000_000;
  const model = tinyModel(architecture, seed, { config, ...(latentExperts === undefined ? {} : { latentExperts }), ...(expertKind === undefined ? {} : { expertKind }) });
  const pack = await packToMemory(latentExperts === undefined && expertKind === undefined ? await openTinyHuggingFace(model) : openTinyPlain(model), { ...options, id: packId, quant });
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
  promptIds: PROMPT, maxTokens, sampling: { ...PLAIN_SAMPLING, temperature: 0, seed: 1 }, stopIds: [], logprobs: 5, ...more,
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
    case "embedding": return [event.values];
    case "error": return [event];
  }
});

/** The same model with its trunk and experts in this isolate, apart from any object: `experts` decides who computes them. */
async function engineHere(pack: MemoryPack, experts: (parts: { manifest: PackManifest; packHash: string; heap: Heap; kernels: Kernels; lookup: SegmentLookup }) => Experts): Promise<Engine> {
  const { manifest, packHash } = await openPack(pack.source);
  const memory = new WebAssembly.Memory({ initial: 64 });
  const heap = new Heap(memory, RESERVED_BYTES, 64 << 20);
  const { kernels } = chooseKernels({ modules: kernelModules, memory });
  const { trunk, lookup, segmentCounts, shared } = await loadModel(pack.source, manifest, heap);
  const { config, kvFormat, activations } = manifest;
  return new Engine({ config, kernels, heap, kvFormat, activations, maxChunkTokens: CHUNK_TOKENS, segmentCounts, shared, trunk, experts: experts({ manifest, packHash, heap, kernels, lookup }) });
}

const CHUNK_TOKENS = 64;

const localExperts = ({ manifest: { config }, heap, kernels, lookup }: { manifest: PackManifest; heap: Heap; kernels: Kernels; lookup: SegmentLookup }): LocalExperts =>
  new LocalExperts(new ExpertRunner(kernels, heap, config, config.expertIntermediateSize, CHUNK_TOKENS), lookup);

/** Everything in one place and no wire: an engine over LocalExperts. */
export const inProcess = (pack: MemoryPack): Promise<Engine> => engineHere(pack, localExperts);

/** The trunk here and the experts on the shards of the deployment in force, through real sockets: raw logits of a placement. */
export const overShards = (pack: MemoryPack): Promise<Engine> => engineHere(pack, (parts) =>
  openFanOut(fleetEnv, parts.manifest, parts.packHash, LIMITS, { name: "the test", inFlight: new InFlightBudget(LIMITS.inFlightBytes) })
    .experts(parts.heap, parts.kernels, CHUNK_TOKENS, () => localExperts(parts)));

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
