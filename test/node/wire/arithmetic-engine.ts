// A scheduler over an engine made of arithmetic, for tests: logits are a function of a timeline's tokens, steps end when the test says so, and the
// engine itself complains about anything a real one could not do. Owns no assertion.

import type { GenerateEvent, GenerateRequest } from "../../../durable/generate.ts";
import { LIMITS, type Limits } from "../../../durable/limits.ts";
import { LostTimelinesError } from "../../../durable/lost-timelines.ts";
import { Scheduler, type StepEngine } from "../../../durable/scheduler.ts";
import type { TraceSamples } from "../../../durable/trace-samples.ts";
import { softmaxRouter } from "../../../model/architectures/common.ts";
import { probabilitiesOf } from "../../../model/draw.ts";
import type { StepEntry, StepResult } from "../../../model/step.ts";
import { CapacityError } from "../../../model/heap.ts";
import type { SharedTokens, Timeline } from "../../../model/kv-cache.ts";
import { PLAIN_SAMPLING, type TopLogits } from "../../../model/sampling.ts";
import type { Tap } from "../../../model/taps.ts";
import { FakeClock } from "./fake-clock.ts";

export const VOCAB = 50;

/** The k largest of rows of VOCAB logits, as the engine hands them out. */
function largest(logits: Float32Array, k: number): TopLogits {
  const rows = Array.from({ length: logits.length / VOCAB }, (_, r) => logits.subarray(r * VOCAB, (r + 1) * VOCAB));
  const ranked = rows.map((row) => Array.from(row.keys()).sort((a, b) => row[b]! - row[a]! || a - b).slice(0, k));
  return {
    k, ids: Uint32Array.from(ranked.flat()), values: Float32Array.from(ranked.flatMap((ids, r) => ids.map((id) => rows[r]![id]!))),
    notFinite: Int32Array.from(rows, (row) => row.findIndex((x) => !Number.isFinite(x))),
  };
}

/** Logits are a function of a timeline's tokens so far; a step ends when the test says so, or at once. */
export class ArithmeticEngine implements StepEngine {
  readonly config = { vocabSize: VOCAB, nLayers: 1, layerFfns: ["moe"], nExperts: 8, router: softmaxRouter(2, "score") } as const;
  readonly contextLength = 200;
  readonly maxChunkTokens: number;
  readonly steps: { ids: number[]; timeline: number }[][] = [];
  stepsAtOnce = 1;
  mostAtOnce = 0;
  #atOnce = 0;
  openPositions = 0;
  fail: ((step: number) => Error | null) | null = null;
  poison = -1;
  held: (() => void)[] | null = null;
  /** How many of the last tokens decide the next; few make texts that repeat themselves. */
  memory = Infinity;
  /** Takes this long per step. */
  elapse: ((nTokens: number) => Promise<void>) | null = null;
  readonly kept: { scope: string; ids: number[] }[] = [];
  readonly #capacity: number;
  readonly #history = new Map<number, number[]>();
  /** Open when all were lost: nothing may be evaluated in them any more. */
  readonly #lost = new Set<number>();
  readonly #stepping = new Set<number>();
  readonly #open = new Set<number>();
  #nextId = 0;

  constructor(maxChunkTokens: number, capacity = 10_000) {
    this.maxChunkTokens = maxChunkTokens;
    this.#capacity = capacity;
  }

