// What a step does about experts of shards that are away: by default it waits as long as an outage may last (client.ts); on these terms no longer than
// `degradeAfterMs`, and then it fails, or goes on without their rows. Owns the terms of the step under way, of which an engine takes one at a time,
// and how long a stage's word that a shard is away is believed. Refuses to choose terms (scheduler.ts), to know what is missing (websocket-experts.ts), and to bring them to other stages
// (ring-engine.ts).

import type { LeftOutRows } from "./left-out-rows.ts";
import type { LeftOutFrame } from "./ring-frame.ts";

export interface Terms {
  /** True: what nobody computes is left out. False: the step fails with AwayError. */
  readonly leavesOut: boolean;
}

/** Terms of a whole step. */
export interface OutageTerms extends Terms {
  /** Gets what is left out, before the step's end. */
  readonly leftOut: LeftOutRows;
}

/** What the scheduler needs of lines to serve those who opted in; steps of an engine that has it take terms. */
export interface StepOutages {
  /** False where the plan has no such shard any more. */
  isAway(shard: string): boolean;
}

export class StepTerms {
  #current: Terms | null = null;

  /** Null: wait. */
  get current(): Terms | null { return this.#current; }

  async during<T>(terms: Terms, step: () => Promise<T>): Promise<T> {
    this.#current = terms;
    try {
      return await step();
    } finally {
      this.#current = null;
    }
  }
}

/** What one stage says of a step. */
export type StageOutage = Pick<LeftOutFrame, "rows" | "away">;

/** Which shards are away for which stage of a ring, as far as stage 0 has heard: from a stage's word until a step that would have told it again has passed the stage without. */
export class RingOutages implements StepOutages {
  readonly #away = new Map<number, ReadonlySet<string>>();

  isAway(shard: string): boolean {
    return [...this.#away.values()].some((names) => names.has(shard));
  }

  /** A step ended at this stage because the shard is away. */
  failed(stage: number, shard: string): void {
    this.#away.set(stage, new Set([...this.#away.get(stage) ?? [], shard]));
  }

  /** A step by terms has passed every stage; those that said nothing miss nobody. */
  passed(said: ReadonlyMap<number, StageOutage>): void {
    this.#away.clear();
    for (const [stage, { away }] of said) if (away.length > 0) this.#away.set(stage, new Set(away));
  }
}
