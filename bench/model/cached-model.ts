// Generated models and their packs on disk, made once: <cache>/<name>.gguf and <cache>/<name>-pack/.
// Owns the folder (build/bench unless --cache says otherwise) and the names, which hold everything the bytes depend on. Refuses half-written
// files: each appears under its name only when it is complete.

import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync } from "node:fs";
import { open } from "node:fs/promises";
import { join } from "node:path";
import { FolderSink, FolderSource } from "../../cli/file-source.ts";
import { ROOT } from "../../cli/setup.mjs";
import { openGguf } from "../../formats/gguf-checkpoint.ts";
import { writePack } from "../../formats/pack-writer.ts";
import { randomModel, type ModelQuant, type ModelShape } from "./random-model.ts";

export const DEFAULT_CACHE = join(ROOT, "build", "bench");
const SEED = 3;
/** Characters of the digests in file names. */
const DIGEST_CHARS = 10;

export interface CachedModel {
  readonly quant: ModelQuant;
  readonly shape: ModelShape;
  readonly gguf: string;
}

/** A digest of the shape and of the sources that decide the bytes, so that a changed generator never reads an older file. */
function generatorHash(shape: ModelShape): string {
  const hash = createHash("sha256").update(JSON.stringify(shape));
  for (const file of readdirSync(import.meta.dirname).sort()) hash.update(readFileSync(join(import.meta.dirname, file)));
  return hash.digest("hex").slice(0, DIGEST_CHARS);
}

/** The file of a model; generates it when it is missing (about 20 s for 393M parameters). */
export async function cachedGguf(cache: string, name: string, shape: ModelShape, quant: ModelQuant): Promise<CachedModel> {
  mkdirSync(cache, { recursive: true });
  const gguf = join(cache, `${name}-${quant.toLowerCase().replaceAll(" ", "-")}-${generatorHash(shape)}.gguf`);
  if (!existsSync(gguf)) {
    process.stderr.write(`generating ${gguf}\n`);
    const temporary = `${gguf}.unfinished`;
    const handle = await open(temporary, "w");
    try {
      for (const bytes of randomModel(shape, quant, SEED)) await handle.write(bytes);
    } finally {
      await handle.close();
    }
    renameSync(temporary, gguf);
  }
  return { quant, shape, gguf };
}

/**
 * The pack of a model's file, every tensor at no fewer bits than there, for contexts of up to `contextLength` (default: the packer's).
 * Packed again when the packer has changed.
 */
export async function cachedPack(model: CachedModel, id: string, contextLength?: number): Promise<string> {
  const folder = model.gguf.replace(/\.gguf$/, `-${packerHash()}${contextLength === undefined ? "" : `-${contextLength}`}-pack`);
  if (!existsSync(folder)) {
    process.stderr.write(`packing ${folder}\n`);
    const source = new FolderSource(join(model.gguf, ".."));
    const checkpoint = await openGguf(source, model.gguf.split(/[\\/]/).at(-1)!);
    await writePack(checkpoint, await FolderSink.create(folder), { id, quant: "source", parts: "assets", ...(contextLength === undefined ? {} : { contextLength }) });
  }
  return folder;
}

/** A digest of formats/ and of the kernels' seam: what decides a pack's bytes. */
function packerHash(): string {
  const hash = createHash("sha256");
  for (const file of readdirSync(join(ROOT, "formats")).sort()) hash.update(readFileSync(join(ROOT, "formats", file)));
  hash.update(readFileSync(join(ROOT, "model/kernels.ts")));
  return hash.digest("hex").slice(0, DIGEST_CHARS);
}
