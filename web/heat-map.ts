// The heat map: all layers by all experts in one canvas, from 4 x 32 to 48 x 128. What is painted is a picture's to say (heat-pictures.ts): how full a cell's colour is, its hue, which cells are
// outlined; marks of steering lie over it (heat-marks.ts). Owns the canvas, and a cursor for pointer and arrow keys. Refuses to know traces and classes.

import { element } from "./figures.ts";
import { type HeatMark, paintMark } from "./heat-marks.ts";

/** One expert of one layer. */
export interface HeatCell {
  /** How full its colour is, from 0, empty, to 1. */
  readonly fill: number;
  readonly hue: number;
  /** Of the theme's lightness; absent: 1. */
  readonly lightness?: number;
}

export interface HeatPicture {
  /** [nExperts] of row `layer`; of narrow cells, which touch each other, many hues side by side would be grey. */
  readonly cells: (layer: number, isNarrow: boolean) => readonly HeatCell[];
  /** Experts of a row that are outlined. */
  readonly lit: (layer: number) => readonly number[];
  /** The row that is marked at its left; null: none. */
  readonly chosen: number | null;
  /** Of one cell, after its layer and number. */
  readonly words: (layer: number, expert: number) => string;
  /** While no cell is pointed at; `action` is what a click does, in words. */
  readonly hint: (action: string) => string;
}

export interface HeatMapOptions {
  readonly nExperts: number;
  /** Numbers of the layers with experts: the rows. */
  readonly layerNames: readonly number[];
  readonly picture: () => HeatPicture;
  /** Of a row. */
  readonly marks: (layer: number) => readonly HeatMark[];
  /** What Enter and a click do, in words, and what they do. */
  readonly action: () => string;
  readonly onPick: (layer: number, expert: number) => void;
  /** Where the cursor begins with the keyboard: a row, and an expert. */
  readonly begin: () => readonly [layer: number, expert: number];
}

/** Rows are this high where there is room, and share MAP_HEIGHT where there are many. */
const ROW_HEIGHT = 15;
const MAP_HEIGHT = 300;
/** Left of the cells, for the mark at the layer that colours the text. */
const GUTTER = 7;
/** Cells narrower than this touch each other. */
const NARROW_WIDTH = 5;

/** Fills `host`; returns what draws it anew. */
export function createHeatMap(host: HTMLElement, { nExperts, layerNames, picture, marks, action, onPick, begin }: HeatMapOptions): () => void {
  const canvas = element("canvas", "heat");
  const readout = element("p", "hint readout");
  readout.setAttribute("role", "status");
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "application");
  canvas.setAttribute("aria-roledescription", "heat map");
  host.replaceChildren(canvas, readout);
  const rowHeight = Math.min(ROW_HEIGHT, Math.max(4, Math.floor(MAP_HEIGHT / layerNames.length)));
  canvas.style.setProperty("height", `${rowHeight * layerNames.length}px`);
  let cursor: { readonly layer: number; readonly expert: number } | null = null;

  const describe = ({ words, hint }: HeatPicture): void => {
    canvas.setAttribute("aria-label", `Heat map of ${layerNames.length} layers by ${nExperts} experts. Arrow keys move, Enter ${action()}.`);
    if (cursor === null) {
      readout.textContent = hint(action());
      return;
    }
    const { layer, expert } = cursor;
    const mark = marks(layer).find((of) => of.expert === expert);
    readout.textContent = `Layer ${layerNames[layer]}, expert ${expert}: ${words(layer, expert)}${mark === undefined ? "" : `; ${mark.words}`}`;
  };

  function draw(): void {
    const scale = window.devicePixelRatio;
    const [width, height] = [Math.round(canvas.clientWidth * scale), Math.round(rowHeight * layerNames.length * scale)];
    if (width === 0) return;
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    const shown = picture();
    const theme = getComputedStyle(canvas);
    const of = (name: string): string => theme.getPropertyValue(name).trim();
    const [lightness, chroma, ink, empty] = [Number(of("--expert-l")), of("--expert-c"), of("--ink"), of("--cell")];
    const context = canvas.getContext("2d")!;
    context.clearRect(0, 0, width, height);
    const left = Math.round(GUTTER * scale);
    const isNarrow = (width - left) / nExperts / scale < NARROW_WIDTH;
    const gap = isNarrow ? 0 : Math.round(scale);
    const edge = (at: number, n: number, length: number): number => Math.round((at * length) / n);
    const cell = (layer: number, expert: number): readonly [number, number, number, number] => {
      const [x, y] = [left + edge(expert, nExperts, width - left), edge(layer, layerNames.length, height)];
      return [x, y, left + edge(expert + 1, nExperts, width - left) - x - gap, edge(layer + 1, layerNames.length, height) - y - (rowHeight < 7 ? 0 : Math.round(scale))];
    };
    const outline = (layer: number, expert: number, lineWidth: number): void => {
      const [x, y, w, h] = cell(layer, expert);
      context.strokeStyle = ink;
      context.lineWidth = lineWidth;
      context.strokeRect(x + lineWidth / 2, y + lineWidth / 2, w - lineWidth, h - lineWidth);
    };
    layerNames.forEach((_, layer) => shown.cells(layer, isNarrow).forEach(({ fill, hue, lightness: times = 1 }, expert) => {
      context.fillStyle = empty;
      context.fillRect(...cell(layer, expert));
      if (fill === 0) return;
      context.fillStyle = `oklch(${(lightness * times).toFixed(3)} ${chroma} ${hue.toFixed(1)} / ${fill.toFixed(3)})`;
      context.fillRect(...cell(layer, expert));
    }));
    if (shown.chosen !== null) {
      const [, top, , rowPixels] = cell(shown.chosen, 0);
      context.fillStyle = ink;
      context.fillRect(0, top, Math.round(3 * scale), rowPixels);
    }
    layerNames.forEach((_, layer) => {
      for (const expert of shown.lit(layer)) outline(layer, expert, Math.max(1, Math.round(scale)));
      for (const { op, expert } of marks(layer)) paintMark(context, op, cell(layer, expert), scale, of);
    });
    if (cursor !== null) outline(cursor.layer, cursor.expert, 2 * scale);
    describe(shown);
  }

  const move = (layer: number, expert: number): void => {
    const within = (at: number, n: number): number => Math.min(n - 1, Math.max(0, at));
    cursor = { layer: within(layer, layerNames.length), expert: within(expert, nExperts) };
    draw();
  };
  const moveTo = ({ offsetX, offsetY }: MouseEvent): void => move(Math.floor(offsetY / rowHeight), Math.floor(((offsetX - GUTTER) * nExperts) / (canvas.clientWidth - GUTTER)));
  const leave = (): void => {
    cursor = null;
    draw();
  };
  canvas.addEventListener("pointermove", moveTo);
  canvas.addEventListener("pointerleave", leave);
  canvas.addEventListener("blur", leave);
  canvas.addEventListener("click", (event) => {
    moveTo(event);
    onPick(cursor!.layer, cursor!.expert);
  });
  canvas.addEventListener("keydown", (event) => {
    const [layer, expert] = cursor === null ? begin() : [cursor.layer, cursor.expert];
    const steps: Readonly<Record<string, readonly [number, number]>> = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    const step = steps[event.key];
    if (step === undefined && event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    if (step === undefined) onPick(layer, expert);
    else if (cursor === null) move(layer, expert);
    else move(layer + step[0], expert + step[1]);
  });
  canvas.addEventListener("focus", () => canvas.matches(":focus-visible") && move(...begin()));
  new ResizeObserver(draw).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  draw();
  return draw;
}
