// The page: wires the form, the stream, the panels and the views together. No framework; state is the handful of variables below.

import { ApiProblem } from "./api.ts";
import { askForResults } from "./call-results.ts";
import { prepareCodeDialog } from "./code-dialog.ts";
import { CHAT_EXAMPLES, EXAMPLES, showExamples } from "./examples.ts";
import { counted, element } from "./figures.ts";
import { prepareFleetView } from "./fleet-view.ts";
import { createHeatMap } from "./heat-map.ts";
import { createHeatViews } from "./heat-views.ts";
import { knownRouting } from "./known-routing.ts";
import { createExpertPanel } from "./panels.ts";
import { describeModel, readyModel, showStatus } from "./readiness.ts";
import { ReplyBlock } from "./reply-block.ts";
import { ReplyFacts } from "./reply-facts.ts";
import { type Asked, chatOf, completionOf, type Message, messagesOf, type Mode, said, type Turn } from "./request.ts";
import { prepareSettings, readSettings, SettingProblem, showChatSettings } from "./settings.ts";
import { NO_STEERING } from "./steering.ts";
import { stream } from "./stream.ts";
import { createTokenDetail } from "./token-detail.ts";
import { prepareTokenLink } from "./token-link.ts";
import { type ShownToken, TokenView } from "./token-view.ts";
import { showTurn } from "./turns.ts";

const find = <T extends HTMLElement>(id: string): T => document.getElementById(id) as T;
const output = find("output");
const form = find<HTMLFormElement>("form");
const promptBox = find<HTMLTextAreaElement>("prompt");
const layerSlider = find<HTMLInputElement>("layer");
const keyBox = find<HTMLInputElement>("key");
const view = new TokenView(output);

let modelId = "";
let layerNames: readonly number[] = [0];
let updatePanels = (): void => {};
let showToken = (_token: ShownToken | null, _layer: number): void => {};
let steering = NO_STEERING;
let running: AbortController | null = null;
let conversation: Message[] = [];
/** What was sent last: shown as code while the prompt is empty. */
let lastAsked: Asked | null = null;

const mode = (): Mode => (document.querySelector<HTMLInputElement>("input[name=mode]:checked")!.value === "chat" ? "chat" : "completion");

function problem(message: string): void {
  find("problem").hidden = message === "";
  find("problem").textContent = message;
}
const failed = (cause: unknown): void => problem(cause instanceof ApiProblem ? cause.message : "The connection broke. Try again.");

async function start(): Promise<void> {
  const model = await readyModel(keyBox);
  const { experts, moe_layers, context_length, chat } = model.moe;
  layerNames = moe_layers;
  find("experts-side").hidden = layerNames.length === 0;
  layerSlider.max = String(Math.max(0, layerNames.length - 1));
  const pick = (expert: number): void => {
    view.onlyExpert = view.onlyExpert === expert ? null : expert;
    view.repaint();
    updatePanels();
  };
  const updateExperts = createExpertPanel(find("experts"), view, experts, pick);
  const views = createHeatViews(find("where"), { view, nExperts: experts, onChange: () => updatePanels() });
  const drawHeat = createHeatMap(find("heat-map"), {
    nExperts: experts, layerNames, picture: views.picture, marks: (row) => steering.marks(row), action: () => steering.action(), begin: () => [view.layer, view.onlyExpert ?? 0],
    onPick: (layer, expert) => {
      if (steering.pick(layer, expert)) return;
      chooseLayer(layer);
      pick(expert);
    },
  });
  updatePanels = () => {
    updateExperts();
    drawHeat();
  };
  showToken = createTokenDetail(find("token"), { layerNames, onLayer: chooseLayer });
  showLayer();
  find<HTMLInputElement>("max-tokens").max = String(context_length);
  document.querySelector<HTMLInputElement>("input[value=chat]")!.disabled = !chat;
  modelId = model.id;
  showStatus("ready", describeModel(model));
  if (layerNames.length === 0) return;
  steering = await knownRouting(find("steer"), model, { layerNames, views, key: keyBox.value, onChange: () => updatePanels(), onProblem: failed });
  updatePanels();
}

