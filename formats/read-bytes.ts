// Reads ranges of a ByteSource into one array, and hashes bytes. Owns the check that a stream was as long as asked.
// Refuses whole files of unknown size: callers name a length and a limit.

import { type ByteSource, SourceError } from "./byte-source.ts";
import { FORMAT_LIMITS } from "./limits.ts";

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

const HEX = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, "0"));

export function toHex(bytes: Uint8Array): string {
  let text = "";
  for (const byte of bytes) text += HEX[byte]!;
  return text;
}

/** Parsed UTF-8 JSON, nested at most FORMAT_LIMITS.jsonDepth deep. Throws SourceError naming the file. */
export function parseJson(source: Pick<ByteSource, "description">, name: string, bytes: Uint8Array): unknown {
  if (depthOf(bytes) > FORMAT_LIMITS.jsonDepth) throw new SourceError(`${source.description}, ${name} is no valid JSON here: it nests objects and lists more than ${FORMAT_LIMITS.jsonDepth} deep.`);
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true, ignoreBOM: false }).decode(bytes)) as unknown;
  } catch (error) {
    throw new SourceError(`${source.description}, ${name} is no valid JSON: ${(error as Error).message}.`);
  }
}

/** How deep brackets nest, those in texts apart. In UTF-8 these bytes are never part of another character. */
function depthOf(bytes: Uint8Array): number {
  let depth = 0;
  let deepest = 0;
  for (let i = 0; i < bytes.length; i++) {
    const byte = bytes[i]!;
    if (byte === 0x22) {
      for (i++; i < bytes.length && bytes[i] !== 0x22; i++) if (bytes[i] === 0x5c) i++;
    } else if (byte === 0x7b || byte === 0x5b) deepest = Math.max(deepest, ++depth);
    else if (byte === 0x7d || byte === 0x5d) depth--;
  }
  return deepest;
}

/** As parseJson, and an object. */
export function parseJsonObject(source: ByteSource, name: string, bytes: Uint8Array): Record<string, unknown> {
  const document = parseJson(source, name, bytes);
  if (typeof document === "object" && document !== null && !Array.isArray(document)) return document as Record<string, unknown>;
  throw new SourceError(`${source.description}, ${name} holds ${document === null ? "null" : Array.isArray(document) ? "a list" : `a ${typeof document}`}, expected a JSON object.`);
}
