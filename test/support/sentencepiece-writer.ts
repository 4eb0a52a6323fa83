// Writes SentencePiece's tokenizer.model for tests: a protobuf as small as its reader. Written from sentencepiece_model.proto, not from the
// reader. Refuses nothing: bad files are its purpose.

const utf8 = (text: string): Uint8Array<ArrayBuffer> => new TextEncoder().encode(text).slice();
const varint = (value: number): number[] => (value < 128 ? [value] : [(value % 128) | 128, ...varint(Math.floor(value / 128))]);
const intField = (number: number, value: number): number[] => [...varint(number * 8), ...varint(value)];
const floatField = (number: number, value: number): number[] => [...varint(number * 8 + 5), ...new Uint8Array(new Float32Array([value]).buffer)];

/** A field of bytes: text or a message. */
export const bytesField = (number: number, content: readonly number[]): number[] => [...varint(number * 8 + 2), ...varint(content.length), ...content];

export type Piece = readonly [text: string, score: number, type: number];

const pieceField = ([text, score, type]: Piece): number[] => bytesField(1, [...bytesField(1, [...utf8(text)]), ...floatField(2, score), ...(type === 1 ? [] : intField(3, type))]);

export function sentencePieceFile(pieces: readonly Piece[], { modelType = 2, byteFallback = true, dummyPrefix = true, removeSpaces = false, charsMap = 0 } = {}): Uint8Array<ArrayBuffer> {
  return new Uint8Array([
    ...pieces.flatMap(pieceField),
    ...bytesField(2, [...intField(3, modelType), ...intField(4, pieces.length), ...intField(35, Number(byteFallback))]),
    ...bytesField(3, [...bytesField(1, [...utf8("identity")]), ...bytesField(2, Array<number>(charsMap).fill(7)), ...intField(3, Number(dummyPrefix)), ...intField(4, Number(removeSpaces))]),
  ]);
}
