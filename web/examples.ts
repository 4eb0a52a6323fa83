// Example prompts, one per domain of the demo model, and the buttons that offer them. Beginnings only: the model writes the rest.
// Refuses requests: what a picked example starts is app.ts's.

import { element } from "./figures.ts";

export interface Example {
  readonly name: string;
  readonly text: string;
}

export const EXAMPLES: readonly Example[] = [
  { name: "A novel", text: "Prince Andrew entered the drawing room and looked" },
  { name: "A drama", text: "ROMEO:\nWhat light is this, that" },
  { name: "A story", text: "Once upon a time, there was a little girl named Lily. She" },
  { name: "A maths problem", text: "Tom has 12 apples. He gives 4 apples to his sister and buys 6 more. How many apples does Tom have now?\n" },
  { name: "Docs, English", text: "Return a new list containing all items from the iterable in" },
  { name: "Docs, français", text: "Renvoie une nouvelle liste contenant tous les éléments" },
  { name: "Docs, español", text: "Devuelve una nueva lista que contiene todos los elementos" },
  { name: "Docs, 中文", text: "返回一个新的列表,其中包含" },
  { name: "TypeScript", text: "export const createRouter = (options: RouterOptions) => {\n  const" },
  { name: "Python", text: "class Tensor:\n  def __init__(self, data, device=None):\n" },
  { name: "C", text: "static void ggml_compute_forward_add(\n        const struct ggml_compute_params * params,\n" },
];

export const CHAT_EXAMPLES: readonly Example[] = [
  { name: "A story", text: "Tell me a short story about Tom." },
  { name: "A maths problem", text: "Anna has 3 boxes with 8 pencils each. She gives away 5 pencils. How many pencils does she have left?" },
  { name: "A scene", text: "KING RICHARD III:\nMy lords, what news from France?" },
  { name: "Some C", text: "static void ggml_vec_add_f32(const int n, float * z, const float * x," },
];

export function showExamples(host: HTMLElement, examples: readonly Example[], onPick: (text: string) => void): void {
  host.replaceChildren(...examples.map(({ name, text }) => {
    const button = element("button", "", name);
    button.type = "button";
    button.addEventListener("click", () => onPick(text));
    return button;
  }));
}
