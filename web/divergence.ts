// How differently classes of text are routed, layer by layer: a line for each pair, and below it the table that says the numbers and is the legend. Owns both, and which pairs are shown: all of a
// kind, or those of one class where all would be a thicket. Refuses to compute: the routing map has the numbers.

import { classStyle } from "./heat-pictures.ts";
import { element } from "./figures.ts";
import type { RoutingMap } from "../worker/wire-types.ts";

type Pair = RoutingMap["divergence"][number];

/** More lines than this cannot be told apart. */
const MOST_LINES = 12;
const [WIDTH, HEIGHT] = [300, 120];
/** Around the lines, for the numbers of axes. */
const [LEFT, BOTTOM, TOP] = [26, 16, 6];
const SVG = "http://www.w3.org/2000/svg";

function drawn<Tag extends keyof SVGElementTagNameMap>(tag: Tag, attributes: Readonly<Record<string, string | number>>, text = ""): SVGElementTagNameMap[Tag] {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, String(value));
  made.textContent = text;
  return made;
}

const nameOf = ({ a, b }: Pair): string => `${a} / ${b}`;

/** Every n-th layer, so that at most eight are named. */
const named = (layers: readonly number[]): readonly number[] => layers.filter((_, i) => i % Math.ceil(layers.length / 8) === 0);

function chart(pairs: readonly Pair[], layers: readonly number[]): SVGElement {
  const most = Math.max(...pairs.flatMap((pair) => pair.layers), 0.1);
  const top = Math.ceil(most * 10) / 10;
  const x = (i: number): number => LEFT + (layers.length === 1 ? 0.5 : i / (layers.length - 1)) * (WIDTH - LEFT - 6);
  const y = (value: number): number => TOP + (1 - value / top) * (HEIGHT - TOP - BOTTOM);
  const svg = drawn("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "divergence-lines", role: "img", "aria-label": `Divergence of ${pairs.length} pairs over ${layers.length} layers; the table below has the numbers.` });
  for (const value of [0, top / 2, top]) {
    svg.append(drawn("line", { x1: LEFT, x2: WIDTH, y1: y(value), y2: y(value), class: "grid" }), drawn("text", { x: LEFT - 4, y: y(value) + 3, class: "upright" }, value === 0 ? "0" : value.toFixed(value === top ? 1 : 2)));
  }
  for (const layer of named(layers)) svg.append(drawn("text", { x: x(layers.indexOf(layer)), y: HEIGHT - 3, class: "across" }, String(layer)));
  pairs.forEach((pair, i) => {
    const points = pair.layers.map((value, at) => [x(at), y(value)] as const);
    const line = drawn("path", { d: points.map(([px, py], at) => `${at === 0 ? "M" : "L"}${px.toFixed(1)} ${py.toFixed(1)}`).join(""), "data-pair": i });
    const dots = layers.length > 16 ? [] : points.map(([cx, cy]) => drawn("circle", { cx: cx.toFixed(1), cy: cy.toFixed(1), r: 2, "data-pair": i }));
    for (const part of [line, ...dots]) part.style.setProperty("--colour", classStyle(i, pairs.length));
    svg.append(line, ...dots);
  });
  return svg;
}

function numbers(pairs: readonly Pair[], layers: readonly number[], look: (pair: number | null) => void): HTMLElement {
  const made = element("table", "frames");
  made.createCaption().textContent = "From 0, routed alike, to 1; by layer";
  const head = made.createTHead().insertRow();
  for (const column of ["Pair", ...layers]) {
    const cell = element("th", "", String(column));
    cell.scope = "col";
    head.append(cell);
  }
  const body = made.createTBody();
  pairs.forEach((pair, i) => {
    const row = body.insertRow();
    const name = element("th");
    name.scope = "row";
    const swatch = element("span", "swatch");
    swatch.style.setProperty("--colour", classStyle(i, pairs.length));
    name.append(swatch, nameOf(pair));
    row.append(name, ...pair.layers.map((value) => element("td", "", value.toFixed(2))));
    row.addEventListener("pointerenter", () => look(i));
    row.addEventListener("pointerleave", () => look(null));
  });
  const scroller = element("div", "divergence-table");
  scroller.tabIndex = 0;
  scroller.setAttribute("role", "group");
  scroller.setAttribute("aria-label", "Divergence by pair and layer");
  scroller.append(made);
  return scroller;
}

/** Fills `host`. */
export function showDivergence(host: HTMLElement, { classes, divergence, layers }: RoutingMap): void {
  const kinds = [...new Set(divergence.map(({ kind }) => kind))];
  const choice = element("select");
  const label = element("label", "", "Between ");
  label.append(choice);
  for (const kind of kinds) {
    const pairs = divergence.filter((pair) => pair.kind === kind);
    const options = [...(pairs.length <= MOST_LINES ? [["", `all ${kind}s`] as const] : []), ...classes.filter((of) => of.kind === kind).map((of) => [of.label, `${of.label} and other ${kind}s`] as const)];
    for (const [value, text] of options) {
      const option = element("option", "", text);
      option.value = `${kind} ${value}`;
      choice.append(option);
    }
  }
  const shown = element("div");
  const show = (): void => {
    const kind = choice.value.slice(0, choice.value.indexOf(" "));
    const from = choice.value.slice(kind.length + 1);
    const pairs = divergence.filter((pair) => pair.kind === kind && (from === "" || pair.a === from || pair.b === from)).map((pair) => (pair.b === from ? { ...pair, a: pair.b, b: pair.a } : pair));
    const lines = chart(pairs, layers);
    const look = (pair: number | null): void => {
      for (const part of lines.querySelectorAll("[data-pair]")) part.classList.toggle("dimmed", pair !== null && part.getAttribute("data-pair") !== String(pair));
    };
    shown.replaceChildren(lines, numbers(pairs, layers, look));
  };
  // Languages are few, and what divergence was first asked of.
  const few = [...choice.options].find(({ value }) => value.endsWith(" "));
  if (few !== undefined) choice.value = few.value;
  choice.addEventListener("change", show);
  host.replaceChildren(label, shown);
  show();
}
