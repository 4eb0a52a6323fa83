// What a step sends: frames to shards and back, hops along the ring, bytes, and messages at the busiest object.
// Owns expected values over uniform routing: each token draws its experts evenly and apart from other tokens. A trace says otherwise and placement uses it;
// here it is the case that spreads most and so sends the most frames. Refuses time: capacity-speed.ts. Frames are those of docs/protocol.md.

import { type ActivationFormat, activationRowBytes } from "../model/kernels.ts";
import { moeLayersOf, type ModelConfig } from "../model/config.ts";
import type { CapacityPack } from "./capacity-pack.ts";
import type { StageCapacity } from "./capacity-stages.ts";
import type { CapacityPlan } from "./capacity.ts";
import type { Plan } from "./plan.ts";

/** Soft limit of a Durable Object: requests or messages a second (Cloudflare's FAQ, 2026-11: about 1,000, with 500 to 1,000 named elsewhere). */
export const GUIDE_MESSAGES_PER_SECOND = 1000;

/** Parts of a frame beside its rows, docs/protocol.md section 2. */
export interface FrameSizes {
  readonly headerBytes: number;
  readonly groupBytes: number;
  readonly tokenBytes: number;
}

/** Chance that a token's `topK` of `nExperts` experts are all among the others. */
export function missChance(nExperts: number, topK: number, held: number): number {
  let chance = 1;
  for (let i = 0; i < topK; i++) chance *= Math.max(0, nExperts - held - i) / (nExperts - i);
  return chance;
}

export interface LayerTraffic {
  readonly layer: number;
  /** Chance of each shard that a step of these tokens sends it a frame. */
  readonly touchChance: Float64Array;
  /** Experts of the layer of which each shard holds something. */
  readonly heldExperts: Uint32Array;
  /** Expected frames one way; as many come back. */
  readonly frames: number;
  /** Expected bytes both ways. Padding, at most 30 bytes a frame, is left out. */
  readonly bytes: number;
}

export interface StepTraffic {
  readonly tokens: number;
  readonly layers: readonly LayerTraffic[];
  /** Requests to shards; the replies are as many again. */
  readonly expertFrames: number;
  /** From stage to stage: residuals, the rows the head's holders need, and their logits. */
  readonly ringFrames: number;
  /** Of those, what each stage receives. */
  readonly ringReceived: readonly number[];
  /** Messages one after the other until the token is drawn: two for each layer with experts, and the ring. */
  readonly hops: number;
  readonly expertBytes: number;
  readonly ringBytes: number;
}

/** Of each shard, how many experts of each layer it holds something of. */
export function heldByShard(plan: Plan, layers: readonly number[]): ReadonlyMap<number, Uint32Array> {
  const held = new Map(layers.map((layer) => [layer, new Uint32Array(plan.nShards)]));
  const seen = new Set<string>();
  plan.slots.forEach((slots, shard) => {
    for (const { layer, expert } of slots) {
      const key = `${shard} ${layer} ${expert}`;
      if (seen.has(key)) continue;
      seen.add(key);
      held.get(layer)![shard]!++;
    }
  });
  return held;
}

interface ExpertTrafficShape {
  readonly config: Pick<ModelConfig, "hiddenSize" | "nExperts" | "layerFfns"> & { readonly router: Pick<ModelConfig["router"], "topK"> };
  readonly activations: ActivationFormat;
  /** Of each layer with experts, the segments of an expert. */
  readonly segmentsPerExpert: number;
}

/** What one step of `tokens` sends to the shards of a plan, layer by layer. */
export function expertTraffic({ config, activations, segmentsPerExpert }: ExpertTrafficShape, plan: Plan, tokens: number, sizes: FrameSizes): LayerTraffic[] {
  const { hiddenSize, nExperts, router: { topK } } = config;
  const layers = moeLayersOf(config);
  const held = heldByShard(plan, layers);
  const rowBytes = activationRowBytes(activations, hiddenSize);
  // Of a token: its experts' segments. Of a step: the experts that at least one token chose.
  const entries = tokens * topK * segmentsPerExpert;
  const groups = nExperts * (1 - (1 - topK / nExperts) ** tokens) * segmentsPerExpert;
  return layers.map((layer) => {
    const heldExperts = held.get(layer)!;
    const touchChance = new Float64Array(plan.nShards);
    let [frames, rows] = [0, 0];
    heldExperts.forEach((count, shard) => {
      if (count === 0) return;
      const miss = missChance(nExperts, topK, count);
      touchChance[shard] = 1 - miss ** tokens;
      frames += touchChance[shard]!;
      rows += tokens * (1 - miss);
    });
    return { layer, touchChance, heldExperts, frames, bytes: 2 * frames * sizes.headerBytes + rows * rowBytes + groups * sizes.groupBytes + entries * (sizes.tokenBytes + 4 * hiddenSize) };
  });
}

