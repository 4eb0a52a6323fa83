// The packs that tests inside workerd use, written once before they start: workerd has no file system to make them in.
// Global set-up of the `workerd` project (vitest.config.ts): build/test-assets/packs/<id>/, served by the ASSETS binding.
// Where the data folder is present, stories260K as an f32 pack comes along, and its vocabulary through `inject("stories")`.
// Refuses to be clever: a pack is rebuilt at every run, it takes milliseconds.

import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import type { TestProject } from "vitest/node";
import { hasStories, readStories, STORIES_SKIP_REASON } from "./llama2c.ts";
import "./provided-context.ts";
import { plainCheckpoint } from "./plain-checkpoint.ts";
import { openTinyHuggingFace, packToMemory } from "./pack-to-memory.ts";
import { tinyModel } from "./tiny-models.ts";

const FOLDER = resolve(import.meta.dirname, "../../build/test-assets");

export default async function setup(project: TestProject): Promise<void> {
  rmSync(FOLDER, { recursive: true, force: true });
  mkdirSync(FOLDER, { recursive: true });
  writeFileSync(join(FOLDER, "index.html"), "<!doctype html><title>page</title>");
  writePack("tiny", (await packToMemory(await openTinyHuggingFace(tinyModel("olmoe", 1)), { id: "tiny" })).files);
  if (!hasStories) return project.provide("stories", { skip: STORIES_SKIP_REASON });
  const { config, weights, pieces } = readStories(4);
  writePack("stories", (await packToMemory(plainCheckpoint(config, weights), { id: "stories", quant: "f32" })).files);
  project.provide("stories", { pieces });
}

function writePack(id: string, files: ReadonlyMap<string, Uint8Array>): void {
  for (const [name, bytes] of files) {
    const path = join(FOLDER, "packs", id, name);
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, bytes);
  }
}
