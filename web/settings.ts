// The settings of the form as fields of a request. A field left empty is not sent, so the server's default holds and the code to copy stays short.
// Owns the reading of the inputs marked `data-field`, of stop strings, tools and the answer's shape, and the sentences below what is typed wrong.
// Refuses what is no number or no JSON, by name; ranges are the server's to judge, which says what it found and expected.

import { problemWith, SHAPE_EXAMPLES, shapeIn, TOOLS_EXAMPLE, toolsIn } from "./json-fields.ts";
import type { Mode, Wishes } from "./request.ts";

export class SettingProblem extends Error {
  readonly input: HTMLElement;
  constructor(input: HTMLElement, message: string) {
    super(message);
    this.input = input;
  }
}

const at = <T extends HTMLElement>(form: HTMLFormElement, id: string): T => form.querySelector<T>(`#${id}`)!;
const labelOf = (input: HTMLInputElement): string => input.closest("label")?.firstChild?.textContent?.trim() ?? input.id;

/** Wires the parts of the form that depend on each other: examples, and what is wrong with a text as it is typed. */
export function prepareSettings(form: HTMLFormElement): void {
  const [choice, shape, tools] = [at<HTMLSelectElement>(form, "shape"), at<HTMLTextAreaElement>(form, "shape-text"), at<HTMLTextAreaElement>(form, "tools")];
  const checkShape = checked(shape, at(form, "shape-problem"), () => !shape.hidden && shapeIn(choice.value, shape.value));
  prepareShape(choice, shape);
  choice.addEventListener("change", checkShape);
  const checkTools = checked(tools, at(form, "tools-problem"), () => toolsIn(tools.value));
  const example = at(form, "tools-example");
  example.addEventListener("click", () => {
    // Through the browser's own editing, so that undo brings back what was there.
    tools.focus();
    tools.select();
    if (!document.execCommand("insertText", false, TOOLS_EXAMPLE)) tools.value = TOOLS_EXAMPLE;
    checkTools();
  });
}

/** Says below the box what is wrong with it, now and as it is typed; returns what looks again. */
function checked(box: HTMLTextAreaElement, line: HTMLElement, read: () => unknown): () => void {
  const check = (): void => {
    line.textContent = problemWith(read);
    line.hidden = line.textContent === "";
    box.setAttribute("aria-invalid", String(!line.hidden));
  };
  box.addEventListener("input", check);
  check();
  return check;
}

/** Each kind of shape has an example to start from, and what was written for it is kept. */
function prepareShape(choice: HTMLSelectElement, box: HTMLTextAreaElement): void {
  const written = new Map(Object.entries(SHAPE_EXAMPLES));
  let shown = choice.value;
  box.hidden = true;
  choice.addEventListener("change", () => {
    if (!box.hidden) written.set(shown, box.value);
    shown = choice.value;
    box.hidden = !written.has(shown);
    if (!box.hidden) box.value = written.get(shown)!;
  });
}

/** Fields that only chats have are shown only there, and only sent there. */
export function showChatSettings(form: HTMLFormElement, mode: Mode): void {
  for (const field of form.querySelectorAll<HTMLElement>("[data-chat]")) field.hidden = mode !== "chat";
}

/** What the choice of calls means in a request; nothing where the model decides. */
const CALLS: Readonly<Record<string, object>> = { one: { tool_choice: "required", parallel_tool_calls: false }, required: { tool_choice: "required" }, none: { tool_choice: "none" } };

/** Throws a SettingProblem that names the input. */
export function readSettings(form: HTMLFormElement, mode: Mode): Wishes {
  const fields: Record<string, unknown> = {};
  for (const input of form.querySelectorAll<HTMLInputElement>("input[data-field]")) {
    if (input.validity.badInput) throw new SettingProblem(input, `${labelOf(input)} is not a number. Expected one, or nothing for the server's own choice.`);
    if (input.value !== "") fields[input.dataset["field"]!] = Number(input.value);
  }
  const stops = at<HTMLTextAreaElement>(form, "stops").value.split("\n").filter((line) => line !== "").map((line) => line.replaceAll("\\n", "\n"));
  if (stops.length > 0) fields["stop"] = stops;
  const box = at<HTMLTextAreaElement>(form, "shape-text");
  Object.assign(fields, reading(box, () => shapeIn(at<HTMLSelectElement>(form, "shape").value, box.value)));
  if (mode === "completion") return { system: "", fields };
  const toolsBox = at<HTMLTextAreaElement>(form, "tools");
  const tools = reading(toolsBox, () => toolsIn(toolsBox.value));
  if (tools.length > 0) Object.assign(fields, { tools }, CALLS[at<HTMLSelectElement>(form, "tool-choice").value]);
  return { system: at<HTMLTextAreaElement>(form, "system").value.trim(), fields };
}

function reading<T>(input: HTMLElement, read: () => T): T {
  try {
    return read();
  } catch (cause) {
    throw new SettingProblem(input, cause instanceof Error ? cause.message : String(cause));
  }
}
