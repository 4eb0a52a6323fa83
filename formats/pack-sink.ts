// Where a pack is written to: a folder (cli/), memory (tests). Owns the promise that a pack is visible whole or not at all.
// Refuses to know what it stores.

export interface PackSink {
  /** Words for error messages. */
  readonly description: string;
  /** Appends to a file of the unfinished pack, creating it. Files are finished one after the other. */
  append(name: string, bytes: Uint8Array): Promise<void>;
  /** Makes the pack visible under its name, all at once. */
  commit(): Promise<void>;
  /** Removes everything written so far. */
  discard(): Promise<void>;
}
