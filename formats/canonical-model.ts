// Opens a canonical model: the folder that passes write (docs/formats.md, "Canonical models"). Owns its config.json and the names that say how a tensor
// is stored. Refuses a config that is not whole, types it does not know and tensors without a place. The writer is canonical-writer.ts.

import { z } from "zod";
import { checkConfig, freezeConfig } from "../model/architectures/common.ts";
import { ModelError } from "../model/config.ts";
import { type ByteSource, SourceError } from "./byte-source.ts";
import { Checkpoint } from "./checkpoint.ts";
import { configSchema } from "./config-schema.ts";
import { openHuggingFace, readTokenizer } from "./huggingface.ts";
import { FORMAT_LIMITS } from "./limits.ts";
import { parseJson, parseJsonObject, readFileOrNull, sha256Hex } from "./read-bytes.ts";
import { readSafetensorsFolder } from "./safetensors.ts";
import type { StoredTensor } from "./stored-tensor.ts";
import { STORED_TYPES, storedBlock } from "./stored-types.ts";

/** `model_type` of its config.json. */
export const CANONICAL_MODEL_TYPE = "workers-moe";
export const CANONICAL_VERSION = 1;

/** One pass a model went through, for people: its name and what it was asked. */
const passSchema = z.strictObject({ pass: z.string().min(1), options: z.record(z.string(), z.unknown()) }).readonly();
export type PassRecord = z.infer<typeof passSchema>;

const documentSchema = z.strictObject({
  model_type: z.literal(CANONICAL_MODEL_TYPE),
  version: z.literal(CANONICAL_VERSION),
  /** The first of the models it comes from. */
  source: z.strictObject({ kind: z.enum(["huggingface", "gguf"]), name: z.string(), sha256: z.string() }).readonly(),
  /** Passes, the first one first. */
  passes: z.array(passSchema).readonly(),
  config: configSchema,
}).readonly();

export type CanonicalDocument = z.infer<typeof documentSchema>;

/** A folder with config.json: canonical, or as published. */
export async function openModelFolder(source: ByteSource, name: string): Promise<Checkpoint> {
  const bytes = await readFileOrNull(source, "config.json", FORMAT_LIMITS.jsonBytes);
  const isCanonical = bytes !== null && parseJsonObject(source, "config.json", bytes)["model_type"] === CANONICAL_MODEL_TYPE;
  return isCanonical ? openCanonical(source, name, bytes) : openHuggingFace(source, name);
}

async function openCanonical(source: ByteSource, name: string, configBytes: Uint8Array<ArrayBuffer>): Promise<Checkpoint> {
  const document = canonicalDocument(source, configBytes);
  const warnings: string[] = [];
  const { tokenizer, config } = await readTokenizer(source, document.config, warnings);
  const tensors = new Map<string, StoredTensor>();
  for (const stored of (await readSafetensorsFolder(source)).values()) {
    const tensor = typedTensor(source, stored);
    if (tensors.has(tensor.name)) throw new SourceError(`${source.description}: tensor ${tensor.name} is there twice, as ${tensors.get(tensor.name)!.type} and as ${tensor.type}.`);
    tensors.set(tensor.name, tensor);
  }
  return new Checkpoint({ kind: "canonical", name, sha256: await sha256Hex(configBytes), config, names: null, tokenizer, source, tensors, warnings, lineage: { source: document.source, passes: document.passes } });
}

/** config.json of a canonical model. Throws ModelError or SourceError naming the field. */
function canonicalDocument(source: ByteSource, bytes: Uint8Array): CanonicalDocument {
  const where = `${source.description}, config.json`;
  const json = parseJson(source, "config.json", bytes);
  const version = (json as { version?: unknown }).version;
  if (version !== CANONICAL_VERSION) throw new ModelError(`${where} is of a canonical model of version ${JSON.stringify(version)}; version ${CANONICAL_VERSION} is read.`);
  const parsed = documentSchema.safeParse(json);
  if (!parsed.success) {
    const issue = parsed.error.issues[0]!;
    throw new ModelError(`${where}: ${issue.path.join(".") || "the document"}: ${issue.message}.`);
  }
  checkConfig(where, parsed.data.config);
  return { ...parsed.data, config: freezeConfig(where, parsed.data.config) };
}

/** `<name>:<type>` in U8, bytes of rows, as the tensor it stands for; plain types have their dtype and no suffix. */
function typedTensor(source: ByteSource, stored: StoredTensor): StoredTensor {
  const at = stored.name.lastIndexOf(":");
  if (at < 0) return stored;
  const fail = (message: string): never => { throw new SourceError(`${source.description}, ${stored.file}: tensor ${stored.name} ${message}.`); };
  const type = STORED_TYPES.find((known) => known === stored.name.slice(at + 1)) ?? fail(`names a type that is not known here; expected one of ${STORED_TYPES.join(", ")}`);
  if (stored.type !== "U8" || stored.shape.length !== 3) fail(`is ${stored.type} [${stored.shape.join(", ")}], expected U8 [rows, blocks, bytes of a block]`);
  const [nRows, nBlocks, blockBytes] = stored.shape as [number, number, number];
  const { elements, bytes } = storedBlock(type);
  if (blockBytes !== bytes) fail(`has blocks of ${blockBytes} bytes, but those of ${type} have ${bytes}`);
  return { ...stored, name: stored.name.slice(0, at), type, shape: [nRows, nBlocks * elements] };
}
