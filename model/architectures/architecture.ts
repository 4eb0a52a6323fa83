// What an architecture is here: two readers of its configuration and two maps of tensor names. All of it is data for
// formats/checkpoint.ts; no code elsewhere asks which architecture a model has.
// Refuses: arithmetic, file access. A further architecture is one more file beside olmoe.ts and one line in index.ts.
// Names: transformers' checkpoints and llama.cpp's llama-arch.cpp (GGUF).

import type { ExpertBias, ExpertMatrix, ModelConfig } from "../config.ts";
import type { ConfigFields } from "./config-fields.ts";
import type { Location } from "./locations.ts";

/** Locations of a feed-forward part: its three matrices and, where the expert kind has them, its biases. */
export type FfnLocations = Readonly<Record<ExpertMatrix, readonly Location[]>> & Readonly<Partial<Record<ExpertBias, readonly Location[]>>>;

export interface TensorNames {
  /** Trunk tensors outside layers by canonical name; those of layers by the part after "layers.N.". The first location whose tensor exists counts. */
  readonly trunk: Readonly<Record<string, readonly Location[]>>;
  readonly experts: FfnLocations;
  /** The shared expert of layers with experts. */
  readonly shared: FfnLocations;
  /** The feed-forward part of dense layers. */
  readonly dense: FfnLocations;
  /** Stored tensors that carry nothing the model needs. Every other unknown tensor is refused. */
  readonly ignorable: readonly RegExp[];
  /** Finds the layer in a tensor's name where layers behind the last are no part of the model (multi-token prediction); null: there are none. */
  readonly extraLayers: RegExp | null;
}

/** What a GGUF says beside its metadata, for the facts that only its tensors hold. */
export interface GgufTensors {
  has(name: string): boolean;
  /** Values of a small vector (factors of rotary frequencies), or null where the file has none. */
  vector(name: string): readonly number[] | null;
}

export interface Architecture {
  /** model_type of the Hugging Face config; also ModelConfig.architecture. */
  readonly name: string;
  /** general.architecture in GGUF metadata. */
  readonly ggufName: string;
  /** llama.cpp does not know it, so no GGUF file has it. */
  readonly hasNoGguf?: true;
  /** Tells models apart that share ggufName; without it the architecture takes all. */
  isGguf?(metadata: ConfigFields): boolean;
  /** Keys of config.json that it reads beside those of SHARED_KEYS (config-keys.ts). */
  readonly keys: readonly string[];
  /** Metadata keys, behind the prefix, that not every architecture reads (common.ts, GGUF_OPTIONAL_KEYS). */
  readonly ggufKeys: readonly string[];
  /** From config.json and generation_config.json. Throws ModelError naming the key that this version cannot run. */
  fromHuggingFace(config: ConfigFields, generation: ConfigFields | null): ModelConfig;
  /** From GGUF metadata and tensors (a missing output.weight means a tied head). */
  fromGguf(metadata: ConfigFields, tensors: GgufTensors): ModelConfig;
  readonly huggingFace: TensorNames;
  readonly gguf: TensorNames;
}
