// The heat map: all layers by all experts in one canvas, from 4 x 32 to 48 x 128. The fuller a cell's colour, the larger the expert's share of its layer;
// outlined are the experts of the newest token, or of the one looked at. Owns the canvas, and a cursor for pointer and arrow keys. Refuses to know traces.

import { hueOf } from "./colours.ts";
import { element, percent } from "./figures.ts";
import type { TokenView } from "./token-view.ts";

export interface HeatMapOptions {
  readonly nExperts: number;
  /** Numbers of the layers with experts: the rows. */
  readonly layerNames: readonly number[];
  readonly onPick: (layer: number, expert: number) => void;
}

/** Rows are this high where there is room, and share MAP_HEIGHT where there are many. */
const ROW_HEIGHT = 15;
const MAP_HEIGHT = 300;
/** Left of the cells, for the mark at the layer that colours the text. */
const GUTTER = 7;
/** Cells narrower than this touch each other, and all have one hue: side by side, many hues are grey. */
const NARROW_WIDTH = 5;

/** Fills `host`; returns what draws it anew. */
export function createHeatMap(host: HTMLElement, view: TokenView, { nExperts, layerNames, onPick }: HeatMapOptions): () => void {
  const canvas = element("canvas", "heat");
  const readout = element("p", "hint readout");
  readout.setAttribute("role", "status");
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "application");
  canvas.setAttribute("aria-roledescription", "heat map");
  canvas.setAttribute("aria-label", `Heat map of ${layerNames.length} layers by ${nExperts} experts. Arrow keys move, Enter shows only the expert's tokens.`);
  host.replaceChildren(canvas, readout);
  const rowHeight = Math.min(ROW_HEIGHT, Math.max(4, Math.floor(MAP_HEIGHT / layerNames.length)));
  canvas.style.setProperty("height", `${rowHeight * layerNames.length}px`);
  let cursor: { readonly layer: number; readonly expert: number } | null = null;

  const describe = (): void => {
    if (cursor === null) {
      readout.textContent = "Rows are layers, columns experts. Pick a cell to follow it.";
    } else {
      const share = view.shares(nExperts, cursor.layer)[cursor.expert]!;
      readout.textContent = `Layer ${layerNames[cursor.layer]}, expert ${cursor.expert}: ${percent(share)}`;
    }
  };

  function draw(): void {
    const scale = window.devicePixelRatio;
    const [width, height] = [Math.round(canvas.clientWidth * scale), Math.round(rowHeight * layerNames.length * scale)];
    if (width === 0) return;
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    const theme = getComputedStyle(canvas);
    const of = (name: string): string => theme.getPropertyValue(name).trim();
    const [lightness, chroma, ink, empty] = [of("--expert-l"), of("--expert-c"), of("--ink"), of("--cell")];
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
      context.lineWidth = lineWidth;
      context.strokeRect(x + lineWidth / 2, y + lineWidth / 2, w - lineWidth, h - lineWidth);
    };
    layerNames.forEach((_, layer) => {
      const shares = view.shares(nExperts, layer);
      const largest = Math.max(...shares);
      shares.forEach((share, expert) => {
        context.fillStyle = empty;
        context.fillRect(...cell(layer, expert));
        if (share === 0) return;
        // The root spreads the small shares: most experts have few per cent, and zero should still look unlike little.
        context.fillStyle = `oklch(${lightness} ${chroma} ${hueOf(isNarrow ? 0 : expert).toFixed(1)} / ${Math.sqrt(share / largest).toFixed(3)})`;
        context.fillRect(...cell(layer, expert));
      });
    });
    context.strokeStyle = context.fillStyle = ink;
    const [, top, , rowPixels] = cell(view.layer, 0);
    context.fillRect(0, top, Math.round(3 * scale), rowPixels);
    view.lit?.trace?.experts.forEach((experts, layer) => experts.forEach((expert) => outline(layer, expert, Math.max(1, Math.round(scale)))));
    if (cursor !== null) outline(cursor.layer, cursor.expert, 2 * scale);
    describe();
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
    const at = cursor ?? { layer: view.layer, expert: 0 };
    const steps: Readonly<Record<string, readonly [number, number]>> = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    const step = steps[event.key];
    if (step === undefined && event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    if (step === undefined) onPick(at.layer, at.expert);
    else if (cursor === null) move(at.layer, at.expert);
    else move(at.layer + step[0], at.expert + step[1]);
  });
  canvas.addEventListener("focus", () => canvas.matches(":focus-visible") && move(view.layer, view.onlyExpert ?? 0));
  new ResizeObserver(draw).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  draw();
  return draw;
}
