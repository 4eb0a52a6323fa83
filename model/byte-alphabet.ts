// GPT-2's byte alphabet: how byte-level BPE writes bytes in its tokens. Printable bytes stand for themselves, the others for 256 and on.
// Source: bytes_to_unicode of openai/gpt-2 src/encoder.py.

/** Byte -> character. */
export const BYTE_ALPHABET: readonly string[] = (() => {
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => {
    const isPrintable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    return String.fromCharCode(isPrintable ? byte : next++);
  });
})();

/** Character -> byte. */
export const BYTE_OF_CHARACTER: ReadonlyMap<string, number> = new Map(BYTE_ALPHABET.map((character, byte) => [character, byte]));
