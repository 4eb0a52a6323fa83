// The document of `plan`: memory, traffic, speed and money of one deployment, put together from the calculators of fleet/.
// Owns the document's shape, which `--json` prints and plan-text.ts shows, and what is assumed in words. Refuses sums of its own.
// Sizes of frames and limits come from durable/, where they are in force.

import { type CapacityLimits, type CapacityPack, mostSegments } from "../fleet/capacity-pack.ts";
import { shardBytes, type ShardsCapacity } from "../fleet/capacity-shards.ts";
import { CLAIMED_REGION_ROUND_TRIP_MS, MEASURED_RATES, type SpeedRates, stepSpeed, type StepSpeed, throughput, TOKENS_PER_REQUEST } from "../fleet/capacity-speed.ts";
import { type ExpertsIn, stageBytes } from "../fleet/capacity-stages.ts";
import { type CapacityPlan, type CapacityWish, planCapacity } from "../fleet/capacity.ts";
import type { PlacementMode } from "../fleet/placement.ts";
import { dollarsPerIdleMonth, dollarsPerMillionTokens, type IdleMonthDollars, PRICES, type TokenDollars } from "../fleet/prices.ts";
import { framesLeaving, nextExpertCrosses, turnsOfRegions } from "../fleet/region-crossing.ts";
import { evenCounts } from "../fleet/routing-counts.ts";
import { evenTokens, replicatedTraffic, tokensOfTrace } from "../fleet/replicated-traffic.ts";
import { tracedTraffic } from "../fleet/traced-traffic.ts";
import { evenTraffic, type ExpertTraffic, type FrameSizes, GUIDE_MESSAGES_PER_SECOND, type LayerTraffic, messageLoad, ownTraffic, stepTraffic, type StepTraffic } from "../fleet/traffic.ts";
import { moeLayersOf } from "../model/config.ts";
import { LIMITS } from "../durable/limits.ts";
import { READY, ReplicaChoice } from "../durable/replica-choice.ts";
import { FRAME_HEADER_BYTES, maxChunkTokens } from "../durable/protocol.ts";
import { type Efficiency, efficiencyOf } from "./efficiency-rows.ts";
import type { PlannedModel } from "./plan-model.ts";
import { type CacheLocality, meanCaches, TraceLocality } from "../fleet/trace-locality.ts";
import type { TracedRouting } from "./read-traces.ts";

export interface PlanRequest extends Omit<CapacityWish, "contextTokens"> {
  readonly isolateBytes: number;
  readonly placement: PlacementMode;
  readonly kernelGbPerSecond?: number | undefined;
  readonly roundTripMs?: number | undefined;
  /** It was trained on, which no file says. */
  readonly trainingTokens?: number | undefined;
}

/** Of docs/protocol.md section 2; a test compares them with the frames' layout. */
export const FRAME_SIZES: FrameSizes = { headerBytes: FRAME_HEADER_BYTES, groupBytes: 8, tokenBytes: 2 };

/** The limits in force, for isolates of `isolateBytes`. */
export function capacityLimits(pack: CapacityPack, isolateBytes: number): CapacityLimits {
  const { config, activations } = pack;
  return {
    isolateBytes, inFlightBytes: LIMITS.inFlightBytes, frameBytes: LIMITS.frameBytes,
    entries: LIMITS.activeGenerations, roundTokens: maxChunkTokens(config, mostSegments(pack), activations),
  };
}

/** What a trace says, and the shards that were placed by it. */
export interface RoutedShards {
  readonly routing: TracedRouting;
  readonly experts: ShardsCapacity;
  /** Copies of the experts that are asked most. */
  readonly hot: { readonly copies: number; readonly bytes: number };
}

/** Messages and bytes of a step, without its layers. */
export interface StepFigures {
  readonly tokens: number;
  readonly expertFrames: number;
  readonly ringFrames: number;
  readonly hops: number;
  readonly bytes: number;
}

