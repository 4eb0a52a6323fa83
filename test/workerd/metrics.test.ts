// GET /metrics over a real fleet: every family has HELP and TYPE, every sample belongs to one, histograms add up, and the counts are those of the requests made.
// Out of scope: how long anything took.

import { env, exports } from "cloudflare:workers";
import { beforeAll, describe, expect, it } from "vitest";
import { deploy, fleetEnv, orchestrator } from "./fleet-fixture.ts";
import { Histogram } from "../../durable/histogram.ts";
import { MetricsText } from "../../durable/metrics-text.ts";
import { packToMemory } from "../support/pack-to-memory.ts";
import { openHuggingFace } from "../../formats/huggingface.ts";
import { MemorySource } from "../../formats/memory-source.ts";
import { tinyChatFiles } from "../support/tiny-chat.ts";

const PACK = "metrics";
beforeAll(async () => {
  const pack = await packToMemory(await openHuggingFace(new MemorySource(tinyChatFiles(512)), "tiny"), { id: PACK, contextLength: 512 });
  for (const [name, bytes] of pack.files) await fleetEnv.PACKS!.put(`packs/${PACK}/${name}`, bytes);
  deploy({ packId: PACK, shards: 2 });
  Object.assign(env, { OPEN_ACCESS: "true" });
});

const ask = async (path: string, body?: object): Promise<Response> => (exports as unknown as { default: Fetcher }).default.fetch(new Request(`https://edge${path}`, body === undefined ? {} : { method: "POST", body: JSON.stringify({ model: PACK, ...body }) }));
interface Sample { readonly name: string; readonly labels: Readonly<Record<string, string>>; readonly value: number }
interface Family { readonly name: string; readonly type: string; readonly help: string; readonly samples: Sample[] }

