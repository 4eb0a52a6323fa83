// What a step sends: frames to shards and back, hops along the ring, bytes, and messages at the busiest object.
// Owns expected values where each token draws its experts evenly and apart from other tokens, the case that spreads most and so sends the most frames; by a trace
// traced-traffic.ts says the same figures. Refuses time: capacity-speed.ts. Frames are those of docs/protocol.md.

import { type ActivationFormat, activationRowBytes } from "../model/kernels.ts";
import { cutRowLength, expertInputSize, expertOutputSize, expertsPerInputRow, inputRowsPerToken, moeLayersOf, type ModelConfig } from "../model/config.ts";
import type { StageCapacity } from "./capacity-stages.ts";
import type { CapacityPlan } from "./capacity.ts";
import { busiestExperts, missChance } from "./even-draws.ts";
import type { Plan } from "./plan.ts";

/** Soft limit of a Durable Object: requests or messages a second (Cloudflare's FAQ, 2026-11: about 1,000, with 500 to 1,000 named elsewhere). */
export const GUIDE_MESSAGES_PER_SECOND = 1000;

/** Parts of a frame beside its rows, docs/protocol.md section 2. */
export interface FrameSizes {
  readonly headerBytes: number;
  readonly groupBytes: number;
  readonly tokenBytes: number;
}

/** Expected figures of one layer in one step. An expert cut over shards counts on each by the part it has there. */
export interface LayerTraffic {
  readonly layer: number;
  /** Of each shard, the chance that the step sends it a frame. */
  readonly touchChance: Float64Array;
  /** Experts whose weights each shard reads. */
  readonly expertsRead: Float64Array;
  /** Products of one token with one expert that each shard computes. */
  readonly expertTokens: Float64Array;
  /** Most experts that one token finds on one shard: what the layer waits for at least. */
  readonly busiestExperts: number;
  /** Frames one way; as many come back. */
  readonly frames: number;
  /** Bytes both ways. Padding, at most 30 bytes a frame, is left out. */
  readonly bytes: number;
}

/** What a step of so many tokens sends in each layer with experts, by even draws (evenTraffic) or as a trace has it (traced-traffic.ts). */
export type ExpertTraffic = (tokens: number) => readonly LayerTraffic[];

export interface StepTraffic {
  readonly tokens: number;
  readonly layers: readonly LayerTraffic[];
  /** Requests to shards; the replies are as many again. */
  readonly expertFrames: number;
  /** From stage to stage: residuals, the rows the head's holders need, and their logits. */
  readonly ringFrames: number;
  /** Of those, what each stage receives. */
  readonly ringReceived: readonly number[];
  /** Messages one after the other until the token is drawn: two for each layer whose experts are elsewhere, and the ring. */
  readonly hops: number;
  readonly expertBytes: number;
  readonly ringBytes: number;
}

export interface ExpertTrafficShape {
  readonly config: Pick<ModelConfig, "hiddenSize" | "nExperts" | "layerFfns" | "latentExperts"> & { readonly router: Pick<ModelConfig["router"], "topK" | "branches"> };
  readonly activations: ActivationFormat;
  /** Of each expert. */
  readonly segmentsPerExpert: number;
}

/** Of each shard and each activation row of a token, how many experts of each layer that read it the shard holds something of: [nShards, rowsPerToken] by layer. */
function heldByShard(config: ExpertTrafficShape["config"], plan: Pick<Plan, "slots" | "nShards">, layers: readonly number[]): ReadonlyMap<number, Uint32Array> {
  const [perToken, perRow] = [inputRowsPerToken(config), expertsPerInputRow(config)];
  const held = new Map(layers.map((layer) => [layer, new Uint32Array(plan.nShards * perToken)]));
  const seen = new Set<string>();
  plan.slots.forEach((slots, shard) => {
    for (const { layer, expert } of slots) {
      const key = `${shard} ${layer} ${expert}`;
      if (seen.has(key)) continue;
      seen.add(key);
      held.get(layer)![shard * perToken + Math.floor(expert / perRow)]!++;
    }
  });
  return held;
}

