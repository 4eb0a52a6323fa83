// Numbers of experts by layer as a heat map: colour in even steps, from nothing to most, or from less to more on both sides of nothing. Owns steps, colours and the table under it.
// Refuses colours of its own: light and dark come from the page's variables.

import type { Plot } from "./plot.ts";

export interface HeatMap {
  readonly title: string;
  readonly summary: string;
  readonly layers: readonly number[];
  /** [layers][nExperts]. */
  readonly values: ArrayLike<number>;
  readonly nExperts: number;
  /** What colour says: "share of tokens". */
  readonly unit: string;
}

const STEPS = 6;
/** With nothing in the middle. */
const TWO_SIDED_STEPS = 7;
/** Columns of the table: a page of 256 experts has the rest in its JSON. */
const LISTED = 64;

const short = (x: number): string => (x === 0 ? "0" : String(Number(x.toPrecision(3))));

export function heatMap({ title, summary, layers, values, nExperts, unit }: HeatMap): Plot {
  const all = Array.from(values);
  const { labels, colours, labelOf } = stepsOf(all);
  const cells = all.map((value, at) => ({ layer: layers[Math.floor(at / nExperts)]!, expert: at % nExperts, value: labelOf(value) }));
  const listed = Math.min(LISTED, nExperts);
  return {
    title, summary: listed < nExperts ? `${summary} The table has the first ${listed} experts; the .json has all.` : summary,
    table: {
      head: ["layer", ...Array.from({ length: listed }, (_, expert) => String(expert))],
      rows: layers.map((layer, i) => [String(layer), ...all.slice(i * nExperts, i * nExperts + listed).map(short)]),
    },
    spec: (width) => ({
      width: width - 60, height: { step: Math.max(6, Math.min(22, 440 / layers.length)) }, data: { values: cells }, mark: { type: "rect", stroke: "var(--card)", strokeWidth: nExperts > 64 ? 0 : 1 },
      encoding: {
        x: { field: "expert", type: "ordinal", title: "expert", axis: { labelAngle: 0, labelOverlap: true, ticks: false } }, y: { field: "layer", type: "ordinal", title: "layer", axis: { ticks: false, labelOverlap: true } },
        color: { field: "value", type: "ordinal", sort: labels as string[], scale: { domain: labels as string[], range: colours as string[] }, legend: { title: unit, symbolType: "square", columns: width > 400 ? 3 : 2 } },
      },
    }),
  };
}

/** Even steps over the range: from 0 or the least where nothing is below 0, else from -most to most. */
export function stepsOf(values: readonly number[]): { readonly labels: readonly string[]; readonly colours: readonly string[]; labelOf(value: number): string } {
  const finite = values.filter(Number.isFinite);
  const most = finite.reduce((a, b) => Math.max(a, b), 0);
  const least = finite.reduce((a, b) => Math.min(a, b), 0);
  const isTwoSided = least < 0;
  const reach = Math.max(most, -least);
  if (reach === 0) return { labels: ["0"], colours: ["var(--heat-0)"], labelOf: () => "0" };
  const [from, to, steps] = isTwoSided ? [-reach, reach, TWO_SIDED_STEPS] : [0, most, STEPS];
  const edge = (i: number): number => from + ((to - from) * i) / steps;
  const labels = Array.from({ length: steps }, (_, i) => `${short(edge(i))} to ${short(edge(i + 1))}`);
  const colours = labels.map((_, i) => (isTwoSided ? twoSided(i) : `var(--heat-${i})`));
  return { labels, colours, labelOf: (value) => labels[Math.max(0, Math.min(steps - 1, Math.floor(((value - from) / (to - from)) * steps)))]! };
}

/** Less in one hue, more in another, little of either the card's colour. */
function twoSided(step: number): string {
  const away = step - (TWO_SIDED_STEPS - 1) / 2;
  return `color-mix(in oklab, var(${away < 0 ? "--second" : "--accent"}) ${Math.round((200 * Math.abs(away)) / (TWO_SIDED_STEPS - 1))}%, var(--card))`;
}
