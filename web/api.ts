// The page's side of the HTTP API: health, models and streamed generations. Owns the reading of server-sent events.
// Failures become ApiProblem with the server's own sentence. No state, no DOM.

import type { HealthReply, ModelList, StreamChunk } from "../worker/wire-types.ts";

export class ApiProblem extends Error {
  readonly status: number;
  readonly retryAfterSeconds: number;
  constructor(status: number, message: string, retryAfterSeconds: number) {
    super(message);
    this.status = status;
    this.retryAfterSeconds = retryAfterSeconds;
  }
}

const headers = (key: string): Record<string, string> => (key === "" ? {} : { Authorization: `Bearer ${key}` });

async function problemOf(response: Response): Promise<ApiProblem> {
  const body = (await response.json().catch(() => null)) as { error?: { message?: string } } | null;
  const message = body?.error?.message ?? `The server answered with status ${response.status}.`;
  return new ApiProblem(response.status, message, Number(response.headers.get("Retry-After") ?? "1"));
}

/** Asking starts the loading of the model. */
export async function health(key: string): Promise<HealthReply> {
  const response = await fetch("/health", { headers: headers(key) });
  if (response.status !== 200 && response.status !== 503) throw await problemOf(response);
  return (await response.json()) as HealthReply;
}

export async function models(key: string): Promise<ModelList> {
  const response = await fetch("/v1/models", { headers: headers(key) });
  if (!response.ok) throw await problemOf(response);
  return (await response.json()) as ModelList;
}

/** Streams a generation, chunk by chunk, until [DONE]. Aborting `signal` stops the generation on the server. */
export async function* stream(path: string, body: object, key: string, signal: AbortSignal): AsyncGenerator<StreamChunk> {
  const response = await fetch(path, {
    method: "POST", signal, body: JSON.stringify(body), headers: { "Content-Type": "application/json", ...headers(key) },
  });
  if (!response.ok || response.body === null) throw await problemOf(response);
  let pending = "";
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) throw new ApiProblem(0, "The stream ended before its last event.", 1);
    pending += value;
    const events = pending.split("\n\n");
    pending = events.pop() ?? "";
    for (const event of events) {
      const data = event.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("\n");
      if (data === "[DONE]") return;
      if (data === "") continue;
      const chunk = JSON.parse(data) as StreamChunk;
      if (chunk.error !== undefined) throw new ApiProblem(0, chunk.error.message, 1);
      yield chunk;
    }
  }
}
