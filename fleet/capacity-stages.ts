// How many isolates a pack's trunk and KV cache take as a ring of stages, and what each holds: rows of the embedding, layers [a, b) with or without their experts, rows of
// the head. Owns the cut: in the order embedding, layers, head, each isolate takes as much as fits, which is the fewest there can be in that order.
// Refuses where one layer with one page of KV cache fits no isolate. With one stage the bytes are those of durable/memory-plan.ts; a test holds both to it.

import { expertInputSize, latentDim } from "../model/config.ts";
import { engineRegions } from "../model/engine-regions.ts";
import { allocatedBytes } from "../model/heap.ts";
import { KV_BLOCK, kvPageBytes } from "../model/kernels.ts";
import { runnerRegions } from "../model/local-experts.ts";
import { VOCABULARY_BLOCK_ROWS, type Span, type StageSpan } from "../model/stage-span.ts";
import { type CapacityBlob, type CapacityLimits, type CapacityPack, CapacityPlanError, layerOf, mib, mostSegments, roomBytes, rowBytes } from "./capacity-pack.ts";

/** Who holds the experts: shards, or the stages those of their own layers. */
export type ExpertsIn = "shards" | "stages";

export interface StageCapacity extends StageSpan {
  /** Its experts' among them. */
  readonly weightBytes: number;
  readonly expertBytes: number;
  readonly scratchBytes: number;
  readonly frameBytes: number;
  readonly kvBytes: number;
}

/** Requests that are resident at once in one lane, each with its pages reserved. */
export interface ResidentStreams {
  readonly streams: number;
  readonly contextTokens: number;
}

export const stageBytes = (s: StageCapacity): number => s.weightBytes + s.scratchBytes + s.frameBytes + s.kvBytes;

/** Names the trunk's blobs by the place they belong to, and counts what a span of places takes. */
export class TrunkCut {
  readonly nPlaces: number;
  readonly ropeBytes: number;
  readonly #pack: CapacityPack;
  readonly #limits: CapacityLimits;
  readonly #nBlocks: number;
  readonly #nHeadBlocks: number;
  readonly #layerBlobs: readonly (readonly CapacityBlob[])[];
  /** Bytes of layers 0 to n. */
  readonly #layerSums: readonly number[];
  /** Of them, the experts'; none where shards hold them. */
  readonly #expertBlobs: readonly (readonly CapacityBlob[])[];
  /** Widest segment of each layer's dense part or shared expert. */
  readonly #sharedWidths: readonly number[];
  /** And of the experts that its stage holds. */
  readonly #expertWidths: readonly number[];
  readonly #maxSegments: number;

  constructor(pack: CapacityPack, limits: CapacityLimits, expertsIn: ExpertsIn) {
    const { config } = pack;
    const held = expertsIn === "stages" ? pack.experts : [];
    this.#pack = pack;
    this.ropeBytes = pack.blobs["rope"]!.bytes;
    this.#limits = limits;
    this.#maxSegments = mostSegments(pack);
    this.#nBlocks = Math.ceil(config.vocabSize / VOCABULARY_BLOCK_ROWS);
    this.#nHeadBlocks = config.tieWordEmbeddings ? 0 : this.#nBlocks;
    this.nPlaces = this.#nBlocks + config.nLayers + this.#nHeadBlocks;
    const layers: CapacityBlob[][] = Array.from({ length: config.nLayers }, () => []);
    for (const [name, blob] of Object.entries(pack.blobs)) {
      const layer = layerOf(name);
      if (layer !== null) layers[layer]!.push(blob);
    }
    const experts: CapacityBlob[][] = layers.map(() => []);
    for (const { layer, segments } of held) experts[layer]!.push(...segments);
    for (const { layer, segments } of [...pack.shared, ...held]) layers[layer]!.push(...segments);
    this.#layerBlobs = layers;
    this.#expertBlobs = experts;
    const sums = [0];
    for (const blobs of layers) sums.push(sums.at(-1)! + blobs.reduce((sum, { bytes }) => sum + allocatedBytes(bytes), 0));
    this.#layerSums = sums;
    const widthsOf = (of: CapacityPack["shared"]): number[] => {
      const widths = new Array<number>(config.nLayers).fill(0);
      for (const { layer, segments } of of) for (const { start, end } of segments) widths[layer] = Math.max(widths[layer]!, end - start);
      return widths;
    };
    this.#sharedWidths = widthsOf(pack.shared);
    this.#expertWidths = widthsOf(held);
  }

