// The one alarm of an object, shared by those in it that want to be called later (the platform has one per object, 2026-11).
// Owns who wants to be called when. Writes are never waited for and hold nothing back (`allowUnconfirmed`). Refuses to remember wishes in storage: an object
// that comes back calls everybody once, and whoever has more to do says so again.

import type { Clock } from "./clock.ts";

/** The storage of an object, as far as its alarm goes. */
export interface AlarmStorage {
  setAlarm(atMs: number, options: { readonly allowUnconfirmed: boolean }): Promise<void>;
}

const UNCONFIRMED = { allowUnconfirmed: true } as const;

export class ObjectAlarm<Name extends string> {
  readonly #storage: AlarmStorage;
  readonly #clock: Clock;
  readonly #wishes = new Map<Name, number>();
  /** What the platform's alarm is known to be set to. */
  #setMs = Infinity;
  /** Nobody was called yet since the object came up: what its former self was asked for is not known. */
  #isNew = true;

  constructor(storage: AlarmStorage, clock: Clock) {
    this.#storage = storage;
    this.#clock = clock;
  }

  /** `whose` is to be called at that time; replaces what it asked for before. */
  at(whose: Name, atMs: number): void {
    this.#wishes.set(whose, atMs);
    if (atMs < this.#setMs) this.#set(atMs);
  }

  /** The alarm went off: says who is due, and sets it for the others. */
  fired(): (whose: Name) => boolean {
    const nowMs = this.#clock.nowMs();
    const due = new Set([...this.#wishes].flatMap(([whose, atMs]) => (atMs <= nowMs ? [whose] : [])));
    for (const whose of due) this.#wishes.delete(whose);
    this.#setMs = Infinity;
    if (this.#wishes.size > 0) this.#set(Math.min(...this.#wishes.values()));
    const isNew = this.#isNew;
    this.#isNew = false;
    return (whose) => isNew || due.has(whose);
  }

  #set(atMs: number): void {
    this.#setMs = atMs;
    void this.#storage.setAlarm(atMs, UNCONFIRMED).catch(() => { this.#setMs = Infinity; });
  }
}
