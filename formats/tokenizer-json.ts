// The few things the packer must know of a tokenizer.json: its kind, its ids, and whether its own template starts with a
// token. Owns no tokenising (model/tokenizer.ts). Refuses what is no tokenizer.json (model/tokenizer-shape.ts).

import { type TokenizerPart, checkTokenizer } from "../model/tokenizer-shape.ts";
import type { ByteSource } from "./byte-source.ts";

export interface TokenIds {
  /** "BPE", "Unigram" or "WordPiece". */
  readonly kind: string;
  readonly largest: number;
  idOf(token: string): number | undefined;
  /** Token that the post-processor puts before every text, or null. */
  readonly startsWith: string | null;
}

/** Throws ModelError naming the file, the field, what was found and expected. */
export function tokenIds(source: ByteSource, file: string, json: unknown): TokenIds {
  const { model, added_tokens: added, post_processor: postProcessor } = checkTokenizer(`${source.description}, ${file}`, json);
  const ids = Array.isArray(model.vocab) ? new Map((model.vocab as readonly [string, number][]).map(([token], id) => [token, id])) : new Map(Object.entries(model.vocab as Record<string, number>));
  for (const token of added ?? []) ids.set(token.content, token.id);
  let largest = -1;
  for (const id of ids.values()) largest = Math.max(largest, id);
  return { kind: model.type ?? "BPE", largest, idOf: (token) => ids.get(token), startsWith: firstSpecialToken(postProcessor ?? null) };
}

function firstSpecialToken(p: TokenizerPart | null): string | null {
  if (p === null) return null;
  if (p.type === "Sequence") return p.processors!.map(firstSpecialToken).find((t) => t !== null) ?? null;
  return p.type === "TemplateProcessing" ? (p.single![0]?.SpecialToken?.id ?? null) : null;
}
