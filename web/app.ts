// The page: wires the form, the status line, the stream and the panels together. No framework; state is the handful of variables below.

import { ApiProblem, health, models, stream } from "./api.ts";
import { CHAT_EXAMPLES, EXAMPLES } from "./examples.ts";
import { createExpertPanel, showToken } from "./panels.ts";
import { ReplyBlock } from "./reply-block.ts";
import { TokenView } from "./token-view.ts";

const find = <T extends HTMLElement>(id: string): T => document.getElementById(id) as T;
const output = find("output");
const promptBox = find<HTMLTextAreaElement>("prompt");
const layerSlider = find<HTMLInputElement>("layer");
const keyBox = find<HTMLInputElement>("key");
const emptyHint = output.querySelector(".empty")!.cloneNode(true);
const view = new TokenView(output);

let modelId = "";
let layerNames: readonly number[] = [0];
let updateExperts = (): void => {};
let running: AbortController | null = null;
let conversation: { role: "user" | "assistant"; content: string }[] = [];

const mode = (): "completion" | "chat" => (document.querySelector<HTMLInputElement>("input[name=mode]:checked")!.value === "chat" ? "chat" : "completion");

function problem(message: string): void {
  find("problem").hidden = message === "";
  find("problem").textContent = message;
}

function status(kind: "ready" | "busy" | "bad", text: string, loaded: number | null = null): void {
  find("status").dataset["kind"] = kind;
  find("status-text").textContent = text;
  const bar = find<HTMLProgressElement>("status-progress");
  bar.hidden = loaded === null;
  if (loaded !== null) bar.value = loaded;
}

const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** Asks until the model is there. Asking is what wakes it. */
async function waitUntilReady(): Promise<void> {
  for (;;) {
    try {
      const reply = await health(keyBox.value);
      if (reply.status === "ready" || reply.status === "degraded") break;
      status("busy", `Loading the model: ${Math.floor(100 * (reply.loaded ?? 0))} %`, reply.loaded ?? 0);
      await sleep(250);
    } catch (cause) {
      if (cause instanceof ApiProblem && cause.status === 401) {
        find("key-field").hidden = false;
        find<HTMLDetailsElement>("key-field").closest("details")!.open = true;
        status("bad", cause.message);
        await new Promise((resolve) => keyBox.addEventListener("change", resolve, { once: true }));
        sessionStorage.setItem("api-key", keyBox.value);
      } else {
        status("bad", cause instanceof ApiProblem ? cause.message : "The server does not answer. Is it running?");
        await sleep(2000);
      }
    }
  }
  const model = (await models(keyBox.value)).data[0]!;
  modelId = model.id;
  layerNames = model.moe.moe_layers;
  const isDense = layerNames.length === 0;
  find("experts-side").hidden = isDense;
  layerSlider.max = String(Math.max(0, layerNames.length - 1));
  view.layer = Math.max(0, Math.min(Number(layerSlider.value), layerNames.length - 1));
  updateExperts = createExpertPanel(find("experts"), view, model.moe.experts);
  find<HTMLInputElement>("max-tokens").max = String(model.moe.context_length);
  status("ready", isDense ? `${model.id}: a dense model, without experts. Ready.`
    : `${model.id}: ${model.moe.experts} experts in each of ${layerNames.length} layers, ${model.moe.experts_per_token} per token. Ready.`);
}

function block(className: string): HTMLElement {
  output.querySelector(".empty")?.remove();
  const made = document.createElement("div");
  made.className = className;
  output.append(made);
  return made;
}

function requestBody(text: string): { path: string; body: object } {
  const seed = find<HTMLInputElement>("seed").value;
  const common = {
    model: modelId, stream: true, stream_options: { include_usage: true }, moe: { trace: true },
    temperature: Number(find<HTMLInputElement>("temperature").value),
    max_tokens: Number(find<HTMLInputElement>("max-tokens").value),
    ...(seed === "" ? {} : { seed: Number(seed) }),
  };
  return mode() === "chat"
    ? { path: "/v1/chat/completions", body: { ...common, messages: [...conversation, { role: "user", content: text }] } }
    : { path: "/v1/completions", body: { ...common, prompt: text } };
}

