// A real tokenizer of 97 tokens: byte-level BPE without merges over the printable ASCII characters, and two control
// tokens. Small enough for tiny models, complete enough for tokenizer.json and for GGUF metadata.
// Refuses other characters: they have no token.

export const END_OF_TEXT = "<|endoftext|>";
export const PADDING = "<|padding|>";

/** Tokens in order of id. The byte-level alphabet writes a space as U+0120. */
export const TINY_TOKENS: readonly string[] = [
  END_OF_TEXT,
  PADDING,
  "\u0120",
  ...Array.from({ length: 94 }, (_, i) => String.fromCharCode(33 + i)),
];

const control = (id: number, content: string) =>
  ({ id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: true });

/** tokenizer.json; tokens beyond the 97 are filled up with reserved control tokens, or cut. */
export function tinyTokenizerJson(vocabSize: number): object {
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: [control(0, END_OF_TEXT), control(1, PADDING)],
    normalizer: null,
    pre_tokenizer: { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true },
    post_processor: null,
    decoder: { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: {
      type: "BPE", dropout: null, unk_token: null, continuing_subword_prefix: null, end_of_word_suffix: null,
      fuse_unk: false, byte_fallback: false, ignore_merges: false,
      vocab: Object.fromEntries(tinyTokens(vocabSize).map((t, id) => [t, id])),
      merges: [],
    },
  };
}

export const tinyTokens = (vocabSize: number): string[] =>
  Array.from({ length: vocabSize }, (_, id) => TINY_TOKENS[id] ?? `<|reserved_${id}|>`);

export const TINY_CHAT_TEMPLATE =
  "{% for m in messages %}<{{ m.role }}> {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<assistant> {% endif %}";
