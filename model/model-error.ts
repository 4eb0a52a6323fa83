// The error that a model or its files cause. Owns its form: one printable line, whatever a file holds. Refuses to know what went wrong: whoever throws says it.

/** An error of the model or its files: what was found, what was expected, where. Rendered once at the edge. */
export class ModelError extends Error {
  override readonly name = "ModelError";

  constructor(message: string, options?: ErrorOptions) {
    super(oneLine(message), options);
  }
}

/** Longest message of an error, in UTF-16 units. Lists of what is known take about 700. */
const MESSAGE_LENGTH = 2000;

/** A message that can be printed: it quotes names and values of files, which may hold line ends, escape codes or megabytes. */
export function oneLine(message: string): string {
  const cut = (text: string): string => (text.length <= MESSAGE_LENGTH ? text : `${text.slice(0, 1400)} ... ${text.slice(-500)}`);
  return cut(cut(message).replace(/[\p{Cc}\u2028\u2029]/gu, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`));
}