  readonly kv = {
    open: (maxTokens: number, shared: SharedTokens | null = null): Timeline => {
      if (this.openPositions + maxTokens > this.#capacity) throw new CapacityError(`${maxTokens} positions do not fit.`);
      this.openPositions += maxTokens;
      const timeline: Timeline = { id: this.#nextId++, maxTokens, pageTable: 0, pages: [], ropeOffset: 0, length: 0 };
      this.#open.add(timeline.id);
      if (shared === null) return timeline;
      // The longest beginning of what was kept: the same promise as kv-cache.ts, by a plain list.
      const common = (kept: readonly number[]): number => { const at = kept.findIndex((id, i) => id !== shared.ids[i]); return at < 0 ? kept.length : at; };
      timeline.length = Math.min(shared.ids.length - 1, maxTokens, this.kept.reduce((most, { scope, ids }) => Math.max(most, scope === shared.scope ? common(ids) : 0), 0));
      this.#history.set(timeline.id, shared.ids.slice(0, timeline.length));
      return timeline;
    },
    keep: (timeline: Timeline, { scope, ids }: SharedTokens): void => {
      const own = ids.slice(0, timeline.length);
      if (own.join() !== (this.#history.get(timeline.id) ?? []).slice(0, own.length).join()) throw new Error("Tokens were kept that were not evaluated.");
      this.kept.push({ scope, ids: own });
    },
    close: (timeline: Timeline): void => {
      if (!this.#history.delete(timeline.id) && timeline.length > 0) throw new Error("A timeline was closed twice.");
      if (this.#stepping.has(timeline.id)) throw new Error("A timeline was closed while a step used it.");
      this.#open.delete(timeline.id);
      this.openPositions -= timeline.maxTokens;
    },
  };

  async step(entries: readonly StepEntry[], taps: readonly Tap[] = []): Promise<StepResult> {
    if (entries.some((e) => this.#stepping.has(e.timeline.id))) throw new Error("A timeline is in two steps at once.");
    if (++this.#atOnce > this.stepsAtOnce) throw new Error(`${this.#atOnce} steps run at once.`);
    this.mostAtOnce = Math.max(this.mostAtOnce, this.#atOnce);
    for (const e of entries) this.#stepping.add(e.timeline.id);
    try {
      return await this.#evaluate(entries, taps);
    } finally {
      this.#atOnce--;
      for (const e of entries) this.#stepping.delete(e.timeline.id);
    }
  }

  async #evaluate(entries: readonly StepEntry[], taps: readonly Tap[]): Promise<StepResult> {
    const n = entries.reduce((sum, e) => sum + e.ids.length, 0);
    if (n > this.maxChunkTokens || n === 0 || entries.some((e) => e.ids.length === 0)) throw new Error(`A step of ${n} tokens was submitted.`);
    this.steps.push(entries.map((e) => ({ ids: Array.from(e.ids), timeline: e.timeline.id })));
    if (this.held !== null) await new Promise<void>((resolve) => this.held!.push(resolve));
    await this.elapse?.(n);
    const error = this.fail?.(this.steps.length - 1) ?? null;
    if (error instanceof LostTimelinesError) for (const id of this.#open) this.#lost.add(id);
    if (error !== null) throw error;
    if (entries.some((e) => this.#lost.has(e.timeline.id))) throw new LostTimelinesError("An entry's timeline was lost before.");
    const logits = entries.map((e) => {
      if (e.timeline.length + e.ids.length > e.timeline.maxTokens) throw new Error("More tokens than reserved.");
      const history = this.#history.get(e.timeline.id) ?? [];
      this.#history.set(e.timeline.id, history);
      history.length = e.timeline.length;
      const rows: number[] = [];
      for (let i = 0; i < e.ids.length; i++) {
        history.push(e.ids[i]!);
        const h = history.slice(-this.memory).reduce((a, b) => (Math.imul(a, 31) + b) >>> 0, 7);
        const of = typeof e.logits === "object" ? e.logits.of : e.logits;
        if (of === "all" || (of === "last" && i === e.ids.length - 1))
          for (let v = 0; v < VOCAB; v++) rows.push(h % VOCAB === this.poison ? NaN : ((Math.imul(h ^ v, 0x9e3779b1) >>> 8) % 1000) / 100);
      }
      return Float32Array.from(rows);
    });
    for (const tap of taps) for (let layer = 0; layer < 2; layer++) {
      const timelines = entries.flatMap((e) => Array.from(e.ids, () => e.timeline.id));
      const positions = entries.flatMap((e) => Array.from(e.ids, (_, i) => e.timeline.length + i));
      tap.run({ layer, nTokens: n, timelines: Uint32Array.from(timelines), positions: Uint32Array.from(positions), values: new Float32Array(0), rowLength: 0,
        ids: Uint32Array.from(positions.flatMap((p, t) => [p + layer, timelines[t]! * 0 + 9])), weights: Float32Array.from(positions.flatMap(() => [0.75, 0.25])) });
    }
    for (const e of entries) e.timeline.length += e.ids.length;
    const tops = entries.map((e, i) => (typeof e.logits === "object" && "top" in e.logits ? largest(logits[i]!, e.logits.top) : null));
    entries.forEach((e, i) => {
      if (typeof e.logits !== "object" || !("temperature" in e.logits)) return;
      for (let at = 0; at < logits[i]!.length; at += VOCAB) logits[i]!.set(probabilitiesOf(logits[i]!.slice(at, at + VOCAB), e.logits.temperature), at);
    });
    return { logits, tops, frames: 1, bytes: 10, retries: 0, hedges: 0 };
  }
}

export const request = (seed: number, more: Partial<GenerateRequest> = {}): GenerateRequest => ({
  promptIds: Array.from({ length: 5 + (seed % 7) }, (_, i) => (seed * 13 + i * 7) % VOCAB), maxTokens: 8, stopIds: [], logprobs: 2,
  sampling: { ...PLAIN_SAMPLING, temperature: 0.8, seed }, ...more,
});

export interface Reader {
  readonly events: GenerateEvent[];
  readonly generation: ReturnType<Scheduler["submit"]>;
}

export function setUp(maxChunkTokens = 16, limits: Limits = LIMITS, capacity?: number, samples: TraceSamples | null = null) {
  const clock = new FakeClock();
  const engine = new ArithmeticEngine(maxChunkTokens, capacity);
  let idle = 0;
  const scheduler = new Scheduler(engine, clock, limits, () => { idle++; }, samples);
  const read = (r: GenerateRequest): Reader => {
    const events: GenerateEvent[] = [];
    return { events, generation: scheduler.submit(r, (event) => events.push(event)) };
  };
  const finish = async (): Promise<void> => { for (let i = 0; i < 400 && scheduler.activeCount + scheduler.queuedCount > 0; i++) await clock.advance(10); await clock.settle(); };
  /** Lets the held step end, and the next begin. */
  const step = async (): Promise<void> => { await clock.advance(0); engine.held!.shift()!(); await clock.advance(0); };
  /** Lets the held step end and holds no more. */
  const release = (): void => { const held = engine.held!; engine.held = null; for (const end of held) end(); };
  return { clock, engine, scheduler, read, finish, step, release, idleCount: () => idle };
}

/** Events with what may depend on neighbours (steps, bytes) left out. */
export const said = (events: readonly GenerateEvent[]): unknown[] => events.flatMap((e): unknown[] => (e.type === "prompt" ? [...e.tokens] : e.type === "end" ? [[e.reason, e.stopId, e.completionTokens]] : [e]));

export async function alone(r: GenerateRequest): Promise<unknown[]> {
  const { read, finish } = setUp(64);
  const reader = read(r);
  await finish();
  return said(reader.events);
}
