// What the other stages of a ring know of their layers and stage 0 tells of the whole: how often each expert was chosen, and their lines to shards.
// Owns when they are asked (never on the token path, and not again while nothing was evaluated), patience with those that do not answer, and that counts only grow: a stage that was reset
// begins at 0 again, and is known by another life. Refuses to count (metrics-expert-load.ts) and to say what a line's figures mean (line-figures.ts).
// docs/protocol.md section 6.

import { type Clock, within } from "./clock.ts";
import type { Limits } from "./limits.ts";
import type { LineFigures } from "./line-figures.ts";
import type { StageFigures } from "./stage-handshake.ts";

export interface RingFiguresParts {
  /** The stages after the first. */
  readonly stages: readonly { readonly name: string; figures(): Promise<StageFigures | null> }[];
  /** Layers times experts. */
  readonly nCounters: number;
  /** Steps that were begun since the model came up, and those that are under way. */
  readonly work: () => { readonly begun: number; readonly underWay: number };
  readonly clock: Clock;
  readonly limits: Pick<Limits, "stageFiguresMs">;
}

export class RingFigures {
  readonly #p: RingFiguresParts;
  readonly #heard: (StageFigures | null)[];
  readonly #choices: Uint32Array;
  #asking: Promise<void> | null = null;
  /** Steps begun when all stages were last heard with nothing under way. */
  #quietAt: number | null = null;

  constructor(parts: RingFiguresParts) {
    this.#p = parts;
    this.#heard = parts.stages.map(() => null);
    this.#choices = new Uint32Array(parts.nCounters);
  }

  /** How often each expert was chosen in the stages' passes as far as is known, [layer * experts + expert]; begins again at 0 after 2^32, and nowhere else. */
  get choices(): Uint32Array { return this.#choices; }

  /** Of each stage, its lines by the number of their shard, as it last told them. */
  get lines(): readonly (readonly LineFigures[])[] { return this.#heard.map((heard) => heard?.lines ?? []); }

  /** Asks the stages, all at once. Resolves when they have answered, or their time is over; never rejects. */
  hear(): Promise<void> {
    const { begun, underWay } = this.#p.work();
    if (underWay === 0 && this.#quietAt === begun) return Promise.resolve();
    return (this.#asking ??= this.#ask().then((isWhole) => {
      this.#asking = null;
      this.#quietAt = isWhole && underWay === 0 ? begun : null;
    }));
  }

  /** False where a stage did not answer. */
  async #ask(): Promise<boolean> {
    const { stages, clock, limits } = this.#p;
    const answers = await Promise.allSettled(stages.map(async (stage, i) => {
      // An answer that comes later counts for nothing: the next one has all that it had.
      this.#take(i, await within(clock, limits.stageFiguresMs, stage.figures(), `${stage.name} did not tell its figures in ${limits.stageFiguresMs} ms`));
    }));
    return answers.every(({ status }) => status === "fulfilled");
  }

  #take(stage: number, figures: StageFigures | null): void {
    const before = this.#heard[stage]!;
    this.#heard[stage] = figures;
    // Of another version, for minutes (2026-11).
    if (figures === null || figures.choices.length !== this.#choices.length) return;
    const since = before?.life === figures.life ? before.choices : null;
    for (const [i, count] of figures.choices.entries()) this.#choices[i]! += count - (since?.[i] ?? 0);
  }
}
