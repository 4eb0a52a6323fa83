// What the heat map shows: the reply's own routing, or that of classes of text as the routing map has it: one class's shares, or whose expert each is most. Owns fills, hues and words.
// Refuses the canvas (heat-map.ts) and the choice between them (heat-views.ts).

import { hueOf } from "./colours.ts";
import { percent } from "./figures.ts";
import type { HeatCell, HeatPicture } from "./heat-map.ts";
import type { TokenView } from "./token-view.ts";
import type { RoutingMap } from "../worker/wire-types.ts";

/** The root spreads the small shares: most experts have few per cent, and zero should still look unlike little. */
const fillOf = (share: number, largest: number): number => (share === 0 ? 0 : Math.sqrt(share / largest));

/** Of the tokens on the page; outlined are the experts of the newest, or of the one looked at. */
export const replyPicture = (view: TokenView, nExperts: number): HeatPicture => ({
  cells: (layer, isNarrow) => {
    const shares = view.shares(nExperts, layer);
    const largest = Math.max(...shares);
    return shares.map((share, expert) => ({ fill: fillOf(share, largest), hue: hueOf(isNarrow ? 0 : expert) }));
  },
  lit: (layer) => view.lit?.trace?.experts[layer] ?? [],
  chosen: view.layer,
  words: (layer, expert) => percent(view.shares(nExperts, layer)[expert]!),
  hint: (action) => `Rows are layers, columns experts. A click ${action}.`,
});

export type RoutingClass = RoutingMap["classes"][number];

/** Hue and lightness of class `i` of `n`: hues evenly apart, every other one darker, so that a dozen can be told apart. */
export const classColour = (i: number, n: number): { readonly hue: number; readonly lightness: number } => ({ hue: (25 + (360 * i) / n) % 360, lightness: n > 6 && i % 2 === 1 ? 0.8 : 1 });

/** The same for a style sheet. */
export function classStyle(i: number, n: number): string {
  const { hue, lightness } = classColour(i, n);
  return `oklch(calc(var(--expert-l) * ${lightness}) var(--expert-c) ${hue.toFixed(1)})`;
}

/** Shares of one class. */
export function classPicture(classes: readonly RoutingClass[], at: number): HeatPicture {
  const { label, share } = classes[at]!;
  return {
    cells: (layer) => {
      const largest = Math.max(...share[layer]!);
      return share[layer]!.map((of) => ({ fill: fillOf(of, largest), ...classColour(at, classes.length) }));
    },
    lit: () => [], chosen: null,
    words: (layer, expert) => {
      const row = share[layer]!;
      const rank = 1 + row.filter((of) => of > row[expert]!).length;
      return `${percent(row[expert]!)} of ${label}, rank ${rank} of ${row.length}`;
    },
    hint: () => `The fuller, the more of ${label} an expert takes in its layer.`,
  };
}

/** Each expert in the colour of the class that it is taken by most; the fuller, the more of all it is given comes from there. */
export function mostPicture(classes: readonly RoutingClass[]): HeatPicture {
  const n = classes.length;
  // Made once: the map is drawn anew with every move of the pointer, and may have thousands of cells.
  const rows = classes[0]!.share.map((row, layer) => row.map((_, expert): HeatCell => {
    const shares = classes.map(({ share }) => share[layer]![expert]!);
    const all = shares.reduce((sum, share) => sum + share, 0);
    if (all === 0) return { fill: 0, hue: 0 };
    const most = Math.max(...shares);
    // From an expert that all take alike to one that a single class takes.
    return { fill: n === 1 ? 1 : 0.12 + 0.88 * ((most / all - 1 / n) / (1 - 1 / n)), ...classColour(shares.indexOf(most), n) };
  }));
  return {
    cells: (layer) => rows[layer]!,
    lit: () => [], chosen: null,
    words: (layer, expert) => {
      const [first, second] = classes.map(({ label, share }) => ({ label, share: share[layer]![expert]! })).sort((a, b) => b.share - a.share);
      if (first!.share === 0) return "taken by none";
      const name = ({ label, share }: { readonly label: string; readonly share: number }): string => `${percent(share)} of ${label}`;
      return `${name(first!)}${second === undefined ? "" : `, then ${name(second)}`}`;
    },
    hint: () => "Whose expert each is most; pale ones serve all alike.",
  };
}
