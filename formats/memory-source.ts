// Files held in memory: a ByteSource and a PackSink over one map. Tests and the packer's own checks use it; nothing is
// shared with the caller but the map. Refuses names that are not there, as every ByteSource does.

import { type ByteSource, SourceError } from "./byte-source.ts";
import { JOURNAL } from "./pack-journal.ts";
import type { PackSink, UnfinishedFiles } from "./pack-sink.ts";

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
  /** What is written before that, piece by piece. */
  readonly #pending = new Map<string, Uint8Array[]>();

  get unfinished(): UnfinishedFiles {
    const pending = this.#pending;
    return {
      source: new MemorySource(new Map([...pending].map(([name, pieces]) => [name, joined(pieces)]))),
      list: async () => [...pending.keys()],
      remove: async (name) => void pending.delete(name),
    };
  }

  async append(name: string, bytes: Uint8Array): Promise<void> {
    const pieces = this.#pending.get(name) ?? [];
    pieces.push(bytes.slice());
    this.#pending.set(name, pieces);
  }

  async commit(): Promise<void> {
    this.#pending.delete(JOURNAL);
    for (const [name, pieces] of this.#pending) this.files.set(name, joined(pieces));
    this.#pending.clear();
  }

  async discard(): Promise<void> {
    this.#pending.clear();
  }
}

function joined(pieces: readonly Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(pieces.reduce((n, p) => n + p.length, 0));
  let at = 0;
  for (const piece of pieces) {
    whole.set(piece, at);
    at += piece.length;
  }
  return whole;
}
