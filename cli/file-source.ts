// A folder of files as ByteSource and as PackSink. Owns file handles (one read, one handle, always closed) and the rule that
// a pack appears under its name only when it is complete: it is written beside the target and renamed.
// Refuses names that leave the folder, and targets that exist.

import { randomUUID } from "node:crypto";
import { access, appendFile, mkdir, open, rename, rm, stat } from "node:fs/promises";
import { basename, dirname, join, normalize, resolve } from "node:path";
import { type ByteSource, SourceError } from "../formats/byte-source.ts";
import type { PackSink } from "../formats/pack-sink.ts";

const CHUNK_BYTES = 1 << 20;

export class FolderSource implements ByteSource {
  readonly description: string;
  readonly hasRanges = true;
  readonly #folder: string;

  constructor(folder: string) {
    this.#folder = resolve(folder);
    this.description = `folder ${folder}`;
  }

  async size(name: string): Promise<number | null> {
    try {
      const found = await stat(this.#path(name));
      return found.isFile() ? found.size : null;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT" || (error as NodeJS.ErrnoException).code === "ENOTDIR") return null;
      throw new SourceError(`${this.description}, ${name}: ${(error as Error).message}.`, { cause: error });
    }
  }

  async *read(name: string, offset = 0, length?: number): AsyncIterable<Uint8Array> {
    const size = await this.size(name);
    if (size === null) throw new SourceError(`${this.description} has no file ${name}.`);
    const end = length === undefined ? size : offset + length;
    if (end > size) throw new SourceError(`${this.description}, ${name}: bytes ${offset} to ${end} were asked for, but the file ends at ${size}.`);
    const handle = await open(this.#path(name));
    try {
      for (let at = offset; at < end; ) {
        const chunk = new Uint8Array(Math.min(CHUNK_BYTES, end - at));
        const { bytesRead } = await handle.read(chunk, 0, chunk.length, at);
        if (bytesRead === 0) throw new SourceError(`${this.description}, ${name}: expected bytes up to ${end}, but the file ended at ${at}.`);
        at += bytesRead;
        yield chunk.subarray(0, bytesRead);
      }
    } finally {
      await handle.close();
    }
  }

  #path(name: string): string {
    const clean = normalize(name);
    if (clean.startsWith("..") || clean.startsWith("/")) throw new SourceError(`${this.description}: the name ${name} leaves the folder.`);
    return join(this.#folder, clean);
  }
}

export class FolderSink implements PackSink {
  readonly description: string;
  readonly #target: string;
  readonly #temporary: string;

  /** Fails when `target` exists: a pack is immutable, and nothing of the user's is overwritten. */
  static async create(target: string): Promise<FolderSink> {
    const exists = await access(target).then(() => true, () => false);
    if (exists) throw new SourceError(`${target} exists already; give another folder or remove it first.`);
    return new FolderSink(resolve(target));
  }

  private constructor(target: string) {
    this.#target = target;
    this.#temporary = join(dirname(target), `.${basename(target)}.${randomUUID().slice(0, 8)}.unfinished`);
    this.description = `folder ${target}`;
  }

  async append(name: string, bytes: Uint8Array): Promise<void> {
    const path = join(this.#temporary, name);
    await mkdir(dirname(path), { recursive: true });
    await appendFile(path, bytes);
  }

  async commit(): Promise<void> {
    await rename(this.#temporary, this.#target);
  }

  async discard(): Promise<void> {
    await rm(this.#temporary, { recursive: true, force: true });
  }
}
