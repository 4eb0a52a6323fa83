// How byte-level BPE families cut text into pieces before merging: regexes applied one after the other, each to the pieces
// the ones before left (matches and what lies between both stay), and whether the text is NFC-normalised first.
// Owns the table, by the names GGUF files use (tokenizer.ggml.pre). Refuses unknown names: a near guess would tokenise nearly right.
// Sources: llama.cpp src/llama-vocab.cpp; tokenizer.json of the families for normalisation; tiktoken for `wholePieces`.

import { ModelError } from "../model/config.ts";

export interface PreTokenizer {
  /** In the syntax of tokenizer.json (Oniguruma), which the tokenizers library rewrites. */
  readonly regexes: readonly string[];
  readonly nfc: boolean;
  /** A piece that is a token as a whole is that token, whatever the merges would make of it (ignore_merges). */
  readonly wholePieces: boolean;
  /** What llama.cpp does where a GGUF file does not say whether texts begin with BOS. */
  readonly addBos: boolean;
}

const CONTRACTIONS = String.raw`(?i:'s|'t|'re|'ve|'m|'ll|'d)`;
const TAIL = String.raw`\s*[\r\n]+|\s+(?!\S)|\s+`;
const GPT2 = String.raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`;
const QWEN2 = String.raw`${CONTRACTIONS}|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|${TAIL}`;
const LLAMA3 = String.raw`${CONTRACTIONS}|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|${TAIL}`;
const UPPER = String.raw`[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`;
const LOWER = String.raw`[\p{Ll}\p{Lm}\p{Lo}\p{M}]`;
const O200K = String.raw`[^\r\n\p{L}\p{N}]?${UPPER}*${LOWER}+${CONTRACTIONS}?|[^\r\n\p{L}\p{N}]?${UPPER}+${LOWER}*${CONTRACTIONS}?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|${TAIL}`;

// The letters of deepseek-llm are a list of their own (the cased letters of Unicode 11), in hexadecimal: a literal list would not survive normalisation.
const DEEPSEEK_LETTERS = characters(
  "41-5A 61-7A B5 C0-D6 D8-F6 F8-1BA 1BC-1BF 1C4-293 295-2AF 370-373 376 377 37B-37D 37F 386 388-38A 38C 38E-3A1 3A3-3F5 3F7-481 " +
  "48A-52F 531-556 10A0-10C5 13A0-13F5 13F8-13FD 1C90-1CBA 1CBD-1CBF 1D00-1D2B 1D6B-1D77 1D79-1D9A 1E00-1F15 1F18-1F1D 1F20-1F45 " +
  "1F48-1F4D 1F50-1F57 1F59 1F5B 1F5D 1F5F-1F7D 1F80-1FB4 1FB6-1FBC 1FBE 1FC2-1FC4 1FC6-1FCC 1FD0-1FD3 1FD6-1FDB 1FE0-1FEC 1FF2-1FF4 " +
  "1FF6-1FFC 2102 2107 210A-2113 2115 2119-211D 2124 2126 2128 212A-212D 212F-2134 2139 213C-213F 2145-2149 214E 2183 2184 2C00-2C7B " +
  "2C7E-2CE4 2CEB-2CEE 2CF2 2CF3 A640-A66D A680-A69B A722-A76F A771-A787 A78B-A78E AB70-ABBF FB00-FB06 FB13-FB17 FF21-FF3A FF41-FF5A " +
  "10400-1044F 104B0-104D3 104D8-104FB 10C80-10CB2 10CC0-10CF2 118A0-118DF 1E900-1E943",
);
const DEEPSEEK_SIGNS = characters("21-2F 3A-7E FF01-FF0F FF1A-FF5E 2018-201F 3000-3002");
const DEEPSEEK_CJK = `[${characters("4E00-9FA5 800-4E00 AC00-D7FF")}]+`;
const KANA_AND_HAN = `[${characters("4E00-9FA5 3040-309F 30A0-30FF")}]+`;
const DEEPSEEK_V3 = String.raw`[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_${"`"}{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|${TAIL}`;

const plain = (...regexes: string[]): PreTokenizer => ({ regexes, nfc: false, wholePieces: false, addBos: false });
const llama3: PreTokenizer = { ...plain(LLAMA3), wholePieces: true, addBos: true };
const qwen2: PreTokenizer = { ...plain(QWEN2), nfc: true };
const digits = plain(String.raw`\p{N}`, GPT2);

export const PRE_TOKENIZERS: Readonly<Record<string, PreTokenizer>> = {
  "gpt-2": plain(GPT2),
  olmo: { ...plain(GPT2), nfc: true },
  refact: digits,
  starcoder: digits,
  qwen2,
  "deepseek-r1-qwen": qwen2,
  "llama-bpe": llama3,
  llama3,
  "llama-v3": llama3,
  dbrx: plain(LLAMA3),
  "gpt-4o": { ...plain(O200K), wholePieces: true },
  "deepseek-llm": plain(String.raw`[\r\n]`, String.raw`\s?[${DEEPSEEK_LETTERS}]+`, String.raw`\s?[${DEEPSEEK_SIGNS}]+`, String.raw`\s+$`, DEEPSEEK_CJK, String.raw`\p{N}+`),
  "deepseek-coder": plain(String.raw`[\r\n]`, String.raw`\s?\p{L}+`, String.raw`\s?\p{P}+`, DEEPSEEK_CJK, String.raw`\p{N}`),
  "deepseek-v3": plain(String.raw`\p{N}{1,3}`, KANA_AND_HAN, DEEPSEEK_V3),
};

/** Throws ModelError with the names known here. `where` names file and key. */
export function preTokenizer(name: string, where: string): PreTokenizer {
  const found = Object.hasOwn(PRE_TOKENIZERS, name) ? PRE_TOKENIZERS[name] : undefined;
  if (!found) throw new ModelError(`${where} = "${name}", which this version does not know; expected one of ${Object.keys(PRE_TOKENIZERS).join(", ")}.`);
  return found;
}

/** Code points and ranges in hexadecimal as the inside of a character class. */
function characters(ranges: string): string {
  return ranges.split(" ").map((range) => range.split("-").map((code) => `\\x{${code}}`).join("-")).join("");
}
