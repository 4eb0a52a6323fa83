// The dialog with the request as code: a choice of three, and a button that copies. Owns its open state; focus and Escape are the browser's (<dialog>).

import { codeFor, type Language } from "./code.ts";
import type { Asked } from "./request.ts";

/** Returns what opens the dialog. */
export function prepareCodeDialog(dialog: HTMLDialogElement, needsKey: () => boolean): (asked: Asked) => void {
  const find = <T extends HTMLElement>(selector: string): T => dialog.querySelector<T>(selector)!;
  const code = find("code");
  const copied = find("[role=status]");
  let shown: Asked | null = null;
  const show = (): void => {
    const language = find<HTMLInputElement>("input[name=language]:checked").value as Language;
    if (shown !== null) code.textContent = codeFor(language, location.origin, shown, needsKey());
    copied.textContent = "";
  };
  dialog.querySelectorAll("input[name=language]").forEach((input) => input.addEventListener("change", show));
  find("[data-close]").addEventListener("click", () => dialog.close());
  // The dialog's own padding is inside its form of content: a click on the dialog itself is one on what is behind it.
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  find("[data-copy]").addEventListener("click", () => {
    void copy(code).then((isCopied) => (copied.textContent = isCopied ? "Copied." : "Selected: copy it with the keyboard."));
  });
  return (asked) => {
    shown = asked;
    show();
    dialog.showModal();
  };
}

/** Pages on plain HTTP have no clipboard (other than on localhost): there the text is selected instead. */
async function copy(code: HTMLElement): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(code.textContent ?? "");
    return true;
  } catch {
    getSelection()?.selectAllChildren(code);
    return false;
  }
}
