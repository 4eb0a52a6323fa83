// A folder of files as ByteSource and as PackSink. Owns file handles (one read, one handle, always closed) and the rule that
// a pack appears under its name only when it is complete: it is written beside the target and renamed. Refuses names that leave the folder,
// targets that exist, and two processes that write the same one.

import { access, appendFile, mkdir, open, readFile, readdir, rename, rm, stat, writeFile } from "node:fs/promises";
import { basename, dirname, join, normalize, relative, resolve } from "node:path";
import { type ByteSource, SourceError } from "../formats/byte-source.ts";
import { JOURNAL } from "../formats/pack-journal.ts";
import type { PackSink, UnfinishedFiles } from "../formats/pack-sink.ts";

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

  async version(name: string): Promise<string> {
    const { size, mtimeMs, ino } = await stat(this.#path(name));
    return `${size} bytes, changed ${mtimeMs}, file ${ino}`;
  }

  #path(name: string): string {
    const clean = normalize(name);
    if (clean.startsWith("..") || clean.startsWith("/")) throw new SourceError(`${this.description}: the name ${name} leaves the folder.`);
    return join(this.#folder, clean);
  }
}

/** The process that writes an unfinished pack. */
const LOCK = "lock";

export class FolderSink implements PackSink {
  readonly description: string;
  readonly #target: string;
  readonly #temporary: string;

  /**
   * Fails when `target` exists: a pack is immutable, and nothing of the user's is overwritten. What an earlier run left unfinished stays, unless
   * `fresh`. No other process can open the same target until this one commits, discards or releases.
   */
  static async create(target: string, { fresh = false } = {}): Promise<FolderSink> {
    const sink = new FolderSink(resolve(target));
    await sink.#refuseExisting();
    await mkdir(sink.#temporary, { recursive: true });
    await lockFile(join(sink.#temporary, LOCK), sink.#target);
    if (fresh) for (const name of await sink.unfinished.list()) await sink.unfinished.remove(name);
    return sink;
  }

  private constructor(target: string) {
    this.#target = target;
    this.#temporary = join(dirname(target), `.${basename(target)}.unfinished`);
    this.description = `folder ${target}`;
  }

  /** Where the files are until commit. */
  get unfinishedFolder(): string {
    return this.#temporary;
  }

  get unfinished(): UnfinishedFiles {
    const folder = this.#temporary;
    return {
      source: new FolderSource(folder),
      list: async () => (await readdir(folder, { recursive: true, withFileTypes: true }))
        .filter((entry) => entry.isFile()).map((entry) => relative(folder, join(entry.parentPath, entry.name)).replaceAll("\\", "/")).filter((name) => name !== LOCK),
      remove: (name) => rm(join(folder, name), { force: true }),
    };
  }

  async append(name: string, bytes: Uint8Array): Promise<void> {
    const path = join(this.#temporary, name);
    await mkdir(dirname(path), { recursive: true });
    await appendFile(path, bytes);
  }

  async commit(): Promise<void> {
    await this.#refuseExisting();
    await this.unfinished.remove(JOURNAL);
    await this.unfinished.remove(LOCK);
    await rename(this.#temporary, this.#target);
  }

  async discard(): Promise<void> {
    await rm(this.#temporary, { recursive: true, force: true });
  }

  /** Lets others write here again, whatever became of the pack. An unfinished folder without files goes. */
  async release(): Promise<void> {
    await this.unfinished.remove(LOCK);
    const left = await this.unfinished.list().catch(() => []);
    if (left.length === 0) await this.discard();
  }

  async #refuseExisting(): Promise<void> {
    const exists = await access(this.#target).then(() => true, () => false);
    if (exists) throw new SourceError(`${this.#target} exists already; give another folder or remove it first.`);
  }
}

/** Writes this process's number into `path`, a file of a folder that makes `target`; a lock whose process is gone counts for nothing. Throws where another process has it. */
export async function lockFile(path: string, target: string): Promise<void> {
  for (;;) {
    try {
      return await writeFile(path, String(process.pid), { flag: "wx" });
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
    }
    const owner = Number(await readFile(path, "utf8").catch(() => ""));
    if (owner !== process.pid && isRunning(owner)) throw new SourceError(`${target} is being written by process ${owner}; wait for it or stop it.`);
    await rm(path, { force: true });
  }
}

function isRunning(pid: number): boolean {
  if (!Number.isSafeInteger(pid) || pid <= 0) return false;
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}
