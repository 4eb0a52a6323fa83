// What `plan` plans: a pack as its manifest says, or a model from its config or header, as `workers-moe pack --quant` would write it.
// Owns the choice among them. Refuses weights: no tensor is read, so a folder with nothing but config.json will do for all but --quant source, which asks for their types.
// The packless pack is cli/memory-table.ts's, whose bytes a test holds to those of real packs.

import { readFile, stat } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import { type CapacityPack, CapacityPlanError } from "../fleet/capacity-pack.ts";
import { ConfigFields } from "../model/architectures/config-fields.ts";
import { architectureOfHuggingFace } from "../model/architectures/index.ts";
import { type ModelConfig, ModelError } from "../model/config.ts";
import type { Checkpoint } from "../formats/checkpoint.ts";
import { formatOf, packFormats, type Quant } from "../formats/pack-formats.ts";
import { plannedPack, type PlannedFormats } from "./memory-table.ts";
import { openPath } from "./open-model.ts";

/** What a config alone can be planned as: `source` asks for the types of its tensors. */
export type ConfigQuant = Exclude<Quant, "source">;
export const DEFAULT_QUANT: ConfigQuant = "q4";
export const DEFAULT_CONTEXT_TOKENS = 4096;

export interface PlannedModel {
  readonly pack: CapacityPack;
  readonly contextTokens: number;
  /** null of a pack, whose formats are what they are. */
  readonly quant: Quant | null;
  /** Of the manifest; null of what is not packed. */
  readonly packHash: string | null;
  /** Bytes in the store; of a model that is not packed, of its blobs. */
  readonly packBytes: number;
}

export interface PlannedModelOptions<Q extends Quant = Quant> {
  readonly quant?: Q | undefined;
  readonly contextTokens?: number | undefined;
}

/** `path`: a pack folder, a .gguf file, an address, or a folder with config.json. Throws SourceError, ModelError or CapacityPlanError. */
export async function openPlannedModel(path: string, options: PlannedModelOptions): Promise<PlannedModel> {
  if (options.quant !== "source") {
    const config = await loneConfig(path);
    if (config !== null) return plannedConfig(basename(resolve(path)), config, { ...options, quant: options.quant });
  }
  const opened = await openPath(path);
  if (opened.kind === "checkpoint") return plannedCheckpoint(opened.checkpoint, options);
  if (options.quant !== undefined) throw new CapacityPlanError(`${path} is a pack, whose formats are fixed; --quant ${options.quant} is for a model that is not packed yet.`);
  const { manifest, packHash } = opened;
  return {
    pack: manifest, quant: null, packHash, packBytes: manifest.parts.reduce((sum, { bytes }) => sum + bytes, 0),
    contextTokens: options.contextTokens ?? Math.min(DEFAULT_CONTEXT_TOKENS, manifest.contextLength),
  };
}

/** A checkpoint by its header: with --quant source each tensor takes the format that its stored type goes to. Throws ModelError where one pack cannot hold them. */
export function plannedCheckpoint(checkpoint: Checkpoint, options: PlannedModelOptions): PlannedModel {
  const { name, config } = checkpoint;
  if (options.quant !== "source") return plannedConfig(name, config, { ...options, quant: options.quant });
  return planned(name, config, "source", { ...packFormats(checkpoint, "source"), formatOf: (tensor) => formatOf(checkpoint.place(tensor), "source") }, options.contextTokens);
}

/** A config alone, as if it were packed with `quant` and a context of what is planned. */
export const plannedConfig = (name: string, config: ModelConfig, { quant = DEFAULT_QUANT, contextTokens }: PlannedModelOptions<ConfigQuant>): PlannedModel =>
  planned(name, config, quant, quant, contextTokens);

function planned(name: string, config: ModelConfig, quant: Quant, formats: ConfigQuant | PlannedFormats, contextTokens: number = Math.min(DEFAULT_CONTEXT_TOKENS, config.maxPositions)): PlannedModel {
  if (contextTokens > config.maxPositions) throw new CapacityPlanError(`A context of ${contextTokens} tokens was asked for; ${name} has positions for ${config.maxPositions}.`);
  const pack: CapacityPack = { ...plannedPack(name, config, formats, contextTokens), contextLength: contextTokens };
  const bytes = [...Object.values(pack.blobs), ...[...pack.shared, ...pack.experts].flatMap(({ segments }) => segments)].reduce((sum, blob) => sum + blob.bytes, 0);
  return { pack, contextTokens, quant, packHash: null, packBytes: bytes };
}

/** The config of a local folder that has config.json and no manifest.json; null of everything else. */
async function loneConfig(path: string): Promise<ModelConfig | null> {
  const isFile = async (name: string): Promise<boolean> => (await stat(join(path, name)).catch(() => null))?.isFile() === true;
  if (await isFile("manifest.json") || !(await isFile("config.json"))) return null;
  let json: unknown;
  try {
    json = JSON.parse(await readFile(join(path, "config.json"), "utf8"));
  } catch (cause) {
    throw new ModelError(`${path}, config.json is no JSON: ${cause instanceof Error ? cause.message : String(cause)}.`, { cause });
  }
  if (typeof json !== "object" || json === null || Array.isArray(json)) throw new ModelError(`${path}, config.json: expected an object of settings.`);
  const fields = new ConfigFields(`${path}, config.json`, json);
  return architectureOfHuggingFace(fields).fromHuggingFace(fields, null);
}
