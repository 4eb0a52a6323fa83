// What is said to the model and by it, as blocks of the page's text: a user's words, results of calls, the block a reply goes to.
// Owns the blocks' classes. Refuses tokens (token-view.ts) and the conversation as the model gets it (request.ts).

import { element } from "./figures.ts";
import type { Mode, Turn } from "./request.ts";

export interface ShownTurn {
  /** Where the reply goes. */
  readonly target: HTMLElement;
  /** Every block of this turn, in order. */
  readonly blocks: readonly HTMLElement[];
}

export function showTurn(output: HTMLElement, mode: Mode, turn: Turn): ShownTurn {
  output.querySelectorAll(".empty, .results").forEach((gone) => gone.remove()); // whoever goes on without a result has decided so
  const block = (className: string, text = ""): HTMLElement => {
    const made = element("div", className, text);
    output.append(made);
    return made;
  };
  if (mode === "completion") {
    const target = block("turn given", "text" in turn ? turn.text : "");
    return { target, blocks: [target] };
  }
  const blocks = "text" in turn ? [block("turn user", turn.text)] : turn.calls.map(({ name }, i) => block("turn user result", `${name} → ${turn.results[i]!}`));
  const target = block("turn assistant");
  return { target, blocks: [...blocks, target] };
}
