// Weights given as plain numbers under their canonical names, as a checkpoint that `writePack` accepts: the way from a test's own reader to a pack.
// Owns one in-memory file of F32 tensors. Refuses tokenizers; such packs are driven by token ids.

import type { Architecture } from "../../model/architectures/architecture.ts";
import { ownTensor } from "../../model/architectures/architecture.ts";
import { EXPERT_MATRICES, expertShape, trunkTensors, type ModelConfig } from "../../model/config.ts";
import type { DefinitionMatrix } from "../../model/definition.ts";
import { Checkpoint } from "../../formats/checkpoint.ts";
import { MemorySource } from "../../formats/memory-source.ts";
import type { StoredTensor } from "../../formats/stored-tensor.ts";

const FILE = "weights.f32";

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
  for (const t of trunkTensors(config)) add(t.name, t.kind === "matrix" ? [t.nRows, t.nCols] : [t.length]);
  for (let layer = 0; layer < config.nLayers; layer++) {
    for (let expert = 0; expert < config.nExperts; expert++) {
      for (const matrix of EXPERT_MATRICES) {
        const { nRows, nCols } = expertShape(config, matrix);
        add(`layers.${layer}.experts.${expert}.${matrix}`, [nRows, nCols]);
      }
    }
  }
  const file = new Uint8Array(offset);
  values.forEach((data, i) => file.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), [...tensors.values()][i]!.offset));

  const own = (matrix: string) => [ownTensor(`layers.{layer}.experts.{expert}.${matrix}`)];
  const inLayer = trunkTensors(config).flatMap(({ name }) => /^layers\.0\.(.+)$/.exec(name)?.[1] ?? []);
  const names = {
    trunk: Object.fromEntries([...["embed", "norm", "head"].map((name) => [name, name]), ...inLayer.map((part) => [part, `layers.{layer}.${part}`])]),
    experts: { gate: own("gate"), up: own("up"), down: own("down") },
    ignorable: [],
  };
  const refuse = (): never => { throw new Error("A plain checkpoint has its config already."); };
  const architecture: Architecture = { name: config.architecture, ggufName: config.architecture, fromHuggingFace: refuse, fromGguf: refuse, huggingFace: names, gguf: names };
  return new Checkpoint({
    kind: "huggingface", name: config.architecture, sha256: "0".repeat(64), config, architecture, tokenizer: null, tensors, warnings: [],
    source: new MemorySource(new Map([[FILE, file]])),
  });
}