/** Reads the exposition format and throws where a line is none of it. */
function parse(text: string): Map<string, Family> {
  const families = new Map<string, Family>();
  let open: Family | undefined;
  expect(text.endsWith("\n")).toBe(true);
  const lines = text.slice(0, -1).split("\n");
  for (let i = 0; i < lines.length; i++) {
    const help = /^# HELP (\w+) (.+)$/.exec(lines[i]!);
    if (help !== null) {
      const type = new RegExp(`^# TYPE ${help[1]} (counter|gauge|histogram)$`).exec(lines[++i]!);
      expect(type, lines[i]).not.toBeNull();
      expect(families.has(help[1]!), `${help[1]} twice`).toBe(false);
      families.set(help[1]!, open = { name: help[1]!, help: help[2]!, type: type![1]!, samples: [] });
      continue;
    }
    const sample = /^(\w+)(?:\{((?:\w+="(?:[^"\\\n]|\\[\\n"])*"(?:,(?!\}))?)+)\})? (\S+)$/.exec(lines[i]!);
    expect(sample, lines[i]).not.toBeNull();
    const [, name, pairs, value] = sample!;
    const suffixes = open!.type === "histogram" ? ["_bucket", "_sum", "_count"] : [""];
    expect(suffixes.map((suffix) => open!.name + suffix), lines[i]).toContain(name);
    expect(Number.isFinite(Number(value)), lines[i]).toBe(true);
    open!.samples.push({ name: name!, value: Number(value), labels: Object.fromEntries([...(pairs ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map(([, key, label]) => [key!, label!])) });
  }
  return families;
}
const scrape = async (): Promise<Map<string, Family>> => {
  const response = await ask("/metrics");
  expect(response.status).toBe(200);
  expect(response.headers.get("Content-Type")).toBe("text/plain; version=0.0.4; charset=utf-8");
  return parse(await response.text());
};
/** The sum of a family's samples (of a histogram: its counts) that have these labels. */
const sum = (families: Map<string, Family>, name: string, labels: Readonly<Record<string, string>> = {}): number => {
  const family = families.get(`workers_moe_${name}`);
  expect(family, name).toBeDefined();
  return family!.samples.filter((sample) => (family!.type !== "histogram" || sample.name.endsWith("_count")) && Object.entries(labels).every(([key, value]) => sample.labels[key] === value))
    .reduce((total, { value }) => total + value, 0);
};

describe("before the model is up", () => {
  it("a scrape answers, and does not start it", async () => {
    for (let i = 0; i < 2; i++) expect(sum(await scrape(), "state", { state: "cold" })).toBe(1);
    expect(sum(await scrape(), "orchestrator_up")).toBe(1);
  });
});

describe("after requests", () => {
  const before: Map<string, Family> = new Map();
  const after: Map<string, Family> = new Map();
  const grown = (name: string, labels: Readonly<Record<string, string>> = {}): number => sum(after, name, labels) - (before.has(`workers_moe_${name}`) ? sum(before, name, labels) : 0);
  let usage: { prompt_tokens: number; completion_tokens: number; prompt_tokens_details: { cached_tokens: number } };
  beforeAll(async () => {
    for (const [name, family] of await scrape()) before.set(name, family);
    const prompt = "abcdefgh".repeat(8);
    const body = { prompt, max_tokens: 12, temperature: 0, moe: { draft_tokens: 0 } };
    await (await ask("/v1/completions", body)).text();
    usage = (await (await ask("/v1/completions", body)).json<{ usage: typeof usage }>()).usage;
    await (await ask("/v1/completions", { ...body, stream: true })).text();
    expect((await ask("/v1/completions", { prompt: 5 })).status).toBe(400);
    for (const [name, family] of await scrape()) after.set(name, family);
  });

  it("every family has a meaning, and every histogram adds up", () => {
    expect(after.size).toBeGreaterThan(35);
    for (const { name, type, help, samples } of after.values()) {
      expect(name).toMatch(/^workers_moe_[a-z_]+$/);
      expect(name.endsWith("_total"), name).toBe(type === "counter");
      expect(help, name).toMatch(/\.$/);
      if (type !== "histogram") continue;
      const series = Map.groupBy(samples, ({ labels: { le: _, ...labels } }) => JSON.stringify(labels));
      for (const of of series.values()) {
        const buckets = of.filter((sample) => sample.name.endsWith("_bucket"));
        const ends = buckets.map(({ labels }) => (labels["le"] === "+Inf" ? Infinity : Number(labels["le"])));
        expect(ends).toEqual([...ends].sort((a, b) => a - b));
        expect(ends.at(-1)).toBe(Infinity);
        expect(buckets.map(({ value }) => value)).toEqual(buckets.map(({ value }) => value).sort((a, b) => a - b));
        expect(of.find((sample) => sample.name.endsWith("_count"))!.value).toBe(buckets.at(-1)!.value);
      }
    }
  });

  it("tokens, generations and steps are those of the replies", () => {
    expect(sum(after, "state", { state: "ready" })).toBe(1);
    expect(grown("load_seconds")).toBe(1);
    expect(grown("completion_tokens_total")).toBe(3 * usage.completion_tokens);
    expect(grown("prompt_tokens_total")).toBe(3 * usage.prompt_tokens);
    expect(usage.prompt_tokens_details.cached_tokens).toBeGreaterThan(0);
    expect(grown("cached_tokens_total")).toBe(2 * usage.prompt_tokens_details.cached_tokens);
    expect(grown("prefix_cache_hits_total")).toBe(2);
    expect(grown("generations_ended_total", { reason: "length" })).toBe(3);
    expect(grown("queue_seconds")).toBe(3);
    expect(grown("first_token_seconds")).toBe(3);
    expect(grown("inter_token_seconds")).toBe(3 * (usage.completion_tokens - 1));
    expect(grown("step_seconds")).toBe(3 * usage.completion_tokens);
    expect(grown("step_generations")).toBe(3 * usage.completion_tokens);
  });

  it("every frame has a round trip", () => {
    expect(grown("frames_total")).toBeGreaterThan(3 * usage.completion_tokens);
    expect(grown("frame_round_trip_seconds")).toBe(grown("frames_total"));
    expect(grown("frame_bytes_total")).toBeGreaterThan(64 * grown("frames_total"));
    expect(after.get("workers_moe_shard_connected")!.samples).toHaveLength(2);
  });

  it("each layer's experts were chosen as often as tokens were evaluated", () => {
    const load = after.get("workers_moe_expert_tokens_total")!.samples;
    const layers = Map.groupBy(load, ({ labels }) => labels["layer"]!);
    const evaluated = after.get("workers_moe_step_tokens")!.samples.find(({ name }) => name.endsWith("_sum"))!.value;
    expect(evaluated).toBe(3 * (usage.prompt_tokens + usage.completion_tokens - 1) - 2 * usage.prompt_tokens_details.cached_tokens);
    expect(layers.size).toBeGreaterThan(1);
    const perToken = [...layers.values()].map((experts) => experts.reduce((total, { value }) => total + value, 0) / evaluated);
    for (const chosen of perToken) expect(chosen).toBe(perToken[0]);
    expect(Number.isInteger(perToken[0])).toBe(true);
  });

  it("the Worker counts requests by endpoint and status, and errors by code", () => {
    const labels = { endpoint: "/v1/completions", method: "POST" };
    expect(grown("http_requests_total", { ...labels, status: "200" })).toBe(3);
    expect(grown("http_requests_total", { ...labels, status: "400" })).toBe(1);
    expect(grown("http_errors_total", { endpoint: "/v1/completions", code: "invalid_value" })).toBe(1);
    expect(grown("http_completion_tokens_total")).toBe(3 * usage.completion_tokens);
    expect(grown("http_first_token_seconds")).toBe(3);
  });

  it("kept pages are among all pages", () => {
    expect(sum(after, "kv_pages", { of: "kept" })).toBeGreaterThan(0);
    expect(sum(after, "kv_pages", { of: "all" })).toBeGreaterThanOrEqual(sum(after, "kv_pages", { of: "kept" }));
  });

  it("tokens of vectors are counted as those of prompts, without a first token", async () => {
    const first = await scrape();
    await (await ask("/v1/embeddings", { input: ["abc", "de"] })).text();
    const then = await scrape();
    const labels = { endpoint: "/v1/embeddings" };
    expect(sum(then, "http_prompt_tokens_total", labels) - sum(first, "http_prompt_tokens_total", labels)).toBe(5);
    expect(sum(then, "http_completion_tokens_total", labels)).toBe(0);
    expect(then.get("workers_moe_http_first_token_seconds")!.samples.filter((sample) => sample.labels["endpoint"] === labels.endpoint)).toEqual([]);
  });

  it("a path nobody knows makes no label of its own", async () => {
    for (const path of ["/secret-path", "/v1/models/secret-model"]) expect((await ask(path)).status).toBe(404);
    expect(await (await ask("/metrics")).text()).not.toContain("secret");
  });
});

describe("the text", () => {
  it("escapes labels and help, and takes a name once", () => {
    const text = new MetricsText().gauge("a", "one\\two\nthree.", [{ labels: { of: 'x"\\\n' }, value: 1 }]);
    expect(text.toString()).toBe('# HELP workers_moe_a one\\\\two\\nthree.\n# TYPE workers_moe_a gauge\nworkers_moe_a{of="x\\"\\\\\\n"} 1\n');
    expect(() => text.gauge("a", "again.", 1)).toThrow("written twice");
  });
  it("has a value on a bucket's end in that bucket", () => {
    const histogram = new Histogram([1, 2]);
    for (const value of [0, 1, 1.5, 2, 3]) histogram.observe(value);
    expect([...histogram.counts]).toEqual([2, 2, 1]);
    expect(histogram.sum).toBe(7.5);
  });
});

it("an orchestrator's own answer needs no Worker", async () => {
  const text = await (await orchestrator(PACK).fetch("https://orchestrator/metrics")).text();
  expect([...parse(text).keys()].some((name) => name.includes("http"))).toBe(false);
});
