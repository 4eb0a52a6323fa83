// Writes a canonical model (docs/formats.md): config.json, the tokenizer's files, and safetensors. Tensors are asked for one after the other when their turn
// comes, so that a pass never holds more than what it works on. Owns the headers and the split into files. Refuses tensors that bring more or fewer bytes than
// they said. What is written is visible when all of it is there (pack-sink.ts).

import { ModelError, type ModelConfig } from "../model/config.ts";
import { CANONICAL_MODEL_TYPE, CANONICAL_VERSION, type CanonicalDocument, type PassRecord } from "./canonical-model.ts";
import { type Checkpoint, type Lineage, type TokenizerFiles, rowsPerBatch } from "./checkpoint.ts";
import { FORMAT_LIMITS } from "./limits.ts";
import type { PackSink } from "./pack-sink.ts";
import { sizeGroups } from "./size-groups.ts";
import { type StoredType, storedBlock, storedRowBytes } from "./stored-types.ts";

/** A tensor to write: rows of one stored type under its canonical name. */
export interface TensorToWrite {
  readonly name: string;
  readonly type: StoredType;
  readonly nRows: number;
  readonly nCols: number;
  /** Its row-major bytes, asked for once, when all before it are written. */
  read(): AsyncIterable<Uint8Array>;
}

export interface CanonicalModel extends Lineage {
  readonly config: ModelConfig;
  readonly tokenizer: TokenizerFiles | null;
}

/** What a pass makes of a model besides its tensors: the same, with the pass in its record. */
export const afterPass = ({ config, tokenizer, lineage, kind, name, sha256 }: Checkpoint, pass: PassRecord): CanonicalModel => ({
  config, tokenizer, source: lineage?.source ?? { kind: kind === "gguf" ? kind : "huggingface", name, sha256 }, passes: [...(lineage?.passes ?? []), pass],
});

/** A tensor as the checkpoint has it, read in batches of rows. */
export function unchanged(checkpoint: Checkpoint, name: string): TensorToWrite {
  const place = checkpoint.place(name);
  const { type, nRows, nCols, rowBytes } = place;
  return {
    name, type, nRows, nCols,
    async *read() {
      const batch = rowsPerBatch(rowBytes, 1);
      for (let first = 0; first < nRows; first += batch) yield await checkpoint.readRows(place, first, Math.min(batch, nRows - first));
    },
  };
}

/** Of a tensor's rows in the file. */
export const writtenBytes = ({ type, nRows, nCols }: TensorToWrite): number => nRows * storedRowBytes(type, nCols);

/** Name, dtype and shape in the file. Rows of blocks are bytes under a name that says their type. */
function entryOf({ name, type, nRows, nCols }: TensorToWrite): { readonly stored: string; readonly dtype: string; readonly shape: readonly number[] } {
  const { elements, bytes } = storedBlock(type);
  if (elements === 1) return { stored: name, dtype: type, shape: [nRows, nCols] };
  if (nCols % elements !== 0) throw new ModelError(`Tensor ${name} has rows of ${nCols} values, which blocks of ${elements} (${type}) do not fill; expected another type.`);
  return { stored: `${name}:${type}`, dtype: "U8", shape: [nRows, nCols / elements, bytes] };
}

function headerOf(tensors: readonly TensorToWrite[]): Uint8Array {
  let at = 0;
  const entries = tensors.map((tensor) => {
    const { stored, dtype, shape } = entryOf(tensor);
    const from = at;
    at += writtenBytes(tensor);
    return [stored, { dtype, shape, data_offsets: [from, at] }] as const;
  });
  const json = new TextEncoder().encode(JSON.stringify(Object.fromEntries(entries)));
  const out = new Uint8Array(8 + Math.ceil(json.length / 8) * 8).fill(0x20);
  new DataView(out.buffer).setBigUint64(0, BigInt(out.length - 8), true);
  out.set(json, 8);
  return out;
}

/** Writes the model. On failure the sink is told to discard, and the error is passed on. */
export async function writeCanonical(
  sink: PackSink, model: CanonicalModel, tensors: readonly TensorToWrite[], { onTensor = () => {}, fileBytes = FORMAT_LIMITS.safetensorsFileBytes }: { onTensor?: (name: string) => void; fileBytes?: number } = {},
): Promise<void> {
  try {
    const files = sizeGroups(tensors, writtenBytes, fileBytes);
    const number = (n: number): string => String(n).padStart(5, "0");
    const names = files.map((_, i) => (files.length === 1 ? "model.safetensors" : `model-${number(i + 1)}-of-${number(files.length)}.safetensors`));
    for (const [i, file] of files.entries()) {
      await sink.append(names[i]!, headerOf(file));
      for (const tensor of file) {
        onTensor(tensor.name);
        let left = writtenBytes(tensor);
        for await (const bytes of tensor.read()) {
          left -= bytes.length;
          if (left >= 0) await sink.append(names[i]!, bytes);
        }
        if (left !== 0) throw new RangeError(`Tensor ${tensor.name} brought ${writtenBytes(tensor) - left} bytes; expected ${writtenBytes(tensor)}.`);
      }
    }
    const put = (name: string, document: object): Promise<void> => sink.append(name, new TextEncoder().encode(`${JSON.stringify(document, null, 1)}\n`));
    if (files.length > 1) {
      const weight_map = Object.fromEntries(files.flatMap((file, i) => file.map((tensor) => [entryOf(tensor).stored, names[i]])));
      await put("model.safetensors.index.json", { metadata: { total_size: tensors.reduce((sum, tensor) => sum + writtenBytes(tensor), 0) }, weight_map });
    }
    const { config, tokenizer, source, passes } = model;
    await put("config.json", { model_type: CANONICAL_MODEL_TYPE, version: CANONICAL_VERSION, source, passes, config } satisfies CanonicalDocument);
    if (tokenizer !== null) {
      await sink.append("tokenizer.json", tokenizer.json);
      const { bosToken, eosToken, addBos, chatTemplate } = tokenizer;
      await put("tokenizer_config.json", {
        ...(bosToken === null ? {} : { bos_token: bosToken }), ...(eosToken === null ? {} : { eos_token: eosToken }), add_bos_token: addBos, ...(chatTemplate === null ? {} : { chat_template: chatTemplate }),
      });
    }
    await sink.commit();
  } catch (error) {
    await sink.discard();
    throw error;
  }
}
