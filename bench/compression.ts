// `node bench/compression.ts [--model DIR] [--texts DIR] [--group NAME] [--samples N] [--jobs N] [--name NAME] [--write]`: what the passes cost in loss and save in bytes, on held-out text of the demo's corpus, beside
// their baselines. Owns the order and the document build/bench/compression-<name>.json, from which `--write` makes the tables of docs/compression.md (compression/tables.ts).
// Nothing is timed, so several run at once. A run that was stopped goes on where it was.

import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { SingleBar } from "cli-progress";
import { ROOT } from "../cli/setup.mjs";
import { openCheckpoint } from "../cli/open-model.ts";
import { type Experiment, experiments } from "./compression/experiments.ts";
import { writePages } from "./compression/pages.ts";
import { type Result, Runner } from "./compression/runner.ts";
import { figuresOf } from "./compression/tables.ts";

export interface Measured extends Experiment {
  readonly result: Result;
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      model: { type: "string", default: join(ROOT, "demo/model") }, texts: { type: "string" }, group: { type: "string", multiple: true },
      samples: { type: "string", default: "5" }, jobs: { type: "string", default: "2" }, name: { type: "string", default: "demo" }, write: { type: "boolean", default: false },
    },
  });
  const folder = join(ROOT, "build/bench/compression");
  mkdirSync(folder, { recursive: true });
  const texts = resolve(values.texts ?? join(folder, "texts"));
  if (!existsSync(texts)) execFileSync("python3", ["evaluation-texts.py", texts], { cwd: join(ROOT, "demo/train"), stdio: "inherit" });
  const { config: { nExperts, nLayers, hiddenSize } } = await openCheckpoint(values.model);
  const asked = experiments({ nExperts, nLayers, hiddenSize }).filter(({ group, sample }) => (values.group === undefined || values.group.includes(group)) && sample <= Number(values.samples));
  const runner = new Runner({ model: resolve(values.model), texts, folder });
  const bar = new SingleBar({ format: "{bar} {value}/{total} {label}", stream: process.stderr, noTTYOutput: false });
  bar.start(asked.length, 0, { label: "" });
  const measured = new Array<Measured>(asked.length);
  let next = 0;
  await Promise.all(Array.from({ length: Number(values.jobs) }, async () => {
    while (next < asked.length) {
      const at = next++;
      measured[at] = { ...asked[at]!, result: await runner.measure(asked[at]!) };
      bar.increment({ label: asked[at]!.label });
      if (!process.stderr.isTTY) console.error(`${asked[at]!.group} | ${asked[at]!.label} | ${asked[at]!.sample} | ppl ${measured[at]!.result.perplexity.toFixed(4)} | ${measured[at]!.result.bytes}`);
    }
  }));
  bar.stop();
  const document = { model: values.name, nExperts, nLayers, measured };
  writeFileSync(join(ROOT, "build/bench", `compression-${values.name}.json`), JSON.stringify(document, null, 1));
  for (const line of figuresOf(document).map(({ group, label, bytes, perplexity, rise }) => `${group} | ${label} | ${bytes} | ${perplexity.toFixed(4)} | ${rise.toFixed(4)}`)) console.log(line);
  if (values.write) await writePages(document, join(ROOT, "docs"));
}

if (import.meta.main) await main();
