// `workers-moe logits <pack> --tokens ids.json --out logits.f32`: the logits of every position of one sequence, for comparison with other engines.
// Output: float32 little-endian [nTokens, vocabulary], one row per position, by the engine and kernels that serve. Written beside the target
// and renamed when complete, so no half-written file is left.

import type { Command } from "commander";
import { readFileSync } from "node:fs";
import { endianness } from "node:os";
import type { PrunedCalls } from "../../model/online-pruning.ts";
import { evaluate, openPack } from "../open-pack.ts";
import { routingOf, type RoutingOptions, withRouting } from "../routing-option.ts";
import { startProgress } from "../progress.ts";
import { writeWhole } from "../whole-file.ts";

interface LogitsOptions extends RoutingOptions {
  readonly tokens: string;
  readonly out: string;
  readonly json?: boolean;
}

export function register(program: Command): void {
  withRouting(program.command("logits"))
    .description("write the logits of every position of a token sequence")
    .argument("<pack>", "folder of a pack")
    .requiredOption("--tokens <file>", "JSON file: an array of token ids")
    .requiredOption("--out <file>", "file for float32 little-endian [nTokens, vocabulary]")
    .option("--json", "print one JSON document")
    .action(logits);
}

async function logits(pack: string, options: LogitsOptions): Promise<void> {
  if (endianness() !== "LE") throw new Error("This machine is big-endian; logits are written as little-endian float32, which is not supported here.");
  const model = await openPack(pack);
  const { engine, packHash, kernels } = model;
  const { vocabSize } = engine.config;
  const ids = readIds(options.tokens, vocabSize);
  if (ids.length > engine.contextLength) throw new Error(`${options.tokens} holds ${ids.length} token ids; this pack serves a context of ${engine.contextLength}.`);
  const routing = routingOf(model, options);
  let pruned: PrunedCalls = { leftOut: 0, of: 0 };
  const bar = startProgress({ label: "logits", total: ids.length, unit: "tokens", quiet: options.json === true });
  try {
    await writeWhole(options.out, async (write) => {
      pruned = await evaluate(engine, ids, (position, row) => {
        write(new Uint8Array(row.buffer, row.byteOffset, row.byteLength));
        bar.update(position + 1);
      }, { routing });
    });
  } finally {
    bar.stop();
  }
  const result = { out: options.out, tokens: ids.length, vocabulary: vocabSize, packHash, kernels: kernels.kernels.name, ...(routing?.pruning === undefined ? {} : { pruned }) };
  process.stdout.write(options.json === true ? `${JSON.stringify(result)}\n`
    : `${options.out}: ${ids.length} rows of ${vocabSize} float32, by the ${result.kernels} kernels.${routing?.pruning === undefined ? "" : ` ${pruned.leftOut} of ${pruned.of} expert calls were left out.`}\n`);
}

/** Token ids of a JSON file; throws a sentence that names the file and the entry. */
export function readIds(file: string, vocabSize: number): number[] {
  let ids: unknown;
  try {
    ids = JSON.parse(readFileSync(file, "utf8"));
  } catch (cause) {
    throw new Error(`${file} cannot be read as JSON: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
  }
  if (!Array.isArray(ids) || ids.length === 0) throw new Error(`${file} holds ${Array.isArray(ids) ? "an empty array" : `a ${typeof ids}`}; an array of at least one token id was expected.`);
  const bad = ids.findIndex((id) => !Number.isInteger(id) || id < 0 || id >= vocabSize);
  if (bad >= 0) throw new Error(`${file}, entry ${bad} is ${JSON.stringify(ids[bad])}; a token id from 0 to ${vocabSize - 1} was expected.`);
  return ids as number[];
}
