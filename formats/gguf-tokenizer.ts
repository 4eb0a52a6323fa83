// Builds a tokenizer.json from GGUF metadata, for the two kinds of tokenizers the supported architectures use: byte-level BPE
// ("gpt2") and SentencePiece BPE with byte fallback ("llama"). Owns the meaning of GGUF's tokenizer keys and their defaults.
// Refuses other kinds and unknown pre-tokenizers by name. Source: llama.cpp src/llama-vocab.cpp.

import type { ConfigFields } from "../model/architectures/config-fields.ts";
import { ModelError } from "../model/config.ts";
import type { TokenizerFiles } from "./checkpoint.ts";
import { preTokenizer } from "./pre-tokenizers.ts";
import { TOKEN_TYPES, type Vocabulary, byteLevelDocument, sentencePieceDocument, tokenizerBytes } from "./tokenizer-document.ts";

export interface GgufTokenizer {
  readonly tokenizer: TokenizerFiles | null;
  /** Prepended to prompts; null where the file says not to. */
  readonly bosTokenId: number | null;
  /** Control tokens that end a text or a turn, besides those the file names as such: GGUF has no list of them, as generation_config.json has. */
  readonly endTokenIds: readonly number[];
  readonly warnings: readonly string[];
}

/**
 * The file's `general.architecture`s whose role tokens swallow the white space after them, and the control tokens that do not. GGUF has no key for it:
 * llama.cpp goes by the model's name, the tokenizer.json of Phi-3 and Phi-3.5-MoE says `rstrip` for each of these tokens.
 */
const RSTRIP: Readonly<Record<string, ReadonlySet<string>>> = Object.fromEntries(
  ["phi3", "phimoe"].map((architecture) => [architecture, new Set(["<unk>", "<s>", "<|endoftext|>"])]),
);

/** Texts of control tokens that end a generation, as llama.cpp knows them. In Harmony <|end|> ends one message of several. */
const ENDS = new Set([
  "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<end_of_turn>", "<|endoftext|>", "<|eom_id|>", "<EOT>", "<|end_of_text|>", "<｜end▁of▁sentence｜>",
]);
const HARMONY_ENDS = ["<|return|>", "<|call|>"];

function endTokens({ tokens, types }: Vocabulary): number[] {
  const found = tokens.flatMap((token, id) => (types[id] === TOKEN_TYPES.control && ENDS.has(token) ? [id] : []));
  const isHarmony = HARMONY_ENDS.every((end) => found.some((id) => tokens[id] === end));
  return isHarmony ? found.filter((id) => tokens[id] !== "<|end|>") : found;
}

/** The tokenizer, or null where the metadata has none. Throws ModelError naming kind or pre-tokenizer it cannot build. */
export function tokenizerOfGguf(f: ConfigFields): GgufTokenizer {
  const kind = f.string("tokenizer.ggml.model", "none");
  if (kind === "none" || kind === "no_vocab") {
    return { tokenizer: null, bosTokenId: null, endTokenIds: [], warnings: ["The file has no tokenizer: the model can be run on token ids only."] };
  }
  if (kind !== "gpt2" && kind !== "llama") {
    throw new ModelError(`${f.file} has tokenizer.ggml.model = "${kind}", which this version cannot build; expected "gpt2" or "llama".`);
  }
  const vocabulary = vocabularyOf(f);
  const tokenOf = (key: string): { id: number; token: string } | null => {
    if (!f.has(key)) return null;
    const id = f.integer(key, 0);
    if (id >= vocabulary.tokens.length) throw new ModelError(`${f.file} has ${key} = ${id}, but there are ${vocabulary.tokens.length} tokens.`);
    return { id, token: vocabulary.tokens[id]! };
  };
  const bos = tokenOf("tokenizer.ggml.bos_token_id");
  const eos = tokenOf("tokenizer.ggml.eos_token_id");
  const preName = f.string("tokenizer.ggml.pre", "gpt-2");
  const pre = kind === "gpt2" ? preTokenizer(preName, `${f.file} has tokenizer.ggml.pre`) : null;
  // llama.cpp's default: SentencePiece models begin with BOS, byte-level ones where their family does.
  const addBos = bos !== null && f.boolean("tokenizer.ggml.add_bos_token", pre === null || pre.addBos);
  const document = pre === null ? sentencePiece(f, vocabulary) : byteLevelDocument(vocabulary, mergesOf(f), pre);
  return {
    tokenizer: {
      json: tokenizerBytes(document),
      kind: pre === null ? "SentencePiece BPE" : `byte-level BPE (${preName})`,
      chatTemplate: f.has("tokenizer.chat_template") ? f.string("tokenizer.chat_template") : null,
      bosToken: bos?.token ?? null, eosToken: eos?.token ?? null, addBos,
    },
    bosTokenId: addBos ? bos.id : null,
    endTokenIds: endTokens(vocabulary),
    warnings: pre !== null && !f.has("tokenizer.ggml.pre") ? ["The file does not name its pre-tokenizer (tokenizer.ggml.pre): GPT-2's is used."] : [],
  };
}

