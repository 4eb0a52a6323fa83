// The form that asks for another fleet: so many shards, so many copies of each expert (POST /v1/fleet). Owns what is typed, and says why nothing can be asked
// for where that is so. Refuses to judge numbers: the server does, in a sentence. What is left as it is, is not sent.

import { askForFleet } from "./api.ts";
import { element } from "./figures.ts";

export interface WishState {
  /** Why nothing can be asked for at all; null where it can. */
  readonly barred: string | null;
  /** Why not just now; null where it can. */
  readonly waits: string | null;
  /** As the fleet is, or soon will be; 0: nobody knows. */
  readonly shards: number;
  readonly replicas: number;
  readonly region: string | null;
}

/** Returns what shows the state. `onBegun`: when a change was begun. */
export function prepareWish(host: HTMLElement, key: () => string, onBegun: () => void): (state: WishState) => void {
  const form = element("form", "wish");
  form.noValidate = true;
  const fields = element("fieldset");
  const [shards, replicas] = [number("shards", "Shards"), number("replicas", "Copies of each expert")];
  const send = element("button", "primary", "Change the fleet");
  send.type = "submit";
  send.setAttribute("aria-describedby", "wish-reason");
  fields.append(element("legend", "", "Ask for another fleet"), shards.label, replicas.label, send);
  const reason = element("p", "hint");
  reason.id = "wish-reason";
  const problem = element("p", "problem");
  problem.setAttribute("role", "alert");
  problem.hidden = true;
  form.append(fields, reason, problem);
  host.append(form);

  let shown: WishState = { barred: "The fleet has not answered yet.", waits: null, shards: 0, replicas: 0, region: null };
  let isSending = false;
  const complain = (message: string): void => {
    problem.textContent = message;
    problem.hidden = message === "";
  };
  const show = (state: WishState): void => {
    shown = state;
    fields.disabled = state.barred !== null;
    // Not disabled as such: whoever has just pressed it would lose the focus.
    send.setAttribute("aria-disabled", String(state.barred !== null || state.waits !== null || isSending));
    const saying = state.barred ?? state.waits ?? "Replies go on while the fleet changes, and stay the same to the bit.";
    if (reason.textContent !== saying) reason.textContent = saying;
    shards.follow(state.shards);
    // What was asked for stays until it is there.
    if (state.waits === null || replicas.input.value === "") replicas.follow(state.replicas);
  };
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (send.getAttribute("aria-disabled") === "true") return;
    const bad = [shards, replicas].find(({ input }) => input.value === "" || input.validity.badInput);
    if (bad !== undefined) {
      complain(`${bad.name} is not a number. Expected one.`);
      bad.input.focus();
      return;
    }
    const { region } = shown;
    // With neither changed the number of shards goes as it is, and the server says that nothing is to be done.
    const wish = { ...(shards.isTyped || !replicas.isTyped ? { shards: Number(shards.input.value) } : {}), ...(replicas.isTyped ? { replicas: Number(replicas.input.value) } : {}), ...(region === null ? {} : { region }) };
    isSending = true;
    show(shown);
    complain("");
    askForFleet(key(), wish).then(() => {
      shards.forget();
      replicas.forget();
      shown = { ...shown, waits: "A change has begun." };
      onBegun();
    }, (cause: unknown) => complain(cause instanceof Error ? cause.message : String(cause))).finally(() => {
      isSending = false;
      show(shown);
    });
  });
  show(shown);
  return show;
}

interface NumberField {
  readonly name: string;
  readonly label: HTMLElement;
  readonly input: HTMLInputElement;
  /** Whether it says something else than the fleet is. */
  readonly isTyped: boolean;
  /** Shows the fleet's number until something is typed. */
  follow(value: number): void;
  forget(): void;
}

function number(id: string, name: string): NumberField {
  const label = element("label", "", `${name} `);
  const input = element("input");
  input.type = "number";
  input.min = input.step = "1";
  input.id = `wish-${id}`;
  label.append(input);
  let followed = "";
  return {
    name, label, input,
    get isTyped() { return input.value !== followed; },
    follow(value) {
      const isTyped = input.value !== followed || input.validity.badInput;
      followed = value === 0 ? "" : String(value);
      if (!isTyped) input.value = followed;
    },
    forget() {
      followed = input.value;
    },
  };
}