export interface RateFigures {
  readonly roundTripMs: number;
  /** Where the round trip comes from. */
  readonly roundTripFrom: "given" | "measured on one machine" | "claimed for one region";
  readonly alone: StepSpeed;
  readonly streamTokensPerSecond: number;
  /** Of one request's prompt, chunk after chunk. */
  readonly promptTokensPerSecond: number;
  /** Of a region with all streams, at most what the guide on messages allows. */
  readonly regionTokensPerSecond: number;
  readonly limitedByGuide: boolean;
  readonly dollarsPerMillionTokens: TokenDollars;
}

export interface PlanDocument {
  readonly model: { readonly id: string; readonly architecture: string; readonly quant: string | null; readonly kvFormat: string; readonly parameters: number; readonly activeParameters: number; /** null for a dense model. */ readonly efficiency: Efficiency | null };
  readonly asked: { readonly isolateBytes: number; readonly contextTokens: number; readonly streams: number; readonly regions: readonly string[]; readonly regionHolds: PlanRequest["regionHolds"]; readonly replicas: number };
  readonly routing: {
    /** Where frames and loads come from. */
    readonly from: "even draws" | "a trace";
    readonly placement: PlacementMode;
    readonly traces: TracedRouting["of"];
    /** Of the trace, in the layer that has the fewest; null without one. */
    readonly tokens: number | null;
    readonly shardsPerTokenAndLayer: number;
    /** Mean over layers of the busiest shard's load over the mean: 1 is even. */
    readonly loadImbalance: number;
    /** null where one region has everything that a token needs. */
    readonly crossRegion: { readonly frames: number; readonly nextExpert: number } | null;
    /** Of the trace, means over layers: what caches of so many experts in each layer would hit, and their bytes in all layers together. null without a trace. */
    readonly caches: readonly (CacheLocality & { readonly bytes: number })[] | null;
  };
  readonly bytes: Omit<CapacityPlan["bytes"], "layerBytes"> & { readonly layerBytes: readonly number[]; readonly kvBytesPerToken: number };
  readonly isolates: { readonly perDeployment: number; readonly deployments: number; readonly all: number; readonly roomBytes: number; readonly largestBytes: number; readonly plannedBytes: number };
  readonly lanes: { readonly lanes: number; readonly streamsPerLane: number; readonly stagesForWeights: number; readonly stagesSetBy: "weights" | "kv"; readonly residentTokensPerLane: number;
    readonly stages: readonly (CapacityPlan["stages"][number] & { readonly bytes: number })[] };
  /** Who holds them. */
  readonly experts: { readonly in: ExpertsIn; /** The other way, where it was looked at and can be. */ readonly instead: InsteadFigures | null };
  readonly shards: { readonly shards: number; readonly isSliced: boolean; readonly hotCopies: number; readonly hotBytes: number; readonly expertBytes: number; readonly largestBytes: number; readonly smallestBytes: number };
  readonly traffic: { readonly token: StepFigures; readonly step: StepFigures; readonly promptChunk: StepFigures;
    readonly stageMessagesPerStep: number; readonly shardMessagesPerStep: number; readonly guideMessagesPerSecond: number;
    /** null where nothing is sent. */
    readonly guideTokensPerSecond: number | null };
  readonly speed: { readonly rates: Omit<SpeedRates, "roundTripMs">; readonly cachedTokens: number; readonly groupTokens: number; readonly at: readonly RateFigures[] };
  readonly idleMonthDollars: IdleMonthDollars;
  readonly prices: typeof PRICES;
  readonly assumptions: readonly string[];
}

/** What of a plan tells whether another would be better. */
export interface InsteadFigures {
  readonly in: ExpertsIn;
  readonly isolates: number;
  readonly frames: number;
  readonly hops: number;
  /** By round trip, as the rates are. */
  readonly regionTokensPerSecond: readonly number[];
  readonly dollarsPerMillionTokens: readonly number[];
}