function vocabularyOf(f: ConfigFields): Vocabulary {
  // Some files pad the vocabulary with empty tokens; each gets a name of its own, as in llama.cpp.
  const tokens = (list(f, "tokenizer.ggml.tokens", "string") as string[]).map((token, id) => (token === "" ? `[EMPTY_${id}]` : token));
  const types = f.has("tokenizer.ggml.token_type") ? (list(f, "tokenizer.ggml.token_type", "number") as number[]) : tokens.map(() => TOKEN_TYPES.normal as number);
  if (types.length !== tokens.length) throw new ModelError(`${f.file} has ${types.length} entries in tokenizer.ggml.token_type for ${tokens.length} tokens.`);
  const keepsSpace = RSTRIP[f.string("general.architecture", "")];
  const rstrip = new Set(keepsSpace === undefined ? [] : tokens.flatMap((token, id) => (types[id] === TOKEN_TYPES.control && !keepsSpace.has(token) ? [id] : [])));
  return { tokens, types, rstrip, where: `${f.file}, tokenizer.ggml.tokens` };
}

function mergesOf(f: ConfigFields): [string, string][] {
  return (list(f, "tokenizer.ggml.merges", "string") as string[]).map((merge) => {
    // A piece may itself start with a space only in broken files; the first space after one character divides.
    const at = merge.indexOf(" ", 1);
    if (at < 0) throw new ModelError(`${f.file} has the merge ${JSON.stringify(merge)}, expected two pieces with a space between.`);
    return [merge.slice(0, at), merge.slice(at + 1)];
  });
}

function sentencePiece(f: ConfigFields, v: Vocabulary): object {
  const scores = list(f, "tokenizer.ggml.scores", "number") as number[];
  if (scores.length !== v.tokens.length) throw new ModelError(`${f.file} has ${scores.length} scores for ${v.tokens.length} tokens.`);
  const unknownId = f.has("tokenizer.ggml.unknown_token_id") ? f.integer("tokenizer.ggml.unknown_token_id", 0) : v.types.indexOf(TOKEN_TYPES.unknown);
  if (unknownId >= v.tokens.length) throw new ModelError(`${f.file} has tokenizer.ggml.unknown_token_id = ${unknownId}, but there are ${v.tokens.length} tokens.`);
  return sentencePieceDocument(v, {
    scores, unknownId: unknownId < 0 ? null : unknownId, byteFallback: true,
    spacePrefix: f.boolean("tokenizer.ggml.add_space_prefix", true) ? "each" : "none",
  });
}

function list(f: ConfigFields, key: string, of: "string" | "number"): unknown[] {
  const value = f.values[key];
  if (!Array.isArray(value) || value.some((v) => typeof v !== of)) throw f.error(key, `a list of ${of}s`);
  return value as unknown[];
}
