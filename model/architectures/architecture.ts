// What an architecture is here: two readers of its configuration and two maps of tensor names. All of it is data for
// formats/checkpoint.ts; no code elsewhere asks which architecture a model has.
// Refuses: arithmetic, file access. A further architecture is one more file beside olmoe.ts and one line in index.ts.
// Names: transformers' checkpoints and llama.cpp's llama-arch.cpp (GGUF).

import type { ExpertMatrix, ModelConfig } from "../config.ts";
import type { ConfigFields } from "./config-fields.ts";

/** One way in which a checkpoint stores an expert matrix. Templates hold {layer} and {expert}. */
export interface ExpertLocation {
  readonly tensor: string;
  /** True: the tensor holds all experts [nExperts, parts * rows, cols]; false: it is this expert's own [rows, cols]. */
  readonly stacked: boolean;
  /** Matrices fused along the rows of one expert (gate above up: 2), and which of them this is. */
  readonly parts: number;
  readonly part: number;
}

export interface TensorNames {
  /** Trunk tensors outside layers by canonical name; those of layers by the part after "layers.N.". */
  readonly trunk: Readonly<Record<string, string>>;
  /** Ways to find an expert's matrix; the first whose tensor exists counts. */
  readonly experts: Readonly<Record<ExpertMatrix, readonly ExpertLocation[]>>;
  /** Stored tensors that carry nothing the model needs. Every other unknown tensor is refused. */
  readonly ignorable: readonly RegExp[];
}

export interface Architecture {
  /** model_type of the Hugging Face config; also ModelConfig.architecture. */
  readonly name: string;
  /** general.architecture in GGUF metadata. */
  readonly ggufName: string;
  /** From config.json and generation_config.json. Throws ModelError naming the key that this version cannot run. */
  fromHuggingFace(config: ConfigFields, generation: ConfigFields | null): ModelConfig;
  /** From GGUF metadata; `hasTensor` answers for the file's tensor names (a missing output.weight means a tied head). */
  fromGguf(metadata: ConfigFields, hasTensor: (name: string) => boolean): ModelConfig;
  readonly huggingFace: TensorNames;
  readonly gguf: TensorNames;
}

/** An expert matrix with a tensor of its own. */
export const ownTensor = (tensor: string): ExpertLocation => ({ tensor, stacked: false, parts: 1, part: 0 });
/** An expert matrix in a tensor of all experts. */
export const stackedTensor = (tensor: string, parts = 1, part = 0): ExpertLocation => ({ tensor, stacked: true, parts, part });
