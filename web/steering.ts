// What the next request changes of its routing: a stored profile, and experts that were clicked on. Owns both, the fields they make of `moe`, the marks on the map, and their legend. Refuses what the
// model does not take (/v1/models says what it does); who may is the server's to say.

import { counted, element } from "./figures.ts";
import { type HeatMark, markLegend, MARKS, type MarkedOp } from "./heat-marks.ts";
import type { ModelObject, ProfileSummary, RoutingProfile } from "../worker/wire-types.ts";

/** What a click can do to an expert, in the order of the choice. */
const TOOLS = ["suppress", "mask", "stimulate", "force_max"] as const satisfies readonly MarkedOp[];
type Tool = (typeof TOOLS)[number];
const TOOL_WORDS: Readonly<Record<Tool, string>> = { suppress: "suppresses it", mask: "masks it", stimulate: "stimulates it", force_max: "forces it" };

export interface SteeringOptions {
  readonly model: ModelObject;
  readonly layerNames: readonly number[];
  /** Those the key may use. */
  readonly profiles: readonly ProfileSummary[];
  readonly read: (name: string) => Promise<RoutingProfile>;
  readonly onChange: () => void;
  readonly onProblem: (cause: unknown) => void;
}

export interface Steering {
  /** Of a row of the map. */
  readonly marks: (row: number) => readonly HeatMark[];
  /** What a click does, in words. */
  readonly action: () => string;
  /** Steers an expert, or lets it be again; false where a click is to do something else. */
  readonly pick: (row: number, expert: number) => boolean;
  /** Fields of `moe`; empty where nothing is steered. */
  readonly fields: () => Readonly<Record<string, unknown>>;
}

/** A model that takes no operations on experts. */
export const NO_STEERING: Steering = { marks: () => [], action: () => "shows only the expert's tokens", pick: () => false, fields: () => ({}) };

/** Fills `host` with the choices, where there are any. */
export function createSteering(host: HTMLElement, { model: { id, moe }, layerNames, profiles, read, onChange, onProblem }: SteeringOptions): Steering {
  const tools = TOOLS.filter((op) => moe.interventions.includes(op));
  const ours = profiles.filter(({ model, packHash }) => model === id && (packHash === null || packHash === moe.pack_hash));
  host.hidden = tools.length === 0 && ours.length === 0;
  if (host.hidden) return NO_STEERING;
  let profile: RoutingProfile | null = null;
  /** By layer's number and expert; an expert is steered one way at a time. */
  const edits = new Map<string, { readonly layer: number; readonly expert: number; readonly op: Tool }>();

  const [profileChoice, toolChoice] = [selectOf([["", "none"], ...ours.map(({ name }) => [name, name] as const)]), selectOf([["", "shows its tokens"], ...tools.map((op) => [op, TOOL_WORDS[op]] as const)])];
  profileChoice.id = "profile";
  toolChoice.id = "tool";
  const [said, legend, summary] = [element("p", "hint"), element("ul", "mark-legend"), element("p", "hint steer-summary")];
  said.id = "profile-said";
  summary.setAttribute("role", "status");
  const clear = element("button", "quiet", "Undo the clicks");
  clear.type = "button";
  host.replaceChildren(...(ours.length === 0 ? [] : [labelled("Profile", profileChoice), said]), ...(tools.length === 0 ? [] : [labelled("A click on an expert", toolChoice)]), legend, summary);

  const marks = (row: number): readonly HeatMark[] => {
    const layer = layerNames[row]!;
    const found = new Map<number, HeatMark>();
    for (const of of profile?.interventions ?? []) {
      if (!("experts" in of)) continue;
      for (const expert of of.experts[String(layer)] ?? []) found.set(expert, { expert, op: of.op, words: `${MARKS[of.op].words}, by the profile ${profile!.name}` });
    }
    for (const { layer: at, expert, op } of edits.values()) if (at === layer) found.set(expert, { expert, op, words: MARKS[op].words });
    return [...found.values()];
  };
  const interventions = (): { readonly op: Tool; readonly experts: Record<string, number[]> }[] => tools.flatMap((op) => {
    const of = [...edits.values()].filter((edit) => edit.op === op).sort((a, b) => a.layer - b.layer || a.expert - b.expert);
    if (of.length === 0) return [];
    const experts: Record<string, number[]> = {};
    for (const { layer, expert } of of) (experts[layer] ??= []).push(expert);
    return [{ op, experts }];
  });

  const show = (): void => {
    const counts = new Map<MarkedOp, number>();
    for (const { op } of layerNames.flatMap((_, row) => marks(row))) counts.set(op, (counts.get(op) ?? 0) + 1);
    legend.replaceChildren(...markLegend(counts));
    legend.hidden = counts.size === 0;
    const others = profile === null ? [] : [...profile.interventions.flatMap((of) => ("experts" in of ? [] : [of.op])), ...(profile.maskExperts == null ? [] : ["product experts left out"])];
    said.textContent = profile === null ? "" : `${profile.description}${others.length === 0 ? "" : ` (${others.join(", ")}: of none on the map)`}`;
    said.hidden = said.textContent === "";
    summary.hidden = profile === null && edits.size === 0;
    summary.replaceChildren("The next request goes by ", [...(profile === null ? [] : [`the profile ${profile.name}`]), ...(edits.size === 0 ? [] : [counted(edits.size, "click")])].join(" and "), ". ", ...(edits.size === 0 ? [] : [clear]));
    onChange();
  };
  profileChoice.addEventListener("change", () => {
    const name = profileChoice.value;
    profile = null;
    if (name === "") return show();
    read(name).then((found) => {
      if (profileChoice.value !== name) return; // another was chosen meanwhile
      profile = found;
      show();
    }, (cause: unknown) => {
      profileChoice.value = "";
      show();
      onProblem(cause);
    });
  });
  toolChoice.addEventListener("change", onChange);
  clear.addEventListener("click", () => {
    edits.clear();
    show();
    toolChoice.focus(); // the button is gone
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
  show();
  return {
    marks,
    action: () => (toolChoice.value === "" ? NO_STEERING.action() : TOOL_WORDS[toolChoice.value as Tool].replace(/it$/, "the expert in the next request, or lets it be again")),
    pick: (row, expert) => {
      if (toolChoice.value === "") return false;
      const [op, layer] = [toolChoice.value as Tool, layerNames[row]!];
      const key = `${layer} ${expert}`;
      if (edits.get(key)?.op === op) edits.delete(key);
      else edits.set(key, { layer, expert, op });
      show();
      return true;
    },
    fields: () => {
      const list = interventions();
      return { ...(profile === null ? {} : { profile: profile.name }), ...(list.length === 0 ? {} : { interventions: list }) };
    },
  };
}

function selectOf(options: readonly (readonly [value: string, text: string])[]): HTMLSelectElement {
  const select = element("select");
  for (const [value, text] of options) {
    const option = element("option", "", text);
    option.value = value;
    select.append(option);
  }
  return select;
}

function labelled(text: string, select: HTMLSelectElement): HTMLElement {
  const label = element("label", "", `${text} `);
  label.append(select);
  return label;
}
