// The status line: asks until the model is there, which is what wakes it. Owns the line, its progress bar and the question for a key.
// Refuses to do anything with the model it found: app.ts does.

import { ApiProblem, health, models } from "./api.ts";
import type { ModelObject } from "../worker/wire-types.ts";

const find = <T extends HTMLElement>(id: string): T => document.getElementById(id) as T;
const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

const WARMING_POLL_MS = 250;
const BROKEN_POLL_MS = 2000;

export function showStatus(kind: "ready" | "busy" | "bad", text: string, loaded: number | null = null): void {
  find("status").dataset["kind"] = kind;
  find("status-text").textContent = text;
  const bar = find<HTMLProgressElement>("status-progress");
  bar.hidden = loaded === null;
  if (loaded !== null) bar.value = loaded;
}

export async function readyModel(keyBox: HTMLInputElement): Promise<ModelObject> {
  for (;;) {
    try {
      const reply = await health(keyBox.value);
      if (reply.status === "ready" || reply.status === "degraded") return (await models(keyBox.value)).data[0]!;
      showStatus("busy", `Loading the model: ${Math.floor(100 * (reply.loaded ?? 0))} %`, reply.loaded ?? 0);
      await sleep(WARMING_POLL_MS);
    } catch (cause) {
      if (cause instanceof ApiProblem && cause.status === 401) await askForKey(keyBox, cause.message);
      else {
        showStatus("bad", cause instanceof ApiProblem ? cause.message : "The server does not answer. Is it running?");
        await sleep(BROKEN_POLL_MS);
      }
    }
  }
}

async function askForKey(keyBox: HTMLInputElement, message: string): Promise<void> {
  find("key-field").hidden = false;
  find<HTMLDetailsElement>("settings").open = true;
  showStatus("bad", message);
  keyBox.focus();
  await new Promise((resolve) => keyBox.addEventListener("change", resolve, { once: true }));
  sessionStorage.setItem("api-key", keyBox.value);
  showStatus("busy", "Trying the key…");
}

export function describeModel({ id, moe }: ModelObject): string {
  const { product_experts: halves } = moe;
  if (halves !== undefined) return `${id}: ${halves.experts.toLocaleString("en")} experts of halves in each of ${halves.layers.length} layers${moe.moe_layers.length === 0 ? "" : `, and ${moe.experts} experts in each of ${moe.moe_layers.length} others`}. Ready.`;
  return moe.moe_layers.length === 0 ? `${id}: a dense model, without experts. Ready.`
    : `${id}: ${moe.experts} experts in each of ${moe.moe_layers.length} layers, ${moe.experts_per_token} per token. Ready.`;
}