export const insteadOf = ({ experts, isolates, traffic: { token }, speed }: PlanDocument): InsteadFigures => ({
  in: experts.in, isolates: isolates.all, frames: token.expertFrames + token.ringFrames, hops: token.hops,
  regionTokensPerSecond: speed.at.map((at) => at.regionTokensPerSecond), dollarsPerMillionTokens: speed.at.map((at) => at.dollarsPerMillionTokens.total),
});

const figures = (step: StepTraffic): StepFigures =>
  ({ tokens: step.tokens, expertFrames: step.expertFrames, ringFrames: step.ringFrames, hops: step.hops, bytes: step.expertBytes + step.ringBytes });

/** The capacity and its document. `routed`: by a trace; without it tokens draw experts evenly. Throws CapacityPlanError where it cannot be. */
export function planDocument({ pack, contextTokens, quant, packBytes }: PlannedModel, request: PlanRequest, routed: RoutedShards | null = null): { readonly plan: CapacityPlan; readonly document: PlanDocument } {
  const { config } = pack;
  const limits = capacityLimits(pack, request.isolateBytes);
  const plan = planCapacity(pack, limits, { ...request, contextTokens }, routed?.experts);
  const held = plan.experts.shards.filter(({ weightBytes }) => weightBytes > 0).map(shardBytes);
  const experts = expertTraffic(pack, plan, routed);
  const traffic = (tokens: number, outputs: number): StepTraffic => stepTraffic(config, plan.stages, { tokens, outputs }, FRAME_SIZES, experts);
  // A step carries one token of each request of its group; there are as many groups as stages, so that every stage has one.
  const groupTokens = Math.min(limits.roundTokens, Math.ceil(plan.streamsPerLane / Math.min(plan.stages.length, plan.streamsPerLane)));
  const [one, grouped, chunk] = [traffic(1, 1), traffic(groupTokens, groupTokens), traffic(limits.roundTokens, 1)];
  const load = messageLoad(plan, grouped);
  const cachedTokens = Math.ceil(contextTokens / 2);
  const rates: SpeedRates = { ...MEASURED_RATES, kernelGbPerSecond: request.kernelGbPerSecond ?? MEASURED_RATES.kernelGbPerSecond };
  const roundTrips: readonly (readonly [number, RateFigures["roundTripFrom"]])[] = request.roundTripMs === undefined
    ? [[MEASURED_RATES.roundTripMs, "measured on one machine"], [CLAIMED_REGION_ROUND_TRIP_MS, "claimed for one region"]] : [[request.roundTripMs, "given"]];
  const at = roundTrips.map(([roundTripMs, roundTripFrom]): RateFigures => {
    const speedOf = (step: StepTraffic): StepSpeed => stepSpeed(pack, plan, step, cachedTokens, { ...rates, roundTripMs });
    const [alone, together] = [speedOf(one), speedOf(grouped)];
    const { streamTokensPerSecond, regionTokensPerSecond } = throughput(plan, alone, together, groupTokens);
    const limitedByGuide = regionTokensPerSecond > load.guideTokensPerSecond;
    const tokensPerSecond = Math.min(regionTokensPerSecond, load.guideTokensPerSecond);
    return {
      roundTripMs, roundTripFrom, alone, streamTokensPerSecond, promptTokensPerSecond: 1000 * chunk.tokens / speedOf(chunk).stepMs, regionTokensPerSecond: tokensPerSecond, limitedByGuide,
      dollarsPerMillionTokens: dollarsPerMillionTokens({
        messages: (2 * grouped.expertFrames + grouped.ringFrames) / groupTokens, stageSeconds: plan.lanes * plan.stages.length / tokensPerSecond,
        shardSeconds: together.shardComputeMs / 1000 / groupTokens, workerRequests: 1 / TOKENS_PER_REQUEST,
      }),
    };
  });
  const deployments = request.regionHolds === "deployment" ? Math.max(1, request.regions.length) : 1;
  const weightBytes = plan.lanes * plan.stages.reduce((sum, stage) => sum + stage.weightBytes, 0) + plan.experts.shards.reduce((sum, shard) => sum + shard.weightBytes, 0);
  const document: PlanDocument = {
    model: { id: pack.id, architecture: config.architecture, quant, kvFormat: pack.kvFormat, parameters: plan.parameters.total, activeParameters: plan.parameters.active, efficiency: efficiencyOf(config, plan.parameters, request.trainingTokens) },
    asked: { isolateBytes: request.isolateBytes, contextTokens, streams: request.streams, regions: request.regions, regionHolds: request.regionHolds, replicas: request.replicas },
    routing: routingFigures(pack, plan, request, routed, one),
    bytes: { ...plan.bytes, kvBytesPerToken: plan.kvBytesPerToken },
    isolates: { perDeployment: plan.isolatesPerDeployment, deployments, all: plan.isolates, roomBytes: limits.isolateBytes - limits.inFlightBytes, largestBytes: plan.largestIsolateBytes, plannedBytes: plan.plannedBytes },
    lanes: { lanes: plan.lanes, streamsPerLane: plan.streamsPerLane, stagesForWeights: plan.stagesForWeights, stagesSetBy: plan.stagesSetBy, residentTokensPerLane: plan.residentTokensPerLane,
      stages: plan.stages.map((stage) => ({ ...stage, bytes: stageBytes(stage) })) },
    experts: { in: request.expertsIn, instead: null },
    shards: { shards: held.length, isSliced: plan.experts.isSliced, hotCopies: routed?.hot.copies ?? 0, hotBytes: routed?.hot.bytes ?? 0, expertBytes: plan.bytes.expertBytes, largestBytes: Math.max(0, ...held), smallestBytes: held.length === 0 ? 0 : Math.min(...held) },
    traffic: { token: figures(one), step: figures(grouped), promptChunk: figures(chunk), stageMessagesPerStep: load.stageMessagesPerStep, shardMessagesPerStep: load.shardMessagesPerStep,
      guideMessagesPerSecond: GUIDE_MESSAGES_PER_SECOND, guideTokensPerSecond: Number.isFinite(load.guideTokensPerSecond) ? load.guideTokensPerSecond : null },
    speed: { rates: { kernelGbPerSecond: rates.kernelGbPerSecond, kernelGopPerSecond: rates.kernelGopPerSecond, attentionGbPerSecond: rates.attentionGbPerSecond, sendMs: rates.sendMs }, cachedTokens, groupTokens, at },
    idleMonthDollars: dollarsPerIdleMonth({
      packBytes, cachedBytes: deployments * weightBytes, objects: plan.isolates, keepers: deployments * plan.lanes,
      // Each stage calls the shards of its layers, at most all of them.
      kept: deployments * plan.lanes * (plan.stages.length - 1 + plan.stages.length * held.length),
    }),
    prices: PRICES,
    assumptions: [routed === null ? EVEN : TRACED, ...(request.replicas > 1 || (routed?.hot.copies ?? 0) > 0 ? [REPLICAS] : []), ...(request.regionHolds === "deployment" ? [] : [SPLIT]), ...ASSUMPTIONS],
  };
  return { plan, document };
}

