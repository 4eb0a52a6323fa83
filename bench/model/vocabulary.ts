// A byte-level BPE vocabulary whose every token is ASCII: a random-weight model draws any of them, and its text is valid UTF-8 all the same
// (wllama 3.8.1 crashes on invalid UTF-8). Owns tokens, merges and the prompts of the benchmarks. Refuses fewer than 1,000 tokens.

import { RandomSource } from "./random-source.ts";

/** llama.cpp's token types. */
const NORMAL = 1;
const CONTROL = 3;
export const END_OF_TEXT_ID = 0;

const LETTERS = Array.from({ length: 26 }, (_, i) => String.fromCharCode(97 + i));
/** How byte-level BPE writes a space and a line feed. */
const SPACE = "\u0120";
const LINE_FEED = "\u010a";

export interface Vocabulary {
  readonly tokens: readonly string[];
  readonly types: readonly number[];
  /** "left right", in order of rank. */
  readonly merges: readonly string[];
}

/** End of text, the 96 characters, then words of two, three and four letters, bare and after a space; the last kind fills up to `size`. */
export function asciiVocabulary(size: number): Vocabulary {
  if (size < 1000) throw new RangeError(`A vocabulary of ${size} tokens was asked for; expected at least 1,000.`);
  const tokens = ["<|endoftext|>", SPACE, LINE_FEED, ...Array.from({ length: 94 }, (_, i) => String.fromCharCode(33 + i))];
  const merges: string[] = [];
  const join = (left: string, right: string): void => {
    if (tokens.length === size) return;
    merges.push(`${left} ${right}`);
    tokens.push(left + right);
  };
  for (const a of LETTERS) join(SPACE, a);
  for (const a of LETTERS) for (const b of LETTERS) join(SPACE + a, b);
  for (const a of LETTERS) for (const b of LETTERS) join(a, b);
  const pairs = LETTERS.flatMap((a) => LETTERS.map((b) => a + b));
  for (const pair of pairs) for (const c of LETTERS) join(SPACE + pair, c);
  for (const pair of pairs) for (const c of LETTERS) join(pair, c);
  for (const pair of pairs) {
    if (tokens.length === size) break;
    for (const other of pairs) join(SPACE + pair, other);
  }
  if (tokens.length < size) throw new RangeError(`A vocabulary of ${size} tokens was asked for; ${tokens.length} is the most this one has.`);
  return { tokens, types: tokens.map((_, id) => (id === END_OF_TEXT_ID ? CONTROL : NORMAL)), merges };
}

/** A prompt of `nWords` words of three letters, one token each in a vocabulary of at least 19,000. Different seeds share no long prefix. */
export function promptOf(nWords: number, seed: number): string {
  const random = new RandomSource(seed + 1);
  for (let i = 0; i < 8; i++) random.below(2); // the first states of nearby seeds are alike
  return Array.from({ length: nWords }, () => " " + Array.from({ length: 3 }, () => LETTERS[random.below(26)]).join("")).join("");
}

/**
 * The same kinds of tokens with a release's control tokens at the ids they have there. Throws RangeError where an id lies outside.
 */
export function vocabularyWith(size: number, controls: Readonly<Record<number, string>>): Vocabulary {
  const ids = Object.keys(controls).map(Number).sort((a, b) => a - b);
  const outside = ids.find((id) => id >= size);
  if (outside !== undefined) throw new RangeError(`A vocabulary of ${size} tokens was asked for with the control token ${controls[outside]} at ${outside}.`);
  const words = asciiVocabulary(size - ids.length + 1);
  const tokens = words.tokens.slice(1); // its own end of text
  for (const id of ids) tokens.splice(id, 0, controls[id]!);
  return { tokens, types: tokens.map((_, id) => (controls[id] === undefined ? NORMAL : CONTROL)), merges: words.merges };
}

/** tokenizer.json of the tokenizers library. */
export function tokenizerJson({ tokens, types, merges }: Vocabulary): object {
  const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true };
  return {
    version: "1.0", truncation: null, padding: null,
    added_tokens: tokens.flatMap((content, id) => (types[id] === CONTROL ? [{ id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: true }] : [])),
    normalizer: null, pre_tokenizer: byteLevel, post_processor: null, decoder: byteLevel,
    model: {
      type: "BPE", dropout: null, unk_token: null, continuing_subword_prefix: null, end_of_word_suffix: null, fuse_unk: false, byte_fallback: false, ignore_merges: false,
      vocab: Object.fromEntries(tokens.map((token, id) => [token, id])), merges: merges.map((merge) => merge.split(" ")),
    },
  };
}
