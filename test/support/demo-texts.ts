// The demo model and texts of the data folder for it, as windows of token ids: some to calibrate with, others to judge by. The demo has seen most of these texts in training, as has
// every model that is made of it. Owns the windows. Refuses to be a measurement: docs/compression.md has those, on text that the demo has not seen.

import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { gunzipSync } from "node:zlib";
import { openCheckpoint } from "../../cli/open-model.ts";
import type { Checkpoint } from "../../formats/checkpoint.ts";
import { createTokenizer } from "../../model/tokenizer.ts";
import { dataFile } from "./data-folder.ts";

const FILES = {
  drama: "text/en_shakespeare/tinyshakespeare.txt.gz", stories: "text/en_tinystories/tinystories_sample.txt.gz", code: "text/code_ts/hono.ts.txt.gz", chinese: "text/parallel_pydocs/zh.train.txt.gz",
} as const;
export type DemoText = keyof typeof FILES;
export const DEMO_TEXTS = Object.keys(FILES) as DemoText[];

/** Why a test that needs them is skipped; null where all are there. */
export const missingTexts: string | null = Object.values(FILES).some((name) => dataFile(name) === null) ? `needs ${Object.values(FILES).join(", ")} of the data folder` : null;

export const openDemo = (): Promise<Checkpoint> => openCheckpoint(fileURLToPath(new URL("../../demo/model", import.meta.url)));

/** `count` windows of `length` ids each, `every` characters apart from character `first` on. */
export function demoWindows(demo: Checkpoint, name: DemoText, { length, count, first, every }: { readonly length: number; readonly count: number; readonly first: number; readonly every: number }): number[][] {
  const tokenizer = createTokenizer(JSON.parse(new TextDecoder().decode(demo.tokenizer!.json)));
  const text = gunzipSync(readFileSync(dataFile(FILES[name])!)).toString("utf8");
  return Array.from({ length: count }, (_, i) => {
    const ids = tokenizer.encodeText(text.slice(first + i * every, first + i * every + 8 * length)).slice(0, length);
    if (ids.length < length) throw new RangeError(`Window ${i} of ${FILES[name]} has ${ids.length} tokens, expected ${length}.`);
    return ids;
  });
}
