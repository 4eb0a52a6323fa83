// What a tokenizer.json must look like before @huggingface/tokenizers gets it: the library takes any JSON and fails later, in the middle of a
// text, with words of its own. Owns the table of parts by type with the fields the library reads. Refuses other types, fields of another kind,
// nesting without end and ids beyond any vocabulary. Format: huggingface/tokenizers, the serde forms of its normalizers, pre-tokenizers,
// post-processors, decoders and models; which of them exist here: that library's create_*.ts, version 0.2.0.

import { ModelError } from "./config.ts";

export interface AddedToken {
  readonly id: number;
  readonly content: string;
  readonly special?: boolean;
}

/** tokenizer.json as far as this version reads it itself. */
export interface TokenizerJson {
  readonly added_tokens?: readonly AddedToken[];
  readonly post_processor?: TokenizerPart | null;
  readonly model: {
    readonly type?: string;
    /** Ids by token; of Unigram a list of tokens with scores. */
    readonly vocab: Readonly<Record<string, number>> | readonly (readonly [string, number])[];
    readonly merges?: readonly (string | readonly [string, string])[];
    readonly unk_token?: string | null;
  };
}

export interface TokenizerPart {
  readonly type: string;
  readonly processors?: readonly TokenizerPart[];
  readonly single?: readonly { readonly SpecialToken?: { readonly id: string } }[];
}

/** Beyond any vocabulary there is: an id like this would only be a way to fill memory. */
export const TOKEN_ID_MOST = 2 ** 24;
/** Longest text of an added token. What is special is looked for in all texts, with all its beginnings and ends; published ones have up to 50. */
const ADDED_TOKEN_LENGTH = 512;
/** Parts within parts; published files have 2. */
const DEPTH_MOST = 8;

type Check = (value: unknown) => boolean;
interface Kind {
  readonly expected: string;
  readonly is: Check;
}
const optional = ({ expected, is }: Kind): Kind => ({ expected: `${expected}, or no such field`, is: (value) => value === undefined || value === null || is(value) });
const text: Kind = { expected: "a text", is: (value) => typeof value === "string" };
const flag: Kind = optional({ expected: "true or false", is: (value) => typeof value === "boolean" });
const count: Kind = { expected: "a whole number from 0 to 65536", is: (value) => Number.isSafeInteger(value) && (value as number) >= 0 && (value as number) <= 65536 };
const list: Kind = { expected: "a list", is: Array.isArray };
const isObject = (value: unknown): value is Record<string, unknown> => typeof value === "object" && value !== null && !Array.isArray(value);
const pattern: Kind = { expected: 'an object with a text as "String" or "Regex"', is: (value) => isObject(value) && (typeof value["Regex"] === "string" || (value["Regex"] === undefined && typeof value["String"] === "string")) };
const oneOf = (...words: string[]): Kind => ({ expected: words.map((word) => `"${word}"`).join(" or "), is: (value) => words.includes(value as string) });
const behavior = oneOf("Removed", "Isolated", "Contiguous", "MergedWithPrevious", "MergedWithNext");
const single: Kind = {
  expected: "a list of objects, each with SpecialToken or Sequence",
  is: (value) => Array.isArray(value) && value.every((item) => isObject(item) && (isObject(item["SpecialToken"]) ? typeof item["SpecialToken"]["id"] === "string" : isObject(item["Sequence"]))),
};

type Fields = Readonly<Record<string, Kind>>;
interface PartTable {
  /** Field of a Sequence that holds its parts. */
  readonly parts: string;
  readonly types: Readonly<Record<string, Fields>>;
}

/** By key of the document. */
const PARTS: Readonly<Record<string, PartTable>> = {
  normalizer: {
    parts: "normalizers",
    types: {
      Sequence: { normalizers: list }, NFC: {}, NFD: {}, NFKC: {}, NFKD: {}, Lowercase: {}, StripAccents: {}, Precompiled: {},
      Strip: { strip_left: flag, strip_right: flag }, Prepend: { prepend: text }, Replace: { pattern, content: text },
      BertNormalizer: { clean_text: flag, handle_chinese_chars: flag, strip_accents: flag, lowercase: flag },
    },
  },
  pre_tokenizer: {
    parts: "pretokenizers",
    types: {
      Sequence: { pretokenizers: list }, BertPreTokenizer: {}, Whitespace: {}, WhitespaceSplit: {}, Split: { pattern, behavior, invert: flag }, Punctuation: { behavior: optional(behavior) },
      Metaspace: { replacement: text, add_prefix_space: flag, prepend_scheme: optional(oneOf("always", "never", "first")), split: flag },
      ByteLevel: { add_prefix_space: flag, trim_offsets: flag, use_regex: flag }, Digits: { individual_digits: flag }, Replace: { pattern, content: text },
      FixedLength: { length: { expected: "a whole number from 1 to 65536", is: (value) => count.is(value) && value !== 0 } },
    },
  },
  post_processor: { parts: "processors", types: { Sequence: { processors: list }, TemplateProcessing: { single }, ByteLevel: {}, BertProcessing: {}, RobertaProcessing: {} } },
  decoder: {
    parts: "decoders",
    types: {
      Sequence: { decoders: list }, ByteLevel: {}, Fuse: {}, ByteFallback: {}, Replace: { pattern, content: text }, Strip: { content: text, start: count, stop: count },
      Metaspace: { replacement: text, add_prefix_space: flag, prepend_scheme: optional(oneOf("always", "never", "first")), split: flag },
      WordPiece: { prefix: optional(text), cleanup: flag }, BPEDecoder: { suffix: optional(text) }, CTC: { pad_token: optional(text), word_delimiter_token: optional(text), cleanup: flag },
    },
  },
};
const MODEL: Fields = {
  type: optional(oneOf("BPE", "Unigram", "WordPiece")), unk_token: optional(text), continuing_subword_prefix: optional(text), end_of_word_suffix: optional(text),
  fuse_unk: flag, byte_fallback: flag, ignore_merges: flag, unk_id: optional(count), max_input_chars_per_word: optional(count),
};

