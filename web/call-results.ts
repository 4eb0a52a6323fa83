// What a user answers the model's calls with: a field for each call below the reply, and one button that sends them all, since a model waits for all.
// Owns the form. Refuses the conversation: whoever asked for the results sends them on. Any text is a result; none at all is not.

import { element } from "./figures.ts";
import type { Call } from "./request.ts";

/** Puts the form at the end of the text, with results that were given before; it is gone once they are sent. */
export function askForResults(text: HTMLElement, calls: readonly Call[], onSend: (results: readonly string[]) => void, given: readonly string[] = []): void {
  const form = element("form", "results");
  form.noValidate = true;
  const inputs = calls.map((call, i) => {
    const label = element("label", "", calls.length === 1 ? `Result of ${call.name}` : `Result of ${call.name}, call ${i + 1}`);
    const input = element("input");
    input.type = "text";
    input.autocomplete = "off";
    input.value = given[i] ?? "";
    label.append(input);
    form.append(label);
    return input;
  });
  const problem = element("p", "field-problem");
  problem.setAttribute("role", "alert");
  problem.hidden = true;
  form.append(problem, element("button", "", calls.length === 1 ? "Send the result" : "Send the results"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const missing = inputs.findIndex((input) => input.value.trim() === "");
    problem.hidden = missing < 0;
    if (missing >= 0) {
      problem.textContent = `The call of ${calls[missing]!.name} has no result yet; expected some text, such as {"ok": true}.`;
      inputs[missing]!.focus();
      return;
    }
    form.remove();
    onSend(inputs.map((input) => input.value));
  });
  text.append(form);
}
