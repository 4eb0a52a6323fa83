// `workers-moe plan <pack|model>`: what a deployment needs before anything exists: isolates, stages, shards, messages, tokens a second, dollars.
// Owns the options and their words. Refuses impossible plans with the numbers (exit code 1) and weights: only a manifest or a config is read.

import { type Command, InvalidArgumentError, Option } from "commander";
import { LIMITS } from "../../durable/limits.ts";
import { type Quant, QUANTS } from "../../formats/pack-formats.ts";
import { CapacityPlanError } from "../../fleet/capacity-pack.ts";
import type { ExpertsIn } from "../../fleet/capacity-stages.ts";
import { PLACEMENT_MODES, type PlacementMode } from "../../fleet/placement.ts";
import { isLocationHint, LOCATION_HINTS } from "../../fleet/regions.ts";
import { fleetRecord, type FleetRequest, planFleet } from "../plan-fleet.ts";
import { DEFAULT_QUANT, openPlannedModel } from "../plan-model.ts";
import { planText } from "../plan-text.ts";
import { positiveInteger } from "../positive-integer.ts";
import { writeText } from "../whole-file.ts";

const UNITS: Readonly<Record<string, number>> = { KiB: 1024, MiB: 1024 ** 2, GiB: 1024 ** 3 };
/** As durable/env.ts takes it. */
const FLEET_NAME = /^[\w.-]{1,64}$/;
const MOST_REPLICAS = 16;
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
  const unknown = hints.find((hint) => !isLocationHint(hint));
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

function replicaCount(text: string): number {
  const replicas = positiveInteger(text);
  if (replicas > MOST_REPLICAS) throw new InvalidArgumentError(`Expected at most ${MOST_REPLICAS}.`);
  return replicas;
}

function fleetName(text: string): string {
  if (!FLEET_NAME.test(text)) throw new InvalidArgumentError("Expected 1 to 64 letters, digits, points, hyphens or underscores.");
  return text;
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
  readonly splitRegions?: boolean;
  readonly quant?: Quant;
  readonly trace?: readonly string[];
  readonly experts?: ExpertsIn;
  readonly placement?: PlacementMode;
  readonly replicas: number;
  readonly replicaBudget?: number;
  readonly out?: string;
  readonly fleet: string;
  readonly kernelGbPerS?: number;
  readonly roundTripMs?: number;
  readonly trainingTokens?: number;
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
    .option("--split-regions", "one deployment, its shards over the --regions by turns, its stages in the first")
    .addOption(new Option("--quant <format>", `of a model that is not packed (default: ${DEFAULT_QUANT}); source: by the types of its tensors`).choices(QUANTS))
    .addOption(new Option("--trace <file>", "routing of real tokens (workers-moe trace): frames, loads and placement by it; may be given several times").argParser((file: string, before: string[] | undefined) => [...(before ?? []), file]))
    .addOption(new Option("--placement <mode>", "of experts on shards (default: joint with a trace, contiguous without)").choices(PLACEMENT_MODES))
    .addOption(new Option("--experts <where>", "shards: apart from the trunk; stages: each with the layers it belongs to (default: stages where a token then takes fewer hops)").choices(["shards", "stages"]))
    .addOption(new Option("--replicas <n>", "shards that hold each segment").argParser(replicaCount).default(1))
    .addOption(new Option("--replica-budget <size>", "of all shards together, for copies of the experts that the trace asks most").argParser(sizeInBytes))
    .option("--out <file>", "write the plan of a pack as the record that a fleet begins with (docs/formats.md)")
    .addOption(new Option("--fleet <name>", "that the record is of").argParser(fleetName).default("main"))
    .addOption(new Option("--kernel-gb-per-s <n>", "weights read by a product of one token, 1e9 bytes a second").argParser(positiveNumber))
    .addOption(new Option("--round-trip-ms <n>", "there and back between two objects").argParser(positiveNumber))
    .addOption(new Option("--training-tokens <n>", "tokens it was trained on, which no file says: for tokens per parameter and efficiency leverage").argParser(positiveInteger))
    .option("--json", "print one JSON document")
    .action(async (path: string, options: PlanOptions) => {
      const model = await openPlannedModel(path, { quant: options.quant, contextTokens: options.context });
      const { traces, regions } = { traces: options.trace ?? [], regions: options.regions ?? [] };
      if (options.splitRegions === true && regions.length < 2) throw new CapacityPlanError(`--split-regions spreads shards over several --regions; ${regions.length} given.`);
      const request: FleetRequest = {
        isolateBytes: options.memory, streams: options.streams, nShards: options.shards ?? null, regions, regionHolds: options.splitRegions === true ? "turns of shards" : "deployment",
        replicas: options.replicas, spareBytes: options.replicaBudget ?? 0, traces, placement: options.placement ?? null, expertsIn: options.experts ?? null, kernelGbPerSecond: options.kernelGbPerS, roundTripMs: options.roundTripMs, trainingTokens: options.trainingTokens,
      };
      const { plan, document } = await planFleet(model, request);
      if (options.out !== undefined) await writeText(options.out, `${JSON.stringify(fleetRecord(model, plan, request, options.fleet))}\n`);
      process.stdout.write(options.json === true ? `${JSON.stringify(document)}\n` : planText(document) + (options.out === undefined ? "" : `\n${options.out} has the plan, epoch 1 of fleet "${options.fleet}".\n`));
    });
}
