// Reads ranges of a ByteSource into one array, and hashes bytes. Owns the check that a stream was as long as asked.
// Refuses whole files of unknown size: callers name a length and a limit.

import { type ByteSource, SourceError } from "./byte-source.ts";

/** Bytes [offset, offset + length) in one array. Throws SourceError when the source ends early. */
export async function readBytes(source: ByteSource, name: string, offset: number, length: number): Promise<Uint8Array<ArrayBuffer>> {
  const out = new Uint8Array(length);
  let at = 0;
  for await (const chunk of source.read(name, offset, length)) {
    if (at + chunk.length > length) throw new SourceError(`${source.description}, ${name}: ${length} bytes from ${offset} were asked for, more came.`);
    out.set(chunk, at);
    at += chunk.length;
  }
  if (at < length) throw new SourceError(`${source.description}, ${name}: expected ${length} bytes from ${offset}, found ${at}.`);
  return out;
}

/** A whole file of at most `limitBytes`, or null where there is none. */
export async function readFileOrNull(source: ByteSource, name: string, limitBytes: number): Promise<Uint8Array<ArrayBuffer> | null> {
  const size = await source.size(name);
  if (size === null) return null;
  if (size > limitBytes) throw new SourceError(`${source.description}, ${name} has ${size} bytes, expected at most ${limitBytes}.`);
  return readBytes(source, name, 0, size);
}

/** SHA-256 in lower-case hexadecimal. */
export async function sha256Hex(bytes: Uint8Array<ArrayBuffer>): Promise<string> {
  return toHex(new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)));
}

export const toHex = (bytes: Uint8Array): string => Array.from(bytes, (b) => b.toString(16).padStart(2, "0")).join("");

/** Parsed UTF-8 JSON. Throws SourceError naming the file. */
export function parseJson(source: ByteSource, name: string, bytes: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true, ignoreBOM: false }).decode(bytes)) as unknown;
  } catch (error) {
    throw new SourceError(`${source.description}, ${name} is no valid JSON: ${(error as Error).message}.`);
  }
}