/** Bytes of one layer's frames there and back: headers, the rows of activations that some expert of a shard reads, groups, and an index and a row back for each segment of each token's experts. */
export function frameBytes({ config, activations, segmentsPerExpert }: ExpertTrafficShape, sizes: FrameSizes,
  of: { readonly tokens: number; readonly frames: number; readonly rows: number; readonly groups: number }): number {
  const { router: { topK } } = config;
  return 2 * of.frames * sizes.headerBytes + of.rows * activationRowBytes(activations, expertInputSize(config)) + of.groups * sizes.groupBytes
    + of.tokens * topK * segmentsPerExpert * (sizes.tokenBytes + 4 * expertOutputSize(config));
}

/** Of a layer's experts, those that at least one token of the step chose. */
const chosenShare = ({ config: { nExperts, router: { topK } } }: Pick<ExpertTrafficShape, "config">, tokens: number): number => 1 - (1 - topK / nExperts) ** tokens;

/** What one step of `tokens` sends to the shards of a plan, layer by layer, where every token draws its experts evenly. `plan` holds each segment once. */
export function evenTraffic(shape: ExpertTrafficShape, plan: Pick<Plan, "slots" | "nShards">, tokens: number, sizes: FrameSizes): LayerTraffic[] {
  const { config: { nExperts, router: { topK } }, segmentsPerExpert } = shape;
  const layers = moeLayersOf(shape.config);
  const held = heldByShard(shape.config, plan, layers);
  const perToken = inputRowsPerToken(shape.config);
  const chosen = chosenShare(shape, tokens);
  return layers.map((layer) => {
    const heldOfRow = held.get(layer)!;
    const heldExperts = Uint32Array.from({ length: plan.nShards }, (_, shard) => heldOfRow.subarray(shard * perToken, (shard + 1) * perToken).reduce((sum, count) => sum + count, 0));
    const holders = heldExperts.reduce((sum, count) => sum + count, 0);
    const share = nExperts / holders;
    const touchChance = new Float64Array(plan.nShards);
    let [frames, rows] = [0, 0];
    heldExperts.forEach((count, shard) => {
      if (count === 0) return;
      const miss = missChance(nExperts, topK, count);
      touchChance[shard] = 1 - miss ** tokens;
      frames += touchChance[shard]!;
      for (let row = 0; row < perToken; row++) rows += tokens * (1 - missChance(nExperts, topK, heldOfRow[shard * perToken + row]!));
    });
    return {
      layer, touchChance, frames, expertsRead: Float64Array.from(heldExperts, (count) => count * chosen * share), expertTokens: Float64Array.from(heldExperts, (count) => tokens * topK * count / nExperts * share),
      busiestExperts: busiestExperts(nExperts, topK, heldExperts) * share, bytes: frameBytes(shape, sizes, { tokens, frames, rows, groups: nExperts * chosen * segmentsPerExpert }),
    };
  });
}

/** The same where each stage holds the experts of its layers: nothing is sent, and a layer waits for all that its tokens chose. */
export function ownTraffic({ config }: Pick<ExpertTrafficShape, "config">, tokens: number): LayerTraffic[] {
  const { nExperts, router: { topK } } = config;
  const read = nExperts * chosenShare({ config }, tokens);
  return moeLayersOf(config).map((layer) => (
    { layer, touchChance: new Float64Array(0), frames: 0, expertsRead: Float64Array.of(read), expertTokens: Float64Array.of(tokens * topK), busiestExperts: topK, bytes: 0 }));
}

/** Frames, hops and bytes of one step of `tokens` in one lane; `outputs` of them have their next token drawn. */
export function stepTraffic(config: ModelConfig, stages: readonly StageCapacity[], step: { readonly tokens: number; readonly outputs: number }, sizes: FrameSizes, experts: ExpertTraffic): StepTraffic {
  const layers = experts(step.tokens);
  const ring = ringTraffic(config, stages, step, sizes);
  return {
    tokens: step.tokens, layers, ringFrames: ring.frames, ringReceived: ring.received, ringBytes: ring.bytes, hops: 2 * layers.filter(({ frames }) => frames > 0).length + ring.hops,
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
export function ringTraffic(config: Pick<ModelConfig, "hiddenSize" | "vocabSize" | "tieWordEmbeddings"> & Partial<Pick<ModelConfig, "layerFfns" | "productExperts">>, stages: readonly Pick<StageCapacity, "embeddingRows" | "layers" | "headRows">[],
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
  for (const at of layered.slice(1)) send(at, 1, 4 * cutRowLength(config, stages[at]!.layers[0]) * step.tokens);
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
