// Text <-> token ids, over @huggingface/tokenizers and a tokenizer.json.
// Owns two safety rules of ours: user text never becomes a control token, and streamed text never shows half a character.
// Refuses to guess: special tokens are parsed only where a template wrote them. BOS is the caller's business (manifest.tokenizer.addBos).

import { BPE, ByteFallbackDecoder, SequenceDecoder, Tokenizer as HuggingFaceTokenizer } from "@huggingface/tokenizers";
import { ModelError } from "./config.ts";
import { MergeRanks } from "./merge-ranks.ts";
import { type AddedToken, type TokenizerJson, checkTokenizer } from "./tokenizer-shape.ts";

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
  /** The text without those marks, as a reader should see it. */
  unprotect(text: string): string;
  /** Marks that a template wrote as \uXXXX, as marks again. */
  restoreMarks(text: string): string;
  /** Text of ids, control tokens left out. */
  decode(ids: readonly number[]): string;
  /** The token's own string as the vocabulary writes it, or undefined. */
  tokenOf(id: number): string | undefined;
  idOf(token: string): number | undefined;
  isControl(id: number): boolean;
  /** Text of ids as they come. `before` are the ids they continue: SentencePiece leaves out the space of a text's first word, and of that only. */
  stream(before?: readonly number[]): TextStream;
}

/** Builds a tokenizer from the parsed tokenizer.json; throws ModelError when it is not one. */
export function createTokenizer(json: unknown): Tokenizer {
  const source = checkTokenizer("tokenizer.json", json);
  const added = source.added_tokens ?? [];
  const control = new Map(added.filter((token) => token.special === true).map((token) => [token.content, token.id]));
  const controlIds = new Set(control.values());
  const isBpe = source.model.type === "BPE";
  const inner = buildInner(isBpe ? { ...source, model: { ...source.model, vocab: {}, merges: [] } } : source, added);
  if (isBpe) fillModel(inner, source, control);
  keepByteOrderMark(inner.decoder);
  // Control tokens come from the splitter of added tokens only: neither merges nor a piece that happens to be spelled like one may make them.
  for (const token of control.keys()) inner.model?.tokens_to_ids.delete(token);
  const unmark = inner.pre_tokenizer;
  const preTokenize = (text: string, options?: { section_index?: number }): string[] => {
    const plain = text.replaceAll(MARKS, "");
    return unmark === null ? [plain] : unmark(plain, options);
  };
  Object.defineProperty(inner, "pre_tokenizer", { value: preTokenize });

  const vocabSize = inner.model?.vocab.length ?? 0;
  const encode = (text: string): number[] => (text === "" ? [] : inner.encode(text, { add_special_tokens: false }).ids);
  const decode = (tokens: readonly number[]): string => {
    const known = tokens.filter((id) => !controlIds.has(id) && inner.id_to_token(id) !== undefined);
    return known.length === 0 ? "" : inner.decode(known, { skip_special_tokens: false, clean_up_tokenization_spaces: false });
  };
  const protect = createProtection([...control.keys()].filter(isFindable));

  return {
    vocabSize,
    encodeText: (text) => encode(protect(text)),
    encodeTemplate: encode,
    protect,
    unprotect: (text) => text.replaceAll(MARKS, ""),
    restoreMarks: (text) => text.replaceAll(/\\ufdd0/gi, MARK),
    decode,
    tokenOf: (id) => inner.id_to_token(id),
    idOf: (token) => control.get(token) ?? inner.token_to_id(token),
    isControl: (id) => controlIds.has(id),
    stream: (before = []) => createTextStream(decode, before.slice(-1)),
  };
}

/** @huggingface/tokenizers 0.2.0 decodes runs of byte tokens with a TextDecoder that swallows U+FEFF; the original tokenizers keep it. */
function keepByteOrderMark(decoder: HuggingFaceTokenizer["decoder"]): void {
  if (decoder instanceof SequenceDecoder) decoder.decoders.forEach(keepByteOrderMark);
  if (decoder instanceof ByteFallbackDecoder) decoder.text_decoder = new TextDecoder("utf-8", { fatal: false, ignoreBOM: true });
}

