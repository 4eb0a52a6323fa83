// The pack this Worker serves, as the edge needs it: manifest and tokenizer, read once per isolate through the same byte source as the shards.
// Owns what /v1/models says. Refuses weights.

import { packSource, type PackEnv } from "../durable/byte-sources.ts";
import { currentPack } from "../durable/opened-packs.ts";
import { readTokenizerJson } from "../formats/pack-reader.ts";
import { ROUTING_MAP_FILE } from "../formats/routing-map.ts";
import { type ModelConfig, moeLayersOf } from "../model/config.ts";
import { interventionOps } from "../model/interventions.ts";
import { pruningKinds } from "../model/online-pruning-rule.ts";
import { replyFormat, type ReplyFormat } from "../model/reply-parser.ts";
import { createTokenizer, type Tokenizer } from "../model/tokenizer.ts";
import { RequestError } from "./errors.ts";
import type { ModelObject } from "./wire-types.ts";

export interface EdgePack {
  readonly id: string;
  readonly hash: string;
  readonly config: ModelConfig;
  readonly contextLength: number;
  readonly tokenizer: Tokenizer;
  readonly chatTemplate: string | null;
  /** How chat replies are read; null without a template. */
  readonly replyFormat: ReplyFormat | null;
  readonly bosToken: string | null;
  readonly eosToken: string | null;
  readonly addBos: boolean;
  /** Whether a routing map lay beside it when it was read; it is not read for that. */
  readonly hasRoutingMap: boolean;
}

/** Only values are kept, never promises: one request must not wait for input of another (a rule of the platform). */
const packs = new Map<string, EdgePack>();

export async function edgePack(env: PackEnv): Promise<EdgePack> {
  const key = `${env.PACK_SOURCE} ${env.PACK_ID}`;
  const kept = packs.get(key);
  if (kept !== undefined) return kept;
  const pack = await readPack(env);
  packs.set(key, pack);
  return pack;
}

async function readPack(env: PackEnv): Promise<EdgePack> {
  const source = packSource(env);
  const { manifest, packHash } = await currentPack(env);
  if (manifest.id !== env.PACK_ID) {
    throw new RequestError({ status: 503, code: "pack_mismatch", message: `${source.description} holds the pack "${manifest.id}"; the variable PACK_ID says "${env.PACK_ID}".` });
  }
  if (manifest.tokenizer === null) {
    throw new RequestError({ status: 503, code: "pack_without_tokenizer", message: `The pack "${manifest.id}" holds no tokenizer, which the API needs; expected a pack made from a folder with tokenizer.json.` });
  }
  const { chatTemplate, bosToken, eosToken, addBos } = manifest.tokenizer;
  const tokenizer = createTokenizer(await readTokenizerJson(source, manifest));
  return {
    id: manifest.id, hash: packHash, config: manifest.config, contextLength: manifest.contextLength,
    tokenizer, chatTemplate, replyFormat: chatTemplate === null ? null : replyFormat(tokenizer, chatTemplate), bosToken, eosToken, addBos,
    // Nobody waits in vain for a model because of a picture of it.
    hasRoutingMap: await source.size(ROUTING_MAP_FILE).then((bytes) => bytes !== null, () => false),
  };
}

export function modelObject(pack: EdgePack): ModelObject {
  const { config } = pack;
  return {
    // OpenAI's field; a pack carries no date, and a made-up one would change with every isolate.
    id: pack.id, object: "model", created: 0, owned_by: "workers-moe",
    moe: {
      architecture: config.architecture, context_length: pack.contextLength, vocabulary: config.vocabSize,
      experts: config.nExperts, experts_per_token: config.router.topK,
      moe_layers: moeLayersOf(config),
      ...(config.productExperts === undefined ? {} : { product_experts: { layers: config.layerFfns.flatMap((kind, layer) => (kind === "product" ? [layer] : [])), experts: config.productExperts.nKeys ** 2 } }),
      prune: pruningKinds(config), interventions: interventionOps(config),
      ...(config.router.gate?.kind === "tasks" ? { tasks: config.router.gate.nTasks } : {}), ...(config.router.scope?.kind === "condition" ? { condition_numbers: config.router.scope.size } : {}),
      chat: pack.chatTemplate !== null, routing_map: pack.hasRoutingMap, pack_hash: pack.hash,
    },
  };
}
