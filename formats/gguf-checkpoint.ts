// Opens a GGUF file as a Checkpoint. Owns the way from metadata to config and tokenizer. Refuses conversion: q and k rows
// that the converter permuted stay as they are, and the config says that the rotary embedding is interleaved.

import { ConfigFields } from "../model/architectures/config-fields.ts";
import { architectureOfGguf } from "../model/architectures/index.ts";
import type { ByteSource } from "./byte-source.ts";
import { Checkpoint } from "./checkpoint.ts";
import { tokenizerOfGguf } from "./gguf-tokenizer.ts";
import { readGgufHeader } from "./gguf.ts";
import { sha256Hex } from "./read-bytes.ts";

/** Reads the header of `file` in `source`. */
export async function openGguf(source: ByteSource, file: string): Promise<Checkpoint> {
  const header = await readGgufHeader(source, file);
  const fields = new ConfigFields(`${source.description}, ${file}`, header.metadata);
  const architecture = architectureOfGguf(fields);
  const config = architecture.fromGguf(fields, (name) => header.tensors.has(name));
  const { tokenizer, bosTokenId, warnings: tokenizerWarnings } = tokenizerOfGguf(fields);
  const warnings = [...tokenizerWarnings];
  if (config.eosTokenIds.length === 0) warnings.push("The file names no end-of-text token: generations end only by length.");
  return new Checkpoint({
    kind: "gguf", name: file.replace(/\.gguf$/, ""), description: `${source.description}, ${file}`, sha256: await sha256Hex(header.bytes),
    config: Object.freeze({ ...config, bosTokenId }), architecture, tokenizer, source, tensors: header.tensors, warnings,
  });
}
