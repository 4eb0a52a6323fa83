// A ByteSource in front of one whose requests are dear (HTTP, buckets): reads of some hundred KiB that follow each other become few large ones. Owns
// the windows: a few runs of bytes, the longest unused given up for the next. Refuses to cache more than that, and passes long reads on.

import type { ByteSource } from "./byte-source.ts";
import { FORMAT_LIMITS } from "./limits.ts";
import { readBytes } from "./read-bytes.ts";

interface Window {
  readonly name: string;
  readonly start: number;
  readonly end: number;
  readonly bytes: Promise<Uint8Array>;
}

export class ReadAheadSource implements ByteSource {
  readonly description: string;
  readonly hasRanges: boolean;
  readonly #inner: ByteSource;
  readonly #windowBytes: number;
  /** The one used last comes last. */
  #windows: Window[] = [];

  constructor(inner: ByteSource, windowBytes: number = FORMAT_LIMITS.readAheadBytes) {
    this.#inner = inner;
    this.#windowBytes = windowBytes;
    this.description = inner.description;
    this.hasRanges = inner.hasRanges;
  }

  size(name: string): Promise<number | null> {
    return this.#inner.size(name);
  }

  async version(name: string): Promise<string> {
    return (await this.#inner.version?.(name)) ?? "";
  }

  async *read(name: string, offset = 0, length?: number): AsyncIterable<Uint8Array> {
    const size = await this.#inner.size(name);
    const end = length === undefined ? size : offset + length;
    if (size === null || end === null || end > size || end - offset > this.#windowBytes) {
      yield* this.#inner.read(name, offset, length);
      return;
    }
    for (let at = offset; at < end; ) {
      const window = this.#window(name, at, size);
      const bytes = await window.bytes;
      const to = Math.min(end, window.end);
      yield bytes.subarray(at - window.start, to - window.start);
      at = to;
    }
  }

  /** The window that holds byte `at`, or a new one that begins there. */
  #window(name: string, at: number, size: number): Window {
    const found = this.#windows.find((w) => w.name === name && w.start <= at && at < w.end);
    const window = found ?? this.#open(name, at, Math.min(size, at + this.#windowBytes));
    this.#windows = [...this.#windows.filter((w) => w !== window), window].slice(-FORMAT_LIMITS.readAheadWindows);
    return window;
  }

  #open(name: string, start: number, end: number): Window {
    const window: Window = { name, start, end, bytes: readBytes(this.#inner, name, start, end - start) };
    // A failed read must not be remembered as the bytes; whoever waits for them hears of it.
    window.bytes.catch(() => { this.#windows = this.#windows.filter((w) => w !== window); });
    return window;
  }
}
