// The seam to stored bytes: a file, static assets, R2, HTTP, memory. Owns nothing but the contract.
// Refuses: interpretation. Names are relative paths with forward slashes.

import { oneLine } from "../model/config.ts";

export interface ByteSource {
  /** Words for error messages, such as "folder ./my-pack" or "R2 bucket MODELS". */
  readonly description: string;
  /** True when `read` with a range costs only that range; otherwise callers should read whole parts (platform fact: static assets ignore Range, 2026-11). */
  readonly hasRanges: boolean;
  /** Size in bytes, or null when the name does not exist. */
  size(name: string): Promise<number | null>;
  /**
   * Bytes [offset, offset + length) of `name`, whole when omitted, as a stream of chunks in order. A chunk is valid until the
   * next is asked for: sources may reuse their buffer.
   * Fails with SourceError when the name is missing or ends early.
   */
  read(name: string, offset?: number, length?: number): AsyncIterable<Uint8Array>;
  /** Words that change whenever the bytes of `name` do: an ETag; size and time of change. Absent where nobody changes files. */
  version?(name: string): Promise<string>;
}

/** Stored bytes are missing, short or unreadable: names the source, the file, what was found and expected. */
export class SourceError extends Error {
  override readonly name = "SourceError";

  constructor(message: string, options?: ErrorOptions) {
    super(oneLine(message), options);
  }
}
