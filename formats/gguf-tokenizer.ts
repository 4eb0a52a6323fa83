// Builds a tokenizer.json from GGUF metadata, for the two kinds of tokenizers the supported architectures use: byte-level BPE
// ("gpt2") and SentencePiece BPE with byte fallback ("llama"). Owns the mapping of llama.cpp's settings to those of the
// tokenizers library. Refuses other kinds and unknown pre-tokenizers by name: a near guess would tokenise nearly right.
// Sources: llama.cpp src/llama-vocab.cpp (regexes, token types), transformers' convert_slow_tokenizer (LlamaConverter).

import type { ConfigFields } from "../model/architectures/config-fields.ts";
import { ModelError } from "../model/config.ts";
import type { TokenizerFiles } from "./checkpoint.ts";

/** tokenizer.ggml.token_type. */
const TOKEN_TYPES = { unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const;

const GPT2 = String.raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`;
const QWEN2 = String.raw`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`;

/** Pre-tokenizers by tokenizer.ggml.pre: regexes applied one after the other, and whether text is NFC-normalised first. */
const PRE_TOKENIZERS: Readonly<Record<string, { readonly regexes: readonly string[]; readonly nfc: boolean }>> = {
  "gpt-2": { regexes: [GPT2], nfc: false },
  olmo: { regexes: [GPT2], nfc: true },
  qwen2: { regexes: [QWEN2], nfc: true },
  refact: { regexes: [String.raw`\p{N}`, GPT2], nfc: false },
  starcoder: { regexes: [String.raw`\p{N}`, GPT2], nfc: false },
};

export interface GgufTokenizer {
  readonly tokenizer: TokenizerFiles | null;
  /** Prepended to prompts; null where the file says not to. */
  readonly bosTokenId: number | null;
  readonly warnings: readonly string[];
}

interface Vocabulary {
  readonly tokens: readonly string[];
  readonly types: readonly number[];
}

/** The tokenizer, or null where the metadata has none. Throws ModelError naming kind or pre-tokenizer it cannot build. */
export function tokenizerOfGguf(f: ConfigFields): GgufTokenizer {
  const kind = f.string("tokenizer.ggml.model", "none");
  if (kind === "none" || kind === "no_vocab") {
    return { tokenizer: null, bosTokenId: null, warnings: ["The file has no tokenizer: the model can be run on token ids only."] };
  }
  if (kind !== "gpt2" && kind !== "llama") {
    throw new ModelError(`${f.file} has tokenizer.ggml.model = "${kind}", which this version cannot build; expected "gpt2" or "llama".`);
  }
  const tokens = list(f, "tokenizer.ggml.tokens", "string") as string[];
  const types = f.has("tokenizer.ggml.token_type") ? (list(f, "tokenizer.ggml.token_type", "number") as number[]) : tokens.map(() => 1);
  if (types.length !== tokens.length) throw new ModelError(`${f.file} has ${types.length} entries in tokenizer.ggml.token_type for ${tokens.length} tokens.`);
  const vocabulary = { tokens, types };
  const tokenOf = (key: string): { id: number; token: string } | null => {
    if (!f.has(key)) return null;
    const id = f.integer(key, 0);
    if (id >= tokens.length) throw new ModelError(`${f.file} has ${key} = ${id}, but there are ${tokens.length} tokens.`);
    return { id, token: tokens[id]! };
  };
  const bos = tokenOf("tokenizer.ggml.bos_token_id");
  const eos = tokenOf("tokenizer.ggml.eos_token_id");
  // llama.cpp's default: SentencePiece models begin with BOS, byte-level ones do not.
  const addBos = bos !== null && f.boolean("tokenizer.ggml.add_bos_token", kind === "llama");
  const pre = f.string("tokenizer.ggml.pre", "gpt-2");
  const document = kind === "gpt2" ? byteLevel(f, pre, vocabulary) : sentencePiece(f, vocabulary);
  return {
    tokenizer: {
      json: new TextEncoder().encode(JSON.stringify(document)).slice(),
      kind: kind === "gpt2" ? `byte-level BPE (${pre})` : "SentencePiece BPE",
      chatTemplate: f.has("tokenizer.chat_template") ? f.string("tokenizer.chat_template") : null,
      bosToken: bos?.token ?? null, eosToken: eos?.token ?? null, addBos,
    },
    bosTokenId: addBos ? bos.id : null,
    warnings: kind === "gpt2" && !f.has("tokenizer.ggml.pre") ? ["The file does not name its pre-tokenizer (tokenizer.ggml.pre): GPT-2's is used."] : [],
  };
}

function byteLevel(f: ConfigFields, pre: string, v: Vocabulary): object {
  const rules = PRE_TOKENIZERS[pre];
  if (!rules) {
    throw new ModelError(`${f.file} has tokenizer.ggml.pre = "${pre}", which this version does not know; expected one of ${Object.keys(PRE_TOKENIZERS).join(", ")}.`);
  }
  const split = (regex: string) => ({ type: "Split", pattern: { Regex: regex }, behavior: "Isolated", invert: false });
  return {
    version: "1.0", truncation: null, padding: null,
    added_tokens: addedTokens(v, [TOKEN_TYPES.control, TOKEN_TYPES.userDefined]),
    normalizer: rules.nfc ? { type: "NFC" } : null,
    pre_tokenizer: {
      type: "Sequence",
      pretokenizers: [...rules.regexes.map(split), { type: "ByteLevel", add_prefix_space: false, trim_offsets: false, use_regex: false }],
    },
    post_processor: null,
    decoder: { type: "ByteLevel", add_prefix_space: false, trim_offsets: false, use_regex: false },
    model: {
      type: "BPE", dropout: null, unk_token: null, continuing_subword_prefix: null, end_of_word_suffix: null,
      fuse_unk: false, byte_fallback: false, ignore_merges: false,
      vocab: vocabOf(v), merges: mergesOf(f),
    },
  };
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
  const unknown = f.has("tokenizer.ggml.unknown_token_id") ? f.integer("tokenizer.ggml.unknown_token_id", 0) : v.types.indexOf(TOKEN_TYPES.unknown);
  const prefix = f.boolean("tokenizer.ggml.add_space_prefix", true);
  const space = "\u2581";
  return {
    version: "1.0", truncation: null, padding: null,
    added_tokens: addedTokens(v, [TOKEN_TYPES.control, TOKEN_TYPES.userDefined, TOKEN_TYPES.unknown]),
    normalizer: {
      type: "Sequence",
      normalizers: [...(prefix ? [{ type: "Prepend", prepend: space }] : []), { type: "Replace", pattern: { String: " " }, content: space }],
    },
    pre_tokenizer: null,
    post_processor: null,
    decoder: {
      type: "Sequence",
      decoders: [
        { type: "Replace", pattern: { String: space }, content: " " }, { type: "ByteFallback" }, { type: "Fuse" },
        ...(prefix ? [{ type: "Strip", content: " ", start: 1, stop: 0 }] : []),
      ],
    },
    model: {
      type: "BPE", dropout: null, unk_token: v.tokens[unknown] ?? null, continuing_subword_prefix: null, end_of_word_suffix: null,
      fuse_unk: true, byte_fallback: true, ignore_merges: false,
      vocab: vocabOf(v), merges: mergesFromScores(v, scores),
    },
  };
}

/**
 * The merges a SentencePiece BPE vocabulary stands for: every way to split a piece into two pieces, in the order in which
 * SentencePiece would join them (higher score first, then the lower ids of the parts).
 */
function mergesFromScores(v: Vocabulary, scores: readonly number[]): [string, string][] {
  const ids = new Map<string, number>();
  v.tokens.forEach((token, id) => {
    if (v.types[id] === 1 || v.types[id] === TOKEN_TYPES.userDefined) ids.set(token, id);
  });
  const merges: { left: string; right: string; score: number; leftId: number; rightId: number }[] = [];
  for (const [piece, id] of ids) {
    const characters = Array.from(piece);
    for (let n = 1; n < characters.length; n++) {
      const left = characters.slice(0, n).join("");
      const right = characters.slice(n).join("");
      const leftId = ids.get(left);
      const rightId = ids.get(right);
      if (leftId !== undefined && rightId !== undefined) merges.push({ left, right, score: scores[id]!, leftId, rightId });
    }
  }
  merges.sort((a, b) => b.score - a.score || a.leftId - b.leftId || a.rightId - b.rightId);
  return merges.map((m) => [m.left, m.right]);
}

const vocabOf = (v: Vocabulary): Record<string, number> => Object.fromEntries(v.tokens.map((token, id) => [token, id]));

/** Tokens that are found in text as wholes. Control tokens are special: decoding leaves them out. */
function addedTokens(v: Vocabulary, types: readonly number[]): object[] {
  return v.tokens.flatMap((content, id) => types.includes(v.types[id]!) && content !== ""
    ? [{ id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: v.types[id] !== TOKEN_TYPES.userDefined }]
    : []);
}

function list(f: ConfigFields, key: string, of: "string" | "number"): unknown[] {
  const value = f.values[key];
  if (!Array.isArray(value) || value.some((v) => typeof v !== of)) throw f.error(key, `a list of ${of}s`);
  return value as unknown[];
}
