// Texts that commands are given as files. Owns the refusal of what is no UTF-8: a text that was half understood would be measured as another one.

import { readFileSync } from "node:fs";

/** Throws a sentence that names the file. */
export function readText(file: string): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(readFileSync(file));
  } catch (cause) {
    throw new Error(`${file} cannot be read as UTF-8 text: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
  }
}