function expertTraffic(pack: CapacityPack, plan: CapacityPlan, routed: RoutedShards | null): ExpertTraffic {
  if (pack.experts.length === 0) return () => [];
  if (plan.experts.slots.length === 0) return (tokens) => ownTraffic(pack, tokens);
  const { config, activations } = pack;
  const shape = { config, activations, segmentsPerExpert: pack.experts.reduce((sum, { segments }) => sum + segments.length, 0) / pack.experts.length };
  // As in a fleet whose lines are all open and on time.
  const choice = new ReplicaChoice(plan.experts.slots, plan.experts.slots.map(() => ({ readiness: READY, wake: () => {} })));
  const { startRound } = choice;
  if (startRound !== undefined) {
    const draw = routed === null ? evenTokens(config.nExperts, config.router.topK) : tokensOfTrace(moeLayersOf(config), routed.routing.records());
    return replicatedTraffic(shape, { nParts: choice.nParts, startRound, partOf: (layer, expert, segment) => choice.partOf(layer, expert, segment) }, draw, FRAME_SIZES);
  }
  if (routed !== null) return tracedTraffic(shape, choice, routed.routing.records(), FRAME_SIZES);
  return (tokens) => evenTraffic(shape, plan.experts.plan, tokens, FRAME_SIZES);
}

