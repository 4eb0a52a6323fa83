// The side panel with the shares of the experts in the chosen layer. Owns one bar per expert. Refuses to know tokens: token-view.ts counts them.

import { colourOf } from "./colours.ts";
import { element, percent } from "./figures.ts";
import type { TokenView } from "./token-view.ts";

/** A bar needs room for a number of two digits. */
const EXPERTS_PER_ROW = 16;
/** More than this, and the bars are lower: eight rows should fit where two did. */
const MANY_EXPERTS = 64;

/** One bar per expert. Bars are kept between updates so that they can move. */
export function createExpertPanel(host: HTMLElement, view: TokenView, nExperts: number, onPick: (expert: number) => void): () => void {
  const buttons = Array.from({ length: nExperts }, (_, expert) => {
    const button = element("button", "expert");
    button.type = "button";
    button.style.setProperty("--colour", colourOf(expert));
    button.append(element("span", "bar"), element("span", "name", String(expert)));
    button.addEventListener("click", () => onPick(expert));
    return button;
  });
  host.classList.toggle("many", nExperts > MANY_EXPERTS);
  host.style.setProperty("--columns", String(Math.min(nExperts, EXPERTS_PER_ROW)));
  host.replaceChildren(...buttons);
  const update = (): void => {
    const shares = view.shares(nExperts);
    const largest = Math.max(...shares, 1e-9);
    buttons.forEach((button, expert) => {
      const share = shares[expert]!;
      button.style.setProperty("--share", String(share / largest));
      button.setAttribute("aria-pressed", String(view.onlyExpert === expert));
      button.setAttribute("aria-label", `Expert ${expert}: ${percent(share)}`);
      button.title = `Expert ${expert}: ${percent(share)}`;
    });
  };
  update();
  return update;
}
