// Experts that the next request steers, as marks on the cells of the heat map: each kind has a colour of the theme and a shape, so that they differ without colours too. Owns both, the words,
// and the legend. Refuses to know who asked for them (steering.ts).

import { element } from "./figures.ts";
import type { InterventionOp } from "../worker/wire-types.ts";

/** Operations that name experts. */
export type MarkedOp = Exclude<InterventionOp, "top_k" | "null_bias">;

export interface HeatMark {
  readonly expert: number;
  readonly op: MarkedOp;
  readonly words: string;
}

/** In the order of the legend. */
export const MARKS: Readonly<Record<MarkedOp, { readonly words: string; readonly colour: string }>> = {
  mask: { words: "masked: not there", colour: "--bad" },
  suppress: { words: "suppressed: counts nothing", colour: "--bad" },
  force_max: { words: "forced: largest weight", colour: "--good" },
  stimulate: { words: "stimulated: always taken", colour: "--good" },
  add_std: { words: "promoted: larger logit", colour: "--wait" },
  gain: { words: "weighed otherwise", colour: "--wait" },
};

/** Cells narrower than this have no shape in them. */
const LEAST_ROOM = 5;

/** Crossed out, struck out, with a dot, empty, with a bar below, with a bar in the middle. */
export function paintMark(context: CanvasRenderingContext2D, op: MarkedOp, [x, y, w, h]: readonly [number, number, number, number], scale: number, of: (name: string) => string): void {
  const line = Math.max(1, Math.min(Math.round(1.6 * scale), Math.floor(Math.min(w, h) / 4)));
  context.strokeStyle = context.fillStyle = of(MARKS[op].colour);
  if (Math.min(w, h) < LEAST_ROOM * scale) {
    // No room for a shape: the colour, within the page's, since neighbours may have any.
    context.fillStyle = of("--card");
    context.fillRect(x - 1, y - 1, w + 2, h + 2);
    context.fillStyle = of(MARKS[op].colour);
    context.fillRect(x, y, w, h);
    return;
  }
  // A thin edge of the page's colour around it, since the cell may have any.
  context.lineWidth = line + 2;
  context.strokeStyle = of("--card");
  context.strokeRect(x + line / 2, y + line / 2, w - line, h - line);
  context.strokeStyle = of(MARKS[op].colour);
  context.lineWidth = line;
  context.strokeRect(x + line / 2, y + line / 2, w - line, h - line);
  const [right, bottom] = [x + w - line / 2, y + h - line / 2];
  context.beginPath();
  if (op === "mask" || op === "suppress") {
    context.moveTo(x + line / 2, bottom);
    context.lineTo(right, y + line / 2);
  }
  if (op === "mask") {
    context.moveTo(x + line / 2, y + line / 2);
    context.lineTo(right, bottom);
  }
  context.stroke();
  if (op === "force_max") {
    context.beginPath();
    context.arc(x + w / 2, y + h / 2, Math.min(w, h) / 5, 0, 2 * Math.PI);
    context.fill();
  }
  if (op === "add_std") context.fillRect(x, y + h - Math.round(h / 3), w, Math.round(h / 3));
  if (op === "gain") context.fillRect(x, y + Math.round((3 * h) / 8), w, Math.round(h / 4));
}

const SWATCH_PX = 13;

/** A line for each kind of mark that there is. */
export function markLegend(counts: ReadonlyMap<MarkedOp, number>): HTMLElement[] {
  return (Object.keys(MARKS) as MarkedOp[]).flatMap((op) => {
    const n = counts.get(op) ?? 0;
    if (n === 0) return [];
    const item = element("li");
    const swatch = element("canvas", "swatch");
    item.append(swatch, element("span", "", `${n} ${MARKS[op].words}`));
    const [scale, theme] = [window.devicePixelRatio, getComputedStyle(document.body)];
    swatch.width = swatch.height = Math.round(SWATCH_PX * scale);
    paintMark(swatch.getContext("2d")!, op, [0, 0, swatch.width, swatch.height], scale, (name) => theme.getPropertyValue(name).trim());
    return [item];
  });
}
