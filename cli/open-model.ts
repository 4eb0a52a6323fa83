// Turns a path or an address of the command line into a checkpoint or a pack. Owns the decision which of the three it is: a .gguf file,
// a folder with config.json, a folder with manifest.json. Refuses everything else, saying what was found.

import { stat } from "node:fs/promises";
import { basename, dirname, resolve } from "node:path";
import { type ByteSource, SourceError } from "../formats/byte-source.ts";
import type { Checkpoint } from "../formats/checkpoint.ts";
import { openGguf } from "../formats/gguf-checkpoint.ts";
import { openModelFolder } from "../formats/canonical-model.ts";
import { type OpenPack, openPack } from "../formats/pack-reader.ts";
import { FolderSource } from "./file-source.ts";
import { isRemote, remoteModel } from "./remote-source.ts";

export type Opened =
  | { readonly kind: "checkpoint"; readonly checkpoint: Checkpoint }
  | ({ readonly kind: "pack"; readonly source: ByteSource } & OpenPack);

/** Opens a model or a pack; reads headers only. */
export async function openPath(path: string): Promise<Opened> {
  if (isRemote(path)) {
    const { source, file, name } = remoteModel(path, process.env);
    return file === null ? openFolder(source, path, name) : { kind: "checkpoint", checkpoint: await openGguf(source, file) };
  }
  const found = await stat(path).catch(() => null);
  if (found === null) throw new SourceError(`${path} does not exist, expected a Hugging Face folder, a .gguf file or a pack folder.`);
  if (found.isFile()) {
    if (!path.endsWith(".gguf")) throw new SourceError(`${path} is a file but no .gguf; expected a Hugging Face folder, a .gguf file or a pack folder.`);
    return { kind: "checkpoint", checkpoint: await openGguf(new FolderSource(dirname(path)), basename(path)) };
  }
  return openFolder(new FolderSource(path), path, basename(resolve(path)));
}

async function openFolder(source: ByteSource, path: string, name: string): Promise<Opened> {
  if ((await source.size("manifest.json")) !== null) return { kind: "pack", source, ...(await openPack(source)) };
  if ((await source.size("config.json")) !== null) return { kind: "checkpoint", checkpoint: await openModelFolder(source, name) };
  throw new SourceError(`${path} has neither config.json (a Hugging Face folder) nor manifest.json (a pack).`);
}

/** Opens a model that is to be packed. */
export async function openCheckpoint(path: string): Promise<Checkpoint> {
  const opened = await openPath(path);
  if (opened.kind === "checkpoint") return opened.checkpoint;
  throw new SourceError(`${path} is a pack already, expected a Hugging Face folder or a .gguf file.`);
}
