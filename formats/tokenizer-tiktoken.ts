// Reads tiktoken's rank files (`*.tiktoken`; `tokenizer.model` of Llama 3): lines of base64 bytes and a rank. Owns the way from ranks
// to merges, and the families known by their number of ranks: their pre-tokenizer and special tokens, which the files do not hold.
// Refuses other numbers of ranks. Sources: tiktoken src/lib.rs and openai_public.py, gpt_oss/tokenizer.py, llama3's tokenizer.py,
// Qwen's tokenization_qwen.py.

import { BYTE_ALPHABET } from "../model/byte-alphabet.ts";
import { type ByteSource, SourceError } from "./byte-source.ts";
import { PRE_TOKENIZERS } from "./pre-tokenizers.ts";
import { TOKEN_TYPES, byteLevelDocument } from "./tokenizer-document.ts";

/** A special token of a family, or one that a folder's tokenizer_config.json adds. */
export interface SpecialToken {
  readonly id: number;
  readonly content: string;
  readonly special: boolean;
  /** White space after it belongs to it. */
  readonly rstrip: boolean;
}

interface Family {
  readonly name: string;
  /** Key of PRE_TOKENIZERS. */
  readonly pre: string;
  readonly specials: readonly SpecialToken[];
}

const numbered = (first: number, contents: readonly string[]): SpecialToken[] => contents.map((content, i) => ({ id: first + i, content, special: true, rstrip: false }));
const range = (from: number, to: number, name: (n: number) => string): string[] => Array.from({ length: to - from + 1 }, (_, i) => name(from + i));
const reserved = (from: number, to: number) => range(from, to, (n) => `<|reserved_special_token_${n}|>`);

/** By number of ranks. */
const FAMILIES: ReadonlyMap<number, Family> = new Map([
  [50256, { name: "gpt-2", pre: "gpt-2", specials: numbered(50256, ["<|endoftext|>"]) }],
  [100256, {
    name: "cl100k", pre: "dbrx",
    specials: [...numbered(100257, ["<|endoftext|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"]), ...numbered(100276, ["<|endofprompt|>"])],
  }],
  [151643, {
    name: "qwen", pre: "qwen2",
    specials: numbered(151643, ["<|endoftext|>", "<|im_start|>", "<|im_end|>", ...range(0, 204, (n) => `<|extra_${n}|>`)]),
  }],
  [128000, {
    name: "llama3", pre: "llama-bpe",
    specials: numbered(128000, [
      "<|begin_of_text|>", "<|end_of_text|>", ...reserved(0, 3), "<|start_header_id|>", "<|end_header_id|>", ...reserved(4, 4), "<|eot_id|>", ...reserved(5, 250),
    ]),
  }],
  [199998, {
    name: "o200k_harmony", pre: "gpt-4o",
    specials: [
      ...numbered(199998, [
        "<|startoftext|>", "<|endoftext|>", "<|reserved_200000|>", "<|reserved_200001|>", "<|return|>", "<|constrain|>", "<|reserved_200004|>",
        "<|channel|>", "<|start|>", "<|end|>", "<|message|>", "<|reserved_200009|>", "<|reserved_200010|>", "<|reserved_200011|>", "<|call|>",
      ]),
      ...numbered(200013, range(200013, 201087, (n) => (n === 200018 ? "<|endofprompt|>" : `<|reserved_${n}|>`))),
    ],
  }],
]);

export interface TiktokenRanks {
  /** Tokens in GPT-2's byte alphabet, in order of rank. */
  readonly tokens: readonly string[];
}

/** True where bytes look like a rank file: base64, a space, a number. */
export const looksLikeRanks = (bytes: Uint8Array): boolean => /^[A-Za-z0-9+/]+={0,2} \d+\r?\n/.test(new TextDecoder("latin1").decode(bytes.subarray(0, 200)));

