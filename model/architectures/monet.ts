// Monet (Park et al., 2024; MonetForCausalLM of dmis-lab/Monet): Llama's attention and, in every layer, product experts of relu^2, whose router the first of
// every moe_groups layers has. A batch norm's running statistics come with the router.
// Refuses other activations, and GGUF files: llama.cpp has no such architecture.

import { ModelError, type ModelConfig } from "../config.ts";
import type { Architecture, TensorNames } from "./architecture.ts";
import { NO_EXPERTS, PLAIN, attentionBiases, everyLayer, freezeConfig, refuseForeignSettings, sizesOfHuggingFace } from "./common.ts";
import { ownTensor, rowsOfKeys, type Location } from "./locations.ts";
import { HUGGING_FACE_NAMES } from "./tensor-names.ts";

const own = (tensor: string): readonly Location[] => [ownTensor(`model.layers.{layer}.${tensor}`)];
const biases = (tensor: string): readonly Location[] => [rowsOfKeys(`model.layers.{layer}.${tensor}`)];

const NAMES: TensorNames = {
  ...HUGGING_FACE_NAMES,
  trunk: {
    ...HUGGING_FACE_NAMES.trunk,
    ...Object.fromEntries(["1", "2"].flatMap((n) => [
      [`product.w${n}`, own(`router.w${n}.weight`)], [`product.mean${n}`, own(`router.norm${n}.running_mean`)], [`product.variance${n}`, own(`router.norm${n}.running_var`)],
    ])),
    ...Object.fromEntries(["u", "u1", "u2"].flatMap((u) => [[`product.${u}`, own(`moe.${u}.weight`)], [`product.${u}Bias`, own(`moe.${u}.bias`)]])),
    ...Object.fromEntries(["v", "v11", "v12", "v21", "v22"].map((v) => [`product.${v}`, own(`moe.${v}.weight`)])),
    ...Object.fromEntries(["b", "b1", "b2"].map((b) => [`product.${b}`, biases(`moe.${b}`)])),
  },
  // How many batches the statistics were taken over.
  ignorable: [...HUGGING_FACE_NAMES.ignorable, /\.router\.norm[12]\.num_batches_tracked$/],
};

export const monet: Architecture = {
  name: "monet",
  ggufName: "monet",
  hasNoGguf: true,
  keys: ["attention_bias", "moe_dim", "moe_heads", "moe_experts", "moe_topk", "moe_groups", "moe_decompose"],
  ggufKeys: [],

  fromHuggingFace(f, generation): ModelConfig {
    refuseForeignSettings(f, "fp8", "relu2");
    const { sizes } = sizesOfHuggingFace(f, generation, "half", { theta: 10000, normEps: 1e-6 });
    const form = f.string("moe_decompose", "vertical");
    if (form !== "vertical" && form !== "horizontal") throw f.error("moe_decompose", `"vertical" or "horizontal"`);
    return freezeConfig(f.file, {
      ...PLAIN,
      ...sizes,
      ...attentionBiases(f),
      ...NO_EXPERTS,
      architecture: "monet",
      nKvHeads: f.integer("num_key_value_heads", 1, sizes.nHeads),
      slidingWindows: everyLayer(sizes.nLayers, 0),
      layerFfns: everyLayer(sizes.nLayers, "product"),
      productExperts: {
        form, nKeys: f.integer("moe_experts", 1, 512), nHeads: f.integer("moe_heads", 1, 8), topK: f.integer("moe_topk", 1, 32), expertSize: f.integer("moe_dim", 1, 8),
        routerLayers: f.integer("moe_groups", 1, 4),
      },
    });
  },

  fromGguf(f): ModelConfig {
    throw new ModelError(`${f.file} has general.architecture = "monet", of which no GGUF files are known; a Hugging Face folder was expected.`);
  },

  huggingFace: NAMES,
  gguf: NAMES,
};
