// Streams that run while a fleet is disturbed, each compared with what the same request said undisturbed: token by token, and how long each took.
// Owns the requests, the readers and the counts. Refuses to disturb anything (fleet-kill.ts, fleet-scale.ts) and to judge.

import { percentile, rounded } from "./statistics.ts";

/** Different requests, greedy and drawn with a seed, each run alone first. */
const REQUESTS = 8;
const TOKENS = 160;
/** A stream that says nothing for this long is stuck: twice what a line waits for a shard (durable/limits.ts, outageMs). */
const SILENCE_MS_MAX = 120_000;
const WORDS = ["Once upon a time", "Prince Andrew", "ROMEO:\nWhat", "export const", "class Tensor:\n", "Return a new list", "static void", "Tom has 12 apples."];

/** What a request says when nothing happens to it: the text of each event. */
export type Undisturbed = readonly (readonly string[])[];

export interface StreamsOutcome {
  /** Read to their end without an error. */
  whole: number;
  /** Ended by an error, a status other than 200, or silence; a sentence each. */
  readonly failed: string[];
  /** Events of whole streams that are not as they were undisturbed; one more where one is missing or too many. */
  altered: number;
  tokens: number;
  /** Between the events of a stream, those of failed ones among them. */
  readonly gapsMs: number[];
  /** From a request to its first event. */
  readonly firstMs: number[];
}

/** Milliseconds. */
export interface GapReport {
  readonly p50: number;
  readonly p99: number;
  readonly longest: number;
}

export const gapReport = (gapsMs: readonly number[]): GapReport =>
  ({ p50: rounded(percentile(gapsMs, 0.5)), p99: rounded(percentile(gapsMs, 0.99)), longest: rounded(percentile(gapsMs, 1)) });

export const gapText = ({ p50, p99, longest }: GapReport): string => `${p50} / ${p99} / ${longest}`;

const bodyOf = (model: string, request: number): object => ({
  model, prompt: `${WORDS[request % WORDS.length]} ${request}`, max_tokens: TOKENS, stream: true, seed: request, temperature: request % 2 === 0 ? 0 : 0.8,
});

/** One stream: its events' texts, and when each came. Throws with a sentence where it fails. */
async function read(url: string, model: string, request: number, { gapsMs, firstMs }: Pick<StreamsOutcome, "gapsMs" | "firstMs">): Promise<string[]> {
  const silence = new AbortController();
  let timer: NodeJS.Timeout | undefined;
  const heard = (): void => {
    clearTimeout(timer);
    timer = setTimeout(() => silence.abort(new Error(`it said nothing for ${SILENCE_MS_MAX / 1000} s`)), SILENCE_MS_MAX);
  };
  const texts: string[] = [];
  let [pending, lastMs, isDone] = ["", performance.now(), false];
  try {
    heard();
    const response = await fetch(`${url}/v1/completions`, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(bodyOf(model, request)), signal: silence.signal });
    if (!response.ok || response.body === null) throw new Error(`it was answered ${response.status}: ${(await response.text()).slice(0, 300)}`);
    for await (const piece of response.body.pipeThrough(new TextDecoderStream())) {
      heard();
      const lines = (pending + piece).split("\n");
      pending = lines.pop()!;
      for (const line of lines) {
        if (line === "data: [DONE]") isDone = true;
        if (!line.startsWith("data: {")) continue;
        const { error, choices } = JSON.parse(line.slice(6)) as { error?: { message: string }; choices?: { text?: string }[] };
        if (error !== undefined) throw new Error(`it ended with an error: ${error.message}`);
        const text = choices?.[0]?.text ?? "";
        if (text === "") continue;
        texts.push(text);
        (texts.length === 1 ? firstMs : gapsMs).push(performance.now() - lastMs);
        lastMs = performance.now();
      }
    }
    if (!isDone) throw new Error("it broke off");
    return texts;
  } finally {
    clearTimeout(timer);
  }
}

/** Each request alone, with nobody else there. */
export async function undisturbed(url: string, model: string): Promise<Undisturbed> {
  const texts: string[][] = [];
  for (let request = 0; request < REQUESTS; request++) texts.push(await read(url, model, request, { gapsMs: [], firstMs: [] }));
  return texts;
}

/** So many readers, one stream after the other each, until `isOver`; streams under way then are read to their end. */
export async function runStreams(url: string, model: string, expected: Undisturbed, { streams, isOver }: { readonly streams: number; readonly isOver: () => boolean }): Promise<StreamsOutcome> {
  const outcome: StreamsOutcome = { whole: 0, failed: [], altered: 0, tokens: 0, gapsMs: [], firstMs: [] };
  await Promise.all(Array.from({ length: streams }, async (_, reader) => {
    for (let n = reader; !isOver(); n += streams + 1) {
      const request = n % REQUESTS;
      try {
        const texts = await read(url, model, request, outcome);
        const wanted = expected[request]!;
        outcome.whole++;
        outcome.tokens += texts.length;
        outcome.altered += Math.abs(texts.length - wanted.length) + texts.filter((text, i) => i < wanted.length && text !== wanted[i]).length;
      } catch (cause) {
        outcome.failed.push(`Request ${request}: ${cause instanceof Error ? cause.message : String(cause)}`);
        // A server that turns everything away at once must not be asked thousands of times.
        await new Promise((done) => setTimeout(done, 500));
      }
    }
  }));
  return outcome;
}