let progressShown = true;
let following = true;
output.addEventListener("scroll", () => (following = output.scrollHeight - output.scrollTop - output.clientHeight < 60));
/** Panels, speed and scrolling follow the tokens once per frame, however fast those come. */
function showProgress(speed: string): void {
  find("speed").textContent = speed;
  if (!progressShown) return;
  progressShown = false;
  requestAnimationFrame(() => {
    progressShown = true;
    updateExperts();
    if (following) output.scrollTop = output.scrollHeight;
  });
}

async function generate(text: string): Promise<void> {
  running?.abort();
  const controller = new AbortController();
  running = controller;
  problem("");
  const chat = mode() === "chat";
  following = true;
  if (!chat) view.clear();
  const { path, body } = requestBody(text);
  const said = block(chat ? "turn user" : "turn given");
  said.textContent = text;
  const target = chat ? block("turn assistant") : said;
  const reply = new ReplyBlock(target, view);
  if (!chat) said.classList.add("continued");
  find("send").hidden = true;
  find("stop").hidden = false;
  output.setAttribute("aria-busy", "true");
  let nTokens = 0;
  let started = 0;
  try {
    for await (const chunk of stream(path, body, keyBox.value, controller.signal)) {
      if (reply.add(chunk)) {
        if (started === 0) started = performance.now();
        else nTokens++;
        const rate = nTokens / ((performance.now() - started) / 1000);
        showProgress(nTokens > 0 ? `${rate.toFixed(1)} tokens/s` : "");
      }
      const reason = chunk.choices[0]?.finish_reason;
      if (reason != null) target.dataset["end"] = reason === "length" ? " …" : " ∎"; // cut off, or ended by the model itself
    }
    if (chat) conversation.push({ role: "user", content: text }, { role: "assistant", content: reply.answer });
  } catch (cause) {
    if (controller.signal.aborted) {
      if (chat && reply.answer !== "") conversation.push({ role: "user", content: text }, { role: "assistant", content: reply.answer });
    } else problem(cause instanceof ApiProblem ? cause.message : "The connection broke. Try again.");
  } finally {
    reply.end();
    if (running === controller) {
      running = null;
      find("send").hidden = false;
      find("stop").hidden = true;
      output.removeAttribute("aria-busy");
    }
  }
}

function reset(): void {
  running?.abort();
  conversation = [];
  view.clear();
  output.append(emptyHint.cloneNode(true));
  find("speed").textContent = "";
  problem("");
  updateExperts();
}

function showMode(): void {
  const chat = mode() === "chat";
  find("send").textContent = chat ? "Send" : "Continue";
  promptBox.placeholder = chat ? "Tell me a short story about Tom." : "Once upon a time";
  find("examples").replaceChildren(...(chat ? CHAT_EXAMPLES : EXAMPLES).map((example) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = example.name;
    button.addEventListener("click", () => {
      if (chat) reset();
      promptBox.value = example.text;
      if (modelId !== "") void generate(example.text);
    });
    return button;
  }));
}

find("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = promptBox.value;
  if (text.trim() === "" || modelId === "" || running !== null) return;
  if (mode() === "chat") promptBox.value = "";
  void generate(text);
});
promptBox.addEventListener("keydown", (event) => {
  const send = event.key === "Enter" && !event.isComposing && (event.ctrlKey || event.metaKey || (mode() === "chat" && !event.shiftKey));
  if (!send) return;
  event.preventDefault();
  find<HTMLFormElement>("form").requestSubmit();
});
find("stop").addEventListener("click", () => running?.abort());
find("clear").addEventListener("click", () => {
  reset();
  promptBox.value = "";
  promptBox.focus();
});
document.querySelectorAll("input[name=mode]").forEach((input) => input.addEventListener("change", () => {
  reset();
  showMode();
}));
layerSlider.addEventListener("input", () => {
  view.layer = Number(layerSlider.value);
  find("layer-value").textContent = String(layerNames[view.layer] ?? view.layer);
  view.repaint();
  updateExperts();
});
find<HTMLInputElement>("temperature").addEventListener("input", (event) => {
  find("temperature-value").textContent = Number((event.target as HTMLInputElement).value).toFixed(1);
});
view.onLook = (token) => showToken(find("token"), token, view.layer, layerNames);

keyBox.value = sessionStorage.getItem("api-key") ?? "";
showMode();
void waitUntilReady();
