// The settings of the form as fields of a request. A field left empty is not sent, so the server's default holds and the code to copy stays short.
// Owns the reading of the inputs marked `data-field`, of stop strings and of the answer's shape. Refuses what is no number or no JSON, by name;
// ranges are the server's to judge, which says what it found and expected.

import type { Wishes } from "./request.ts";

export class SettingProblem extends Error {
  readonly input: HTMLElement;
  constructor(input: HTMLElement, message: string) {
    super(message);
    this.input = input;
  }
}

const SHAPE_EXAMPLES: Readonly<Record<string, string>> = {
  json_schema: `{
  "type": "object",
  "properties": {
    "name": { "type": "string", "maxLength": 12 },
    "age": { "type": "integer", "minimum": 1, "maximum": 120 },
    "likes": { "enum": ["cats", "tea", "rain"] }
  },
  "required": ["name", "age", "likes"]
}`,
  grammar: "root ::= (\"yes\" | \"no\") \", because \" [a-z ]{10,40} \".\"",
};

/** Wires the shape's text box to its choice: each kind has an example to start from, and what was written for it is kept. */
export function prepareShape(choice: HTMLSelectElement, box: HTMLTextAreaElement): void {
  const written = new Map(Object.entries(SHAPE_EXAMPLES));
  let shown = choice.value;
  const show = (): void => {
    if (!box.hidden) written.set(shown, box.value);
    shown = choice.value;
    box.hidden = !written.has(shown);
    if (!box.hidden) box.value = written.get(shown)!;
  };
  box.hidden = true;
  choice.addEventListener("change", show);
}

/** Throws a SettingProblem that names the input. */
export function readSettings(form: HTMLFormElement): Wishes {
  const fields: Record<string, unknown> = {};
  for (const input of form.querySelectorAll<HTMLInputElement>("input[data-field]")) {
    if (input.validity.badInput) throw new SettingProblem(input, `${labelOf(input)} is not a number. Expected one, or nothing for the server's own choice.`);
    if (input.value !== "") fields[input.dataset["field"]!] = Number(input.value);
  }
  const stops = at<HTMLTextAreaElement>(form, "stops").value.split("\n").filter((line) => line !== "").map((line) => line.replaceAll("\\n", "\n"));
  if (stops.length > 0) fields["stop"] = stops;
  return { system: at<HTMLTextAreaElement>(form, "system").value.trim(), fields: { ...fields, ...shapeOf(at(form, "shape"), at(form, "shape-text")) } };
}

const at = <T extends HTMLElement>(form: HTMLFormElement, id: string): T => form.querySelector<T>(`#${id}`)!;
const labelOf = (input: HTMLInputElement): string => input.closest("label")?.firstChild?.textContent?.trim() ?? input.id;

function shapeOf(choice: HTMLSelectElement, box: HTMLTextAreaElement): Readonly<Record<string, unknown>> {
  switch (choice.value) {
    case "json_object":
      return { response_format: { type: "json_object" } };
    case "json_schema":
      return { response_format: { type: "json_schema", json_schema: { name: "answer", strict: true, schema: schemaOf(box) } } };
    case "grammar":
      return { grammar: box.value };
    default:
      return {};
  }
}

function schemaOf(box: HTMLTextAreaElement): unknown {
  try {
    return JSON.parse(box.value);
  } catch (cause) {
    throw new SettingProblem(box, `The schema is not JSON: ${cause instanceof Error ? cause.message : String(cause)}.`);
  }
}
