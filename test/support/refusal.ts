// How bad input must be answered: by an error of ours whose message is one sentence that can be printed, speaks of the file and not of the code.
// Owns that rule; tests of bad input and the fuzzer judge by it. Refuses to know formats.

import { SourceError } from "../../formats/byte-source.ts";
import { ModelError } from "../../model/config.ts";

/** It starts as a sentence, ends as one, says more than a word, and fits a line. `quotes`: it may end in the words of a library. */
export const isSentence = (message: string, quotes = false): boolean =>
  /^[^\s].*\s.*[.!?)"]$/s.test(message) && !/[\p{Cc}\u2028\u2029]/u.test(message) && message.length <= 2000
  && (quotes || !/\bundefined\b|\[object Object\]|is not a function|is not iterable|Cannot read/.test(message));

/** The message with which `open` refuses; null where it does not. Throws where it fails in any other way. */
export async function refusalOf(open: () => unknown): Promise<string | null> {
  try {
    await open();
    return null;
  } catch (error) {
    if (!(error instanceof SourceError) && !(error instanceof ModelError)) throw error;
    if (!isSentence(error.message)) throw new Error(`The refusal is no sentence: ${error.message}`, { cause: error });
    return error.message;
  }
}
