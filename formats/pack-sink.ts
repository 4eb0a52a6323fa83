// Where a pack is written to: a folder (cli/), memory (tests). Owns the promise that a pack is visible whole or not at all.
// Refuses to know what it stores.

import type { ByteSource } from "./byte-source.ts";

export interface PackSink {
  /** Words for error messages. */
  readonly description: string;
  /** Appends to a file of the unfinished pack, creating it. Files are finished one after the other, but for the journal. */
  append(name: string, bytes: Uint8Array): Promise<void>;
  /** Makes the pack visible under its name, all at once; the journal is gone by then. */
  commit(): Promise<void>;
  /** Removes everything written so far. */
  discard(): Promise<void>;
  /** Present where unfinished files outlive the run that wrote them, so that the next can go on. */
  readonly unfinished?: UnfinishedFiles;
}

/** Files of a pack that is not complete, as an earlier run left them. */
export interface UnfinishedFiles {
  readonly source: ByteSource;
  /** Names of all of them. */
  list(): Promise<readonly string[]>;
  remove(name: string): Promise<void>;
}
