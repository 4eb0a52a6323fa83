// Where simulated shards find weights: the store, with all the ways in which it fails, and a disk that survives the object but may be lost.
// Owns latency, answers of 5xx, reads that end early or bring other bytes. Refuses to protect anybody: whoever reads must check.

import { type ByteSource, SourceError } from "../formats/byte-source.ts";
import type { MemoryFiles } from "../formats/memory-source.ts";
import { sleep, type Clock } from "../durable/clock.ts";
import type { ExtentCache } from "../durable/shard-core.ts";

/** What the store does to the next reads. */
export type StoreFault = "5xx" | "slow" | "short" | "damaged";

/** One store for the whole fleet. */
export class Store {
  readonly files: MemoryFiles;
  readonly #latencyMs: number;
  /** What becomes of the next reads, first things first. */
  readonly faults: StoreFault[] = [];
  /** Told of every fault as it happens. */
  onFault: (fault: StoreFault) => void = () => {};
  reads = 0;

  constructor(files: MemoryFiles, latencyMs: number) {
    this.files = files;
    this.#latencyMs = latencyMs;
  }

  /** The store as one isolate sees it: by its clock, so that reads of a dead one never come back. */
  source(clock: Clock): ByteSource {
    const read = (name: string, offset?: number, length?: number): AsyncGenerator<Uint8Array> => this.#read(clock, name, offset, length);
    return { description: "the simulated store", hasRanges: true, size: async (name) => this.files.get(name)?.length ?? null, read };
  }

  async *#read(clock: Clock, name: string, offset = 0, length?: number): AsyncGenerator<Uint8Array> {
    this.reads++;
    const fault = this.faults.shift() ?? null;
    if (fault !== null) this.onFault(fault);
    await sleep(clock, this.#latencyMs * (fault === "slow" ? 200 : 1));
    if (fault === "5xx") throw new SourceError(`The store answered ${name} with status 503.`);
    const file = this.files.get(name);
    if (file === undefined) throw new SourceError(`The store has no file ${name}.`);
    const end = Math.min(file.length, length === undefined ? file.length : offset + length);
    const middle = offset + ((end - offset) >> 1);
    const chunks = [file.subarray(offset, middle), file.subarray(middle, end)];
    if (fault === "short") chunks.pop();
    if (fault === "damaged") {
      chunks[1] = chunks[1]!.slice();
      chunks[1]![chunks[1]!.length >> 1]! ^= 0x10;
    }
    for (const chunk of chunks) {
      yield chunk;
      if (fault === "slow") await sleep(clock, this.#latencyMs * 50);
    }
    if (fault === "short") throw new SourceError(`The store's ${name} ended early.`);
  }
}

/** Rows of one shard object. */
export class Disk implements ExtentCache {
  readonly #rows = new Map<string, Uint8Array<ArrayBuffer>>();

  list(): string[] { return [...this.#rows.keys()]; }
  read(hash: string, bytes: number): Uint8Array<ArrayBuffer> | null {
    const row = this.#rows.get(hash);
    return row === undefined || row.length !== bytes ? null : row.slice();
  }
  write(hash: string, bytes: Uint8Array): void { this.#rows.set(hash, new Uint8Array(bytes)); }
  remove(hash: string): void { this.#rows.delete(hash); }

  get isEmpty(): boolean { return this.#rows.size === 0; }
  /** All rows are gone. */
  lose(): void { this.#rows.clear(); }
  /** A bit of some row is another one. */
  damage(which: number): void {
    const rows = [...this.#rows.values()];
    const row = rows[which % Math.max(1, rows.length)];
    if (row !== undefined) row[which % row.length]! ^= 1;
  }
}
