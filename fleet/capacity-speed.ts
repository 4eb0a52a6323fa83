// How fast a deployment may be: a simple model of one step, from bytes, products and messages, with measured rates as parameters.
// Owns the model and its dated defaults (docs/benchmarks.md). Refuses promises: rates on Cloudflare's machines and round trips between its objects are not measured.
// A step takes, one after the other: products of the trunk, attention, and per layer the slowest shard, a round trip and the sending of its frames.

import { type CapacityPack, ffnBytes } from "./capacity-pack.ts";
import type { CapacityPlan } from "./capacity.ts";
import type { LayerTraffic, StepTraffic } from "./traffic.ts";

export interface SpeedRates {
  /** Weights read by a product of one token, 1e9 bytes a second. */
  readonly kernelGbPerSecond: number;
  /** Products of many tokens, 1e9 operations a second; a multiply and an add are two. */
  readonly kernelGopPerSecond: number;
  /** KV cache read by attention, 1e9 bytes a second. */
  readonly attentionGbPerSecond: number;
  /** There and back between two objects, without any work. */
  readonly roundTripMs: number;
  /** A stage's own time for each frame it sends. */
  readonly sendMs: number;
}

/**
 * Measured on 2026-11-22 on two cores of an AMD EPYC (Zen 3) under Node and workerd, docs/benchmarks.md: int4 for one token from 18 MiB 0.59 of a stream of 13.7 GB/s; at
 * batch 8 from memory 57 GOP/s; attention 7 GB/s in Node (12 in workerd); a bare echo to four shards 0.24 ms, 21 frames sent in 0.65 ms.
 */
export const MEASURED_RATES: SpeedRates = Object.freeze({ kernelGbPerSecond: 8.1, kernelGopPerSecond: 57, attentionGbPerSecond: 7, roundTripMs: 0.24, sendMs: 0.031 });

/** Round trip between objects of one region as a third party has it (in-region read, p50); nothing of ours is measured there (2026-11). */
export const CLAIMED_REGION_ROUND_TRIP_MS = 4;

/** Tokens of an ordinary request, prompt and reply, over which one request to the front Worker is spread. */
export const TOKENS_PER_REQUEST = 500;

/** Milliseconds of a product: the weights once, or the operations of all tokens, whichever is longer. */
const productMs = (bytes: number, multiplies: number, rates: SpeedRates): number =>
  Math.max(bytes / rates.kernelGbPerSecond, 2 * multiplies / rates.kernelGopPerSecond) / 1e6;

/** Milliseconds of the slowest shard in one layer of a step, and of all shards together. */
export function shardMs(layer: LayerTraffic, of: { readonly expertBytes: number; readonly expertParameters: number }, rates: SpeedRates): { slowest: number; all: number } {
  let [slowest, all] = [productMs(layer.busiestExperts * of.expertBytes, 0, rates), 0];
  layer.expertsRead.forEach((read, shard) => {
    const ms = productMs(read * of.expertBytes, layer.expertTokens[shard]! * of.expertParameters, rates);
    slowest = Math.max(slowest, ms);
    all += ms;
  });
  return { slowest, all };
}

export interface StepSpeed {
  /** From the step's begin to its end. */
  readonly stepMs: number;
  readonly trunkMs: number;
  readonly attentionMs: number;
  readonly expertsMs: number;
  /** Round trips of hops, and sending. */
  readonly messagesMs: number;
  /** The stage with the most work: with several groups of requests the others wait for it. */
  readonly busiestStageMs: number;
  /** Over all shards. */
  readonly shardComputeMs: number;
}

/** One step in one lane. `cachedTokens`: positions each of its tokens attends to. */
export function stepSpeed(pack: CapacityPack, plan: Pick<CapacityPlan, "stages" | "experts" | "parameters" | "bytes" | "kvBytesPerToken">, traffic: StepTraffic, cachedTokens: number, rates: SpeedRates): StepSpeed {
  const { config } = pack;
  const { tokens } = traffic;
  // The embedding is looked up, not multiplied, unless it is the head as well.
  const trunkBytes = plan.bytes.trunkBytes - plan.bytes.ropeBytes - (config.tieWordEmbeddings ? 0 : plan.bytes.embeddingBytes);
  const trunkMs = productMs(trunkBytes, tokens * plan.parameters.trunkProducts, rates);
  const attentionMs = tokens * cachedTokens * plan.kvBytesPerToken / rates.attentionGbPerSecond / 1e6;
  const nExperts = Math.max(1, pack.experts.length);
  const expertBytes = pack.experts.reduce((sum, expert) => sum + ffnBytes(expert), 0) / nExperts;
  const of = { expertBytes, expertParameters: plan.parameters.ofOneExpert };
  const layers = traffic.layers.map((layer) => ({ layer: layer.layer, frames: layer.frames, ...shardMs(layer, of, rates) }));
  const waits = layers.map(({ slowest, frames }) => slowest + (frames > 0 ? rates.roundTripMs : 0) + frames * rates.sendMs);
  const expertsMs = layers.reduce((sum, { slowest }) => sum + slowest, 0);
  const messagesMs = traffic.hops * rates.roundTripMs / 2 + (traffic.expertFrames + traffic.ringFrames) * rates.sendMs;
  const own = trunkMs + attentionMs;
  const trunkOf = ({ weightBytes, expertBytes }: CapacityPlan["stages"][number]): number => weightBytes - expertBytes;
  const allStages = plan.stages.reduce((sum, stage) => sum + trunkOf(stage), 0);
  const stageMs = plan.stages.map((stage) => own * trunkOf(stage) / allStages
    + waits.reduce((sum, ms, i) => sum + (layers[i]!.layer >= stage.layers[0] && layers[i]!.layer < stage.layers[1] ? ms : 0), 0));
  return { stepMs: trunkMs + attentionMs + expertsMs + messagesMs, trunkMs, attentionMs, expertsMs, messagesMs, busiestStageMs: Math.max(...stageMs), shardComputeMs: layers.reduce((sum, { all, frames }) => sum + (frames > 0 ? all : 0), 0) };
}

export interface Throughput {
  /** Of one request alone. */
  readonly streamTokensPerSecond: number;
  /** Of a region with all its streams, before the guide on messages. */
  readonly regionTokensPerSecond: number;
}

/** One step carries `groupTokens` requests; a lane has as many such groups under way as it has stages and requests. */
export function throughput(plan: Pick<CapacityPlan, "lanes" | "streamsPerLane">, alone: StepSpeed, grouped: StepSpeed, groupTokens: number): Throughput {
  const perLane = Math.min(plan.streamsPerLane / grouped.stepMs, groupTokens / grouped.busiestStageMs) * 1000;
  return { streamTokensPerSecond: 1000 / alone.stepMs, regionTokensPerSecond: plan.lanes * perLane };
}
