// The few things the packer must know of a tokenizer.json: its kind, its ids, and whether its own template starts with a
// token. Owns no tokenising (model/tokenizer.ts). Refuses files that have no model with a vocabulary.

import { type ByteSource, SourceError } from "./byte-source.ts";

export interface TokenIds {
  /** "BPE", "Unigram" or "WordPiece". */
  readonly kind: string;
  readonly largest: number;
  idOf(token: string): number | undefined;
  /** Token that the post-processor puts before every text, or null. */
  readonly startsWith: string | null;
}

interface PostProcessor {
  readonly type?: string;
  readonly processors?: readonly PostProcessor[];
  readonly single?: readonly { readonly SpecialToken?: { readonly id?: string } }[];
}

export function tokenIds(source: ByteSource, file: string, json: unknown): TokenIds {
  const document = json as {
    model?: { type?: unknown; vocab?: unknown };
    added_tokens?: readonly { id: number; content: string }[];
    post_processor?: PostProcessor | null;
  } | null;
  const vocab = document?.model?.vocab;
  if (typeof vocab !== "object" || vocab === null) {
    throw new SourceError(`${source.description}, ${file} has no model.vocab, expected a tokenizer.json of the tokenizers library.`);
  }
  const ids = Array.isArray(vocab)
    ? new Map((vocab as [string, number][]).map(([token], id) => [token, id]))
    : new Map(Object.entries(vocab as Record<string, number>));
  for (const token of document?.added_tokens ?? []) ids.set(token.content, token.id);
  let largest = -1;
  for (const id of ids.values()) largest = Math.max(largest, id);
  return {
    kind: typeof document?.model?.type === "string" ? document.model.type : "BPE",
    largest,
    idOf: (token) => ids.get(token),
    startsWith: firstSpecialToken(document?.post_processor ?? null),
  };
}

function firstSpecialToken(p: PostProcessor | null): string | null {
  if (p === null) return null;
  if (p.type === "Sequence") return p.processors?.map(firstSpecialToken).find((t) => t !== null) ?? null;
  return p.type === "TemplateProcessing" ? (p.single?.[0]?.SpecialToken?.id ?? null) : null;
}
