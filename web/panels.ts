// The side panels: shares of the experts in the chosen layer, and one token seen through all layers.

import { colourOf } from "./colours.ts";
import { element, percent } from "./figures.ts";
import type { ShownToken, TokenView } from "./token-view.ts";

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

/** What one token is made of: its experts in the chosen layer with their probabilities, and a strip per layer. */
export function showToken(host: HTMLElement, token: ShownToken | null, layer: number, layerNames: readonly number[]): void {
  if (token?.trace == null) {
    host.replaceChildren(element("p", "hint", "Point at a token, or walk with the arrow keys."));
    return;
  }
  const heading = element("p", "token-name");
  heading.append(element("code", "", JSON.stringify(token.text).slice(1, -1).replaceAll(" ", "␣")), element("span", "hint", ` token ${token.id}`));
  const list = element("ul", "token-experts");
  token.trace.experts[layer]?.forEach((expert, i) => {
    const weight = token.trace?.weights[layer]?.[i] ?? 0;
    const item = element("li", "");
    item.style.setProperty("--colour", colourOf(expert));
    item.style.setProperty("--share", String(Math.min(1, weight)));
    item.append(element("span", "bar"), element("span", "name", `Expert ${expert}`), element("span", "value", percent(weight)));
    list.append(item);
  });
  const strips = element("div", "strips");
  token.trace.experts.forEach((experts, i) => {
    const strip = element("div", i === layer ? "strip chosen" : "strip");
    strip.append(element("span", "name", String(layerNames[i] ?? i)));
    experts.forEach((expert, rank) => {
      const cell = element("span", "cell", String(expert));
      cell.style.setProperty("--colour", colourOf(expert));
      cell.style.flexGrow = String(token.trace?.weights[i]?.[rank] ?? 0);
      strip.append(cell);
    });
    strips.append(strip);
  });
  host.replaceChildren(heading, list, element("p", "hint", "Through all layers:"), strips);
  const chosen = strips.children[layer] as HTMLElement;
  strips.scrollTop = chosen.offsetTop - strips.clientHeight / 2; // where many layers scroll, the chosen one is in sight
}
