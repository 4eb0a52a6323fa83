// The way from a token in the text to its panel: Enter in the text, and where the panel lies below the text, on a phone, a line that names the token and leads
// there. Owns the line. Refuses the panel's content (token-detail.ts).

import { element } from "./figures.ts";
import { visibleText } from "./token-detail.ts";
import type { ShownToken } from "./token-view.ts";

/** Returns what shows the token that is looked at. */
export function prepareTokenLink(link: HTMLButtonElement, output: HTMLElement, panel: HTMLElement): (token: ShownToken | null) => void {
  let looked: ShownToken | null = null;
  const go = (): void => {
    panel.focus({ preventScroll: true });
    panel.closest("section")!.scrollIntoView({ block: "start", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
  };
  link.addEventListener("click", go);
  output.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.target !== output || looked === null) return;
    event.preventDefault();
    go();
  });
  return (token) => {
    looked = token;
    link.hidden = token === null;
    link.replaceChildren("What ", element("code", "", token === null ? "" : visibleText(token.text)), " is made of ↓");
  };
}
