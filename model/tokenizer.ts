// Text <-> token ids, over @huggingface/tokenizers and a tokenizer.json.
// Owns two safety rules of ours: user text never becomes a control token, and streamed text never shows half a character.
// Refuses to guess: special tokens are parsed only where a template wrote them. BOS is the caller's business (manifest.tokenizer.addBos).

import { Tokenizer as HuggingFaceTokenizer } from "@huggingface/tokenizers";
import { ModelError } from "./config.ts";

/** A Unicode noncharacter, never meant for interchange. Written inside control-token texts of user input, removed again before pre-tokenising. */
const MARK = "\uFDD0";
const MARKS = /\uFDD0/g;

export interface TextStream {
  /** Text that became certain with this token; "" while a character or a control token is incomplete. */
  push(id: number): string;
  /** What is left at the end; incomplete bytes appear as U+FFFD. */
  flush(): string;
}

export interface Tokenizer {
  /** One more than the largest id. */
  readonly vocabSize: number;
  /** Ids of plain user text: texts of control tokens in it stay text. No BOS. */
  encodeText(text: string): number[];
  /** Ids of text in which control tokens count, except where `protect` was applied. No BOS. */
  encodeTemplate(text: string): number[];
  /** Marks user text so that its control-token texts stay text after rendering and encodeTemplate. */
  protect(text: string): string;
  /** Text of ids, control tokens left out. */
  decode(ids: readonly number[]): string;
  /** The token's own string as the vocabulary writes it, or undefined. */
  tokenOf(id: number): string | undefined;
  idOf(token: string): number | undefined;
  isControl(id: number): boolean;
  stream(): TextStream;
}

interface TokenizerJson {
  added_tokens?: { id: number; content: string; special?: boolean }[];
  model?: { vocab?: Record<string, number> | [string, number][] };
}

/** Builds a tokenizer from the parsed tokenizer.json; throws ModelError when it is not one. */
export function createTokenizer(json: unknown): Tokenizer {
  const source = json as TokenizerJson | null;
  if (typeof source !== "object" || source === null || typeof source.model !== "object")
    throw new ModelError("tokenizer.json holds no `model`; a Hugging Face tokenizer file was expected.");
  let inner: HuggingFaceTokenizer;
  try {
    // The second argument is tokenizer_config.json; only this field matters to us, and its default deletes spaces when decoding.
    inner = new HuggingFaceTokenizer(source, { clean_up_tokenization_spaces: false });
  } catch (cause) {
    throw new ModelError(`tokenizer.json cannot be used: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
  }
  const unmark = inner.pre_tokenizer;
  const preTokenize = (text: string, options?: { section_index?: number }): string[] => {
    const plain = text.replaceAll(MARKS, "");
    return unmark === null ? [plain] : unmark(plain, options);
  };
  Object.defineProperty(inner, "pre_tokenizer", { value: preTokenize });

  const added = source.added_tokens ?? [];
  const control = new Map(added.filter((token) => token.special === true).map((token) => [token.content, token.id]));
  const controlIds = new Set(control.values());
  const literals = [...control.keys()].filter((text) => text.length > 1).map((text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  // A look-ahead, so that overlapping texts are all found; the mark goes after their first character.
  const starts = literals.length === 0 ? null : new RegExp(`(?=${literals.join("|")})[^]`, "gu");
  const protect = (text: string): string => {
    const plain = text.replaceAll(MARKS, "");
    return starts === null ? plain : plain.replace(starts, (first) => first + MARK);
  };

  const vocab = source.model?.vocab ?? {};
  const ids = Array.isArray(vocab) ? vocab.map((_, id) => id) : Object.values(vocab);
  const vocabSize = [...ids, ...added.map((token) => token.id)].reduce((max, id) => Math.max(max, id + 1), 0);
  const encode = (text: string): number[] => (text === "" ? [] : inner.encode(text, { add_special_tokens: false }).ids);
  const decode = (tokens: readonly number[]): string => {
    const known = tokens.filter((id) => inner.id_to_token(id) !== undefined);
    return known.length === 0 ? "" : inner.decode(known, { skip_special_tokens: true, clean_up_tokenization_spaces: false });
  };

  return {
    vocabSize,
    encodeText: (text) => encode(protect(text)),
    encodeTemplate: encode,
    protect,
    decode,
    tokenOf: (id) => inner.id_to_token(id),
    idOf: (token) => inner.token_to_id(token) ?? control.get(token),
    isControl: (id) => controlIds.has(id),
    stream: () => createTextStream(decode),
  };
}

/**
 * Incremental decoding. Decoding is not per token (bytes of one character span tokens; SentencePiece drops a leading space), so a window of
 * ids since the last certain point is decoded again and the difference is emitted once it ends in a whole character.
 */
function createTextStream(decode: (ids: readonly number[]) => string): TextStream {
  let window: number[] = [];
  let shown = 0; // ids of the window whose text is out; they stay as context for the next
  const advance = (text: string, before: string): string => {
    window = window.slice(shown);
    shown = window.length;
    return text.slice(before.length);
  };
  return {
    push(id) {
      window.push(id);
      const before = decode(window.slice(0, shown));
      const text = decode(window);
      return text.length <= before.length || text.endsWith("\uFFFD") ? "" : advance(text, before);
    },
    flush() {
      const before = decode(window.slice(0, shown));
      const text = decode(window);
      return text.length <= before.length ? "" : advance(text, before);
    },
  };
}
