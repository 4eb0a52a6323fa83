// Builds the tokenizer.json documents of the tokenizers library for the two kinds that MoE families use: byte-level BPE, and
// SentencePiece BPE with byte fallback. Owns how a vocabulary with token types and scores becomes tokens, added tokens and merges.
// Refuses vocabularies with a token twice. Sources: llama.cpp src/llama-vocab.cpp (token types), SentencePiece's bpe_model.cc
// (order of merges, unused pieces), transformers' convert_slow_tokenizer.py (LlamaConverter, normalisers and decoders).

import { ModelError } from "../model/config.ts";
import { prunedMerges, writtenMerges } from "./tokenizer-merges.ts";
import type { PreTokenizer } from "./pre-tokenizers.ts";

/** Types of tokens, with the numbers of SentencePiece's ModelProto, which GGUF took over. */
export const TOKEN_TYPES = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const;

export interface Vocabulary {
  /** By id. */
  readonly tokens: readonly string[];
  readonly types: readonly number[];
  /** Words for error messages: file and key. */
  readonly where: string;
  /** Ids of tokens that swallow the white space that follows them, as Phi-3's role tokens do. */
  readonly rstrip?: ReadonlySet<number>;
}

export interface SentencePieceSettings {
  readonly scores: readonly number[];
  /** Id for what has no token; null where there is none. */
  readonly unknownId: number | null;
  readonly byteFallback: boolean;
  /** Where texts get a space in front: nowhere, each run of text between added tokens (transformers' legacy, llama.cpp), or the beginning only. */
  readonly spacePrefix: "none" | "each" | "first";
}

export const tokenizerBytes = (document: object): Uint8Array<ArrayBuffer> => new TextEncoder().encode(JSON.stringify(document)).slice();

/** `merges` in order of rank, pieces in GPT-2's byte alphabet as the tokens. */
export function byteLevelDocument(v: Vocabulary, merges: readonly (readonly [string, string])[], pre: PreTokenizer): object {
  const split = (regex: string) => ({ type: "Split", pattern: { Regex: regex }, behavior: "Isolated", invert: false });
  const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: false, use_regex: false };
  return {
    version: "1.0", truncation: null, padding: null,
    added_tokens: addedTokens(v, [TOKEN_TYPES.control, TOKEN_TYPES.userDefined]),
    normalizer: pre.nfc ? { type: "NFC" } : null,
    pre_tokenizer: { type: "Sequence", pretokenizers: [...pre.regexes.map(split), byteLevel] },
    post_processor: null,
    decoder: byteLevel,
    model: {
      type: "BPE", dropout: null, unk_token: null, continuing_subword_prefix: null, end_of_word_suffix: null,
      fuse_unk: false, byte_fallback: false, ignore_merges: pre.wholePieces, vocab: vocabOf(v), merges: writtenMerges(prunedMerges(merges)),
    },
  };
}

export function sentencePieceDocument(v: Vocabulary, { scores, unknownId, byteFallback, spacePrefix }: SentencePieceSettings): object {
  const space = "\u2581";
  const toSpaces = { type: "Replace", pattern: { String: space }, content: " " };
  const toMarks = { type: "Replace", pattern: { String: " " }, content: space };
  return {
    version: "1.0", truncation: null, padding: null,
    added_tokens: addedTokens(v, [TOKEN_TYPES.control, TOKEN_TYPES.userDefined, TOKEN_TYPES.unknown]),
    normalizer: { type: "Sequence", normalizers: [...(spacePrefix === "each" ? [{ type: "Prepend", prepend: space }] : []), toMarks] },
    pre_tokenizer: spacePrefix === "first" ? { type: "Metaspace", replacement: space, prepend_scheme: "first", split: false } : null,
    post_processor: null,
    decoder: {
      type: "Sequence",
      decoders: [toSpaces, ...(byteFallback ? [{ type: "ByteFallback" }] : []), { type: "Fuse" }, ...(spacePrefix === "none" ? [] : [{ type: "Strip", content: " ", start: 1, stop: 0 }])],
    },
    model: {
      type: "BPE", dropout: null, unk_token: unknownId === null ? null : v.tokens[unknownId]!, continuing_subword_prefix: null, end_of_word_suffix: null,
      fuse_unk: true, byte_fallback: byteFallback, ignore_merges: false, vocab: vocabOf(v), merges: writtenMerges(prunedMerges(mergesFromScores(v, scores))),
    },
  };
}

/**
 * The merges a SentencePiece BPE vocabulary stands for: every way to split a piece into two pieces, in the order in which
 * SentencePiece would join them (higher score first, then the lower ids of the parts). Unused pieces are never made; SentencePiece
 * would make and split them again, which differs only where one is a step towards a longer piece.
 */
function mergesFromScores(v: Vocabulary, scores: readonly number[]): [string, string][] {
  const ids = new Map<string, number>();
  v.tokens.forEach((token, id) => {
    // User-defined pieces are found in the text as wholes before anything is merged; byte, control and unknown pieces are no text.
    if (v.types[id] === TOKEN_TYPES.normal) ids.set(token, id);
  });
  const merges: { left: string; right: string; score: number; leftId: number; rightId: number }[] = [];
  for (const [piece, id] of ids) {
    let cut = 0;
    for (const character of piece) {
      cut += character.length;
      if (cut === piece.length) break;
      const left = piece.slice(0, cut);
      const leftId = ids.get(left);
      if (leftId === undefined) continue;
      const right = piece.slice(cut);
      const rightId = ids.get(right);
      if (rightId !== undefined) merges.push({ left, right, score: scores[id]!, leftId, rightId });
    }
  }
  merges.sort((a, b) => b.score - a.score || a.leftId - b.leftId || a.rightId - b.rightId);
  return merges.map((m) => [m.left, m.right]);
}

function vocabOf({ tokens, where }: Vocabulary): Record<string, number> {
  const ids = new Map<string, number>();
  tokens.forEach((token, id) => {
    const other = ids.get(token);
    if (other !== undefined) throw new ModelError(`${where} has the token ${JSON.stringify(token)} twice, with the ids ${other} and ${id}.`);
    ids.set(token, id);
  });
  return Object.fromEntries(ids);
}

/** Tokens that are found in text as wholes. Control tokens are special: decoding leaves them out. */
function addedTokens(v: Vocabulary, types: readonly number[]): object[] {
  return v.tokens.flatMap((content, id) => types.includes(v.types[id]!)
    ? [{ id, content, single_word: false, lstrip: false, rstrip: v.rstrip?.has(id) ?? false, normalized: false, special: v.types[id] !== TOKEN_TYPES.userDefined }]
    : []);
}