  /** What places [from, to) hold. */
  spans(from: number, to: number): StageSpan {
    const { nLayers, vocabSize, tieWordEmbeddings } = this.#pack.config;
    const rows = (blocks: number): number => Math.min(vocabSize, blocks * VOCABULARY_BLOCK_ROWS);
    const within = (start: number, count: number): Span => [Math.min(count, Math.max(0, from - start)), Math.min(count, Math.max(0, to - start))];
    const [embedding, head] = [within(0, this.#nBlocks), within(this.#nBlocks + nLayers, this.#nHeadBlocks)];
    const embeddingRows: Span = [rows(embedding[0]), rows(embedding[1])];
    return { embeddingRows, layers: within(this.#nBlocks, nLayers), headRows: tieWordEmbeddings ? embeddingRows : [rows(head[0]), rows(head[1])] };
  }

  /** `exact` counts equal blobs once, as they lie in memory; without it they count each time, which is fast and never too little. */
  capacity(from: number, to: number, resident: ResidentStreams, exact: boolean): StageCapacity {
    const spans = this.spans(from, to);
    const { config, kvFormat } = this.#pack;
    const [firstLayer, endLayer] = spans.layers;
    const regions = engineRegions(config, {
      nTokens: this.#limits.roundTokens, maxSegments: this.#maxSegments, sharedSegmentWidth: Math.max(0, ...this.#sharedWidths.slice(firstLayer, endLayer)), span: spans,
    });
    const expertWidth = Math.max(0, ...this.#expertWidths.slice(firstLayer, endLayer));
    const runner: Readonly<Record<string, number>> = expertWidth === 0 ? {} : runnerRegions(expertInputSize(config), expertWidth, this.#limits.roundTokens);
    const [pages, nLayers] = [Math.ceil(resident.contextTokens / KV_BLOCK), endLayer - firstLayer];
    // A stage of a ring has one table for each entry of a step; an orchestrator alone one for each request, as long as it needs.
    const isAlone = from === 0 && to === this.nPlaces;
    const tableBytes = isAlone ? resident.streams * allocatedBytes(pages * 4) : allocatedBytes(this.#limits.entries * Math.ceil(this.#pack.contextLength / KV_BLOCK) * 4);
    const pageBytes = nLayers === 0 ? 0 : allocatedBytes(kvPageBytes(kvFormat, nLayers, config.nKvHeads, config.headDim, latentDim(config)));
    return {
      ...spans,
      weightBytes: exact ? uniqueBytes([...this.#outsideLayers(spans), ...this.#layerBlobs.slice(firstLayer, endLayer).flat()])
        : allBytes(this.#outsideLayers(spans)) + this.#layerSums[endLayer]! - this.#layerSums[firstLayer]!,
      expertBytes: exact ? uniqueBytes(this.#expertBlobs.slice(firstLayer, endLayer).flat()) : allBytes(this.#expertBlobs.slice(firstLayer, endLayer).flat()),
      scratchBytes: [...Object.values(regions), ...Object.values(runner)].reduce((sum, bytes) => sum + (bytes === 0 ? 0 : allocatedBytes(bytes)), 0),
      frameBytes: nLayers === 0 ? 0 : allocatedBytes(this.#limits.frameBytes),
      kvBytes: nLayers === 0 ? 0 : resident.streams * pages * pageBytes + tableBytes,
    };
  }

  /** Rows of the vocabulary's matrices, the last norm beside the last layer, and the rotation table beside any. */
  #outsideLayers({ embeddingRows, layers, headRows }: StageSpan): CapacityBlob[] {
    const { blobs, config } = this.#pack;
    // A tied head has no blob of its own.
    const found = [this.#rows("embed", embeddingRows), this.#rows("head", headRows), this.#rows("headBias", headRows)];
    if (layers[1] > layers[0]) found.push(blobs["rope"]!);
    if (layers[1] > layers[0] && layers[1] === config.nLayers) found.push(...["norm", "normBias"].flatMap((name) => blobs[name] ?? []));
    return found.filter((blob) => blob !== null);
  }

  #rows(name: string, [from, to]: Span): CapacityBlob | null {
    const blob = this.#pack.blobs[name];
    if (blob === undefined || to <= from) return null;
    if (from === 0 && to === this.#pack.config.vocabSize) return blob;
    return { hash: `${blob.hash}, rows ${from} to ${to}`, bytes: blob.format === "f32-vector" ? 4 * (to - from) : rowBytes(blob.format, from, to, this.#pack.config.hiddenSize) };
  }
}

const allBytes = (blobs: readonly CapacityBlob[]): number => blobs.reduce((sum, { bytes }) => sum + allocatedBytes(bytes), 0);
const uniqueBytes = (blobs: readonly CapacityBlob[]): number => allBytes([...new Map(blobs.map((blob) => [blob.hash, blob])).values()]);

/** Where each stage ends, or null where a place alone does not fit. */
function cutStages(cut: TrunkCut, roomBytes: number, resident: ResidentStreams): number[] | null {
  const ends: number[] = [];
  for (let from = 0; from < cut.nPlaces; from = ends.at(-1)!) {
    const fits = (to: number): boolean => stageBytes(cut.capacity(from, to, resident, false)) <= roomBytes;
    if (!fits(from + 1)) return null;
    // What fits grows with the span, so the last end that fits is found by halving.
    let [fit, beyond] = [from + 1, cut.nPlaces + 1];
    while (beyond - fit > 1) {
      const middle = (fit + beyond) >> 1;
      if (fits(middle)) fit = middle;
      else beyond = middle;
    }
    ends.push(fit);
  }
  return ends;
}

const ONE_PAGE: ResidentStreams = { streams: 1, contextTokens: KV_BLOCK };

export interface LaneCapacity {
  readonly lanes: number;
  readonly streamsPerLane: number;
  /** Of one lane; the others are alike. */
  readonly stages: readonly StageCapacity[];
  /** Stages with a single page of KV cache: where more are needed, the cache sets their number. */
  readonly stagesForWeights: number;
  /** KV cache that fits one lane's stages, over all its requests. */
  readonly residentTokensPerLane: number;
}

/**
 * The fewest isolates that hold the trunk and the KV cache of `wanted`, in lanes of equal stages. Throws CapacityPlanError where none can: one layer with a
 * page of KV cache, or with one request of the whole context, does not fit an isolate.
 */
export function planLanes(pack: CapacityPack, limits: CapacityLimits, wanted: ResidentStreams, expertsIn: ExpertsIn = "shards"): LaneCapacity {
  const [cut, room] = [new TrunkCut(pack, limits, expertsIn), roomBytes(limits)];
  const forWeights = cutStages(cut, room, ONE_PAGE);
  if (forWeights === null) throw new CapacityPlanError(whyNot(cut, limits, ONE_PAGE, "one page of KV cache (32 tokens)"));
  let best: { lanes: number; streamsPerLane: number; nStages: number } | null = null;
  const seen = new Set<number>();
  for (let lanes = 1; lanes <= wanted.streams; lanes++) {
    const streamsPerLane = Math.ceil(wanted.streams / lanes);
    if (seen.has(streamsPerLane)) continue;
    seen.add(streamsPerLane);
    const ends = cutStages(cut, room, { ...wanted, streams: streamsPerLane });
    if (ends !== null && (best === null || lanes * ends.length < best.lanes * best.nStages)) best = { lanes, streamsPerLane, nStages: ends.length };
  }
  if (best === null) throw new CapacityPlanError(whyNot(cut, limits, { ...wanted, streams: 1 }, `the KV cache of one request of ${wanted.contextTokens} tokens`));
  const { lanes, streamsPerLane, nStages } = best;
  // Of all cuts into so many stages, the one that leaves most room for the cache in the fullest.
  const fits = (pages: number): boolean => (cutStages(cut, room, { streams: 1, contextTokens: pages * KV_BLOCK })?.length ?? Infinity) <= nStages;
  let [fit, beyond] = [streamsPerLane * Math.ceil(wanted.contextTokens / KV_BLOCK), 2];
  while (beyond <= fit || fits(beyond)) beyond *= 2;
  while (beyond - fit > 1) {
    const middle = Math.floor((fit + beyond) / 2);
    if (fits(middle)) fit = middle;
    else beyond = middle;
  }
  const ends = cutStages(cut, room, { streams: 1, contextTokens: fit * KV_BLOCK })!;
  const stages = ends.map((end, i) => cut.capacity(ends[i - 1] ?? 0, end, { ...wanted, streams: streamsPerLane }, true));
  return { lanes, streamsPerLane, stages, stagesForWeights: forWeights.length, residentTokensPerLane: fit * KV_BLOCK };
}

/** The sentence for the place that takes most. */
function whyNot(cut: TrunkCut, limits: CapacityLimits, resident: ResidentStreams, cacheWords: string): string {
  let most = cut.capacity(0, 1, resident, false);
  for (let place = 1; place < cut.nPlaces; place++) {
    const found = cut.capacity(place, place + 1, resident, false);
    if (stageBytes(found) > stageBytes(most)) most = found;
  }
  const { layers: [layer, end], embeddingRows, headRows } = most;
  const rows = embeddingRows[1] > embeddingRows[0] ? embeddingRows : headRows;
  const what = end > layer ? `Layer ${layer} ${most.expertBytes > 0 ? "with its experts" : "alone"} takes ${mib(most.weightBytes)} of weights (${mib(cut.ropeBytes)} of it the rotation table of the whole context), and ${cacheWords} takes ${mib(most.kvBytes)} more in it`
    : `Rows ${rows[0]} to ${rows[1]} of the vocabulary alone take ${mib(most.weightBytes)} of weights`;
  return `${what}; with working memory of ${mib(most.scratchBytes)} and a frame of ${mib(most.frameBytes)} that is ${mib(stageBytes(most))}, but an isolate of ${mib(limits.isolateBytes)} has `
    + `${mib(roomBytes(limits))} for an object. Give more --memory or a shorter --context, or pack with fewer bits.`;
}