function cachesOf(config: CapacityPack["config"], routing: TracedRouting, expertBytes: number): NonNullable<PlanDocument["routing"]["caches"]> {
  const moeLayers = moeLayersOf(config);
  const locality = new TraceLocality({ moeLayers, nExperts: config.nExperts, topK: config.router.topK });
  for (const record of routing.records()) locality.add(record);
  return meanCaches(locality.caches()).map((of) => ({ ...of, bytes: Math.round((expertBytes * of.experts) / config.nExperts) }));
}

function routingFigures({ config }: CapacityPack, plan: CapacityPlan, request: PlanRequest, routed: RoutedShards | null, one: StepTraffic): PlanDocument["routing"] {
  const nLayers = Math.max(1, one.layers.length);
  const regionOf = turnsOfRegions(plan.experts.slots.length, request.regions.length);
  const imbalance = ({ expertTokens }: LayerTraffic): number => Math.max(...expertTokens) * expertTokens.length / expertTokens.reduce((sum, n) => sum + n, 0);
  return {
    from: routed === null ? "even draws" : "a trace", placement: request.placement, traces: routed?.routing.of ?? [], tokens: routed?.routing.tokens ?? null,
    shardsPerTokenAndLayer: one.expertFrames / nLayers, loadImbalance: one.layers.reduce((sum, layer) => sum + imbalance(layer), 0) / nLayers,
    caches: routed === null ? null : cachesOf(config, routed.routing, plan.bytes.expertBytes),
    crossRegion: request.regionHolds === "deployment" || one.layers.length === 0 ? null : {
      frames: framesLeaving(one.layers, regionOf),
      nextExpert: nextExpertCrosses(routed?.routing.counts ?? evenCounts(moeLayersOf(config), config.nExperts), plan.experts.plan, regionOf),
    },
  };
}

const EVEN = "Every token draws its experts evenly; a recorded trace routes less evenly, and a placement made from it sends fewer frames.";
const TRACED = "Tokens take experts as the trace has it, those of one step drawn from it apart from each other.";
const REPLICAS = "Where several shards hold a segment, a step asks the one that the fleet's own rule chooses with all lines open; figures are means over 256 steps drawn by a seed.";
const SPLIT = "Stages are all in the first region, shards take turns in the regions; round trips are the same between any two objects, since those between regions are not measured.";
const ASSUMPTIONS: readonly string[] = [
  "Every layer waits for its slowest shard; a step's parts follow each other. Rates are measured on a development machine (docs/benchmarks.md, 2026-11-22), not at Cloudflare.",
  "The round trip claimed for one region is a third party's figure for reads within one; the other is between objects on one machine.",
  "Messages count as a twentieth of a request at every object that receives them, also replies on sockets a stage opened (not confirmed in production, 2026-11).",
  "Stages are billed from the first token to the last, with all streams busy; shards only while they compute, since their sockets hibernate.",
  `A request has ${TOKENS_PER_REQUEST} tokens, prompt and reply. Free allotments and the account's monthly fee are left out.`,
  "Where regions hold copies of the whole deployment, tokens per second and dollars per token are of one of them, isolates and idle months of all.",
];
