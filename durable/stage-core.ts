// What a stage of a ring does with a frame, without the platform: its part of a step, its part of the head, or nothing, and the frames that go on from there.
// Owns the order: one frame after the other, as they came. Refuses sockets (ring-line.ts) and the token loop (ring-engine.ts). docs/protocol.md section 6.

import type { Engine } from "../model/engine.ts";
import type { RequestRouting } from "../model/request-routing.ts";
import { endsLayers, isEmpty } from "../model/stage-span.ts";
import type { Tap } from "../model/taps.ts";
import { LeftOutRows } from "./left-out-rows.ts";
import type { FailedFrame, RingAddress, RingFrame, RingTally } from "./ring-frame.ts";
import { RouteNotes } from "./ring-routes.ts";
import { AwayError, ShardError } from "./shard-error.ts";
import type { StagePages } from "./stage-pages.ts";
import type { Terms } from "./step-terms.ts";

export interface StageCoreParts {
  readonly engine: Pick<Engine, "pass" | "answers" | "span" | "config">;
  readonly pages: StagePages;
  /** Own number in the ring. */
  readonly stage: number;
  /** Lines to the shards of its layers; absent where it computes all experts itself, and then nothing is ever away. */
  readonly outages?: PassOutages;
}

/** What a pass needs of lines to go by terms. */
export interface PassOutages {
  during<T>(terms: Terms, pass: () => Promise<T>): Promise<T>;
  /** Names of shards that are away now. */
  away(): readonly string[];
}

export type Emit = (frame: RingFrame) => void;

export class StageCore {
  readonly #p: StageCoreParts;
  /** The frame at hand, and those behind it. */
  #last: Promise<void> = Promise.resolve();

  readonly #taps: Tap[] = [];
  #routings: ReadonlyMap<string, RequestRouting> = new Map();

  constructor(parts: StageCoreParts) {
    this.#p = parts;
  }

  /** Sees every pass from here on. */
  observe(tap: Tap): void {
    this.#taps.push(tap);
  }

  /** Takes a frame in its turn; `emit` gets what goes to the next stage, in order. Never rejects: what fails is a frame, too. `isWanted` is asked when its turn comes. */
  take(frame: RingFrame, emit: Emit, isWanted: () => boolean = () => true): Promise<void> {
    this.#last = this.#last.then(async () => {
      if (!isWanted()) return;
      const { stage } = this.#p;
      const address = ({ ring, step, epoch, tally }: RingAddress): RingAddress => ({ ring, step, stage, epoch, tally });
      try {
        if (frame.kind === "rows") await this.#pass(frame, address(frame), emit);
        else {
          emit(frame);
          if (frame.kind === "finals") this.#answer(frame, address(frame), emit);
        }
      } catch (cause) {
        emit({ ...address(frame), kind: "failed", ...failureOf(cause) });
      }
    });
    return this.#last;
  }

  async #pass(frame: Extract<RingFrame, { kind: "rows" }>, from: RingAddress, emit: Emit): Promise<void> {
    const { engine, pages, outages } = this.#p;
    const { entries, asks, ids, hidden, terms } = frame;
    pages.copy(frame.copies);
    const timelines = pages.timelines(entries);
    let first = 0;
    const routings = this.#routingsOf(frame.routings);
    const taken = entries.map(({ nTokens, routing }, i) => ({ timeline: timelines[i]!, ids: ids.subarray(first, first += nTokens), routing: routings[routing - 1] ?? null }));
    const notes = frame.isTraced ? new RouteNotes() : null;
    const leftOut = new LeftOutRows();
    const taps = [...(terms?.leavesOut === true ? [leftOut.tap] : []), ...(notes?.taps ?? []), ...this.#taps];
    const pass = (): ReturnType<typeof engine.pass> => engine.pass({ entries: taken, rows: frame.rows, asked: asks.map(({ token }) => token) }, taps);
    const { rows, pruned, ...cost } = await (terms === null || outages === undefined ? pass() : outages.during(terms, pass));
    const address = { ...from, tally: added(from.tally, cost) };
    const told = { rows: leftOut.all, away: terms === null ? [] : outages?.away() ?? [] };
    if (told.rows.length + told.away.length > 0) emit({ ...address, kind: "leftOut", ...told });
    if (pruned !== undefined) emit({ ...address, kind: "pruned", calls: pruned });
    if (notes !== null && notes.words.length > 0) emit({ ...address, kind: "routes", words: notes.words });
    if (!endsLayers(engine.config, engine.span)) return emit({ ...frame, ...address, rows });
    if (asks.length === 0) return emit({ ...address, kind: "done" });
    const finals: Extract<RingFrame, { kind: "finals" }> = { ...address, kind: "finals", asks, hidden, rows };
    emit(finals);
    this.#answer(finals, address, emit);
  }

  /** The same records as long as frames bring the same texts: what an engine makes of one, it makes once. */
  #routingsOf(texts: readonly string[]): RequestRouting[] {
    this.#routings = new Map(texts.map((text) => [text, this.#routings.get(text) ?? JSON.parse(text) as RequestRouting]));
    return [...this.#routings.values()];
  }

  #answer({ asks, rows }: Extract<RingFrame, { kind: "finals" }>, address: RingAddress, emit: Emit): void {
    const { engine } = this.#p;
    const { headRows } = engine.span;
    if (isEmpty(headRows)) return;
    engine.answers(asks, rows).forEach((answer, index) => emit({ ...address, kind: "answer", index, headRows, answer }));
    if (headRows[1] === engine.config.vocabSize) emit({ ...address, kind: "done" });
  }
}

function failureOf(cause: unknown): Omit<FailedFrame, "kind"> {
  const message = cause instanceof Error ? cause.message : String(cause);
  if (!(cause instanceof ShardError)) return { fault: "internal", message, shard: null, retryable: false };
  return { fault: cause instanceof AwayError ? "away" : "experts", message, shard: cause.shard, retryable: cause.retryable };
}

const added = (a: RingTally, b: { readonly frames: number; readonly bytes: number; readonly retries: number; readonly hedges?: number }): RingTally =>
  ({ frames: a.frames + b.frames, bytes: a.bytes + b.bytes, retries: a.retries + b.retries, hedges: a.hedges + (b.hedges ?? 0) });
