// What a Worker's isolate counts of requests, and GET /metrics: the orchestrators' text, then this isolate's. Isolates come and go and there are many:
// a scrape meets one of them, which the HELP lines say. Refuses labels without bound: no caller, no path, no model.

import { Histogram, LONG_SECONDS } from "../durable/histogram.ts";
import { type Labels, METRICS_CONTENT_TYPE, MetricsText, type Sample } from "../durable/metrics-text.ts";
import type { LaneAt } from "./lane-states.ts";
import type { RequestRecord } from "./log.ts";
import { mergedMetrics, upMetrics } from "./metrics-merge.ts";

/** One counter per set of labels. */
class Counter {
  readonly #samples = new Map<string, { readonly labels: Labels; value: number }>();
  add(labels: Labels, value = 1): void {
    const key = JSON.stringify(labels);
    const found = this.#samples.get(key);
    if (found === undefined) this.#samples.set(key, { labels, value });
    else found.value += value;
  }
  get samples(): Sample[] { return [...this.#samples.values()]; }
}

class EdgeMetrics {
  readonly #requests = new Counter();
  readonly #errors = new Counter();
  readonly #tokens = { prompt: new Counter(), cached: new Counter(), completion: new Counter() };
  readonly #seconds = new Map<string, Histogram>();
  readonly #firstToken = new Map<string, Histogram>();

  note(record: RequestRecord): void {
    const { endpoint, method, status, error, finish, phasesMs } = record;
    this.#requests.add({ endpoint, method, status });
    if (error !== null) this.#errors.add({ endpoint, code: error });
    observe(this.#seconds, endpoint, record.totalMs);
    if (finish === null) return;
    const firstTokenMs = phasesMs.get("first_token");
    if (firstTokenMs !== undefined) observe(this.#firstToken, endpoint, firstTokenMs); // vectors have no first token
    this.#tokens.prompt.add({ endpoint }, record.promptTokens);
    this.#tokens.cached.add({ endpoint }, record.cachedTokens);
    this.#tokens.completion.add({ endpoint }, record.completionTokens);
  }

  text(): string {
    const here = " Of the Worker's isolate that answered this scrape; isolates come and go.";
    const byEndpoint = (of: ReadonlyMap<string, Histogram>) => Array.from(of, ([endpoint, histogram]) => ({ labels: { endpoint }, of: histogram }));
    return new MetricsText()
      .counter("http_requests_total", `Requests that have ended, by endpoint, method and status.${here}`, this.#requests.samples)
      .counter("http_errors_total", `Requests that ended with an error, by its code; those in a stream that had begun too.${here}`, this.#errors.samples)
      .histogram("http_request_seconds", `From a request's arrival to the last byte of its reply.${here}`, byEndpoint(this.#seconds))
      .histogram("http_first_token_seconds", `From the prompt's tokens to the first token of the reply, queue included.${here}`, byEndpoint(this.#firstToken))
      .counter("http_prompt_tokens_total", `Prompt tokens of replies.${here}`, this.#tokens.prompt.samples)
      .counter("http_cached_tokens_total", `Of these, tokens the prefix cache had.${here}`, this.#tokens.cached.samples)
      .counter("http_completion_tokens_total", `Tokens of replies.${here}`, this.#tokens.completion.samples)
      .toString();
  }
}

function observe(of: Map<string, Histogram>, endpoint: string, valueMs: number): void {
  let histogram = of.get(endpoint);
  if (histogram === undefined) of.set(endpoint, histogram = new Histogram(LONG_SECONDS));
  histogram.observe(valueMs / 1000);
}

/** Numbers only, so module scope is theirs: one isolate, one count. */
export const edgeMetrics = new EdgeMetrics();

/** An orchestrator that cannot be reached is a metric too: the rest is still worth reading. Of several each sample names its own. */
export async function metricsResponse(lanes: readonly LaneAt[], isPlural: boolean): Promise<Response> {
  const texts = await Promise.all(lanes.map(async ({ place: { region, lane }, target }) => {
    const labels: Labels = isPlural ? { ...(region === null ? {} : { region }), lane: String(lane) } : {};
    try {
      const response = await target.fetch("https://orchestrator/metrics", { method: "GET" });
      return { labels, text: response.ok ? await response.text() : "" };
    } catch {
      return { labels, text: "" };
    }
  }));
  const up = upMetrics(texts.map(({ labels, text }) => ({ labels, isUp: text !== "" })));
  return new Response(`${mergedMetrics(texts)}${up}${edgeMetrics.text()}`, { headers: { "Content-Type": METRICS_CONTENT_TYPE, "Cache-Control": "no-store" } });
}