/** Throws SourceError naming line, what was found and expected. Ranks must be 0, 1, 2 and so on; tiktoken itself does not ask for that, every published file has it. */
export function readRanks(source: ByteSource, file: string, bytes: Uint8Array): TiktokenRanks {
  const lines = new TextDecoder("latin1").decode(bytes).split("\n");
  const tokens: string[] = [];
  const seen = new Set<string>();
  for (const [i, line] of lines.entries()) {
    const text = line.trimEnd();
    if (text === "") continue;
    const parts = /^([A-Za-z0-9+/]+={0,2}) (\d+)$/.exec(text);
    const token = parts === null ? null : fromBase64(parts[1]!);
    if (parts === null || token === null || Number(parts[2]) !== tokens.length || seen.has(token)) {
      throw new SourceError(`${source.description}, ${file}, line ${i + 1} is ${JSON.stringify(text.slice(0, 60))}, expected a new token in base64, a space, and the rank ${tokens.length}.`);
    }
    seen.add(token);
    tokens.push(token);
  }
  const missing = BYTE_ALPHABET.findIndex((character) => !seen.has(character));
  if (missing >= 0) throw new SourceError(`${source.description}, ${file} has no token for the byte ${missing}, expected all 256.`);
  return { tokens };
}

/**
 * The tokenizer.json of a rank file. `added` (from tokenizer_config.json) replaces the family's special tokens where it is not empty.
 * Throws SourceError when the number of ranks is of no known family.
 */
export function tiktokenDocument(source: ByteSource, file: string, { tokens }: TiktokenRanks, added: readonly SpecialToken[]): { document: object; kind: string; addBos: boolean } {
  const family = FAMILIES.get(tokens.length);
  if (family === undefined) {
    throw new SourceError(
      `${source.description}, ${file} has ${tokens.length} ranks, which is no vocabulary this version knows the pre-tokenizer of; expected `
      + `${[...FAMILIES].map(([n, f]) => `${n} (${f.name})`).join(", ")}, or a tokenizer.json beside it.`,
    );
  }
  const all = [...tokens];
  const types = tokens.map(() => TOKEN_TYPES.normal as number);
  const rstrip = new Set<number>();
  for (const token of added.length > 0 ? added : family.specials) {
    const { id, content, special } = token;
    if (id < tokens.length) continue; // a name for a token of the ranks
    if (token.rstrip) rstrip.add(id);
    all[id] = content;
    types[id] = special ? TOKEN_TYPES.control : TOKEN_TYPES.userDefined;
  }
  for (let id = 0; id < all.length; id++) {
    // Ids that nothing names exist in some families; they must not become text.
    if (all[id] !== undefined) continue;
    all[id] = `<|unused_${id}|>`;
    types[id] = TOKEN_TYPES.control;
  }
  // tiktoken takes a piece that is a token as a whole before it merges, in all families.
  const pre = { ...PRE_TOKENIZERS[family.pre]!, wholePieces: true };
  return {
    document: byteLevelDocument({ tokens: all, types, rstrip, where: `${source.description}, ${file}` }, mergesFromRanks(tokens), pre),
    kind: `byte-level BPE (tiktoken ranks, ${family.name})`,
    addBos: pre.addBos,
  };
}

/**
 * One merge per token: the two pieces that merging its bytes alone comes to. tiktoken joins the neighbours whose join has the lowest rank, whatever
 * they are; but inside a token's bytes that merging is all that can have happened (tokenizer-merges.ts has the argument), so other ways to split a
 * token never occur. A token whose bytes do not come to two pieces can be found as a whole piece only.
 */
export function mergesFromRanks(tokens: readonly string[]): [string, string][] {
  const ranks = new Map(tokens.map((token, rank) => [token, rank]));
  const merges: [string, string][] = [];
  tokens.forEach((token) => {
    if (token.length === 1) return;
    const parts = [...token];
    while (parts.length > 2) {
      let best = Infinity;
      let at = -1;
      for (let i = 0; i + 1 < parts.length; i++) {
        const found = ranks.get(parts[i]! + parts[i + 1]!) ?? Infinity;
        if (found < best) {
          best = found;
          at = i;
        }
      }
      if (at < 0) break;
      parts.splice(at, 2, parts[at]! + parts[at + 1]!);
    }
    if (parts.length === 2) merges.push([parts[0]!, parts[1]!]);
  });
  return merges;
}

function fromBase64(text: string): string | null {
  try {
    return Array.from(atob(text), (character) => BYTE_ALPHABET[character.charCodeAt(0)]!).join("");
  } catch {
    return null;
  }
}
