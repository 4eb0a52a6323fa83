// Opens a Hugging Face folder as a Checkpoint: config.json, generation_config.json, tokenizer.json, tokenizer_config.json,
// chat_template.jinja and the safetensors. Owns which file says what: end-of-text ids come from all three places that name
// them, since published models disagree with themselves. A folder without tokenizer.json gets one built (tokenizer-files.ts).

import { ConfigFields } from "../model/architectures/config-fields.ts";
import { ascendingIds } from "../model/architectures/common.ts";
import { unknownKeys } from "../model/architectures/config-keys.ts";
import { ARCHITECTURES, architectureOfHuggingFace } from "../model/architectures/index.ts";
import type { ModelConfig } from "../model/config.ts";
import { type ByteSource, SourceError } from "./byte-source.ts";
import { Checkpoint, type TokenizerFiles } from "./checkpoint.ts";
import { FORMAT_LIMITS } from "./limits.ts";
import { parseJson, parseJsonObject, readFileOrNull, sha256Hex } from "./read-bytes.ts";
import { readSafetensorsFolder } from "./safetensors.ts";
import { tokenizerBytes } from "./tokenizer-document.ts";
import { buildTokenizer } from "./tokenizer-files.ts";
import { tokenIds } from "./tokenizer-json.ts";
import { withPrunedMerges } from "./tokenizer-merges.ts";

/** Reads config, headers and tokenizer of the folder behind `source`. `name` goes into manifests. */
export async function openHuggingFace(source: ByteSource, name: string): Promise<Checkpoint> {
  const read = (file: string) => readFileOrNull(source, file, FORMAT_LIMITS.jsonBytes);
  const configBytes = await read("config.json");
  if (configBytes === null) throw new SourceError(`${source.description} has no config.json, expected a Hugging Face model folder.`);
  const fields = new ConfigFields(`${source.description}, config.json`, parseJson(source, "config.json", configBytes));
  const generationBytes = await read("generation_config.json");
  const generation = generationBytes === null ? null
    : new ConfigFields(`${source.description}, generation_config.json`, parseJson(source, "generation_config.json", generationBytes));
  const architecture = architectureOfHuggingFace(fields);
  const base = architecture.fromHuggingFace(fields, generation);
  const warnings: string[] = [];
  const unknown = unknownKeys(fields, ARCHITECTURES);
  if (unknown.length > 0) warnings.push(`config.json has keys that this version does not know and passes over: ${unknown.join(", ")}.`);
  const { tokenizer, config } = await readTokenizer(source, base, warnings);
  return new Checkpoint({
    kind: "huggingface", name, sha256: await sha256Hex(configBytes), config, names: architecture.huggingFace, tokenizer, source,
    tensors: await readSafetensorsFolder(source), warnings,
  });
}

/** Tokenizer and end-of-text tokens of the folder: tokenizer.json, or what is built in its place, with tokenizer_config.json and the template. */
export async function readTokenizer(source: ByteSource, config: ModelConfig, warnings: string[]): Promise<{ tokenizer: TokenizerFiles | null; config: ModelConfig }> {
  const settingsBytes = await readFileOrNull(source, "tokenizer_config.json", FORMAT_LIMITS.jsonBytes);
  const settings = settingsBytes === null ? {} : parseJsonObject(source, "tokenizer_config.json", settingsBytes);
  const published = await readFileOrNull(source, "tokenizer.json", FORMAT_LIMITS.tokenizerBytes);
  const built = published === null ? await buildTokenizer(source, settings) : null;
  const found = published ?? built?.json ?? null;
  if (found === null) {
    warnings.push("There is no tokenizer.json, tokenizer.model, *.tiktoken or vocab.json with merges.txt: the model can be run on token ids only.");
    return { tokenizer: null, config };
  }
  const file = built?.file ?? "tokenizer.json";
  const document = parseJson(source, file, found);
  const ids = tokenIds(source, file, document);
  const pruned = built === null ? withPrunedMerges(document) : null;
  if (ids.largest >= config.vocabSize) {
    throw new SourceError(`${source.description}, ${file} has ids up to ${ids.largest}, but the model's vocabulary has ${config.vocabSize}.`);
  }
  const templateBytes = await readFileOrNull(source, "chat_template.jinja", FORMAT_LIMITS.jsonBytes);
  const bosToken = tokenText(settings.bos_token);
  const eosToken = tokenText(settings.eos_token);
  const bosId = bosToken === null ? null : (ids.idOf(bosToken) ?? null);
  const addBos = bosId !== null && (typeof settings.add_bos_token === "boolean" ? settings.add_bos_token : built?.addBos ?? ids.startsWith === bosToken);
  const eosId = eosToken === null ? undefined : ids.idOf(eosToken);
  if (eosToken !== null && eosId === undefined) warnings.push(`tokenizer_config.json names eos_token ${eosToken}, which ${file} does not have.`);
  const eosTokenIds = ascendingIds(config.eosTokenIds, eosId === undefined ? [] : [eosId]);
  if (eosTokenIds.length === 0) warnings.push("No file names an end-of-text token: generations end only by length.");
  return {
    tokenizer: {
      json: pruned === null ? found : tokenizerBytes(pruned), kind: built?.kind ?? ids.kind, bosToken, eosToken, addBos,
      chatTemplate: templateBytes !== null ? new TextDecoder().decode(templateBytes) : chatTemplate(settings.chat_template),
    },
    config: Object.freeze({ ...config, eosTokenIds: Object.freeze(eosTokenIds), bosTokenId: addBos ? bosId : null }),
  };
}

/** Token settings are a string or an AddedToken object. */
function tokenText(setting: unknown): string | null {
  if (typeof setting === "string") return setting;
  const content = (setting as { content?: unknown } | null | undefined)?.content;
  return typeof content === "string" ? content : null;
}

/** One template, or a list of named ones, of which "default" counts. */
function chatTemplate(setting: unknown): string | null {
  if (typeof setting === "string") return setting;
  if (!Array.isArray(setting)) return null;
  const named = setting as ({ name?: unknown; template?: unknown } | null)[];
  const template = (named.find((t) => t?.name === "default") ?? named[0])?.template;
  return typeof template === "string" ? template : null;
}
