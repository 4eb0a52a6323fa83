// The fleet: what the orchestrator holds, its shards, and how busy they are, from GET /v1/fleet. Asked once a second, and only while it is on the screen:
// asking keeps an object awake. Owns the last two answers, whose difference is the load. Refuses to wake a model that sleeps: that is /health.

import { fleet } from "./api.ts";
import { colourOf } from "./colours.ts";
import { byteSize, count, counted, element, percent } from "./figures.ts";
import type { FleetReply, ShardStatus } from "../worker/wire-types.ts";

const POLL_MS = 1000;

interface Sample {
  readonly atMs: number;
  readonly reply: FleetReply;
}

/** Returns what starts and stops the asking. */
export function prepareFleetView(host: HTMLElement, key: () => string): (isShown: boolean) => void {
  let before: Sample | null = null;
  let timer: ReturnType<typeof setTimeout> | undefined;
  let isWanted = false;
  let nRound = 0;

  const ask = async (round: number): Promise<void> => {
    try {
      const now = { atMs: performance.now(), reply: await fleet(key()) };
      if (round !== nRound) return;
      show(host, now, before);
      before = now;
    } catch (cause) {
      if (round !== nRound) return;
      host.replaceChildren(element("p", "problem", cause instanceof Error ? cause.message : String(cause)));
      before = null;
    }
    timer = setTimeout(() => void ask(round), POLL_MS);
  };
  const update = (): void => {
    clearTimeout(timer);
    nRound++; // an answer still under way belongs to a view that was left
    before = null;
    if (isWanted && document.visibilityState === "visible") void ask(nRound);
  };
  document.addEventListener("visibilitychange", update);
  return (isShown) => {
    if (isShown === isWanted) return;
    isWanted = isShown;
    update();
  };
}

function show(host: HTMLElement, now: Sample, before: Sample | null): void {
  const { reply } = now;
  const scrolled = host.querySelector(".shards")?.scrollLeft ?? 0;
  host.replaceChildren(facts(reply), ...memory(reply), ...shards(now, before));
  host.querySelector(".shards")?.scrollTo({ left: scrolled });
}

const SAYING: Readonly<Record<FleetReply["status"], string>> = {
  cold: "Asleep", warming: "Loading", ready: "Ready", degraded: "A shard is away", failed: "Could not load",
};

function facts({ status, loaded, message, pack, epoch, generations, drafts, isolate, shards }: FleetReply): HTMLElement {
  const list = element("dl", "facts-grid");
  const add = (name: string, value: string, detail = ""): void => {
    const entry = element("div");
    entry.append(element("dt", "", name), element("dd", "", value));
    if (detail !== "") entry.append(element("dd", "hint", detail));
    list.append(entry);
  };
  add("Model", status === "warming" ? `${SAYING[status]}, ${percent(loaded)}` : SAYING[status], message ?? (pack === null ? "" : `${pack.id}, pack ${pack.hash.slice(0, 12)}`));
  add("Replies being written", count(generations.active), generations.queued === 0 ? "none waiting" : `${count(generations.queued)} waiting`);
  add("Guessed tokens that held", drafts.tokens === 0 ? "–" : percent(drafts.held / drafts.tokens), drafts.tokens === 0 ? "no guesses yet" : `of ${count(drafts.tokens)}`);
  if (epoch !== null) add("Plan", `Epoch ${epoch}`, `${counted(shards.length, "shard")}, ${byteSize(shards.reduce((sum, { weightBytes }) => sum + weightBytes, 0))} of experts`);
  if (pack !== null) add("Context", counted(pack.contextLength, "token"), isolate === null ? "" : `kernels ${isolate.kernels}`);
  return list;
}

