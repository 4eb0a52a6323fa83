// Weights given as plain numbers under their canonical names, as a checkpoint that `writePack` accepts: the way from a test's own reader to a pack.
// Owns one in-memory file of F32 tensors, and its way to a canonical model. Such packs are driven by token ids, unless a canonical model is given a tokenizer.

import { EXPERT_MATRICES, expertLayer, expertShape, ffnShape, sharedWidth, trunkTensors, type ModelConfig } from "../../model/config.ts";
import { biasLength, expertBiases, expertMatrices } from "../../model/expert-kinds.ts";
import type { DefinitionMatrix } from "../../model/definition.ts";
import { unchanged, writeCanonical } from "../../formats/canonical-writer.ts";
import { Checkpoint, expertName, sharedName, type TokenizerFiles } from "../../formats/checkpoint.ts";
import { MemorySource } from "../../formats/memory-source.ts";
import type { PackSink } from "../../formats/pack-sink.ts";
import type { StoredTensor } from "../../formats/stored-tensor.ts";

const FILE = "weights.f32";

/** Stacks of matrices are asked for, and stored, one by one ("layers.0.kB.2"). */
export function plainCheckpoint(config: ModelConfig, weights: (name: string) => DefinitionMatrix): Checkpoint {
  const tensors = new Map<string, StoredTensor>();
  const values: Float32Array[] = [];
  let offset = 0;
  const add = (name: string, shape: number[]): void => {
    const data = Float32Array.from(weights(name).values);
    tensors.set(name, { name, file: FILE, type: "F32", shape, offset, bytes: data.byteLength });
    values.push(data);
    offset += data.byteLength;
  };
  for (const t of trunkTensors(config)) {
    if (t.kind === "vector") add(t.name, [t.length]);
    else if (t.kind === "matrix") add(t.name, [t.nRows, t.nCols]);
    else for (let i = 0; i < t.count; i++) add(`${t.name}.${i}`, [t.nRows, t.nCols]);
  }
  for (let layer = 0; layer < config.nLayers; layer++) {
    const width = sharedWidth(config, layer);
    for (const matrix of width > 0 ? EXPERT_MATRICES : []) {
      const { nRows, nCols } = ffnShape(config.hiddenSize, config.hiddenSize, width, matrix);
      add(sharedName(layer, matrix), [nRows, nCols]);
    }
    for (let expert = 0; config.layerFfns[layer] === "moe" && expertLayer(config, layer) === layer && expert < config.nExperts; expert++) {
      for (const matrix of expertMatrices(config)) {
        const { nRows, nCols } = expertShape(config, matrix);
        add(expertName(layer, expert, matrix), [nRows, nCols]);
      }
      for (const bias of expertBiases(config)) add(expertName(layer, expert, bias), [biasLength(config, bias)]);
    }
  }
  const file = new Uint8Array(offset);
  values.forEach((data, i) => file.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), [...tensors.values()][i]!.offset));

  return new Checkpoint({
    kind: "huggingface", name: config.architecture, sha256: "0".repeat(64), config, names: null, tokenizer: null, tensors, warnings: [],
    source: new MemorySource(new Map([[FILE, file]])),
  });
}

/** Writes it as the canonical model `name`. */
export const writePlain = (sink: PackSink, checkpoint: Checkpoint, name: string, tokenizer: TokenizerFiles | null = null): Promise<void> =>
  writeCanonical(sink, { config: checkpoint.config, tokenizer, source: { kind: "huggingface", name, sha256: checkpoint.sha256 }, passes: [] }, [...checkpoint.places()].map((place) => unchanged(checkpoint, place.name)));
