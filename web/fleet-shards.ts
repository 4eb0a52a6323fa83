// The shards of a region as a table: state, what each holds, memory against the limit, load of the last minute, retries.
// Owns the columns and the lines of load. Refuses to count: fleet-sight.ts.

import { byteSize, count, counted, duration, element } from "./figures.ts";
import { type FleetSight, SAMPLES_KEPT, type ShardSight, type ShardState } from "./fleet-sight.ts";
import { placeOf } from "./places.ts";
import { type Cell, type Row, table } from "./tables.ts";

const COLUMNS = ["Shard", "State", "Region", "Holds", "Memory", "Load", "Moved so far", "Retries"] as const;

const DETAILS: Readonly<Record<ShardState, string>> = {
  "at rest": "holds nothing", cold: "wakes with the model", loading: "", active: "", linger: "loaded, nothing to do", closed: "asleep after its work", away: "its line is opened again",
};

const HEIGHT = 20;
const SVG = "http://www.w3.org/2000/svg";

/** The last minute as a line; all shards have the same scale, so that lines compare. */
function lineOf(load: readonly number[], most: number): SVGElement {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${SAMPLES_KEPT - 1} ${HEIGHT}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("class", "load-line");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  const first = SAMPLES_KEPT - load.length;
  path.setAttribute("d", load.map((rate, i) => `${i === 0 ? "M" : "L"}${first + i} ${(HEIGHT - 1 - (HEIGHT - 2) * (rate / most)).toFixed(1)}`).join(""));
  svg.append(path);
  return svg;
}

function bar(share: number, className = "share-bar"): HTMLElement {
  const made = element("span", className);
  made.style.setProperty("--share", String(Math.min(1, share)));
  return made;
}

const SOURCES = [["donors", "other shards"], ["cache", "its cache"], ["store", "the store"]] as const;

/** Where what it holds came from. */
function readSaid(read: ShardSight["read"]): string {
  const sources = read === null ? [] : SOURCES.flatMap(([source, name]) => (read.moved[source] > 0 ? [name] : []));
  return sources.length === 0 ? "" : `from ${sources.join(" and ")} in ${duration(read!.loadMs)}`;
}

function stateCell({ state, lastFault, loadedBytes, totalBytes, read }: ShardSight): Cell {
  const isLoading = state === "loading" && totalBytes > 0;
  const saying = isLoading ? `${byteSize(loadedBytes)} of ${byteSize(totalBytes)}` : state === "active" ? readSaid(read) : DETAILS[state];
  return { text: state, state: state.replace(" ", "-"), detail: lastFault ?? saying, more: isLoading ? [bar(loadedBytes / totalBytes)] : [] };
}

function holdsCell({ segments, shared, experts }: ShardSight): Cell {
  const shares = segments === null || segments === 0 ? "" : shared === 0 ? "no other copies" : shared === segments ? "all elsewhere too" : `${count(shared)} elsewhere too`;
  if (segments === null) return { text: counted(experts, "expert") };
  return { text: segments === 0 ? "nothing" : counted(segments, "part"), detail: [...(experts > 0 && experts !== segments ? [`of ${counted(experts, "expert")}`] : []), ...(shares === "" ? [] : [shares])].join(", ") };
}

/** What the plan gives it to hold, loaded or not. */
function memoryCell({ weightBytes }: ShardSight, limitBytes: number | null): Cell {
  if (weightBytes === 0) return { text: "–" };
  return { text: byteSize(weightBytes), detail: limitBytes === null ? "" : `of ${byteSize(limitBytes)}`, more: [bar(limitBytes === null ? 0 : weightBytes / limitBytes)] };
}

export function shardTable({ shards, limitBytes, directory }: FleetSight): Node[] {
  const heading = element("h2", "", "Shards ");
  const saying = directory?.plan == null ? "None yet: they appear when the model wakes." : "None: the experts lie with their layers, in the orchestrator and its stages.";
  if (shards.length === 0) return [heading, element("p", "hint", saying)];
  const shown = shards.filter(({ state }) => state !== "at rest");
  const nResting = shards.length - shown.length;
  const jurisdiction = directory?.plan?.jurisdiction ?? null;
  heading.append(element("span", "hint", [counted(shown.length, "shard"), ...(nResting === 0 ? [] : [`${count(nResting)} more at rest`]), ...(jurisdiction === null ? [] : [`within jurisdiction “${jurisdiction}”`])].join(", ")));
  const most = Math.max(...shown.flatMap(({ load }) => load), 1e-9);
  const rows = shown.map((shard): Row => {
    const [name, detail] = placeOf(shard.region);
    const rate = shard.load.at(-1)!;
    return { key: String(shard.number), cells: [
      { text: String(shard.number) }, stateCell(shard), { text: name, detail }, holdsCell(shard), memoryCell(shard, limitBytes),
      { text: `${count(rate)} frames/s`, more: [lineOf(shard.load, most)] },
      { text: byteSize(shard.bytes), detail: counted(shard.frames, "frame") },
      { text: count(shard.retries), detail: shard.hedges === 0 ? "" : counted(shard.hedges, "hedge") },
    ] };
  });
  return [heading, table("Shards", COLUMNS, rows, "shards")];
}
