// What the map of layers and experts shows: this reply, domains, languages, or their divergence. Owns that choice, the classes below the map, of which one may be looked at alone, and which picture
// is painted. Refuses a pack without a routing map: then there is the reply alone and no choice.

import { showDivergence } from "./divergence.ts";
import { element } from "./figures.ts";
import type { HeatPicture } from "./heat-map.ts";
import { classPicture, classStyle, mostPicture, replyPicture } from "./heat-pictures.ts";
import type { TokenView } from "./token-view.ts";
import type { RoutingMap } from "../worker/wire-types.ts";

export interface HeatViews {
  readonly picture: () => HeatPicture;
  /** From now on there is a choice. */
  readonly setMap: (map: RoutingMap) => void;
}

export interface HeatViewOptions {
  readonly view: TokenView;
  readonly nExperts: number;
  /** Draws the map anew. */
  readonly onChange: () => void;
}

/** `host` has the choice (.views), the map (#heat-map), the classes (.classes) and the divergence (.divergence). */
export function createHeatViews(host: HTMLElement, { view, nExperts, onChange }: HeatViewOptions): HeatViews {
  const find = <T extends HTMLElement>(selector: string): T => host.querySelector<T>(selector)!;
  const [choice, heat, list, divergence] = [find(".views"), find("#heat-map"), find(".classes"), find(".divergence")];
  let map: RoutingMap | null = null;
  /** The class looked at alone. */
  let only: number | null = null;
  /** Of the classes; null: the reply, whose picture changes with each token. */
  let ofClasses: HeatPicture | null = null;

  const chosen = (): string => find<HTMLInputElement>("input[name=heat]:checked").value;
  const classes = (): RoutingMap["classes"] => map?.classes.filter(({ kind }) => kind === chosen()) ?? [];

  const paint = (): void => {
    const shown = classes();
    ofClasses = shown.length === 0 ? null : only === null ? mostPicture(shown) : classPicture(shown, only);
    onChange();
  };

  function showClasses(): void {
    const shown = classes();
    list.hidden = shown.length === 0;
    list.replaceChildren(...shown.map(({ label, tokens }, i) => {
      const button = element("button");
      button.type = "button";
      button.title = `${tokens} tokens were routed`;
      const swatch = element("span", "swatch");
      swatch.style.setProperty("--colour", classStyle(i, shown.length));
      button.append(swatch, label);
      button.setAttribute("aria-pressed", String(only === i));
      button.addEventListener("click", () => {
        only = only === i ? null : i;
        for (const [at, other] of [...list.children].entries()) other.setAttribute("aria-pressed", String(only === at));
        paint();
      });
      return button;
    }));
  }

  const show = (): void => {
    const isDivergence = chosen() === "divergence";
    heat.hidden = isDivergence;
    divergence.hidden = !isDivergence;
    only = null;
    showClasses();
    paint();
  };
  for (const input of choice.querySelectorAll("input")) input.addEventListener("change", show);

  return {
    picture: () => ofClasses ?? replyPicture(view, nExperts),
    setMap: (given) => {
      map = given;
      for (const input of choice.querySelectorAll("input")) {
        const { value } = input;
        const isThere = value === "reply" || (value === "divergence" ? given.divergence.length > 0 : given.classes.some(({ kind }) => kind === value));
        input.closest("label")!.hidden = !isThere;
      }
      choice.hidden = false;
      if (given.divergence.length > 0) showDivergence(divergence, given);
      show();
    },
  };
}
