// Requests whose answers tell whether two deployments compute the same bits, and what of an answer must be the same: texts, log-probabilities, the router's choices and weights, whole
// vectors. Owns the requests, what is compared, and finding what differs. Refuses tolerance: numbers are compared as they are, down to the last bit that JSON carries, which is all of an f64.
// What tells how an answer came about (lane, shards, frames, times, cached tokens) may differ and is left out.

/** Prompts of so many tokens, from within one page of the KV cache to several chunks of a step. Those of 64 and more choose their lane by their beginning (fleet/lanes.ts). */
const PROMPT_TOKENS: readonly number[] = [13, 40, 72, 104, 150, 220];
const GENERATED = 12;
/** The most that a completion may ask for. */
export const LOGPROBS = 5;

export interface AskedRequest {
  readonly name: string;
  readonly path: "/v1/completions" | "/v1/embeddings";
  readonly body: Readonly<Record<string, unknown>>;
}

export interface RequestAnswer {
  /** Number of the lane that answered. */
  readonly lane: number;
  /** That were evaluated: of the prompt without those taken over from an earlier one, and of the reply. */
  readonly tokens: number;
  /** Positions with log-probabilities. */
  readonly positions: number;
  /** What must be the same. */
  readonly facts: unknown;
}

/** Ids without meaning, from all over the vocabulary. */
export const promptIds = (prompt: number, vocabulary: number): number[] =>
  Array.from({ length: PROMPT_TOKENS[prompt]! }, (_, i) => (i * i * 131 + 17 * i + 5 + (prompt + 1) * 977) % vocabulary);

/** The prompt with most tokens, and the request that scores it. */
export const LONGEST = PROMPT_TOKENS.length - 1;
const scoreName = (prompt: number): string => `prompt ${prompt}, scored`;
export const LONGEST_SCORED = scoreName(LONGEST);

/** Each prompt scored at every position, continued (greedy and drawn by turns, with the experts of each token), and as a vector. */
export const askedRequests = (model: string, vocabulary: number): AskedRequest[] => PROMPT_TOKENS.flatMap((_, prompt): AskedRequest[] => {
  const ids = promptIds(prompt, vocabulary);
  return [
    { name: scoreName(prompt), path: "/v1/completions", body: { model, prompt: ids, max_tokens: 0, echo: true, logprobs: LOGPROBS } },
    { name: `prompt ${prompt}, continued`, path: "/v1/completions", body: { model, prompt: ids, max_tokens: GENERATED, temperature: prompt % 2 === 0 ? 0 : 0.8, seed: prompt, logprobs: LOGPROBS, moe: { trace: true } } },
    { name: `prompt ${prompt}, as a vector`, path: "/v1/embeddings", body: { model, input: ids } },
  ];
});

export interface Logprobs {
  readonly tokens: readonly string[];
  readonly token_logprobs: readonly (number | null)[];
  readonly top_logprobs: readonly (Readonly<Record<string, number>> | null)[];
  readonly text_offset: readonly number[];
}

interface CompletionDocument {
  readonly choices: readonly { readonly text: string; readonly finish_reason: string; readonly logprobs: Logprobs; readonly moe?: { readonly tokens: readonly { readonly id: number; readonly experts: unknown; readonly weights?: unknown }[] } }[];
  readonly usage: { readonly prompt_tokens: number; readonly completion_tokens: number; readonly prompt_tokens_details: { readonly cached_tokens: number } };
  readonly moe: { readonly lane: number };
}

interface EmbeddingDocument { readonly data: readonly { readonly embedding: readonly number[] }[]; readonly usage: { readonly prompt_tokens: number } }

/** Log-probabilities with the order of the most likely tokens, which an object does not have where two are compared by their names. */
export const inOrder = ({ tokens, token_logprobs, top_logprobs, text_offset }: Logprobs): object =>
  ({ tokens, token_logprobs, top_logprobs: top_logprobs.map((of) => (of === null ? null : Object.entries(of))), text_offset });

/** What must be the same of a completion. */
export function completionAnswer({ choices, usage, moe }: CompletionDocument): RequestAnswer {
  return {
    lane: moe.lane, tokens: usage.prompt_tokens - usage.prompt_tokens_details.cached_tokens + usage.completion_tokens,
    positions: choices.reduce((sum, { logprobs }) => sum + logprobs.token_logprobs.filter((value) => value !== null).length, 0),
    facts: {
      choices: choices.map(({ text, finish_reason, logprobs, moe: traced }) => ({ text, finish_reason, logprobs: inOrder(logprobs), routing: traced?.tokens.map(({ id, experts, weights }) => ({ id, experts, weights })) ?? null })),
      usage: { prompt_tokens: usage.prompt_tokens, completion_tokens: usage.completion_tokens },
    },
  };
}

async function ask(url: string, { name, path, body }: AskedRequest): Promise<RequestAnswer> {
  const response = await fetch(`${url}${path}`, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
  const text = await response.text();
  if (!response.ok) throw new Error(`${name} was answered ${response.status}: ${text.slice(0, 300)}`);
  if (path === "/v1/completions") return completionAnswer(JSON.parse(text) as CompletionDocument);
  const { data, usage } = JSON.parse(text) as EmbeddingDocument;
  // The place is "<region>/<lane>", or the lane alone.
  const lane = Number(/(\d+)$/.exec(response.headers.get("X-Served-By") ?? "")?.[1] ?? NaN);
  return { lane, tokens: usage.prompt_tokens, positions: 0, facts: { vectors: data.map(({ embedding }) => embedding) } };
}

/** All at once, and how long until the last was there. */
export async function askAll(url: string, requests: readonly AskedRequest[]): Promise<{ readonly answers: readonly RequestAnswer[]; readonly seconds: number }> {
  const startMs = performance.now();
  const answers = await Promise.all(requests.map((request) => ask(url, request)));
  return { answers, seconds: (performance.now() - startMs) / 1000 };
}

const isBranch = (value: unknown): value is Record<string, unknown> => typeof value === "object" && value !== null;

/** A sentence for each leaf of two documents that is not the same; a leaf that only one of them has is one. */
export function differences(expected: unknown, found: unknown, at = ""): string[] {
  if (isBranch(expected) && isBranch(found) && Array.isArray(expected) === Array.isArray(found)) {
    return [...new Set([...Object.keys(expected), ...Object.keys(found)])].flatMap((key) => differences(expected[key], found[key], at === "" ? key : `${at}.${key}`));
  }
  return Object.is(expected, found) ? [] : [`${at === "" ? "it" : at} is ${shown(found)} where ${shown(expected)} was expected`];
}

const shown = (value: unknown): string => (JSON.stringify(value) ?? "missing").slice(0, 80);

/** Numbers among the leaves. */
export function numbersIn(value: unknown): number {
  if (isBranch(value)) return Object.values(value).reduce<number>((sum, of) => sum + numbersIn(of), 0);
  return typeof value === "number" ? 1 : 0;
}
