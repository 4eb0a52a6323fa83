// A tiny gpt-oss that replies in channels: Harmony's control tokens at the end of its vocabulary, a template that ends with <|start|>assistant, and tokens for
// two bytes that no text has. Owns the files. Refuses sense: weights are random.

import { BYTE_ALPHABET } from "../../model/byte-alphabet.ts";
import { tinyModel } from "./tiny-models.ts";

export const HARMONY_TOKENS = ["<|start|>", "<|channel|>", "<|message|>", "<|constrain|>", "<|end|>", "<|return|>", "<|call|>"] as const;
const FIRST_ID = 97;
/** Ordinary tokens of bytes that stand in no UTF-8. */
export const NO_TEXT_IDS = [FIRST_ID + HARMONY_TOKENS.length, FIRST_ID + HARMONY_TOKENS.length + 1] as const;
const VOCAB_SIZE = 108;

export const harmonyId = (token: (typeof HARMONY_TOKENS)[number]): number => FIRST_ID + HARMONY_TOKENS.indexOf(token);

const TEMPLATE = "{% for m in messages %}<|start|>{{ m.role }}{% if m.role == 'assistant' %}<|channel|>final{% endif %}<|message|>{{ m.content }}<|end|>{% endfor %}" +
  "{% if tools %}<|start|>developer<|message|>{{ tools | tojson }}<|end|>{% endif %}<|start|>assistant";

/** The model's Hugging Face folder, for contexts of `contextLength`. */
export function tinyHarmonyFiles(contextLength: number): Map<string, Uint8Array> {
  const files = tinyModel("gpt_oss", 12, { config: { vocab_size: VOCAB_SIZE, max_position_embeddings: contextLength, eos_token_id: [harmonyId("<|return|>"), harmonyId("<|call|>")] } }).huggingFaceFiles();
  const edit = (name: string, change: (json: Record<string, unknown>) => object): void => {
    files.set(name, new TextEncoder().encode(JSON.stringify(change(JSON.parse(new TextDecoder().decode(files.get(name))) as Record<string, unknown>))));
  };
  files.delete("generation_config.json");
  edit("tokenizer_config.json", (settings) => ({ ...settings, eos_token: "<|return|>", chat_template: TEMPLATE }));
  edit("tokenizer.json", (document) => {
    const { model, added_tokens: added } = document as { model: { vocab: Record<string, number> }; added_tokens: object[] };
    const vocab = Object.fromEntries(Object.entries(model.vocab).filter(([, id]) => id < FIRST_ID || id > NO_TEXT_IDS[1]));
    NO_TEXT_IDS.forEach((id, i) => { vocab[BYTE_ALPHABET[0xf8 + 7 * i]!] = id; });
    const control = HARMONY_TOKENS.map((content) => ({ ...added[0]!, id: harmonyId(content), content }));
    return { ...document, added_tokens: [...added, ...control], model: { ...model, vocab } };
  });
  return files;
}
