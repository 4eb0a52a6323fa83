// The packs that tests inside workerd use, written once before they start: workerd has no file system to make them in.
// Global set-up of the `workerd` project (vitest.config.ts): build/test-assets/packs/<id>/, served by the ASSETS binding.
// Refuses to be clever: a pack is rebuilt at every run, it takes milliseconds.

import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { openTinyHuggingFace, packToMemory } from "./pack-to-memory.ts";
import { tinyModel } from "./tiny-models.ts";

const FOLDER = resolve(import.meta.dirname, "../../build/test-assets");

export default async function setup(): Promise<void> {
  rmSync(FOLDER, { recursive: true, force: true });
  mkdirSync(FOLDER, { recursive: true });
  writeFileSync(join(FOLDER, "index.html"), "<!doctype html><title>page</title>");
  const { files } = await packToMemory(await openTinyHuggingFace(tinyModel("olmoe", 1)), { id: "tiny" });
  for (const [name, bytes] of files) {
    const path = join(FOLDER, "packs", "tiny", name);
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, bytes);
  }
}
