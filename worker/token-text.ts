// What one token looks like on its own, for log-probabilities: its text, and its bytes where they are no whole character.
// Byte-level BPE writes bytes as printable characters (the table of GPT-2's bytes_to_unicode); SentencePiece writes them as <0xE4>.

import { BYTE_OF_CHARACTER } from "../model/byte-alphabet.ts";
import type { Tokenizer } from "../model/tokenizer.ts";

/** Bytes of a token. Control tokens have the bytes of their name. */
export function tokenBytes(tokenizer: Tokenizer, id: number): number[] {
  const raw = tokenizer.tokenOf(id) ?? "";
  const hex = /^<0x([0-9A-Fa-f]{2})>$/.exec(raw)?.[1];
  if (hex !== undefined) return [parseInt(hex, 16)];
  if (tokenizer.isControl(id)) return [...new TextEncoder().encode(raw)];
  if (raw.includes("▁")) return [...new TextEncoder().encode(raw.replaceAll("▁", " "))];
  const text = tokenizer.decode([id]);
  const characters = [...raw];
  if (text.includes("\uFFFD") && characters.every((character) => BYTE_OF_CHARACTER.has(character))) {
    return characters.map((character) => BYTE_OF_CHARACTER.get(character)!);
  }
  return [...new TextEncoder().encode(text)];
}

/** Text of a token as OpenAI writes it: bytes that are no whole character appear as `bytes:\xe4\xbd`. */
export function tokenText(tokenizer: Tokenizer, id: number): string {
  const bytes = tokenBytes(tokenizer, id);
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(new Uint8Array(bytes));
  } catch {
    return `bytes:${bytes.map((byte) => `\\x${byte.toString(16).padStart(2, "0")}`).join("")}`;
  }
}
