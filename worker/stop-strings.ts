// Stop strings in streamed text: a stop may span tokens, so text that could still become one is held back.
// Owns the cut. Refuses to know tokens: it sees text pieces and says what may be shown.

export interface StopCut {
  /** Text that may be shown now. */
  readonly text: string;
  /** The stop string that was reached, or null. Nothing may be pushed after it. */
  readonly stop: string | null;
}

export interface StopScanner {
  push(piece: string): StopCut;
  /** What was held back and turned out to be ordinary text. */
  flush(): string;
}

/** A scanner over `stops`; an empty list passes everything through. The match that ends first wins, then the longest: so the cut does not depend on the pieces. */
export function createStopScanner(stops: readonly string[]): StopScanner {
  let held = "";
  return {
    push(piece) {
      held += piece;
      let end = Infinity;
      let found: string | null = null;
      for (const stop of stops) {
        const index = held.indexOf(stop);
        const stopEnd = index + stop.length;
        if (index >= 0 && (stopEnd < end || (stopEnd === end && stop.length > (found?.length ?? 0)))) {
          end = stopEnd;
          found = stop;
        }
      }
      if (found !== null) {
        const text = held.slice(0, end - found.length);
        held = "";
        return { text, stop: found };
      }
      const keep = longestPartial(held, stops);
      const text = held.slice(0, held.length - keep);
      held = held.slice(held.length - keep);
      return { text, stop: null };
    },
    flush() {
      const text = held;
      held = "";
      return text;
    },
  };
}

/** Length of the longest end of `text` that begins one of the stops. */
function longestPartial(text: string, stops: readonly string[]): number {
  let longest = 0;
  for (const stop of stops) {
    for (let length = Math.min(stop.length - 1, text.length); length > longest; length--) {
      if (text.endsWith(stop.slice(0, length))) {
        longest = length;
        break;
      }
    }
  }
  return longest;
}
