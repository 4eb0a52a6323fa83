// A store that is slow or fails now and then, made steady: a read that breaks off or stalls is begun again where it was, a few times, with jitter.
// Owns the attempts of one read. Refuses to check bytes (formats/pack-reader.ts does, and names part and blob in errors) and to read anything twice that
// came before a failure, where the store has ranges.

import { type ByteSource, SourceError } from "../formats/byte-source.ts";
import { type Clock, type Random, sleep, within } from "./clock.ts";
import type { Limits } from "./limits.ts";

export interface SteadyParts {
  readonly clock: Clock;
  readonly random: Random;
  readonly limits: Pick<Limits, "storeAttempts" | "storeStallMs" | "backoffBaseMs">;
}

export class SteadySource implements ByteSource {
  readonly #source: ByteSource;
  readonly #p: SteadyParts;

  constructor(source: ByteSource, parts: SteadyParts) {
    this.#source = source;
    this.#p = parts;
  }

  get description(): string { return this.#source.description; }
  get hasRanges(): boolean { return this.#source.hasRanges; }
  size(name: string): Promise<number | null> { return this.#source.size(name); }

  async *read(name: string, offset = 0, length?: number): AsyncGenerator<Uint8Array> {
    const { clock, random, limits } = this.#p;
    let given = 0;
    let first: string | null = null;
    for (let attempt = 1; ; attempt++) {
      // Where there are no ranges a read begins at the front again, and what was given already is passed over.
      let skip = this.#source.hasRanges ? 0 : given;
      const from = offset + (this.#source.hasRanges ? given : 0);
      const chunks = (length === undefined && from === 0 ? this.#source.read(name) : this.#source.read(name, from, length === undefined ? undefined : offset + length - from))[Symbol.asyncIterator]();
      try {
        for (;;) {
          const next = await within(clock, limits.storeStallMs, chunks.next(), `${this.description}, ${name}: not a byte came in ${limits.storeStallMs} ms`);
          if (next.done === true) return;
          const fresh = next.value.subarray(Math.min(skip, next.value.length));
          skip -= next.value.length - fresh.length;
          given += fresh.length;
          if (fresh.length > 0) yield fresh;
        }
      } catch (cause) {
        const found = cause instanceof Error ? cause.message : String(cause);
        first ??= found; // what follows from it may say less: beyond a file's end there is no range
        if (attempt >= limits.storeAttempts || (await this.#isAtEnd(name, offset + given))) throw new SourceError(`${first} (after ${attempt} attempt${attempt === 1 ? "" : "s"}${found === first ? "" : `, the last: ${found}`})`, { cause });
        await sleep(clock, random.next() * limits.backoffBaseMs * 2 ** attempt);
      } finally {
        // A reader that leaves early, or a read that stalled: nobody waits for its end.
        void chunks.return?.()?.then(undefined, () => undefined);
      }
    }
  }

  /** A file that ends before the read does will not grow. */
  async #isAtEnd(name: string, at: number): Promise<boolean> {
    const { clock, limits } = this.#p;
    if (!this.#source.hasRanges) return false;
    const size = await within(clock, limits.storeStallMs, this.#source.size(name), "its size is not known").catch(() => null);
    return size !== null && at >= size;
  }
}
