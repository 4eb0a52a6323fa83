// A ring of stages that talk by frames, in one process: every hop is encoded, decoded and takes its turn, as over sockets. Owns the hops and what a test may do to
// them: break the ring, take a stage's memory, send a frame twice. Owns no assertion.

import { systemClock } from "../../durable/clock.ts";
import { LIMITS } from "../../durable/limits.ts";
import { PageNumbers } from "../../durable/page-numbers.ts";
import { RingEngine, type OpenRing, type RingHandlers, type RingLinks } from "../../durable/ring-engine.ts";
import { decodeRing, encodeRing, type RingFrame } from "../../durable/ring-frame.ts";
import { type PassOutages, StageCore } from "../../durable/stage-core.ts";
import { StagePages } from "../../durable/stage-pages.ts";
import type { ByteSource } from "../../formats/byte-source.ts";
import type { PackManifest } from "../../formats/manifest.ts";
import { KvCache } from "../../model/kv-cache.ts";
import type { StageSpan } from "../../model/stage-span.ts";
import { openStage, type StageEngine } from "./ring.ts";

const ENTRIES = 8;

export interface RingCluster {
  readonly engine: RingEngine;
  readonly numbers: PageNumbers;
  /** Frames that arrived at a stage so far, 0 among them. */
  readonly hops: { count: number };
  /** Called before each hop: what becomes of the frame that is on its way to `stage`. */
  onHop: ((frame: RingFrame, stage: number) => "pass" | "break" | "twice" | "swallow") | null;
  /** The ring breaks; `reset`: this stage's memory goes with it. */
  break(reset: number | null): void;
  /** How often the ring was built. */
  readonly built: { count: number };
}

const CHUNK_TOKENS = 32;

export interface RingOptions {
  readonly nPages?: number;
  readonly isImpatient?: boolean;
  /** By stage: lines of its passes. */
  readonly outages?: readonly PassOutages[];
  /** Called with each stage's core as it comes up, and again after a reset. */
  readonly observe?: (core: StageCore, stage: number) => void;
}

export async function openStages(source: ByteSource, manifest: PackManifest, spans: readonly StageSpan[], around?: (stage: number) => Parameters<typeof openStage>[4]): Promise<StageEngine[]> {
  const stages: StageEngine[] = [];
  for (const [stage, span] of spans.entries()) stages.push(await openStage(source, manifest, span, CHUNK_TOKENS, around?.(stage)));
  return stages;
}

/** A ring over stages that are there; several may follow each other over the same ones. */
export function ringCluster(stages: readonly StageEngine[], manifest: PackManifest, { nPages = 64, isImpatient = false, outages = [], observe = () => {} }: RingOptions = {}): RingCluster {
  const spans = stages.map(({ engine }) => engine.span);
  const contextLength = Math.max(...stages.map(({ engine }) => engine.contextLength));
  const pagesOf = ({ engine, heap }: StageEngine): StagePages => new StagePages({ heap, pageBytes: engine.kv.pageBytes, most: nPages, entries: ENTRIES, pagesPerTimeline: Math.ceil(contextLength / 32) });
  const coreOf = (stage: number): StageCore => {
    const of = outages[stage];
    const core = new StageCore({ engine: stages[stage]!.engine, pages: pagesOf(stages[stage]!), stage, ...(of === undefined ? {} : { outages: of }) });
    observe(core, stage);
    return core;
  };
  const cores = spans.map((_, stage) => coreOf(stage));
  const numbers = new PageNumbers(nPages);
  const [hops, built] = [{ count: 0 }, { count: 0 }];
  let standing: { readonly ring: number; readonly handlers: RingHandlers; isLost: boolean } | null = null;
  let wasReset = false;

  const breakRing = (reset: number | null): void => {
    if (reset !== null) {
      // Whatever lay in the old pages is gone: new ones begin with noise, not with what a rebuilt timeline would write.
      cores[reset] = coreOf(reset);
      wasReset = true;
    }
    const former = standing;
    if (former === null || former.isLost) return;
    former.isLost = true;
    former.handlers.lost(former.ring);
  };
  const cluster: RingCluster = { engine: undefined as unknown as RingEngine, numbers, hops, built, onHop: null, break: breakRing };

  const deliver = (frame: RingFrame, stage: number, of: NonNullable<typeof standing>): void => {
    const bytes = encodeRing(frame);
    const arrive = (): void => {
      if (of.isLost) return;
      hops.count++;
      const action = cluster.onHop?.(decodeRing(bytes.slice(0)), stage) ?? "pass";
      if (action === "swallow" || of.isLost) return;
      if (action === "break") return breakRing(null);
      for (let n = action === "twice" ? 2 : 1; n > 0; n--) {
        const arrived = decodeRing(bytes.slice(0));
        if (arrived.kind === "probe" && stage > 0) deliver(arrived, (stage + 1) % spans.length, of);
        else if (stage === 0) of.handlers.frame(arrived);
        else void cores[stage]!.take(arrived, (next) => deliver(next, (stage + 1) % spans.length, of), () => !of.isLost);
      }
    };
    setImmediate(arrive);
  };
  const begin = (handlers: RingHandlers): OpenRing => {
    const ring = ++built.count;
    const of = { ring, handlers, isLost: false };
    standing = of;
    const kept = !wasReset;
    wasReset = false;
    return { ring, kept, pages: nPages, chunkTokens: CHUNK_TOKENS, send: (frame) => deliver(frame, 1, of), close: () => { of.isLost = true; } };
  };
  const links: RingLinks = {
    async open(handlers) {
      const ring = begin(handlers);
      await new Promise((resolve) => void setImmediate(resolve));
      return ring;
    },
  };
  const engineOf = (): RingEngine => engine;
  const handlers: RingHandlers = { frame: (frame) => engineOf().received(frame), lost: (ring) => engineOf().lost(ring) };
  const first = stages[0]!.engine;
  const engine = new RingEngine({
    engine: first, core: cores[0]!, kv: new KvCache(numbers, manifest.config, contextLength), numbers, spans, links, first: begin(handlers), clock: systemClock, limits: isImpatient ? { ringProbeMs: 20, ringSilenceMs: 60, ringStepMs: 400 } : LIMITS, epoch: 1, entries: ENTRIES, maxChunkTokens: CHUNK_TOKENS,
  });
  return Object.assign(cluster, { engine });
}
