// Where a deployed pack's bytes come from: static assets or an R2 bucket, as the formats' ByteSource.
// Owns the reads of both platforms, through one reused buffer per read. Refuses to check bytes (formats/pack-reader.ts does).
// Packs lie below packs/<id>/ in either. Platform facts, 2026-11: assets ignore Range and come whole in 4 KiB chunks; R2 has ranges.

import { type ByteSource, SourceError } from "../formats/byte-source.ts";
import { LIMITS } from "./limits.ts";

/** Bindings and variables that say where the pack is. */
export interface PackEnv {
  readonly PACK_ID: string;
  /** "assets" or "r2". */
  readonly PACK_SOURCE: string;
  readonly ASSETS?: Fetcher;
  readonly PACKS?: R2Bucket;
}

/** The source named by the environment. Throws SourceError when its binding is missing. */
export function packSource(env: PackEnv): ByteSource {
  const prefix = `packs/${env.PACK_ID}/`;
  switch (env.PACK_SOURCE) {
    case "assets":
      if (env.ASSETS === undefined) throw new SourceError(`PACK_SOURCE is "assets", but the Worker has no assets binding named ASSETS.`);
      return new AssetsSource(env.ASSETS, prefix);
    case "r2":
      if (env.PACKS === undefined) throw new SourceError(`PACK_SOURCE is "r2", but the Worker has no R2 bucket bound as PACKS.`);
      return new R2Source(env.PACKS, prefix);
    default:
      throw new SourceError(`PACK_SOURCE is "${env.PACK_SOURCE}"; expected "assets" or "r2".`);
  }
}

/** Chunks of a body, each valid until the next is asked for: they share one buffer. */
async function* chunksOf(body: ReadableStream<Uint8Array>): AsyncGenerator<Uint8Array> {
  const reader = body.getReader({ mode: "byob" });
  let buffer = new ArrayBuffer(LIMITS.readBufferBytes);
  let ended = false;
  try {
    for (;;) {
      const { value, done } = await reader.readAtLeast(buffer.byteLength, new Uint8Array(buffer));
      if (value !== undefined && value.byteLength > 0) yield value;
      if (done || value === undefined || value.byteLength < buffer.byteLength) {
        ended = true;
        return;
      }
      buffer = value.buffer as ArrayBuffer;
    }
  } finally {
    // A reader that stops early must not leave the rest of the body in the pipe.
    if (!ended) await reader.cancel().catch(() => undefined);
  }
}

export class AssetsSource implements ByteSource {
  readonly hasRanges = false;
  readonly description: string;
  readonly #assets: Fetcher;
  readonly #prefix: string;

  constructor(assets: Fetcher, prefix: string) {
    this.#assets = assets;
    this.#prefix = prefix;
    this.description = `static assets, folder ${prefix.replace(/\/$/, "")}`;
  }

  async #fetch(name: string): Promise<Response | null> {
    // Any host will do: the binding looks at the path only.
    const response = await this.#assets.fetch(new URL(`/${this.#prefix}${name}`, "http://assets"));
    if (response.ok && response.body !== null) return response;
    await response.body?.cancel();
    if (response.status === 404) return null;
    throw new SourceError(`${this.description}, ${name}: the assets binding answered with status ${response.status}, expected 200.`);
  }

  async size(name: string): Promise<number | null> {
    const response = await this.#fetch(name);
    if (response === null) return null;
    let bytes = 0;
    for await (const chunk of chunksOf(response.body!)) bytes += chunk.byteLength;
    return bytes;
  }

  async *read(name: string, offset = 0, length?: number): AsyncGenerator<Uint8Array> {
    const response = await this.#fetch(name);
    if (response === null) throw new SourceError(`${this.description} has no file ${name}.`);
    const end = length === undefined ? Infinity : offset + length;
    let at = 0;
    for await (const chunk of chunksOf(response.body!)) {
      const from = Math.max(0, offset - at);
      const to = Math.min(chunk.byteLength, end - at);
      if (to > from) yield chunk.subarray(from, to);
      at += chunk.byteLength;
      if (at >= end) return;
    }
    if (at < offset || (length !== undefined && at < end)) throw new SourceError(`${this.description}, ${name} ends at byte ${at}; expected at least ${Math.max(offset, offset + (length ?? 0))}.`);
  }
}

export class R2Source implements ByteSource {
  readonly hasRanges = true;
  readonly description: string;
  readonly #bucket: R2Bucket;
  readonly #prefix: string;

  constructor(bucket: R2Bucket, prefix: string) {
    this.#bucket = bucket;
    this.#prefix = prefix;
    this.description = `R2 bucket PACKS, ${prefix.replace(/\/$/, "")}`;
  }

  async size(name: string): Promise<number | null> {
    return (await this.#bucket.head(this.#prefix + name))?.size ?? null;
  }

  async *read(name: string, offset = 0, length?: number): AsyncGenerator<Uint8Array> {
    let object: R2ObjectBody | null;
    try {
      object = await this.#bucket.get(this.#prefix + name, { range: length === undefined ? { offset } : { offset, length } });
    } catch (cause) {
      throw new SourceError(`${this.description}, ${name}: reading ${length ?? "all"} bytes from ${offset} failed: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
    }
    if (object === null) throw new SourceError(`${this.description} has no file ${name}.`);
    let bytes = 0;
    for await (const chunk of chunksOf(object.body)) {
      bytes += chunk.byteLength;
      yield chunk;
    }
    const expected = length ?? object.size - offset;
    if (bytes < expected) throw new SourceError(`${this.description}, ${name} ends at byte ${offset + bytes}; expected ${offset + expected}.`);
  }
}
