// A tiny model that can be talked with in every way: its template takes tools and thinking, marks calls as <tool_call>, and its vocabulary has a line
// feed where the tiny one has a tilde. Owns the files. Refuses sense: weights are random.

import { tinyModel } from "./tiny-models.ts";

export const TINY_TOOL_TEMPLATE =
  "{% for m in messages %}<{{ m.role }}> {{ m.content }}{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}\n{% endfor %}" +
  "{% if tools %}{{ tools | tojson }}{% endif %}<assistant>{% if enable_thinking %}<think>{% endif %}{# thoughts end with </think> #}";

/** The model's Hugging Face folder, for contexts of `contextLength`. It has no end token: a reply ends where it is told to, or where a format does. */
export function tinyChatFiles(contextLength: number): Map<string, Uint8Array> {
  const files = tinyModel("qwen3_moe", 11, { config: { max_position_embeddings: contextLength, eos_token_id: [] } }).huggingFaceFiles();
  const edit = (name: string, change: (json: Record<string, unknown>) => object): void => {
    files.set(name, new TextEncoder().encode(JSON.stringify(change(JSON.parse(new TextDecoder().decode(files.get(name))) as Record<string, unknown>))));
  };
  files.delete("generation_config.json");
  edit("tokenizer_config.json", (settings) => ({ ...settings, eos_token: null, chat_template: TINY_TOOL_TEMPLATE }));
  edit("tokenizer.json", (document) => {
    const { model } = document as { model: { vocab: Record<string, number> } };
    const { "~": tilde, ...vocab } = model.vocab;
    return { ...document, model: { ...model, vocab: { ...vocab, "\u010a": tilde! } } };
  });
  return files;
}
