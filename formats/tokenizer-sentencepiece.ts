// Reads SentencePiece's `tokenizer.model` (a protobuf, ModelProto) as far as BPE needs: pieces with scores and types, the trainer's model type
// and byte fallback, the normaliser's spaces. Owns a small reader of the protobuf wire format; unknown fields are skipped as protobuf asks.
// Refuses unigram, word and character models, and normalisers that change text. Source: google/sentencepiece src/sentencepiece_model.proto.

import { type ByteSource, SourceError } from "./byte-source.ts";
import { TOKEN_TYPES, sentencePieceDocument } from "./tokenizer-document.ts";
import type { SpecialToken } from "./tokenizer-tiktoken.ts";

export interface SentencePieceModel {
  readonly tokens: readonly string[];
  readonly scores: readonly number[];
  readonly types: readonly number[];
  readonly byteFallback: boolean;
  readonly addDummyPrefix: boolean;
}

/** One field of a message: wire types 0 (varint), 1 (64 bits), 2 (bytes), 5 (32 bits). */
type Field = { readonly number: number; readonly at: number } & ({ readonly wire: 0; readonly value: number } | { readonly wire: 1 | 2 | 5; readonly bytes: Uint8Array });

const MODEL_TYPES = ["", "unigram", "BPE", "word", "character"];

/** Throws SourceError naming the byte and field that are wrong. */
export function readSentencePiece(source: ByteSource, file: string, bytes: Uint8Array): SentencePieceModel {
  const where = `${source.description}, ${file}`;
  const tokens: string[] = [];
  const scores: number[] = [];
  const types: number[] = [];
  let modelType = 1;
  let byteFallback = false;
  let addDummyPrefix = true;
  let removeExtraWhitespaces = true;
  let normalizer = "";
  let charsMapBytes = 0;
  for (const field of fields(where, bytes, 0)) {
    if (field.number === 1 && field.wire === 2) {
      let piece: string | null = null;
      let score = 0;
      let type: number = TOKEN_TYPES.normal;
      for (const part of fields(where, field.bytes, field.at)) {
        if (part.number === 1 && part.wire === 2) piece = utf8(where, part.bytes, part.at);
        if (part.number === 2 && part.wire === 5) score = new DataView(part.bytes.buffer, part.bytes.byteOffset, 4).getFloat32(0, true);
        if (part.number === 3 && part.wire === 0) type = part.value;
      }
      if (piece === null || type < 1 || type > 6 || !Number.isFinite(score)) {
        throw new SourceError(`${where}: piece ${tokens.length} at byte ${field.at} has the text ${JSON.stringify(piece)}, score ${score} and type ${type}; expected a text, a finite score and a type from 1 to 6.`);
      }
      tokens.push(piece);
      scores.push(score);
      types.push(type);
    } else if (field.number === 2 && field.wire === 2) {
      for (const part of fields(where, field.bytes, field.at)) {
        if (part.number === 3 && part.wire === 0) modelType = part.value;
        if (part.number === 35 && part.wire === 0) byteFallback = part.value !== 0;
      }
    } else if (field.number === 3 && field.wire === 2) {
      for (const part of fields(where, field.bytes, field.at)) {
        if (part.number === 1 && part.wire === 2) normalizer = utf8(where, part.bytes, part.at);
        if (part.number === 2 && part.wire === 2) charsMapBytes = part.bytes.length;
        if (part.number === 3 && part.wire === 0) addDummyPrefix = part.value !== 0;
        if (part.number === 4 && part.wire === 0) removeExtraWhitespaces = part.value !== 0;
      }
    }
  }
  if (tokens.length === 0) throw new SourceError(`${where} holds no pieces, expected a SentencePiece model.`);
  if (modelType !== 2) throw new SourceError(`${where} is a SentencePiece model of type ${MODEL_TYPES[modelType] ?? modelType}, which this version cannot build; expected BPE, or a tokenizer.json beside it.`);
  if (charsMapBytes > 0 || removeExtraWhitespaces) {
    throw new SourceError(
      `${where} normalises text (${normalizer || "unnamed"}, ${charsMapBytes} bytes of rules, extra spaces ${removeExtraWhitespaces ? "removed" : "kept"}), `
      + "which this version cannot build; expected the identity with spaces kept, or a tokenizer.json beside it.",
    );
  }
  return { tokens, scores, types, byteFallback, addDummyPrefix };
}

/** The tokenizer.json of a SentencePiece model. `added` are tokens of tokenizer_config.json; `legacy` is transformers' rule that every run of text gets a space in front. */
export function sentencePieceFileDocument(source: ByteSource, file: string, model: SentencePieceModel, added: readonly SpecialToken[], legacy: boolean): object {
  const where = `${source.description}, ${file}`;
  const tokens = [...model.tokens];
  const types = [...model.types];
  const scores = [...model.scores];
  const rstripIds = new Set<number>();
  for (const { id, content, special, rstrip } of [...added].sort((a, b) => a.id - b.id)) {
    if (rstrip) rstripIds.add(id);
    if (id > tokens.length) throw new SourceError(`${where} has ${model.tokens.length} pieces and tokenizer_config.json adds the id ${id}, expected ids without a gap (${tokens.length} is missing).`);
    const isNew = id === tokens.length;
    tokens[id] = content;
    if (isNew || types[id] === TOKEN_TYPES.normal || types[id] === TOKEN_TYPES.unused) types[id] = special ? TOKEN_TYPES.control : TOKEN_TYPES.userDefined;
    if (isNew) scores[id] = 0;
  }
  const unknownId = types.indexOf(TOKEN_TYPES.unknown);
  return sentencePieceDocument({ tokens, types, where, rstrip: rstripIds }, {
    scores, unknownId: unknownId < 0 ? null : unknownId, byteFallback: model.byteFallback,
    spacePrefix: !model.addDummyPrefix ? "none" : legacy ? "each" : "first",
  });
}

/** The fields of a message in order. `at` is where `bytes` lies in the file, for messages. */
function* fields(where: string, bytes: Uint8Array, at: number): Generator<Field> {
  let i = 0;
  const fail = (found: string): never => { throw new SourceError(`${where} is no SentencePiece model: ${found} at byte ${at + i}.`); };
  const varint = (): number => {
    let value = 0;
    for (let shift = 0; shift < 10; shift++) {
      const byte = bytes[i++] ?? fail("the file ends inside a number");
      value += (byte & 127) * 2 ** (7 * shift);
      if (byte < 128) return value;
    }
    return fail("a number is longer than ten bytes");
  };
  while (i < bytes.length) {
    const tag = varint();
    const wire = tag % 8;
    const number = Math.floor(tag / 8);
    if (number === 0) fail("field number 0");
    if (wire === 0) {
      const start = at + i;
      yield { number, wire, value: varint(), at: start };
    } else if (wire === 1 || wire === 2 || wire === 5) {
      const length = wire === 1 ? 8 : wire === 5 ? 4 : varint();
      if (length > bytes.length - i) fail(`a field of ${length} bytes with ${bytes.length - i} left`);
      yield { number, wire, bytes: bytes.subarray(i, i + length), at: at + i };
      i += length;
    } else {
      fail(`wire type ${wire}`);
    }
  }
}

function utf8(where: string, bytes: Uint8Array, at: number): string {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw new SourceError(`${where}: the text at byte ${at} is not UTF-8.`);
  }
}