/** The request of the form as it stands; null, with the reason shown, where a setting makes no sense. */
function asked(turn: Turn): Asked | null {
  try {
    const [read, moe] = [readSettings(form, mode()), steering.fields()];
    const wishes = { ...read, fields: { ...read.fields, ...(Object.keys(moe).length === 0 ? {} : { moe }) } };
    return mode() === "completion" && "text" in turn ? completionOf(modelId, wishes, turn.text) : chatOf(modelId, wishes, [...conversation, ...messagesOf(turn)]);
  } catch (cause) {
    if (!(cause instanceof SettingProblem)) throw cause;
    problem(cause.message);
    find<HTMLDetailsElement>("settings").open = true;
    cause.input.focus();
    return null;
  }
}

let isFrameAsked = false;
let following = true;
output.addEventListener("scroll", () => (following = output.scrollHeight - output.scrollTop - output.clientHeight < 60));
/** Panels, pace and scrolling follow the tokens once per frame, however fast those come. */
function showProgress(pace: string): void {
  find("speed").textContent = pace;
  if (isFrameAsked) return;
  isFrameAsked = true;
  requestAnimationFrame(() => {
    isFrameAsked = false;
    updatePanels();
    if (following) output.scrollTop = output.scrollHeight;
  });
}

function showRunning(isRunning: boolean): void {
  // The focus must not fall off the page with the button that had it.
  const hadFocus = [find("send"), find("stop")].includes(document.activeElement as HTMLElement);
  find("send").hidden = isRunning;
  find("stop").hidden = !isRunning;
  if (hadFocus) find(isRunning ? "stop" : "send").focus();
  output.toggleAttribute("aria-busy", isRunning);
}

/** What follows a reply that was cut off, or waits for results; any other was ended by the model itself. */
const ENDS: Readonly<Record<string, string>> = { length: " …", tool_calls: "" };

/** Nothing was said in reply: what was asked is taken back, to be asked again. */
function takeBack(turn: Turn, blocks: readonly HTMLElement[]): void {
  for (const block of blocks) block.remove();
  if (output.childElementCount === 0) showHint();
  if (!("text" in turn)) askForResults(output, turn.calls, (results) => void generate({ ...turn, results }), turn.results);
  else if (promptBox.value === "") promptBox.value = turn.text;
}

async function generate(turn: Turn): Promise<void> {
  problem("");
  const request = asked(turn);
  if (request === null) return;
  running?.abort();
  const controller = new AbortController();
  running = controller;
  lastAsked = request;
  const isChat = mode() === "chat";
  following = true;
  if (!isChat) view.clear();
  const { target, blocks } = showTurn(output, mode(), turn);
  const reply = new ReplyBlock(target, view);
  const facts = new ReplyFacts();
  showRunning(true);
  find("announcement").textContent = "The model is writing.";
  const body = { ...request.body, stream: true, stream_options: { include_usage: true }, moe: { ...(request.body["moe"] as object | undefined), trace: true } };
  let ending = "Stopped.";
  let finish: string | null = null;
  try {
    const onDrop = (): void => showProgress("The connection broke. Going on…");
    for await (const chunk of stream({ path: request.path, body, key: keyBox.value, signal: controller.signal, onDrop })) {
      const isToken = reply.add(chunk);
      facts.add(chunk, isToken);
      if (isToken) showProgress(facts.pace);
      finish = chunk.choices[0]?.finish_reason ?? finish;
      if (finish !== null) target.dataset["end"] = ENDS[finish] ?? " ∎";
      if (chunk.usage != null) ending = `The reply has ended: ${counted(chunk.usage.completion_tokens, "token")}.`;
    }
  } catch (cause) {
    if (!controller.signal.aborted) {
      failed(cause);
      ending = "";
    }
  } finally {
    reply.end();
    if (isChat && target.isConnected) {
      // What was said is part of the conversation, also where it was stopped; of calls, those that were made to their end.
      const calls = finish === "tool_calls" ? reply.calls : [];
      const answer = said(reply.answer, calls);
      if (answer !== null) conversation.push(...messagesOf(turn), answer);
      else if (finish === null) takeBack(turn, blocks);
      if (calls.length > 0) askForResults(output, calls, (results) => void generate({ calls, results }));
    }
    const line = facts.line((seed) => {
      find<HTMLInputElement>("seed").value = String(seed);
      find<HTMLDetailsElement>("settings").open = true;
    });
    if (line !== null && target.isConnected) target.after(line);
    find("announcement").textContent = ending;
    if (running === controller) {
      running = null;
      showRunning(false);
      showProgress("");
    }
  }
}

