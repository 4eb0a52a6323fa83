// The engine of a ring as the scheduler sees it: steps go out at stage 0 and come back with what was asked, several at a time. Owns the numbers of steps, which of
// them are under way, and what becomes of them when the ring breaks: sent again where all stages kept their pages, lost otherwise. Refuses sockets (ring-line.ts),
// what comes back of a step (ring-step.ts), silence (ring-watch.ts), arithmetic (stage-core.ts, model/) and to rebuild timelines: the scheduler has their tokens.
// docs/protocol.md section 6.

import { cutRowLength } from "../model/config.ts";
import type { Engine } from "../model/engine.ts";
import type { StepEntry, StepResult } from "../model/step.ts";
import type { KvCache, SharedTokens, Timeline } from "../model/kv-cache.ts";
import type { RequestRouting } from "../model/request-routing.ts";
import { endsLayers, isEmpty, type StageSpan } from "../model/stage-span.ts";
import type { Tap } from "../model/taps.ts";
import type { Clock } from "./clock.ts";
import type { Limits } from "./limits.ts";
import { LostTimelinesError } from "./lost-timelines.ts";
import type { PageNumbers } from "./page-numbers.ts";
import { NO_TALLY, type RingFrame, type RowsFrame } from "./ring-frame.ts";
import { ringChunkTokens, routingBytes } from "./ring-rows.ts";
import { MOST_WANTED_IDS, ringEntries, RingStep, routingText, withFewIds } from "./ring-step.ts";
import { RingWatch, type WatchedRing } from "./ring-watch.ts";
import type { StepEngine } from "./scheduler.ts";
import { AwayError } from "./shard-error.ts";
import type { Emit, StageCore } from "./stage-core.ts";
import { type OutageTerms, RingOutages, type StepOutages } from "./step-terms.ts";

/** A ring that stands. */
export interface OpenRing {
  readonly ring: number;
  /** Every stage has the pages it had when the ring stood last: steps may be sent again. */
  readonly kept: boolean;
  /** Of the KV cache, and tokens of a step: what the smallest of the other stages takes. */
  readonly pages: number;
  readonly chunkTokens: number;
  /** To stage 1. */
  send(frame: RingFrame): void;
  close(reason: string): void;
}

export interface RingHandlers {
  /** What comes back. */
  frame(frame: RingFrame): void;
  /** Called at most once for each ring that stood. */
  lost(ring: number): void;
}

/** The way to the other stages. */
export interface RingLinks {
  /** Prepares all stages and joins them. Rejects when that does not come about. */
  open(handlers: RingHandlers): Promise<OpenRing>;
}

export interface RingEngineParts {
  /** Of stage 0. */
  readonly engine: Pick<Engine, "plan" | "conclude" | "config" | "contextLength">;
  readonly core: StageCore;
  /** Over `numbers`. */
  readonly kv: Pick<KvCache, "open" | "keep" | "close" | "forget">;
  readonly numbers: PageNumbers;
  readonly spans: readonly StageSpan[];
  readonly links: RingLinks;
  /** Stands already, its handlers this engine's `received` and `lost`. */
  readonly first: OpenRing;
  readonly clock: Clock;
  readonly limits: Pick<Limits, "ringProbeMs" | "ringSilenceMs" | "ringStepMs">;
  readonly epoch: number;
  /** Most entries of a step. */
  readonly entries: number;
  /** Most tokens of a step that every stage takes. */
  readonly maxChunkTokens: number;
}

export class RingEngine implements StepEngine {
  readonly #p: RingEngineParts;
  readonly config: Engine["config"];
  readonly contextLength: number;
  readonly maxChunkTokens: number;
  readonly stepsAtOnce: number;
  readonly kv: StepEngine["kv"];
  readonly #outages = new RingOutages();
  readonly outages: StepOutages = this.#outages;
  /** Final rows go round again where the last head rows lie before the last layer. */
  readonly #goesTwice: boolean;
  readonly #steps = new Map<number, RingStep>();
  /** Timelines whose pages are as they should be. */
  #sound = new WeakSet<Timeline>();
  #next = 1;
  #ring: OpenRing | null;
  #opening: Promise<void> | null = null;
  #isClosed = false;
  /** Frames that went out, in whatever ring. */
  readonly #wasSent = new WeakSet<RowsFrame>();
  readonly #watch: RingWatch;