/** Frames, hops and bytes of one step of `tokens` in one lane; `outputs` of them have their next token drawn. */
export function stepTraffic(pack: CapacityPack, plan: Pick<CapacityPlan, "stages" | "experts">, step: { readonly tokens: number; readonly outputs: number }, sizes: FrameSizes): StepTraffic {
  const { config, activations } = pack;
  const segments = pack.experts.reduce((sum, e) => sum + e.segments.length, 0);
  const layers = pack.experts.length === 0 ? []
    : expertTraffic({ config, activations, segmentsPerExpert: segments / pack.experts.length }, plan.experts.plan, step.tokens, sizes);
  const ring = ringTraffic(config, plan.stages, step, sizes);
  return {
    tokens: step.tokens, layers, ringFrames: ring.frames, ringReceived: ring.received, ringBytes: ring.bytes, hops: 2 * layers.length + ring.hops,
    expertFrames: layers.reduce((sum, { frames }) => sum + frames, 0), expertBytes: layers.reduce((sum, { bytes }) => sum + bytes, 0),
  };
}

export interface RingTraffic {
  readonly frames: number;
  readonly hops: number;
  readonly bytes: number;
  /** Frames each stage receives. */
  readonly received: readonly number[];
}

/**
 * The ring: the first stage draws tokens. It sends ids to the holders of other rows of the embedding, they send rows to the first stage with layers; residuals go
 * from stage to stage; the last one with layers sends the rows of `outputs` to the holders of the head, each of which sends its logits to the first.
 */
export function ringTraffic(config: Pick<ModelConfig, "hiddenSize" | "vocabSize" | "tieWordEmbeddings">, stages: readonly Pick<StageCapacity, "embeddingRows" | "layers" | "headRows">[],
  step: { readonly tokens: number; readonly outputs: number }, { headerBytes }: FrameSizes): RingTraffic {
  const rowBytes = 4 * config.hiddenSize;
  const received = new Array<number>(stages.length).fill(0);
  let [bytes, hops] = [0, 0];
  const send = (to: number, nFrames: number, payloadBytes: number): void => {
    received[to]! += nFrames;
    bytes += nFrames * headerBytes + payloadBytes;
  };
  const share = ([from, to]: readonly [number, number]): number => (to - from) / config.vocabSize;
  const layered = stages.flatMap(({ layers: [from, to] }, at) => (to > from ? [at] : []));
  const [first, last] = [layered[0]!, layered.at(-1)!];
  const holders = (rows: (stage: (typeof stages)[number]) => readonly [number, number]) => stages.map((stage, at) => ({ at, share: share(rows(stage)) })).filter((of) => of.share > 0);
  const embedding = holders(({ embeddingRows }) => embeddingRows);
  for (const { at, share: part } of embedding) {
    // Ids are taken as even over the vocabulary: a holder is asked where some token of the step is among its rows.
    const asked = 1 - (1 - part) ** step.tokens;
    if (at !== 0) send(at, asked, 4 * part * step.tokens);
    if (at !== first) send(first, asked, rowBytes * part * step.tokens);
  }
  hops += (embedding.some(({ at }) => at !== 0) ? 1 : 0) + (embedding.some(({ at }) => at !== first) ? 1 : 0);
  for (const at of layered.slice(1)) send(at, 1, rowBytes * step.tokens);
  hops += layered.length - 1;
  if (step.outputs > 0) {
    const head = holders((stage) => (config.tieWordEmbeddings ? stage.embeddingRows : stage.headRows));
    for (const { at, share: part } of head) {
      if (at !== last) send(at, 1, rowBytes * step.outputs);
      if (at !== 0) send(0, 1, 4 * part * config.vocabSize * step.outputs);
    }
    hops += (head.some(({ at }) => at !== last) ? 1 : 0) + (head.some(({ at }) => at !== 0) ? 1 : 0);
  }
  return { frames: received.reduce((a, b) => a + b, 0), hops, bytes, received };
}

export interface MessageLoad {
  /** Messages a step brings to the stage that receives the most: its shards' replies, and those of the ring. */
  readonly stageMessagesPerStep: number;
  /** Messages a step of one lane brings to the busiest shard. */
  readonly shardMessagesPerStep: number;
  /** Tokens a second of one region at which the busiest object reaches the guide; Infinity where nothing is sent. */
  readonly guideTokensPerSecond: number;
}

/** Messages at the busiest objects where all lanes take steps like this one. */
export function messageLoad(plan: Pick<CapacityPlan, "stages" | "lanes" | "experts">, step: StepTraffic): MessageLoad {
  const perStage = plan.stages.map(({ layers: [from, to] }, at) => step.ringReceived[at]! + step.layers.reduce((sum, { layer, frames }) => sum + (layer >= from && layer < to ? frames : 0), 0));
  const perShard = plan.experts.shards.map((_, shard) => step.layers.reduce((sum, { touchChance }) => sum + touchChance[shard]!, 0));
  const [stageMessagesPerStep, shardMessagesPerStep] = [Math.max(0, ...perStage), Math.max(0, ...perShard)];
  // Lanes share the tokens of a region and the shards; each has stages of its own.
  const busiest = Math.max(stageMessagesPerStep / plan.lanes, shardMessagesPerStep);
  return { stageMessagesPerStep, shardMessagesPerStep, guideTokensPerSecond: GUIDE_MESSAGES_PER_SECOND * step.tokens / busiest };
}
