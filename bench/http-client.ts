// One streamed completion over HTTP, with the time of every token.
// Owns the reading of server-sent events. Refuses answers that break off: a benchmark of half an answer is none.

export interface StreamedAnswer {
  readonly promptTokens: number;
  /** Milliseconds from the request to each token, by the caller's clock. */
  readonly tokenMs: readonly number[];
  readonly text: string;
}

export interface CompletionOptions {
  readonly model: string;
  readonly prompt: string;
  readonly maxTokens: number;
}

/** Greedy. Throws when the status is not 200 or fewer than maxTokens tokens came. */
export async function streamCompletion(url: string, { model, prompt, maxTokens }: CompletionOptions): Promise<StreamedAnswer> {
  const start = performance.now();
  const response = await fetch(`${url}/v1/completions`, {
    method: "POST", headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ model, prompt, max_tokens: maxTokens, temperature: 0, stream: true, stream_options: { include_usage: true }, moe: { cache: false } }),
  });
  if (!response.ok || response.body === null) throw new Error(`POST /v1/completions was answered ${response.status}: ${await response.text()}`);
  const tokenMs: number[] = [];
  let [pending, text, promptTokens] = ["", "", 0];
  for await (const piece of response.body.pipeThrough(new TextDecoderStream())) {
    const nowMs = performance.now() - start;
    const lines = (pending + piece).split("\n");
    pending = lines.pop()!;
    for (const line of lines) {
      if (!line.startsWith("data: {")) continue;
      const chunk = JSON.parse(line.slice(6)) as { error?: { message: string }; choices?: { text?: string }[]; usage?: { prompt_tokens: number } | null };
      if (chunk.error !== undefined) throw new Error(`The stream ended with an error: ${chunk.error.message}`);
      const added = chunk.choices?.[0]?.text ?? "";
      if (added !== "") tokenMs.push(nowMs);
      text += added;
      if (chunk.usage) promptTokens = chunk.usage.prompt_tokens;
    }
  }
  if (tokenMs.length !== maxTokens) throw new Error(`The stream held ${tokenMs.length} pieces of text; ${maxTokens} tokens were asked for.`);
  return { promptTokens, tokenMs, text };
}

export interface Speed {
  readonly promptTokensPerSecond: number;
  readonly tokensPerSecond: number;
}

/** The prompt counts until the first token, which falls out of it; the others make the generation. */
export const speedOf = ({ promptTokens, tokenMs }: StreamedAnswer): Speed => ({
  promptTokensPerSecond: (1000 * promptTokens) / tokenMs[0]!,
  tokensPerSecond: (1000 * (tokenMs.length - 1)) / (tokenMs.at(-1)! - tokenMs[0]!),
});
