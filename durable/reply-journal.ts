// What replies have said so far, in the object's storage: a stream that dropped is continued without evaluating its tokens again, also after the object
// restarted. Owns batches of token ids by the reply's name, and their removal after a while. Writes are never waited for and hold nothing back
// (`allowUnconfirmed`): what is lost with them is drawn again, the same. Refuses text: ids only.

import type { Clock } from "./clock.ts";
import type { Limits } from "./limits.ts";

interface Entry {
  readonly ids: Uint32Array;
  /** Number of each token that expert rows were missing for, and how many; absent for none. */
  readonly degraded?: readonly (readonly [index: number, rows: number])[];
  readonly atMs: number;
}

/** A token that was said, and expert rows that were left out of what it was chosen by. */
export interface SaidToken {
  readonly id: number;
  readonly degraded: number;
}

/** Notes one reply as it grows. */
export interface ReplyLog {
  push(token: SaidToken): void;
  /** Writes what is not written yet. */
  flush(): void;
}

const PREFIX = "reply:";
const UNCONFIRMED = { allowUnconfirmed: true, noCache: true } as const;

export class ReplyJournal {
  readonly #storage: DurableObjectStorage;
  readonly #clock: Clock;
  readonly #limits: Limits;
  /** Has `sweep` called at a time. */
  readonly #wake: (atMs: number) => void;
  #isWoken = false;

  constructor(storage: DurableObjectStorage, clock: Clock, limits: Limits, wake: (atMs: number) => void) {
    this.#wake = wake;
    this.#storage = storage;
    this.#clock = clock;
    this.#limits = limits;
  }

  /** What of a reply was written; empty where nothing is known of it. */
  async read(name: string): Promise<SaidToken[]> {
    const { ids = [], degraded = [] } = (await this.#storage.get<Entry>(PREFIX + name)) ?? {};
    const rows = new Map(degraded);
    return Array.from(ids, (id, index) => ({ id, degraded: rows.get(index) ?? 0 }));
  }

  /** Goes on with a reply of which this is known. */
  log(name: string, said: readonly SaidToken[]): ReplyLog {
    const all = [...said];
    let written = all.length;
    const flush = (): void => {
      if (written === all.length) return;
      written = all.length;
      void this.#storage.put<Entry>(PREFIX + name, {
        ids: Uint32Array.from(all, ({ id }) => id), atMs: this.#clock.nowMs(),
        ...(all.some(({ degraded }) => degraded > 0) ? { degraded: all.flatMap(({ degraded }, index) => (degraded > 0 ? [[index, degraded] as const] : [])) } : {}),
      }, UNCONFIRMED).catch(() => undefined);
      this.#sweepLater();
    };
    return {
      push: (token) => {
        all.push(token);
        if (all.length - written >= this.#limits.journalTokens) flush();
      },
      flush,
    };
  }

  /** Removes what nobody will continue any more; called by the object's alarm. */
  async sweep(): Promise<void> {
    this.#isWoken = false;
    const entries = await this.#storage.list<Entry>({ prefix: PREFIX });
    const old = [...entries].filter(([, { atMs }]) => this.#clock.nowMs() - atMs >= this.#limits.journalMs).map(([key]) => key);
    const MOST_KEYS = 128; // of one delete
    for (let at = 0; at < old.length; at += MOST_KEYS) await this.#storage.delete(old.slice(at, at + MOST_KEYS));
    if (entries.size > old.length) this.#sweepLater();
  }

  #sweepLater(): void {
    if (this.#isWoken) return;
    this.#isWoken = true;
    this.#wake(this.#clock.nowMs() + this.#limits.journalMs);
  }
}
