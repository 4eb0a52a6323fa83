// One token seen through all layers: the experts of the chosen layer with their weights and shards, the frames that took it there with the slowest marked,
// and a strip per layer that chooses it. Owns the panel's elements. Refuses to choose tokens (token-view.ts) and to guess what a server does not tell.

import { colourOf } from "./colours.ts";
import { byteSize, element, milliseconds, percent } from "./figures.ts";
import type { ShownToken, Trace } from "./token-view.ts";
import type { TraceFrame } from "../worker/wire-types.ts";

export interface TokenDetailOptions {
  readonly layerNames: readonly number[];
  readonly onLayer: (layer: number) => void;
}

export const visibleText = (text: string): string => JSON.stringify(text).slice(1, -1).replaceAll(" ", "␣");

/** Returns what shows a token in a layer. */
export function createTokenDetail(host: HTMLElement, { layerNames, onLayer }: TokenDetailOptions): (token: ShownToken | null, layer: number) => void {
  const nameOf = (layer: number): number => layerNames[layer] ?? layer;
  host.addEventListener("keydown", (event) => {
    const step = event.key === "ArrowDown" ? 1 : event.key === "ArrowUp" ? -1 : 0;
    const at = Number((event.target as HTMLElement).closest<HTMLElement>(".strip")?.dataset["layer"] ?? NaN);
    if (step === 0 || !Number.isInteger(at)) return;
    event.preventDefault();
    onLayer(Math.min(layerNames.length - 1, Math.max(0, at + step)));
  });

  return (token, layer) => {
    if (token?.trace == null) {
      host.replaceChildren(element("p", "hint", "Point at a token or tap it, or walk with the arrow keys."));
      return;
    }
    const { trace } = token;
    // The strips are made anew with every look, and the focus must not fall off the page with the old ones.
    const hadFocus = host.querySelector(".strips")?.contains(document.activeElement) ?? false;
    const heading = element("p", "token-name");
    heading.append(element("code", "", visibleText(token.text)), element("span", "hint", ` token ${token.id}, layer ${nameOf(layer)}`));
    const strips = stripsOf(trace, layer, nameOf, onLayer);
    host.replaceChildren(heading, expertsOf(trace, layer), ...framesOf(trace.frames?.[layer], nameOf(layer)),
      element("p", "hint", trace.frames === undefined ? "Through all layers:" : "Through all layers, and each one’s slowest frame:"), strips);
    const chosen = strips.children[layer] as HTMLElement | undefined;
    if (chosen === undefined) return;
    strips.scrollTop = chosen.offsetTop - strips.clientHeight / 2; // where many layers scroll, the chosen one is in sight
    if (hadFocus) chosen.focus({ preventScroll: true });
  };
}

const shardText = (shard: number | null): string => (shard === null ? "orchestrator" : `shard ${shard}`);

function expertsOf({ experts, weights, shards }: Trace, layer: number): HTMLElement {
  const list = element("ul", "token-experts");
  experts[layer]?.forEach((expert, rank) => {
    const weight = weights[layer]?.[rank] ?? 0;
    const shard = shards?.[layer]?.[rank];
    const item = element("li");
    item.style.setProperty("--colour", colourOf(expert));
    item.style.setProperty("--share", String(Math.min(1, weight)));
    item.append(element("span", "bar"), element("span", "name", `Expert ${expert}`));
    if (shard !== undefined) item.append(element("span", "where", shardText(shard)));
    item.append(element("span", "value", percent(weight)));
    list.append(item);
  });
  return list;
}

/** Number of the largest of several times; -1 where it is not one alone: of equals none is the slowest. */
function slowestOf(times: readonly number[]): number {
  const most = Math.max(...times);
  return times.length < 2 || times.indexOf(most) !== times.lastIndexOf(most) ? -1 : times.indexOf(most);
}

function framesOf(frames: readonly TraceFrame[] | undefined, layerName: number): HTMLElement[] {
  if (frames === undefined) return [];
  if (frames.length === 0) return [element("p", "hint", "No frame was sent: the orchestrator has these experts itself.")];
  const slowest = slowestOf(frames.map(({ ms }) => ms));
  const table = element("table", "frames");
  table.createCaption().textContent = `Frames of layer ${layerName}`;
  const head = table.createTHead().insertRow();
  for (const column of ["To", "Time", "Bytes"]) {
    const cell = element("th", "", column);
    cell.scope = "col";
    head.append(cell);
  }
  const body = table.createTBody();
  frames.forEach(({ shard, ms, bytes }, i) => {
    const row = body.insertRow();
    const name = element("th", "", shardText(shard));
    name.scope = "row";
    if (i === slowest) {
      row.className = "slowest";
      name.append(element("span", "mark", "slowest"));
    }
    row.append(name, element("td", "", milliseconds(ms)), element("td", "", byteSize(bytes)));
  });
  return [table, element("p", "hint", "Shared with the other tokens of the same step.")];
}

function stripsOf({ experts, weights, frames }: Trace, chosen: number, nameOf: (layer: number) => number, onLayer: (layer: number) => void): HTMLElement {
  const strips = element("div", "strips");
  strips.setAttribute("role", "group");
  strips.setAttribute("aria-label", "Layers: up and down arrow keys choose one");
  /** Of each layer its slowest frame, which it waited for; -1 where it sent none. */
  const waits = experts.map((_, layer) => Math.max(-1, ...(frames?.[layer] ?? []).map(({ ms }) => ms)));
  const longest = slowestOf(waits);
  experts.forEach((ofLayer, layer) => {
    const strip = element("button", layer === chosen ? "strip chosen" : "strip");
    strip.type = "button";
    strip.dataset["layer"] = String(layer);
    // One stop for Tab, however many layers: the arrow keys go from one to the next.
    strip.tabIndex = layer === chosen ? 0 : -1;
    strip.setAttribute("aria-pressed", String(layer === chosen));
    strip.addEventListener("click", () => {
      strip.focus({ preventScroll: true }); // some browsers give a clicked button no focus
      onLayer(layer);
    });
    strip.append(element("span", "name", String(nameOf(layer))));
    ofLayer.forEach((expert, rank) => {
      const cell = element("span", "cell", String(expert));
      cell.style.setProperty("--colour", colourOf(expert));
      cell.style.flexGrow = String(weights[layer]?.[rank] ?? 0);
      strip.append(cell);
    });
    const wait = waits[layer]!;
    if (frames !== undefined) strip.append(element("span", layer === longest ? "wait longest" : "wait", wait < 0 ? "–" : milliseconds(wait)));
    strip.setAttribute("aria-label", `Layer ${nameOf(layer)}: experts ${ofLayer.join(", ")}${wait < 0 ? "" : `; slowest frame ${milliseconds(wait)}`}`);
    strips.append(strip);
  });
  return strips;
}
