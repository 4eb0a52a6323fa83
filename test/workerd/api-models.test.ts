// What a deployment says of itself (health, models, fleet, page), and texts as vectors.
// Out of scope: the states of a fleet (placement.test.ts, survival.test.ts).

import { describe, expect, it } from "vitest";
import { answer, COMPLETIONS, CONTEXT, get, greedy, post, VOCABULARY } from "./api-client.ts";

describe("models and health", () => {
  it("GET /health becomes ready, with Retry-After until then", async () => {
    for (;;) {
      const response = await get("/health");
      const body = await response.json<{ status: string; loaded?: number }>();
      if (response.status === 200) {
        expect(["ready", "degraded"]).toContain(body.status);
        return;
      }
      expect(response.status).toBe(503);
      expect(Number(response.headers.get("Retry-After"))).toBeGreaterThan(0);
      expect(["cold", "warming"]).toContain(body.status);
      expect(body.loaded).toBeGreaterThanOrEqual(0);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  });

  it("GET /v1/models lists the pack, and its page says the same", async () => {
    const list = await (await get("/v1/models")).json<{ object: string; data: { id: string; object: string; moe: { context_length: number; experts: number } }[] }>();
    expect(list).toMatchObject({ object: "list", data: [{ id: "tiny", object: "model", owned_by: "workers-moe", moe: { context_length: CONTEXT, vocabulary: VOCABULARY, prune: ["ratio"] } }] });
    const one = await (await get("/v1/models/tiny")).json();
    expect(one).toEqual(list.data[0]);
  });

  it("GET /v1/fleet names four shards", async () => {
    await answer(COMPLETIONS, greedy);
    const fleet = await (await get("/v1/fleet")).json<{ status: string; shards: object[] }>();
    expect(fleet.status).toBe("ready");
    expect(fleet.shards).toHaveLength(4);
  });

  it("serves the page", async () => {
    expect(await (await get("/")).text()).toContain("<title>");
  });
});

describe("embeddings", () => {
  interface Embeddings { object: string; data: { object: string; index: number; embedding: number[] | string }[]; usage: { prompt_tokens: number } }
  const EMBEDDINGS = "POST /v1/embeddings";
  const vectorsOf = async (input: unknown): Promise<number[][]> => (await answer<Embeddings>(EMBEDDINGS, { model: "tiny", input })).data.map(({ embedding }) => embedding as number[]);

  it("are vectors of length 1, in order, the same alone and in company, as text and as ids", async () => {
    const texts = ["one two three", "four", "a longer text that needs more than one page of the cache, surely", "one two three"];
    const together = await vectorsOf(texts);
    expect(together.length).toBe(4);
    for (const vector of together) expect(vector.reduce((sum, x) => sum + x * x, 0)).toBeCloseTo(1, 5);
    expect(together[3]).toEqual(together[0]);
    expect(together[1]).not.toEqual(together[0]);
    for (const [i, text] of texts.entries()) expect(await vectorsOf(text)).toEqual([together[i]]);
    const { tokens } = await answer<{ tokens: number[] }>("POST /tokenize", { content: texts[0] });
    expect(await vectorsOf(tokens)).toEqual([together[0]]);
  });

  it("come as base64 of f32 when asked, and count their tokens", async () => {
    const [plain] = await vectorsOf("abc");
    const body = await answer<Embeddings>(EMBEDDINGS, { model: "tiny", input: "abc", encoding_format: "base64" });
    const bytes = Uint8Array.from(atob(body.data[0]!.embedding as string), (c) => c.charCodeAt(0));
    expect(Array.from(new Float32Array(bytes.buffer))).toEqual(plain);
    expect(body).toMatchObject({ object: "list", usage: { prompt_tokens: 3 }, data: [{ object: "embedding", index: 0 }] });
  });

  it("are refused in numbers the model has not, and beyond its context", async () => {
    for (const [more, param] of [[{ dimensions: 8 }, "dimensions"], [{ input: "a".repeat(CONTEXT + 1) }, "input"], [{ input: [] }, "input"], [{ encoding_format: "hex" }, "encoding_format"]] as const) {
      const response = await post(EMBEDDINGS, { model: "tiny", input: "abc", ...more });
      expect(response.status).toBe(400);
      expect(await response.json()).toMatchObject({ error: { param } });
    }
  });
});
