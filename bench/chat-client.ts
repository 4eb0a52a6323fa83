// One streamed chat request over HTTP, with the time of every token. Owns the reading of server-sent events of /v1/chat/completions.
// Refuses answers that break off.

export interface ChatAnswer {
  readonly text: string;
  /** Milliseconds from the request to each piece of text. */
  readonly tokenMs: readonly number[];
}

export interface ChatRequest {
  readonly model: string;
  readonly content: string;
  readonly maxTokens: number;
  readonly seed: number;
}

/** Greedy. Throws when the status is not 200, when the stream carries an error, or ends before its time. */
export async function streamChat(url: string, { model, content, maxTokens, seed }: ChatRequest): Promise<ChatAnswer> {
  const start = performance.now();
  const response = await fetch(`${url}/v1/chat/completions`, {
    method: "POST", headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ model, messages: [{ role: "user", content }], max_tokens: maxTokens, temperature: 0, seed, stream: true, stream_options: { include_usage: true } }),
  });
  if (!response.ok || response.body === null) throw new Error(`POST /v1/chat/completions was answered ${response.status}: ${await response.text()}`);
  const tokenMs: number[] = [];
  let [pending, text, isDone, generated] = ["", "", false, 0];
  for await (const piece of response.body.pipeThrough(new TextDecoderStream())) {
    const nowMs = performance.now() - start;
    const lines = (pending + piece).split("\n");
    pending = lines.pop()!;
    for (const line of lines) {
      if (line === "data: [DONE]") isDone = true;
      if (!line.startsWith("data: {")) continue;
      const chunk = JSON.parse(line.slice(6)) as { error?: { message: string }; choices?: { delta?: { content?: string | null } }[]; usage?: { completion_tokens: number } | null };
      if (chunk.error !== undefined) throw new Error(`The stream ended with an error: ${chunk.error.message}`);
      const added = chunk.choices?.[0]?.delta?.content ?? "";
      if (added !== "") tokenMs.push(nowMs);
      text += added;
      generated = chunk.usage?.completion_tokens ?? generated;
    }
  }
  if (!isDone || generated !== maxTokens) throw new Error(`The stream ${isDone ? "ended" : "broke off"} after ${generated} tokens; ${maxTokens} were asked for.`);
  return { text, tokenMs };
}