const HINTS: Readonly<Record<Mode, string>> = {
  completion: "Pick an example above, or write a beginning below. Watch which experts take over as the text changes its language.",
  chat: "Pick an example above, or ask something below. Watch which experts take part in the answer.",
};
const showHint = (): void => output.replaceChildren(element("p", "empty", HINTS[mode()]));

function reset(): void {
  running?.abort();
  conversation = [];
  lastAsked = null;
  view.clear();
  showHint();
  find("speed").textContent = "";
  problem("");
  updatePanels();
}

function showMode(): void {
  const isChat = mode() === "chat";
  find("send").textContent = isChat ? "Send" : "Continue";
  find("prompt-keys").textContent = isChat ? "Enter" : "Ctrl + Enter";
  showChatSettings(form, mode());
  promptBox.placeholder = isChat ? "Tell me a short story about Tom." : "Once upon a time";
  showExamples(find("examples"), isChat ? CHAT_EXAMPLES : EXAMPLES, (text) => {
    if (isChat) reset();
    promptBox.value = text;
    if (modelId !== "") void generate({ text });
  });
}

function chooseLayer(layer: number): void {
  layerSlider.value = String(layer);
  showLayer();
}

function showLayer(): void {
  view.layer = Number(layerSlider.value);
  find("layer-value").textContent = String(layerNames[view.layer] ?? view.layer);
  view.repaint();
  updatePanels();
}

const askFleet = prepareFleetView(find("view-fleet"), keyBox);
function showView(): void {
  const isFleet = location.hash === "#fleet";
  find("view-write").hidden = isFleet;
  find("view-fleet").hidden = !isFleet;
  document.querySelectorAll("nav a").forEach((link) => {
    if ((link.getAttribute("href") === "#fleet") === isFleet) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  });
  askFleet(isFleet);
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = promptBox.value;
  if (text.trim() === "" || modelId === "" || running !== null) return;
  void generate({ text });
  // What went into the conversation leaves the box; where a setting is wrong nothing went, and the text stays.
  if (mode() === "chat" && running !== null) promptBox.value = "";
});
promptBox.addEventListener("keydown", (event) => {
  const isSend = event.key === "Enter" && !event.isComposing && (event.ctrlKey || event.metaKey || (mode() === "chat" && !event.shiftKey));
  if (!isSend) return;
  event.preventDefault();
  form.requestSubmit();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && document.querySelector("dialog[open]") === null) running?.abort();
});
find("stop").addEventListener("click", () => running?.abort());
find("clear").addEventListener("click", () => {
  reset();
  promptBox.value = "";
  promptBox.focus();
});
const openCode = prepareCodeDialog(find<HTMLDialogElement>("code-dialog"), () => keyBox.value !== "");
find("show-code").addEventListener("click", () => {
  problem("");
  const text = promptBox.value;
  const shown = text === "" && lastAsked !== null ? lastAsked : asked({ text: text === "" ? promptBox.placeholder : text });
  if (shown !== null) openCode(shown);
});
document.querySelectorAll("input[name=mode]").forEach((input) => input.addEventListener("change", () => {
  reset();
  showMode();
}));
layerSlider.addEventListener("input", showLayer);
find<HTMLInputElement>("temperature").addEventListener("input", (event) => {
  find("temperature-value").textContent = Number((event.target as HTMLInputElement).value).toFixed(1);
});
const showLink = prepareTokenLink(find<HTMLButtonElement>("token-link"), output, find("token"));
view.onLook = (token) => {
  showToken(token, view.layer);
  showLink(token);
  updatePanels();
};
addEventListener("hashchange", showView);

prepareSettings(form);
showHint();
keyBox.value = sessionStorage.getItem("api-key") ?? "";
showMode();
showView();
void start();
