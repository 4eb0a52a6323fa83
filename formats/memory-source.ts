// Files held in memory: a ByteSource and a PackSink over one map. Tests and the packer's own checks use it; nothing is
// shared with the caller but the map. Refuses names that are not there, as every ByteSource does.

import { type ByteSource, SourceError } from "./byte-source.ts";
import type { PackSink } from "./pack-sink.ts";

export type MemoryFiles = Map<string, Uint8Array>;

export class MemorySource implements ByteSource {
  readonly description: string;
  readonly hasRanges: boolean;
  readonly #files: MemoryFiles;

  /** `hasRanges: false` behaves as static assets do. */
  constructor(files: MemoryFiles, { description = "memory", hasRanges = true } = {}) {
    this.#files = files;
    this.description = description;
    this.hasRanges = hasRanges;
  }

  async size(name: string): Promise<number | null> {
    return this.#files.get(name)?.length ?? null;
  }

  async *read(name: string, offset = 0, length?: number): AsyncIterable<Uint8Array> {
    const bytes = this.#files.get(name);
    if (!bytes) throw new SourceError(`${this.description} has no file ${name}.`);
    const end = length === undefined ? bytes.length : offset + length;
    if (end > bytes.length) {
      throw new SourceError(`${this.description}, ${name}: bytes ${offset} to ${end} were asked for, but the file ends at ${bytes.length}.`);
    }
    // Chunks as a network gives them, so that nothing comes to rely on one.
    for (let at = offset; at < end; at += 65536) yield bytes.subarray(at, Math.min(end, at + 65536));
  }
}

export class MemorySink implements PackSink {
  readonly description = "memory";
  /** The finished pack; empty until commit. */
  readonly files: MemoryFiles = new Map();
  #pending = new Map<string, Uint8Array[]>();

  async append(name: string, bytes: Uint8Array): Promise<void> {
    const chunks = this.#pending.get(name) ?? [];
    chunks.push(bytes.slice());
    this.#pending.set(name, chunks);
  }

  async commit(): Promise<void> {
    for (const [name, chunks] of this.#pending) {
      const whole = new Uint8Array(chunks.reduce((n, c) => n + c.length, 0));
      let at = 0;
      for (const chunk of chunks) {
        whole.set(chunk, at);
        at += chunk.length;
      }
      this.files.set(name, whole);
    }
    this.#pending = new Map();
  }

  async discard(): Promise<void> {
    this.#pending = new Map();
  }
}