  constructor(parts: RingEngineParts) {
    const { engine, kv, spans } = parts;
    this.#p = parts;
    this.#ring = parts.first;
    this.config = engine.config;
    this.contextLength = engine.contextLength;
    this.stepsAtOnce = spans.length;
    this.#watch = new RingWatch(this.#watched(), parts.clock, parts.limits);
    this.maxChunkTokens = this.chunkTokensBeside([]);
    const lastLayer = spans.findIndex((span) => endsLayers(engine.config, span));
    const lastHead = spans.findIndex(({ headRows }) => headRows[1] === engine.config.vocabSize && !isEmpty(headRows));
    this.#goesTwice = lastHead > 0 && lastHead < lastLayer;
    this.kv = {
      open: (maxTokens: number, shared: SharedTokens | null = null): Timeline => {
        const timeline = kv.open(maxTokens, shared);
        this.#sound.add(timeline);
        return timeline;
      },
      keep: (timeline, shared) => { if (this.#sound.has(timeline)) kv.keep(timeline, shared); },
      close: (timeline) => kv.close(timeline),
    };
  }

  /** Most tokens of a step whose entries ask these of routing: they share the frames. */
  chunkTokensBeside(routings: readonly RequestRouting[]): number {
    const { engine, entries, maxChunkTokens } = this.#p;
    const nPages = entries * Math.ceil(engine.contextLength / 32);
    const nRoutingBytes = routingBytes([...new Set(routings.map(routingText))]);
    return Math.max(1, Math.min(maxChunkTokens, ringChunkTokens({ nEntries: entries, nPages, nWanted: MOST_WANTED_IDS, nRoutingBytes, hidden: Math.max(...this.#p.spans.map(({ layers: [first] }) => cutRowLength(engine.config, first))) })));
  }

  /** Steps begun since it came up, and those under way. */
  get work(): { readonly begun: number; readonly underWay: number } { return { begun: this.#next, underWay: this.#steps.size }; }

  /** Brings the ring up, or rejects. */
  connect(): Promise<void> {
    if (this.#ring !== null) return Promise.resolve();
    this.#opening ??= this.#open().finally(() => { this.#opening = null; });
    return this.#opening;
  }

  /** Closes the sockets of a ring that nobody uses; the next step builds another. */
  rest(): void {
    if (this.#steps.size > 0) return;
    const ring = this.#ring;
    this.#ring = null;
    ring?.close("idle");
  }

  /** Ends the ring; steps under way fail. */
  close(reason: string): void {
    this.#isClosed = true;
    this.#watch.end();
    this.#ring?.close(reason);
    this.#ring = null;
    this.#failAll(new Error(`The ring was closed: ${reason}`));
  }

  /** Sees every pass of the own layers; those of a step see all layers. */
  observe(tap: Tap): void {
    this.#p.core.observe(tap);
  }

  step(entries: readonly StepEntry[], taps: readonly Tap[] = [], terms: OutageTerms | null = null): Promise<StepResult> {
    const { engine, numbers } = this.#p;
    if (entries.some(({ timeline }) => !this.#sound.has(timeline))) return Promise.reject(new LostTimelinesError("A stage lost the KV cache of this timeline."));
    const plan = withFewIds(engine.plan(entries));
    const ids = Uint32Array.from(entries.flatMap((entry) => Array.from(entry.ids)));
    const frame: RowsFrame = {
      kind: "rows", ...ringEntries(entries), asks: plan.rows.map(({ ask }) => ask), copies: numbers.takeCopies(), ids, hidden: engine.config.hiddenSize, rows: null, isTraced: taps.length > 0,
      terms: terms === null ? null : { leavesOut: terms.leavesOut },
    };
    return new Promise((resolve, reject) => {
      const step = new RingStep({ number: this.#next, entries, plan, frame, taps, terms, resolve, reject });
      this.#next = (this.#next + 1) >>> 0;
      this.#steps.set(step.number, step);
      if (this.#ring !== null) this.#begin(step, this.#ring);
      else this.connect().catch((cause: unknown) => this.#failAll(cause instanceof Error ? cause : new Error(String(cause))));
    });
  }

  async #open(): Promise<void> {
    const { links, numbers } = this.#p;
    const ring = await links.open({ frame: (frame) => this.received(frame), lost: (number) => this.lost(number) });
    if (this.#isClosed) return ring.close("it is no longer needed");
    this.#ring = ring;
    // What a copy was made from may have been written since, so a step with one cannot be sent again.
    const hasLessRoom = numbers.limit(ring.pages);
    if (hasLessRoom || !ring.kept || [...this.#steps.values()].some(({ frame, hasFinals }) => frame.copies.length > 0 && !hasFinals && this.#wasSent.has(frame))) this.#forget();
    for (const step of [...this.#steps.values()]) this.#begin(step, ring);
  }

  /** The stages' pages are gone, or cannot be trusted: so are all timelines. */
  #forget(): void {
    this.#sound = new WeakSet();
    this.#p.kv.forget();
    for (const step of [...this.#steps.values()]) {
      // One that was never sent harmed nobody, but its timeline may be an older one.
      this.#steps.delete(step.number);
      step.reject(new LostTimelinesError("A stage of the ring was reset, and the KV cache with it."));
    }
  }

  /** The ring of this number stands no more. Steps under way wait for another. */
  lost(number: number): void {
    if (this.#ring?.ring !== number) return;
    this.#ring = null;
    if (this.#isClosed || this.#steps.size === 0) return;
    this.connect().catch((cause: unknown) => this.#failAll(cause instanceof Error ? cause : new Error(String(cause))));
  }

  #begin(step: RingStep, ring: OpenRing): void {
    step.begin();
    this.#wasSent.add(step.frame);
    const isWanted = (): boolean => this.#ring === ring && this.#steps.has(step.number);
    const frame: RingFrame = { ...step.frame, ring: ring.ring, step: step.number, stage: 0, epoch: this.#p.epoch, tally: NO_TALLY };
    void this.#p.core.take(frame, this.#emitter(ring, true), isWanted);
    step.sentMs = this.#p.clock.nowMs();
    this.#watch.begin();
  }

  /** This ring as it is watched while steps are under way. */
  #watched(): WatchedRing {
    const [ringNow, steps] = [(): OpenRing | null => this.#ring, this.#steps];
    return {
      get oldestMs() { return ringNow() === null || steps.size === 0 ? null : Math.min(...[...steps.values()].map(({ sentMs }) => sentMs)); },
      probe: () => {
        const ring = this.#ring!;
        ring.send({ kind: "probe", ring: ring.ring, step: 0, stage: 0, epoch: this.#p.epoch, tally: NO_TALLY });
      },
      silent: () => {
        const ring = this.#ring!;
        ring.close("the ring does not answer");
        this.lost(ring.ring);
      },
    };
  }

  /** Where frames of the own stage go: answers stay, the rest goes on; final rows that have come round only where others wait for them. */
  #emitter(ring: OpenRing, sendsFinals: boolean): Emit {
    return (frame) => {
      if (this.#ring !== ring) return;
      if (frame.kind === "rows" || (frame.kind === "finals" && sendsFinals)) ring.send(frame);
      if (frame.kind !== "rows") this.#take(frame);
    };
  }

  /** A frame from the last stage. */
  received(frame: RingFrame): void {
    const [ring, step] = [this.#ring, this.#steps.get(frame.step)];
    if (ring === null || frame.ring !== ring.ring) return; // of an older ring
    this.#watch.heard();
    if (step === undefined) return; // a probe, or of a step that has ended
    if (frame.kind === "finals" && !step.hasFinals) {
      step.takeFinals(frame.rows);
      return void this.#p.core.take(frame, this.#emitter(ring, this.#goesTwice), () => this.#ring === ring);
    }
    this.#take(frame);
  }

  #take(frame: RingFrame): void {
    const step = this.#steps.get(frame.step);
    if (step === undefined) return;
    const failure = step.take(frame);
    if (failure instanceof AwayError) this.#outages.failed(frame.stage, failure.shard);
    if (failure !== null) {
      this.#steps.delete(step.number);
      return step.reject(failure);
    }
    const { engine, spans } = this.#p;
    if (!step.isWhole(spans)) return;
    this.#steps.delete(step.number);
    if (step.terms !== null) this.#outages.passed(step.outages);
    step.conclude(engine, spans);
  }

  #failAll(cause: Error): void {
    for (const step of [...this.#steps.values()]) {
      this.#steps.delete(step.number);
      step.reject(cause);
    }
  }
}