/** The document, when it is one. Throws ModelError naming `file`, the field, what was found and expected. */
export function checkTokenizer(file: string, json: unknown): TokenizerJson {
  const fail = (message: string): never => { throw new ModelError(`${file} ${message}.`); };
  if (!isObject(json) || !isObject(json["model"])) return fail("holds no `model`; a Hugging Face tokenizer file was expected");
  checkAddedTokens(json["added_tokens"], fail);
  for (const [key, table] of Object.entries(PARTS)) checkPart(key, json[key], table, 0, fail);
  const model = json["model"];
  checkFields("model", model, MODEL, fail);
  checkVocabulary(model, fail);
  return json as unknown as TokenizerJson;
}

type Fail = (message: string) => never;

function checkAddedTokens(tokens: unknown, fail: Fail): void {
  if (tokens === undefined || tokens === null) return;
  if (!Array.isArray(tokens)) fail(`has added_tokens = ${show(tokens)}, expected a list of tokens`);
  for (const token of tokens as unknown[]) {
    if (!isObject(token) || typeof token["content"] !== "string" || token["content"] === "" || token["content"].length > ADDED_TOKEN_LENGTH || !isId(token["id"])) {
      fail(`has the added token ${show(token)}, expected an object with a text of 1 to ${ADDED_TOKEN_LENGTH} characters as content and an id from 0 to ${TOKEN_ID_MOST}`);
    }
    checkFields("added token", token as Record<string, unknown>, { special: flag, single_word: flag, lstrip: flag, rstrip: flag, normalized: flag }, fail);
  }
}

function checkPart(where: string, part: unknown, table: PartTable, depth: number, fail: Fail): void {
  if (depth === 0 && (part === undefined || part === null)) return;
  const type = isObject(part) ? part["type"] : undefined;
  const fields = typeof type === "string" && Object.hasOwn(table.types, type) ? table.types[type] : undefined;
  if (!isObject(part) || fields === undefined) return fail(`has ${where} = ${show(part)}, expected an object of type ${Object.keys(table.types).join(", ")}`);
  if (depth > DEPTH_MOST) fail(`nests ${where} more than ${DEPTH_MOST} deep`);
  checkFields(where, part, fields, fail);
  if (type !== "Sequence") return;
  for (const [i, inner] of (part[table.parts] as unknown[]).entries()) checkPart(`${where}.${table.parts}[${i}]`, inner, table, depth + 1, fail);
}

function checkFields(where: string, values: Readonly<Record<string, unknown>>, fields: Fields, fail: Fail): void {
  for (const [name, { expected, is }] of Object.entries(fields)) {
    if (!is(values[name])) fail(`has ${where}.${name} = ${show(values[name])}, expected ${expected}`);
  }
}

function checkVocabulary({ type, vocab, merges }: Readonly<Record<string, unknown>>, fail: Fail): void {
  if (Array.isArray(vocab)) {
    if (type === "BPE" || type === "WordPiece") fail(`has a list as model.vocab, expected an object of tokens with their ids in a ${String(type)} model`);
    const wrong = (vocab as unknown[]).find((entry) => !Array.isArray(entry) || entry.length !== 2 || typeof entry[0] !== "string" || !Number.isFinite(entry[1]));
    if (wrong !== undefined) fail(`has the entry ${show(wrong)} in model.vocab, expected a token and its score`);
    return;
  }
  if (!isObject(vocab)) return fail(`has model.vocab = ${show(vocab)}, expected the tokens with their ids`);
  if (type === "Unigram") fail("has an object as model.vocab, expected a list of tokens with their scores in a Unigram model");
  for (const token in vocab) {
    if (!isId(vocab[token])) fail(`gives the token ${show(token)} the id ${show(vocab[token])}, expected a whole number from 0 to ${TOKEN_ID_MOST}`);
  }
  if (type === "WordPiece") return;
  if (!Array.isArray(merges)) return fail(`has model.merges = ${show(merges)}, expected a list of pairs of tokens`);
  const wrong = (merges as unknown[]).findIndex((merge) => !isMerge(merge));
  if (wrong >= 0) fail(`has model.merges[${wrong}] = ${show(merges[wrong])}, expected two pieces with a space between, or a list of the two`);
}

const isId = (value: unknown): boolean => Number.isSafeInteger(value) && (value as number) >= 0 && (value as number) <= TOKEN_ID_MOST;

const isMerge = (merge: unknown): boolean =>
  typeof merge === "string" ? /^[^ ]+ [^ ]+$/.test(merge) : Array.isArray(merge) && merge.length === 2 && merge.every((piece) => typeof piece === "string");

/** A value as messages show it. */
function show(value: unknown): string {
  if (value === undefined) return "nothing";
  const shown = JSON.stringify(value);
  return shown.length > 80 ? `${shown.slice(0, 77)}...` : shown;
}
