// The known text of stories260K and how llama2.c turns ids into text. Owns no files, so that tests inside workerd can use it too.
// Source: test_all.py and run.c of llama2.c (MIT).

/** 200 steps at temperature 0, as llama2.c's own test expects them. */
export const STORIES_TEXT =
  "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she saw a big, red ball. " +
  "She wanted to play with it, but it was too high.\nLily's mom said, \"Lily, let's go to the park.\" Lily was sad and didn't know what to do. " +
  "She said, \"I want to play with your ball, but I can't find it.\"\nLily was sad and didn't know what to do. " +
  "She said, \"I'm sorry, Lily. I didn't know what to do.\"\nLily didn't want to help her mom, so she";
export const STORIES_STEPS = 200;
export const BOS = 1;


/** Text of generated ids, BOS first, as run.c prints it: <0xHH> is a byte, and a leading space after BOS is dropped. */
export function decodePieces(pieces: readonly string[], ids: readonly number[]): string {
  const text = ids.map((id, i) => {
    const piece = pieces[id]!;
    const byte = /^<0x([0-9A-F]{2})>$/.exec(piece);
    if (byte !== null) return String.fromCharCode(parseInt(byte[1]!, 16));
    return ids[i - 1] === BOS && piece.startsWith(" ") ? piece.slice(1) : piece;
  });
  return new TextDecoder().decode(Uint8Array.from(text.slice(1).join(""), (c) => c.charCodeAt(0)));
}
