// Finds a tokenizer in a Hugging Face folder that has no tokenizer.json, and builds one: tokenizer.model (SentencePiece, or tiktoken ranks
// as Llama 3's), *.tiktoken, or vocab.json with merges.txt. Owns which file wins and what tokenizer_config.json adds to it.
// Refuses to guess: a byte-level vocabulary needs a tokenizer_class whose pre-tokenizer is known.

import { type ByteSource, SourceError } from "./byte-source.ts";
import { FORMAT_LIMITS } from "./limits.ts";
import { PRE_TOKENIZERS } from "./pre-tokenizers.ts";
import { parseJsonObject, readFileOrNull } from "./read-bytes.ts";
import { TOKEN_TYPES, byteLevelDocument, tokenizerBytes } from "./tokenizer-document.ts";
import { readSentencePiece, sentencePieceFileDocument } from "./tokenizer-sentencepiece.ts";
import { type SpecialToken, looksLikeRanks, readRanks, tiktokenDocument } from "./tokenizer-tiktoken.ts";

export interface BuiltTokenizer {
  /** tokenizer.json. */
  readonly json: Uint8Array<ArrayBuffer>;
  /** The file it was built from. */
  readonly file: string;
  readonly kind: string;
  /** Whether texts begin with BOS where tokenizer_config.json does not say. */
  readonly addBos: boolean;
}

/** In the order in which they are tried; a ByteSource cannot list names. */
const RANK_FILES = ["qwen.tiktoken", "tiktoken.model", "o200k_base.tiktoken", "cl100k_base.tiktoken"];

/** Pre-tokenizers of the slow tokenizers that read vocab.json and merges.txt, by tokenizer_class. */
const CLASSES: Readonly<Record<string, string>> = { GPT2Tokenizer: "gpt-2", GPT2TokenizerFast: "gpt-2", Qwen2Tokenizer: "qwen2", Qwen2TokenizerFast: "qwen2" };

/** Null where there is no file to build from. Throws SourceError naming the file and what is wrong in it. */
export async function buildTokenizer(source: ByteSource, settings: Readonly<Record<string, unknown>>): Promise<BuiltTokenizer | null> {
  const added = await addedTokens(source, settings);
  for (const file of ["tokenizer.model", ...RANK_FILES]) {
    const bytes = await readFileOrNull(source, file, FORMAT_LIMITS.tokenizerBytes);
    if (bytes === null) continue;
    if (looksLikeRanks(bytes)) {
      const { document, kind, addBos } = tiktokenDocument(source, file, readRanks(source, file, bytes), added);
      return { json: tokenizerBytes(document), file, kind, addBos };
    }
    // transformers' default is its older rule, a space before every run of text.
    const document = sentencePieceFileDocument(source, file, readSentencePiece(source, file, bytes), added, settings.legacy !== false);
    return { json: tokenizerBytes(document), file, kind: "SentencePiece BPE (tokenizer.model)", addBos: true };
  }
  const vocabulary = await readFileOrNull(source, "vocab.json", FORMAT_LIMITS.tokenizerBytes);
  const merges = vocabulary === null ? null : await readFileOrNull(source, "merges.txt", FORMAT_LIMITS.tokenizerBytes);
  if (vocabulary === null || merges === null) return null;
  return { json: tokenizerBytes(vocabAndMerges(source, vocabulary, merges, added, settings)), file: "vocab.json", kind: "byte-level BPE (vocab.json, merges.txt)", addBos: false };
}

function vocabAndMerges(source: ByteSource, vocabulary: Uint8Array, merges: Uint8Array, added: readonly SpecialToken[], settings: Readonly<Record<string, unknown>>): object {
  const where = `${source.description}, vocab.json`;
  const name = settings.tokenizer_class ?? "none";
  const pre = typeof name === "string" && Object.hasOwn(CLASSES, name) ? CLASSES[name] : undefined;
  if (pre === undefined) {
    throw new SourceError(`${where} comes without tokenizer.json, and tokenizer_config.json has tokenizer_class = ${JSON.stringify(name)}; expected one of ${Object.keys(CLASSES).join(", ")}, whose pre-tokenizer is known.`);
  }
  const tokens: string[] = [];
  for (const [token, id] of Object.entries(parseJsonObject(source, "vocab.json", vocabulary))) {
    if (typeof id !== "number" || !Number.isSafeInteger(id) || id < 0 || id >= vocabulary.length || tokens[id] !== undefined) {
      throw new SourceError(`${where} gives the token ${JSON.stringify(token)} the id ${JSON.stringify(id)}, expected a whole number that no other token has.`);
    }
    tokens[id] = token;
  }
  const types = tokens.map(() => TOKEN_TYPES.normal as number);
  const rstrip = new Set<number>();
  for (const token of added) {
    tokens[token.id] = token.content;
    types[token.id] = token.special ? TOKEN_TYPES.control : TOKEN_TYPES.userDefined;
    if (token.rstrip) rstrip.add(token.id);
  }
  for (let id = 0; id < tokens.length; id++) {
    if (tokens[id] === undefined) throw new SourceError(`${where} has no token with the id ${id}, but ${tokens.length} ids in all.`);
  }
  const pairs = new TextDecoder().decode(merges).split("\n").flatMap((line, i): [string, string][] => {
    const text = line.trimEnd();
    if (text === "" || (i === 0 && text.startsWith("#version"))) return [];
    const parts = text.split(" ");
    if (parts.length !== 2) throw new SourceError(`${source.description}, merges.txt, line ${i + 1} is ${JSON.stringify(text)}, expected two pieces with a space between.`);
    return [parts as [string, string]];
  });
  return byteLevelDocument({ tokens, types, where, rstrip }, pairs, PRE_TOKENIZERS[pre]!);
}

/** Tokens of tokenizer_config.json (added_tokens_decoder) or, in older folders, added_tokens.json, which does not say which are special: all are then. */
async function addedTokens(source: ByteSource, settings: Readonly<Record<string, unknown>>): Promise<SpecialToken[]> {
  const listed = settings.added_tokens_decoder;
  if (typeof listed === "object" && listed !== null) {
    return Object.entries(listed as Record<string, { content?: unknown; special?: unknown; rstrip?: unknown } | null>).map(([id, token]) =>
      addedToken(source, "tokenizer_config.json", Number(id), token?.content, token?.special !== false, token?.rstrip === true));
  }
  const bytes = await readFileOrNull(source, "added_tokens.json", FORMAT_LIMITS.jsonBytes);
  if (bytes === null) return [];
  return Object.entries(parseJsonObject(source, "added_tokens.json", bytes)).map(([content, id]) => addedToken(source, "added_tokens.json", id, content, true, false));
}

/** An added token far beyond any vocabulary would only be a way to fill memory. */
const ADDED_ID_MOST = 2 ** 20;

function addedToken(source: ByteSource, file: string, id: unknown, content: unknown, special: boolean, rstrip: boolean): SpecialToken {
  if (typeof content !== "string" || content === "" || typeof id !== "number" || !Number.isSafeInteger(id) || id < 0 || id > ADDED_ID_MOST) {
    throw new SourceError(`${source.description}, ${file} adds the token ${content === undefined ? "without content" : JSON.stringify(content)} with the id ${JSON.stringify(id)}, expected a text and an id from 0 to ${ADDED_ID_MOST}.`);
  }
  return { id, content, special, rstrip };
}
