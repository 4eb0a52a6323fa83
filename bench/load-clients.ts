// Readers of every kind against one server, seeded: those that read to the end, that leave, that are slow, that do not stream, that send nonsense or
// too much. Owns who does what next and what each must see. Refuses to start servers.

export interface SoloRun {
  readonly path: string;
  readonly body: object;
  /** What it said alone, and in how many tokens. */
  readonly text: string;
  readonly nTokens: number;
}

export interface LoadOptions {
  readonly url: string;
  readonly solo: readonly SoloRun[];
  readonly streams: number;
  readonly seconds: number;
  readonly seed: number;
}

export interface LoadCounts {
  whole: number;
  left: number;
  slow: number;
  plain: number;
  overloaded: number;
  malformed: number;
  oversized: number;
  /** Tokens of replies that were read to their end. */
  tokens: number;
  /** What was not as it must be, a sentence each. */
  readonly wrong: string[];
}

interface ErrorBody { readonly error?: { readonly message?: unknown; readonly type?: unknown; readonly code?: unknown; readonly param?: unknown } }

/** mulberry32: which reader does what does not depend on the clock. */
function randomOf(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

const MALFORMED: readonly (readonly [string, number])[] = [
  ['{"model": "demo", ', 400], ["null", 400], ["[]", 400], ['{"model":"demo"}', 400], ['{"model":"demo","prompt":""}', 400], ['{"model":"nobody","prompt":"a"}', 404],
  ['{"model":"demo","prompt":"a","temperature":"hot"}', 400], ['{"model":"demo","prompt":[1e9]}', 400], ['{"model":"demo","prompt":"a","max_tokens":99999999}', 400], ['{"model":"demo","prompt":"a","response_format":{"type":"json_schema","json_schema":{"schema":{"type":"objekt"}}}}', 400],
];
const OVERSIZED = JSON.stringify({ model: "demo", prompt: "a".repeat(2 ** 20) });
const SLOW_MS = 20;

export async function runClients({ url, solo, streams, seconds, seed }: LoadOptions): Promise<LoadCounts> {
  const counts: LoadCounts = { whole: 0, left: 0, slow: 0, plain: 0, overloaded: 0, malformed: 0, oversized: 0, tokens: 0, wrong: [] };
  const endMs = performance.now() + seconds * 1000;
  const client = async (number: number): Promise<void> => {
    const random = randomOf(seed * 1000 + number);
    while (performance.now() < endMs) {
      const kind = random();
      const run = solo[Math.floor(random() * solo.length)]!;
      try {
        if (kind < 0.05) await refused(MALFORMED[Math.floor(random() * MALFORMED.length)]!, "malformed");
        else if (kind < 0.07) await refused([OVERSIZED, 413], "oversized");
        else if (kind < 0.2) await plain(run);
        else if (kind < 0.45) await stream(run, Math.floor(random() * run.nTokens), 0);
        else await stream(run, null, kind < 0.55 ? SLOW_MS : 0);
      } catch (cause) {
        counts.wrong.push(`A request broke: ${cause instanceof Error ? cause.message : String(cause)}`);
      }
    }
  };
  const post = (path: string, body: string, signal?: AbortSignal): Promise<Response> => fetch(`${url}${path}`, { method: "POST", body, ...(signal === undefined ? {} : { signal }) });

  async function refused([body, expected]: readonly [string, number], kind: "malformed" | "oversized"): Promise<void> {
    const response = await post("/v1/completions", body);
    const { error } = (await response.json()) as ErrorBody;
    if (response.status !== expected || typeof error?.message !== "string" || typeof error.type !== "string" || error.code === undefined || error.param === undefined) {
      counts.wrong.push(`${body.slice(0, 60)} was answered ${response.status} ${JSON.stringify(error).slice(0, 200)}; expected ${expected} in OpenAI's shape.`);
    } else counts[kind]++;
  }

  /** True where the server had no room, and said so as it should. */
  async function turnedAway(response: Response): Promise<boolean> {
    if (response.status === 200) return false;
    const text = await response.text();
    if (response.status === 429 && Number(response.headers.get("Retry-After")) > 0 && text.includes('"error"')) {
      counts.overloaded++;
      await new Promise((done) => setTimeout(done, 200));
    } else counts.wrong.push(`A good request was answered ${response.status}: ${text.slice(0, 200)}`);
    return true;
  }

  async function plain(run: SoloRun): Promise<void> {
    const response = await post(run.path, JSON.stringify(run.body));
    if (await turnedAway(response)) return;
    const { choices } = (await response.json()) as { choices: { text?: string; message?: { content: string } }[] };
    judge(run, choices[0]!.text ?? choices[0]!.message!.content, "plain");
  }

  async function stream(run: SoloRun, leaveAt: number | null, pauseMs: number): Promise<void> {
    const controller = new AbortController();
    const response = await post(run.path, JSON.stringify({ ...run.body, stream: true }), controller.signal);
    if (await turnedAway(response)) return;
    let [pending, text, nEvents] = ["", "", 0];
    for await (const piece of response.body!.pipeThrough(new TextDecoderStream())) {
      const lines = (pending + piece).split("\n");
      pending = lines.pop()!;
      for (const line of lines) {
        if (!line.startsWith("data: {")) continue;
        const chunk = JSON.parse(line.slice(6)) as { choices: { text?: string; delta?: { content?: string } }[]; error?: { message: string } };
        if (chunk.error !== undefined) return void counts.wrong.push(`A stream ended with an error: ${chunk.error.message}`);
        text += chunk.choices[0]?.text ?? chunk.choices[0]?.delta?.content ?? "";
        nEvents++;
      }
      if (leaveAt !== null && nEvents > leaveAt) {
        controller.abort();
        if (!run.text.startsWith(text)) counts.wrong.push(`A stream that was left said ${JSON.stringify(text.slice(-60))}, which its solo run did not.`);
        counts.left++;
        return;
      }
      if (pauseMs > 0) await new Promise((done) => setTimeout(done, pauseMs));
    }
    judge(run, text, pauseMs > 0 ? "slow" : "whole");
  }

  function judge(run: SoloRun, text: string, kind: "whole" | "slow" | "plain"): void {
    if (text !== run.text) counts.wrong.push(`${JSON.stringify(run.body).slice(0, 80)} said ${JSON.stringify(text.slice(0, 80))}; alone it said ${JSON.stringify(run.text.slice(0, 80))}.`);
    else {
      counts[kind]++;
      counts.tokens += run.nTokens;
    }
  }

  await Promise.all(Array.from({ length: streams }, (_, number) => client(number)));
  return counts;
}
