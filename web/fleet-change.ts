// How the fleet changes: the change under way, or the last one, state by state (docs/fleet.md, "Epochs"), and a table of those that ended.
// Owns the words and times of the states. Refuses to ask for changes: fleet-wish.ts.

import { ago, byteSize, counted, duration, element } from "./figures.ts";
import { table } from "./tables.ts";
import type { FleetReply } from "../worker/wire-types.ts";

type Directory = NonNullable<FleetReply["directory"]>;
type Under = NonNullable<Directory["change"]>;
type Past = Directory["history"][number];
type State = Under["state"];

const STEPS: readonly (readonly [State, string])[] = [
  ["planned", "what moves is counted"], ["warming", "shards load new parts"], ["committed", "the new plan is in force"],
  ["flipping", "orchestrators go over"], ["draining", "late frames end"], ["retired", "shards let old parts go"],
];

/** A change, whether under way or ended. */
interface Shown {
  readonly of: Under | Past;
  readonly state: State;
  /** Null while it is under way. */
  readonly endedMs: number | null;
  readonly stepsLeft: number;
}

const shownOf = ({ change, history }: Directory): Shown | null => {
  if (change !== null) return { of: change, state: change.state, endedMs: null, stepsLeft: change.stepsLeft };
  const last = history[0];
  return last === undefined ? null : { of: last, state: last.outcome === "abandoned" ? "abandoned" : "retired", endedMs: last.endedMs, stepsLeft: 0 };
};

/** "4 → 6 shards", and in words for who hears it. */
const span = ([before, after]: Past["shards"]): string => (before === after ? counted(after, "shard") : `${before} → ${counted(after, "shard")}`);

/** One sentence for each state of each change, for a screen reader; nothing where nothing ever changed. */
export function changeSaid(directory: Directory | null): string {
  const shown = directory === null ? null : shownOf(directory);
  if (shown === null) return "";
  const { of, state, endedMs } = shown;
  const name = `Change to epoch ${of.epoch}, ${of.reason}`;
  if (state === "abandoned") return `${name}: abandoned. ${of.message ?? ""}`.trim();
  return endedMs === null ? `${name}: ${state}.` : `${name}: done.`;
}

export function changeCard(directory: Directory, nowMs: number): HTMLElement {
  const card = element("div", "change");
  const shown = shownOf(directory);
  const line = element("p", "change-head");
  if (shown === null) {
    line.append(element("strong", "", "Nothing has changed yet"), element("span", "hint", "These are the steps a change takes. Replies go on through all of them."));
    card.append(line, rail(null, nowMs), amounts(null), element("p", "change-message hint"));
    return card;
  }
  const { of, state, endedMs } = shown;
  const beganMs = of.sinceMs.planned ?? nowMs;
  const badge = element("span", "badge", endedMs === null ? state : state === "abandoned" ? "abandoned" : "done");
  badge.dataset["is"] = state === "abandoned" ? "failed" : endedMs === null ? "now" : "done";
  const took = duration((endedMs ?? nowMs) - beganMs);
  line.append(element("strong", "", `To epoch ${of.epoch}: ${of.reason}`), badge,
    element("span", "hint", `${span(of.shards)} · ${endedMs === null ? `${took} so far` : `took ${took}, ended ${ago(nowMs - endedMs)}`}`));
  card.append(line, rail(shown, nowMs), amounts(shown));
  card.append(element("p", `change-message ${state === "abandoned" ? "is-bad" : "hint"}`, of.message ?? (state === "abandoned" ? "The old plan was in force all along." : "")));
  return card;
}

/** When a state ended: when the next one began. */
function endOf(shown: Shown, step: number, nowMs: number): number {
  const later = [...STEPS.slice(step + 1).map(([state]) => state), "abandoned" as const];
  return later.map((state) => shown.of.sinceMs[state]).find((ms) => ms !== undefined) ?? shown.endedMs ?? nowMs;
}

function rail(shown: Shown | null, nowMs: number): HTMLElement {
  const list = element("ol", "rail");
  list.setAttribute("aria-label", "Steps of the change");
  const gaveUpAt = shown?.state === "abandoned" ? STEPS.findLastIndex(([state]) => shown.of.sinceMs[state] !== undefined) : -1;
  STEPS.forEach(([state, saying], step) => {
    const since = shown?.of.sinceMs[state];
    const is = shown === null || since === undefined ? "todo" : step === gaveUpAt ? "failed" : shown.endedMs === null && shown.state === state ? "now" : "done";
    const item = element("li");
    item.dataset["is"] = is;
    if (is === "now") item.setAttribute("aria-current", "step");
    const time = shown === null || since === undefined ? "–" : duration(endOf(shown, step, nowMs) - since);
    item.append(element("span", "name", state), element("span", "time", time), element("span", "hint", is === "failed" ? "given up here" : saying));
    list.append(item);
  });
  return list;
}

function amounts(shown: Shown | null): HTMLElement {
  const part = element("div", "amounts");
  const bar = element("span", "share-bar");
  const { movedBytes = 0, plannedBytes = 0, retries = 0 } = shown?.of ?? {};
  bar.style.setProperty("--share", String(plannedBytes === 0 ? 0 : Math.min(1, movedBytes / plannedBytes)));
  const moved = shown === null ? "No weights have been moved" : plannedBytes === 0 ? "No weights had to move" : `${byteSize(movedBytes)} fetched, ${byteSize(plannedBytes)} planned`;
  const notes = [
    ...(movedBytes > plannedBytes && plannedBytes > 0 ? ["shards that slept fetched what they held before, too"] : []),
    ...(retries > 0 ? [`${counted(retries, "call")} made again`] : []), ...((shown?.stepsLeft ?? 0) > 0 ? [`${counted(shown!.stepsLeft, "more change")} to follow`] : []),
  ];
  part.append(bar, element("span", "hint", [moved, ...notes].join(" · ")));
  return part;
}

/** All that ended. Its line is there before the first has, so that nothing moves when it comes. */
export function pastChanges({ history }: Directory, nowMs: number): HTMLElement {
  const folded = element("details", "earlier");
  folded.append(element("summary", "", history.length === 0 ? "No change has ended yet" : `${counted(history.length, "change")} ended`));
  if (history.length > 0) folded.append(table("Changes that ended", ["Epoch", "Asked for", "Shards", "Fetched", "Took", "Ended"], history.map((past) => ({
    key: `${past.epoch}`,
    cells: [
      { text: `${past.epoch}`, detail: past.outcome === "abandoned" ? "abandoned" : "", state: past.outcome },
      { text: past.reason, detail: past.outcome === "abandoned" ? past.message ?? "" : "" },
      { text: span(past.shards) },
      { text: byteSize(past.movedBytes), detail: `${byteSize(past.plannedBytes)} planned` },
      { text: duration(past.endedMs - (past.sinceMs.planned ?? past.endedMs)), detail: past.retries === 0 ? "" : counted(past.retries, "retry").replace(/retrys$/, "retries") },
      { text: ago(nowMs - past.endedMs) },
    ],
  }))));
  return folded;
}
