// Tiny models on disk, for tests of the command line and of other readers. Kept apart from tiny-models.ts, which also runs inside workerd.

import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { GgufOptions, HuggingFaceOptions, TinyModel } from "./tiny-models.ts";

/** The model as a Hugging Face folder. */
export async function writeHuggingFace(model: TinyModel, dir: string, options?: HuggingFaceOptions): Promise<void> {
  await mkdir(dir, { recursive: true });
  for (const [name, bytes] of model.huggingFaceFiles(options)) await writeFile(join(dir, name), bytes);
}

/** The model as one GGUF file. */
export const writeGguf = (model: TinyModel, file: string, options?: GgufOptions): Promise<void> => writeFile(file, model.ggufBytes(options));
