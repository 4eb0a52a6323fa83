// What a step does about experts of shards that are away: by default it waits as long as an outage may last (client.ts); on these terms no longer than
// `degradeAfterMs`, and then it fails, or goes on without their rows. Owns the terms of the step under way: an engine takes one at a time.
// Refuses to choose them (scheduler.ts) and to know what is missing (websocket-experts.ts).

export interface Terms {
  /** True: what nobody computes is left out. False: the step fails with AwayError. */
  readonly leavesOut: boolean;
}

/** What the scheduler needs of lines to serve those who opted in. */
export interface StepOutages {
  during<T>(terms: Terms, step: () => Promise<T>): Promise<T>;
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
