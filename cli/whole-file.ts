// A file that is there whole or not at all: filled beside its place and renamed. Owns the file beside it, also where filling fails.

import { closeSync, openSync, renameSync, rmSync, writeSync } from "node:fs";

/** Without `out` what is written goes nowhere. */
export async function writeWhole(out: string | undefined, fill: (write: (bytes: Uint8Array) => void) => Promise<void> | void): Promise<void> {
  if (out === undefined) return fill(() => {});
  const partial = `${out}.partial`;
  const file = openSync(partial, "w");
  try {
    await fill((bytes) => { for (let at = 0; at < bytes.length; ) at += writeSync(file, bytes, at); });
    renameSync(partial, out);
  } catch (cause) {
    rmSync(partial, { force: true });
    throw cause;
  } finally {
    closeSync(file);
  }
}

/** A text, whole. */
export const writeText = (file: string, text: string): Promise<void> => writeWhole(file, (write) => write(new TextEncoder().encode(text)));
