// The fleet as it is now, from GET /v1/fleet: asked once a second, and only while it is on the screen: asking keeps an object awake.
// Owns the asking, the choice of a region, and the order of the parts, which are patched in place so that nothing flickers or jumps.
// Refuses to wake a model that sleeps: that is /health.

import { ApiProblem, fleet, type FleetAnswer } from "./api.ts";
import { colourOf } from "./colours.ts";
import { byteSize, count, counted, element, percent } from "./figures.ts";
import { changeCard, changeSaid, pastChanges } from "./fleet-change.ts";
import { faultTable, laneTable, roundTripTable, SAYING } from "./fleet-lanes.ts";
import { shardTable } from "./fleet-shards.ts";
import { type FleetSight, FleetWatch } from "./fleet-sight.ts";
import { prepareWish, type WishState } from "./fleet-wish.ts";
import { patch } from "./patch.ts";
import { placeOf } from "./places.ts";
import type { FleetReply } from "../worker/wire-types.ts";

const POLL_MS = 1000;

/** Parts that live, in their order; the form between them is built once. */
const PARTS = ["regions", "facts", "change", "wish", "earlier", "shards", "lanes", "memory", "trips", "faults"] as const;

/** Returns what starts and stops the asking. */
export function prepareFleetView(host: HTMLElement, keyBox: HTMLInputElement): (isShown: boolean) => void {
  const said = element("p", "visually-hidden");
  said.setAttribute("role", "status");
  const problem = element("div", "fleet-problem");
  const parts = Object.fromEntries(PARTS.map((part) => [part, element("section", `fleet-${part}`)])) as Record<(typeof PARTS)[number], HTMLElement>;
  const first = element("p", "hint", "Asking the orchestrator…");
  const body = element("div", "fleet-body");
  body.hidden = true;
  body.append(...PARTS.map((part) => parts[part]));
  host.replaceChildren(said, problem, first, body);

  let watch = new FleetWatch();
  let timer: ReturnType<typeof setTimeout> | undefined;
  let isWanted = false;
  let nRound = 0;
  let region: string | null = null;
  let last: WishState | null = null;

  const again = (): void => {
    clearTimeout(timer);
    nRound++; // an answer still under way belongs to a view that was left
    if (isWanted && document.visibilityState === "visible") void ask(nRound);
  };
  const showWish = prepareWish(parts.wish, () => keyBox.value, again);
  const showKeyForm = prepareKeyForm(problem, keyBox, again);

  const show = ({ reply, nowMs }: FleetAnswer): void => {
    const seen = reply.regions.find((one) => one.region === region) ?? reply.regions[0]!;
    const sight = watch.see(reply, seen, performance.now());
    patch(parts.regions, regionChoice(reply, sight.region));
    patch(parts.facts, [facts(sight)]);
    const { directory } = sight;
    const heading = element("h2", "", "Plan and changes");
    patch(parts.change, directory === null ? [heading] : [heading, changeCard(directory, nowMs)]);
    patch(parts.earlier, directory === null ? [] : [pastChanges(directory, nowMs)]);
    patch(parts.shards, shardTable(sight));
    patch(parts.lanes, laneTable(sight, nowMs));
    patch(parts.memory, memory(sight));
    patch(parts.trips, roundTripTable(reply));
    patch(parts.faults, faultTable(sight, nowMs));
    if (said.textContent !== changeSaid(directory)) said.textContent = changeSaid(directory);
    last = wishState(sight);
    showWish(last);
  };

  const ask = async (round: number): Promise<void> => {
    try {
      const answer = await fleet(keyBox.value);
      if (round !== nRound) return;
      showKeyForm(null);
      show(answer);
      first.hidden = true;
      body.hidden = false;
      body.removeAttribute("data-stale");
    } catch (cause) {
      if (round !== nRound) return;
      const mayNot = cause instanceof ApiProblem && (cause.status === 401 || cause.status === 403);
      showKeyForm(cause instanceof ApiProblem ? cause.message : "The server does not answer. Is it running?", mayNot);
      first.hidden = true;
      // Figures of a moment ago are worth more than none; to whom may not look they are none of theirs.
      if (mayNot) for (const part of PARTS) if (part !== "wish") patch(parts[part], []);
      body.hidden = last === null && !mayNot;
      body.toggleAttribute("data-stale", !mayNot);
      watch = new FleetWatch();
      showWish({ ...(last ?? { shards: 0, replicas: 0, region: null }), waits: null, barred: mayNot ? "Changes need a key with the scope admin." : "The fleet does not answer at the moment." });
    }
    timer = setTimeout(() => void ask(round), POLL_MS);
  };
  const update = (): void => {
    watch = new FleetWatch();
    again();
  };
  document.addEventListener("visibilitychange", update);
  parts.regions.addEventListener("click", (event) => {
    const chosen = (event.target as HTMLElement).closest<HTMLElement>("[data-region]")?.dataset["region"];
    if (chosen === undefined) return;
    region = chosen;
    update();
  });
  return (isShown) => {
    if (isShown === isWanted) return;
    isWanted = isShown;
    update();
  };
}

function wishState({ directory, region }: FleetSight): WishState {
  const plan = directory?.plan ?? null;
  const [shards, replicas] = [plan?.shards.filter(({ segments }) => segments > 0).length ?? 0, Math.max(1, plan?.copies[0] ?? 1)];
  const barred = directory === null ? "The directory, which owns the plan, cannot be reached, or this deployment has none. Replies go on by the plan there is; it cannot be changed."
    : plan === null ? "There is no plan yet: the model brings one when it wakes."
    : plan.shards.length === 0 ? "Nothing lies on shards: the orchestrator and its stages hold the experts of their layers, and stay as they are." : null;
  return { shards: directory?.change?.shards[1] ?? shards, replicas, region, barred, waits: directory?.change == null ? null : "One change at a time: the one under way has to end first." };
}