/** Memory of the orchestrator's isolate, by purpose. */
function memory({ isolate }: FleetReply): HTMLElement[] {
  if (isolate === null) return [];
  const purposes = Object.entries(isolate.account).filter(([, bytes]) => bytes > 0).sort(([, a], [, b]) => b - a);
  const total = purposes.reduce((sum, [, bytes]) => sum + bytes, 0);
  const whole = Math.max(isolate.limitBytes, total);
  const bar = element("div", "memory-bar");
  bar.setAttribute("role", "img");
  bar.setAttribute("aria-label", `${byteSize(total)} of ${byteSize(whole)} used`);
  const legend = element("ul", "legend");
  purposes.forEach(([purpose, bytes], i) => {
    const part = element("span");
    part.style.setProperty("--share", String(bytes / whole));
    part.style.setProperty("--colour", colourOf(i));
    bar.append(part);
    const item = element("li", "", `${purpose} `);
    item.style.setProperty("--colour", colourOf(i));
    item.append(element("span", "hint", byteSize(bytes)));
    legend.append(item);
  });
  const heading = element("h2", "", "Memory of the orchestrator's isolate ");
  heading.append(element("span", "hint", `${byteSize(total)} of ${byteSize(whole)}, shared by ${counted(isolate.objects.length, "object")}`));
  return [heading, bar, legend];
}

const COLUMNS = ["Shard", "State", "Region", "Epoch", "Weights", "Experts", "Load", "Moved so far", "Retries"] as const;
const STATES: Readonly<Record<ShardStatus["state"], string>> = { idle: "resting", connecting: "connecting", open: "connected", closed: "closed" };

/** "demo/cbc8e82eacd4/main/0", of a fleet "main", is shard 0, whatever follows; any other name stands as it is. */
const shardNumber = (name: string): string => /\/(\d+)(?:[@~][^/]*)?$/.exec(name)?.[1] ?? name;

/** A shard counts bytes while it loads them; one whose weights are there at once counts none. */
function weightsOf({ state, weightBytes, loadedBytes, totalBytes }: ShardStatus): [string, string] {
  if (state === "open") return [byteSize(weightBytes), "all in memory"];
  return [byteSize(weightBytes), state === "connecting" && totalBytes > 0 ? `${byteSize(loadedBytes)} loaded` : ""];
}

/** The platform's location hints in words. */
const REGIONS: Readonly<Record<string, string>> = {
  wnam: "Western North America", enam: "Eastern North America", sam: "South America", weur: "Western Europe", eeur: "Eastern Europe", apac: "Asia-Pacific",
  "apac-ne": "North-East Asia", "apac-se": "South-East Asia", oc: "Oceania", afr: "Africa", me: "Middle East",
};

function shards({ atMs, reply }: Sample, before: Sample | null): HTMLElement[] {
  const heading = element("h2", "", "Shards");
  if (reply.shards.length === 0) return [heading, element("p", "hint", "None yet: they appear when the model wakes.")];
  const seconds = before === null ? 0 : (atMs - before.atMs) / 1000;
  const framesPerSecond = reply.shards.map((shard) => {
    const last = before?.reply.shards.find(({ name }) => name === shard.name);
    return last === undefined || seconds === 0 ? 0 : Math.max(0, shard.frames - last.frames) / seconds;
  });
  const busiest = Math.max(...framesPerSecond, 1e-9);
  const table = element("table");
  const head = table.createTHead().insertRow();
  for (const column of COLUMNS) {
    const cell = element("th", "", column);
    cell.scope = "col";
    head.append(cell);
  }
  const body = table.createTBody();
  reply.shards.forEach((shard, i) => {
    const row = body.insertRow();
    const add = (n: number, value: string, detail = ""): HTMLElement => {
      const cell = n === 0 ? element("th", "", value) : element("td", "", value);
      if (n === 0) (cell as HTMLTableCellElement).scope = "row";
      cell.dataset["name"] = COLUMNS[n]!;
      if (detail !== "") cell.append(element("span", "hint", detail));
      row.append(cell);
      return cell;
    };
    add(0, shardNumber(shard.name), `of ${reply.shards.length}`);
    add(1, STATES[shard.state], shard.lastFault ?? "").dataset["state"] = shard.state;
    add(2, shard.region ?? "any", shard.region === null ? "the platform chose" : REGIONS[shard.region] ?? "");
    add(3, String(reply.epoch ?? "–"));
    add(4, ...weightsOf(shard));
    add(5, count(shard.experts));
    const load = add(6, `${count(framesPerSecond[i]!)} frames/s`);
    const bar = element("span", "load-bar");
    bar.style.setProperty("--share", String(framesPerSecond[i]! / busiest));
    load.append(bar);
    add(7, byteSize(shard.bytes), counted(shard.frames, "frame"));
    add(8, count(shard.retries));
  });
  const scroller = element("div", "shards");
  scroller.append(table);
  return [heading, scroller];
}
