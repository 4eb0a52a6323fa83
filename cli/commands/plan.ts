// `workers-moe plan <pack|model>`: what a deployment needs before anything exists: isolates, stages, shards, messages, tokens a second, dollars.
// Owns the options and their words. Refuses impossible plans with the numbers (exit code 1) and weights: only a manifest or a config is read.

import { type Command, InvalidArgumentError, Option } from "commander";
import { LIMITS } from "../../durable/limits.ts";
import { QUANTS } from "../../formats/pack-formats.ts";
import { planDocument } from "../plan-document.ts";
import { DEFAULT_QUANT, openPlannedModel, type PlannedQuant } from "../plan-model.ts";
import { planText } from "../plan-text.ts";
import { positiveInteger } from "../positive-integer.ts";

const UNITS: Readonly<Record<string, number>> = { KiB: 1024, MiB: 1024 ** 2, GiB: 1024 ** 3 };
/** Where a Durable Object may be asked to live (2026-11). */
const LOCATION_HINTS: readonly string[] = ["wnam", "enam", "sam", "weur", "eeur", "apac", "apac-ne", "apac-se", "oc", "afr", "me"];
/** More requests at once than any deployment of this platform serves; the search over lanes stays short. */
const MOST_STREAMS = 100_000;

export function sizeInBytes(text: string): number {
  const found = /^(\d+(?:\.\d+)?)\s*(KiB|MiB|GiB)$/.exec(text);
  const bytes = found === null ? 0 : Math.floor(Number(found[1]) * UNITS[found[2]!]!);
  if (!(bytes > 0 && bytes <= LIMITS.memoryMaximumBytes)) throw new InvalidArgumentError("Expected a size above 0 and below 4 GiB, like 90MiB.");
  return bytes;
}

export function regionList(text: string): string[] {
  const hints = text.split(",").map((hint) => hint.trim());
  const unknown = hints.find((hint) => !LOCATION_HINTS.includes(hint));
  if (unknown !== undefined) throw new InvalidArgumentError(`"${unknown}" is no region; expected a comma list of ${LOCATION_HINTS.join(", ")}.`);
  if (new Set(hints).size < hints.length) throw new InvalidArgumentError("A region is named twice.");
  return hints;
}

function positiveNumber(text: string): number {
  if (!/^\d+(\.\d+)?$/.test(text) || !(Number(text) > 0)) throw new InvalidArgumentError("Expected a number above 0.");
  return Number(text);
}

function streamCount(text: string): number {
  const streams = positiveInteger(text);
  if (streams > MOST_STREAMS) throw new InvalidArgumentError(`Expected at most ${MOST_STREAMS}.`);
  return streams;
}

function shardCount(text: string): number {
  const shards = positiveInteger(text);
  if (shards > 0xffff) throw new InvalidArgumentError("Expected at most 65535.");
  return shards;
}

interface PlanOptions {
  readonly memory: number;
  readonly context?: number;
  readonly streams: number;
  readonly shards?: number;
  readonly regions?: readonly string[];
  readonly quant?: PlannedQuant;
  readonly kernelGbPerS?: number;
  readonly roundTripMs?: number;
  readonly json?: boolean;
}

export function register(program: Command): void {
  program.command("plan")
    .description("say what a deployment needs, and what it costs, before anything exists")
    .argument("<pack|model>", "pack folder, .gguf file, or a folder with config.json (no weights are read)")
    .addOption(new Option("--memory <size>", "of one isolate: weights, KV cache and frames in flight").argParser(sizeInBytes).default(LIMITS.isolateBytes, "90MiB"))
    .addOption(new Option("--context <tokens>", "context of each request (default: 4096 or the most there is)").argParser(positiveInteger))
    .addOption(new Option("--streams <n>", "requests at once").argParser(streamCount).default(1))
    .addOption(new Option("--shards <n>", "expert shards (default: the fewest that fit)").argParser(shardCount))
    .addOption(new Option("--regions <hints>", "location hints, comma-separated: the whole deployment in each").argParser(regionList))
    .addOption(new Option("--quant <format>", `of a model that is not packed (default: ${DEFAULT_QUANT})`).choices(QUANTS.filter((quant) => quant !== "source")))
    .addOption(new Option("--kernel-gb-per-s <n>", "weights read by a product of one token, 1e9 bytes a second").argParser(positiveNumber))
    .addOption(new Option("--round-trip-ms <n>", "there and back between two objects").argParser(positiveNumber))
    .option("--json", "print one JSON document")
    .action(async (path: string, options: PlanOptions) => {
      const model = await openPlannedModel(path, { quant: options.quant, contextTokens: options.context });
      const plan = planDocument(model, {
        isolateBytes: options.memory, streams: options.streams, nShards: options.shards ?? null, regions: options.regions ?? [],
        kernelGbPerSecond: options.kernelGbPerS, roundTripMs: options.roundTripMs,
      });
      process.stdout.write(options.json === true ? `${JSON.stringify(plan)}\n` : planText(plan));
    });
}
