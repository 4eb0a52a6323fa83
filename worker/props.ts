// GET /props: what a client of llama.cpp's server asks before it begins: context, defaults of sampling, template, special tokens. Refuses to set any:
// a deployment's properties are its pack and its variables.

import { LIMITS } from "../durable/limits.ts";
import type { EdgePack } from "./pack.ts";
import { sampling } from "./schemas.ts";

/** Defaults of the sampling parameters, from the schemas that fill them in. */
const DEFAULTS = Object.fromEntries(Object.entries(sampling).flatMap(([name, schema]) => {
  const { default: value } = schema.meta() ?? {};
  return value === undefined ? [] : [[name, value]];
}));

export const propsReply = ({ id, contextLength, chatTemplate, bosToken, eosToken }: EdgePack, nOrchestrators: number): object => ({
  default_generation_settings: { n_ctx: contextLength, params: DEFAULTS },
  total_slots: LIMITS.activeGenerations * nOrchestrators, model_alias: id, chat_template: chatTemplate, bos_token: bosToken, eos_token: eosToken,
  modalities: { vision: false, audio: false },
});
