// Tiny model -> pack -> ByteSource, without disk. Owns nothing but the shortcut. Refuses other sources than memory.

import type { Checkpoint } from "../../formats/checkpoint.ts";
import { openGguf } from "../../formats/gguf-checkpoint.ts";
import { openHuggingFace } from "../../formats/huggingface.ts";
import { MemorySink, MemorySource } from "../../formats/memory-source.ts";
import { type PackOptions, type PackSummary, writePack } from "../../formats/pack-writer.ts";
import { plainCheckpoint } from "./plain-checkpoint.ts";
import type { GgufOptions, HuggingFaceOptions, TinyModel } from "./tiny-models.ts";

export interface MemoryPack {
  readonly source: MemorySource;
  readonly files: Map<string, Uint8Array>;
  readonly summary: PackSummary;
}

export const openTinyHuggingFace = (model: TinyModel, options?: HuggingFaceOptions): Promise<Checkpoint> =>
  openHuggingFace(new MemorySource(model.huggingFaceFiles(options)), "tiny");

export const openTinyGguf = (model: TinyModel, options?: GgufOptions): Promise<Checkpoint> =>
  openGguf(new MemorySource(new Map([["tiny.gguf", model.ggufBytes(options)]])), "tiny.gguf");

/** A tiny model by its canonical names: for configs that no published file has. */
export const openTinyPlain = ({ config, weights }: TinyModel): Checkpoint => plainCheckpoint(config, (name) => weights.get(name)!);

/** Packs a checkpoint into memory; `hasRanges: false` makes a source like static assets. */
export async function packToMemory(checkpoint: Checkpoint, options: Partial<PackOptions> = {}, { hasRanges = true } = {}): Promise<MemoryPack> {
  const sink = new MemorySink();
  const summary = await writePack(checkpoint, sink, { id: "tiny", ...options });
  return { source: new MemorySource(sink.files, { hasRanges }), files: sink.files, summary };
}
