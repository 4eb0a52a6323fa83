// Opens a GGUF file as a Checkpoint. Owns the way from metadata to config and tokenizer. Refuses conversion: q and k rows
// that the converter permuted stay as they are, and the config says that the rotary embedding is interleaved.

import { ConfigFields } from "../model/architectures/config-fields.ts";
import { ascendingIds } from "../model/architectures/common.ts";
import { architectureOfGguf } from "../model/architectures/index.ts";
import { GGUF_ROPE_FACTORS } from "../model/architectures/rope-settings.ts";
import { ModelError } from "../model/config.ts";
import type { ByteSource } from "./byte-source.ts";
import { Checkpoint } from "./checkpoint.ts";
import { tokenizerOfGguf } from "./gguf-tokenizer.ts";
import { readGgufHeader } from "./gguf.ts";
import { FORMAT_LIMITS } from "./limits.ts";
import { readBytes, sha256Hex } from "./read-bytes.ts";
import type { StoredTensor } from "./stored-tensor.ts";

/** Reads the header of `file` in `source`. */
export async function openGguf(source: ByteSource, file: string): Promise<Checkpoint> {
  const header = await readGgufHeader(source, file);
  const fields = new ConfigFields(`${source.description}, ${file}`, header.metadata);
  const architecture = architectureOfGguf(fields);
  const factors = await readFactors(source, header.tensors, fields.file);
  const base = architecture.fromGguf(fields, { has: (name) => header.tensors.has(name), vector: (name) => factors.get(name) ?? null });
  const { tokenizer, bosTokenId, endTokenIds, warnings: tokenizerWarnings } = tokenizerOfGguf(fields);
  const config = { ...base, bosTokenId, eosTokenIds: Object.freeze(ascendingIds(base.eosTokenIds, endTokenIds)) };
  const warnings = [...tokenizerWarnings];
  if (config.eosTokenIds.length === 0) warnings.push("The file names no end-of-text token: generations end only by length.");
  return new Checkpoint({
    kind: "gguf", name: header.name, description: `${source.description}, ${file}`, sha256: await sha256Hex(header.bytes),
    config: Object.freeze(config), names: architecture.gguf, tokenizer, source, tensors: header.tensors, warnings,
  });
}

/** Factors of rotary frequencies by tensor: the one part of a config that GGUF keeps in tensors. */
async function readFactors(source: ByteSource, tensors: ReadonlyMap<string, StoredTensor>, where: string): Promise<Map<string, readonly number[]>> {
  const out = new Map<string, readonly number[]>();
  for (const name of GGUF_ROPE_FACTORS) {
    const tensor = tensors.get(name);
    if (tensor === undefined) continue;
    if (tensor.type !== "F32" || tensor.shape.length !== 1 || tensor.bytes > FORMAT_LIMITS.ropeFactorBytes) {
      throw new ModelError(`${where}: tensor ${name} is ${tensor.type} [${tensor.shape.join(", ")}], expected at most ${FORMAT_LIMITS.ropeFactorBytes / 4} factors in F32.`);
    }
    out.set(name, [...new Float32Array((await readBytes(source, tensor.file, tensor.offset, tensor.bytes)).buffer)]);
  }
  return out;
}