/** The server's sentence, and below it a place for another key where that would help. */
function prepareKeyForm(host: HTMLElement, keyBox: HTMLInputElement, onKey: () => void): (message: string | null, isForKey?: boolean) => void {
  const sentence = element("p", "problem");
  sentence.setAttribute("role", "alert");
  const form = element("form", "key-form");
  const label = element("label", "", "Admin key ");
  const input = element("input");
  input.type = "password";
  input.autocomplete = "off";
  label.append(input);
  const send = element("button", "", "Use this key");
  send.type = "submit";
  form.append(label, send);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    keyBox.value = input.value;
    input.value = "";
    sessionStorage.setItem("api-key", keyBox.value);
    keyBox.dispatchEvent(new Event("change"));
    onKey();
  });
  host.append(sentence, form);
  const show = (message: string | null, isForKey = false): void => {
    host.hidden = message === null;
    form.hidden = !isForKey;
    if (sentence.textContent !== message) sentence.textContent = message;
  };
  show(null);
  return show;
}

/** Each region has a plan of its own; with one there is nothing to choose. */
function regionChoice({ regions }: FleetReply, shown: string | null): Node[] {
  if (regions.length < 2) return [];
  const choice = element("div", "region-choice");
  choice.setAttribute("role", "group");
  choice.setAttribute("aria-label", "Region");
  for (const { region, directory, lanes } of regions) {
    const button = element("button");
    button.type = "button";
    button.dataset["region"] = region ?? "";
    button.setAttribute("aria-pressed", String(region === shown));
    const isWell = lanes.some(({ status }) => status?.status === "ready");
    button.append(element("span", "value", region ?? "any"), element("span", "hint", [isWell ? "ready" : lanes.every(({ status }) => status === null) ? "cannot be reached" : "not ready", ...(directory?.change == null ? [] : ["changing"])].join(", ")));
    choice.append(button);
  }
  return [choice];
}

function facts({ directory, region, lanes, shards }: FleetSight): HTMLElement {
  const status = lanes.find((lane) => lane.status !== null)?.status ?? null;
  const list = element("dl", "facts-grid");
  const add = (name: string, value: string, detail = ""): void => {
    const entry = element("div");
    entry.append(element("dt", "", name), element("dd", "", value), element("dd", "hint", detail === "" ? "\u00a0" : detail));
    list.append(entry);
  };
  const { pack, drafts } = status ?? { pack: null, drafts: { tokens: 0, held: 0 } };
  if (status === null) add("Model", "Cannot be reached", "no orchestrator answers");
  else add("Model", status.status === "warming" ? `${SAYING[status.status]}, ${percent(status.loaded)}` : SAYING[status.status], status.message ?? (pack === null ? "" : `${pack.id}, pack ${pack.hash.slice(0, 12)}, ${counted(pack.contextLength, "token")}`));
  const plan = directory?.plan ?? null;
  const epoch = plan?.epoch ?? status?.epoch ?? null;
  const [fewest, most] = plan?.copies ?? [0, 0];
  const copies = fewest === most ? counted(fewest, "copy").replace(/copys$/, "copies") : `${fewest} to ${most} copies`;
  const expertBytes = shards.reduce((sum, { weightBytes }) => sum + weightBytes, 0);
  const nHolding = shards.filter(({ state }) => state !== "at rest").length;
  add(region === null ? "Plan in force" : `Plan in force in ${placeOf(region)[0]}`, epoch === null ? "–" : `Epoch ${epoch}`,
    epoch === null ? "none yet" : [plan?.shards.length === 0 ? "no shards" : counted(nHolding, "shard"), ...(plan === null || plan.shards.length === 0 ? [] : [copies]), ...(expertBytes === 0 ? [] : [`${byteSize(expertBytes)} of experts`])].join(", "));
  const [active, queued] = (["active", "queued"] as const).map((of) => lanes.reduce((sum, { status: one }) => sum + (one?.generations[of] ?? 0), 0));
  add("Replies being written", count(active!), queued === 0 ? "none waiting" : `${count(queued!)} waiting`);
  const busiest = directory?.load.toSorted((a, b) => b.timesMean - a.timesMean)[0];
  add("Busiest expert", busiest === undefined ? "–" : `${busiest.timesMean.toFixed(1)} × the mean`, busiest === undefined ? "nobody asked lately" : `expert ${busiest.busiest} of layer ${busiest.layer}`);
  add("Guessed tokens that held", drafts.tokens === 0 ? "–" : percent(drafts.held / drafts.tokens), drafts.tokens === 0 ? "no guesses yet" : `of ${count(drafts.tokens)}`);
  return list;
}

/** Memory of the isolate of the region's first orchestrator, by purpose. */
function memory({ lanes }: FleetSight): HTMLElement[] {
  const isolate = lanes.find(({ status }) => status !== null)?.status?.isolate ?? null;
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
  const heading = element("h2", "", "Memory of the orchestrator’s isolate ");
  heading.append(element("span", "hint", `${byteSize(total)} of ${byteSize(whole)}, shared by ${counted(isolate.objects.length, "object")}; ${isolate.kernels} kernels`));
  return [heading, bar, legend];
}