/** Puts vocabulary and merges into the library's BPE model in the least memory: nothing of the parsed file is kept. */
function fillModel(inner: HuggingFaceTokenizer, source: TokenizerJson, control: ReadonlyMap<string, number>): void {
  const { model } = inner;
  const { vocab, merges } = source.model;
  if (!(model instanceof BPE)) throw new ModelError("tokenizer.json says BPE, but the tokenizers library made another model of it.");
  const ids = new Map<string, number>();
  const tokens: string[] = [];
  for (const token in vocab as Record<string, number>) {
    const id = (vocab as Record<string, number>)[token]!;
    ids.set(token, id);
    tokens[id] = token;
  }
  for (const { id, content } of source.added_tokens ?? []) {
    ids.set(content, id);
    tokens[id] = content;
  }
  model.vocab = tokens;
  model.tokens_to_ids = ids;
  if (model.unk_token != null) model.unk_token_id = ids.get(model.unk_token)!;
  model.bpe_ranks = new MergeRanks(ids, tokens.length, merges!, control);
}

/** A control token of one character could not be kept apart from user text, so it is not looked for in text at all. */
const isFindable = (token: string): boolean => token.length > 1;

function buildInner(source: TokenizerJson, added: readonly AddedToken[]): HuggingFaceTokenizer {
  try {
    return new HuggingFaceTokenizer({
      ...source,
      // It would only put special tokens around a text; those are the caller's business.
      post_processor: null,
      // A control token is what a template wrote, never what normalising makes of other text.
      added_tokens: added.filter((token) => token.special !== true || isFindable(token.content)).map((token) => (token.special === true ? { ...token, normalized: false } : token)),
      // The second argument is tokenizer_config.json; only this field matters to us, and its default deletes spaces when decoding.
    }, { clean_up_tokenization_spaces: false });
  } catch (cause) {
    throw new ModelError(`tokenizer.json cannot be used: ${(cause instanceof Error ? cause.message : String(cause)).replace(/\.$/, "")}.`, { cause });
  }
}

/**
 * Marks text so that none of `literals` can be found in it, nor across its borders with other texts: a template may put two protected texts
 * side by side, or one beside its own words.
 */
function createProtection(literals: readonly string[]): (text: string) => string {
  if (literals.length === 0) return (text) => text.replaceAll(MARKS, "");
  // A look-ahead, so that overlapping texts are all found; the mark goes after their first character.
  const starts = new RegExp(`(?=${literals.map((text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).join("|")})[^]`, "gu");
  const heads = new Set<string>();
  const tails = new Set<string>();
  let longest = 0;
  for (const literal of literals) {
    longest = Math.max(longest, literal.length);
    for (let n = 1; n < literal.length; n++) {
      heads.add(literal.slice(0, n));
      tails.add(literal.slice(n));
    }
  }
  return (text) => {
    const plain = text.replaceAll(MARKS, "").replace(starts, (first) => first + MARK);
    let before = "";
    let after = "";
    for (let n = 1; n < longest && n <= plain.length; n++) {
      if (tails.has(plain.slice(0, n))) before = MARK;
      if (heads.has(plain.slice(-n))) after = MARK;
    }
    return before + plain + after;
  };
}

/**
 * Incremental decoding. Decoding is not per token (bytes of one character span tokens; SentencePiece drops a leading space), so a window of
 * ids since the last certain point is decoded again and the difference is emitted once it ends in a whole character.
 */
function createTextStream(decode: (ids: readonly number[]) => string, before: readonly number[]): TextStream {
  // A last id that is half a character is no context: what follows would complete it.
  let window = decode(before).includes("\uFFFD") ? [] : [...before];
  let shown = window.length; // ids of the window whose text is out; they stay as context for the next
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
