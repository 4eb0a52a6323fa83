// `moe.prune` over the API and real objects: experts are left out by the request's own rule, counted in its reply, and the text is the same over one shard and over four, alone and beside
// others with other rules, whole and streamed. Out of scope: the rules themselves (test/methods/22-mc-sharp.test.ts), what is refused (api-refusals.test.ts).

import { env, exports } from "cloudflare:workers";
import { beforeAll, expect, it } from "vitest";
import { openModelFolder } from "../../formats/canonical-model.ts";
import { afterPass, unchanged, writeCanonical } from "../../formats/canonical-writer.ts";
import { openHuggingFace } from "../../formats/huggingface.ts";
import { MemorySink, MemorySource } from "../../formats/memory-source.ts";
import { keepRouterColumns } from "../../model/config.ts";
import type { ReplyCost } from "../../worker/wire-types.ts";
import { packToMemory } from "../support/pack-to-memory.ts";
import { tinyChatFiles } from "../support/tiny-chat.ts";
import { deploy, fleetEnv } from "./fleet-fixture.ts";

/** A chat model with ratios, and with mask routers that let the first expert alone where its residual says so. */
beforeAll(async () => {
  const checkpoint = await openHuggingFace(new MemorySource(tinyChatFiles(512)), "tiny");
  const { config } = checkpoint;
  const { hiddenSize, nLayers, router: { topK } } = config;
  const columns = keepRouterColumns(hiddenSize, topK);
  const parameters = Float32Array.from({ length: topK * columns }, (_, i) => Math.sin(7 * i) / 4);
  const sink = new MemorySink();
  await writeCanonical(sink, {
    ...afterPass(checkpoint, { pass: "by hand", options: {} }), config: { ...config, onlinePruning: { ratios: Array.from({ length: nLayers }, (_, layer) => 0.7 + 0.2 * (layer % 2)), protectFirst: 1, renormalize: false, keepRouter: true } },
  }, [...[...checkpoint.places()].map(({ name }) => unchanged(checkpoint, name)), ...Array.from({ length: nLayers }, (_, layer) => ({
    name: `layers.${layer}.keepRouter`, type: "F32" as const, nRows: 1, nCols: parameters.length, async *read() { yield new Uint8Array(parameters.buffer); },
  }))]);
  const model = await openModelFolder(new MemorySource(sink.files), "tiny");
  for (const packId of ["prune-1", "prune-4"]) {
    const pack = await packToMemory(model, { id: packId, contextLength: 512, quant: "q8", segmentWidth: 32 });
    for (const [name, bytes] of pack.files) await fleetEnv.PACKS!.put(`packs/${packId}/${name}`, bytes);
  }
  Object.assign(env, { OPEN_ACCESS: "true" });
});

interface Reply { readonly choices: readonly { readonly text: string }[]; readonly moe: ReplyCost }
const post = (packId: string, body: object): Promise<Response> => (exports as unknown as { default: Fetcher }).default.fetch(new Request("https://edge/v1/completions", {
  method: "POST", body: JSON.stringify({ model: packId, prompt: "the cat sat on the mat and", max_tokens: 16, temperature: 0, seed: 1, ...body }),
}));
const whole = async (packId: string, moe: object = {}): Promise<Reply> => {
  const response = await post(packId, { moe: { draft_tokens: 0, ...moe } });
  const text = await response.text();
  expect(response.status, text).toBe(200);
  return JSON.parse(text) as Reply;
};

const RULES: readonly (object | string)[] = [{ ratio: 0.8 }, { ratio: [0.9, 0], protect_first: 0, renormalize: false }, { ratio: 0.95, layers: [1] }, "calibrated", "learned"];

it("leaves out experts by the request's own rule, the same over any shards and beside anybody, and counts them", async () => {
  const replies = new Map<string, Reply[]>();
  for (const [packId, shards] of [["prune-1", 1], ["prune-4", 4]] as const) {
    deploy({ packId, shards });
    const plain = await whole(packId);
    expect(plain.moe).not.toHaveProperty("pruned");
    const nothing = await whole(packId, { prune: { ratio: 0 } });
    expect(nothing.choices).toEqual(plain.choices);
    expect(nothing.moe.pruned).toMatchObject({ left_out: 0 });
    const alone: Reply[] = [plain];
    for (const prune of RULES) {
      const reply = await whole(packId, { prune });
      const { left_out, of } = reply.moe.pruned!;
      expect(left_out).toBeGreaterThan(0);
      expect(left_out).toBeLessThan(of);
      expect((await whole(packId, { prune })).choices, "with what the cache kept").toEqual(reply.choices);
      alone.push(reply);
    }
    const beside = await Promise.all([whole(packId, { cache: false }), ...RULES.map((prune) => whole(packId, { prune, cache: false }))]);
    beside.forEach(({ choices, moe }, i) => {
      expect(choices).toEqual(alone[i]!.choices);
      expect(moe.pruned).toEqual(alone[i]!.moe.pruned);
    });
    const streamed = (await (await post(packId, { stream: true, moe: { prune: "learned", draft_tokens: 0, cache: false } })).text()).split("\n").filter((line) => line.startsWith("data: {")).map((line) => JSON.parse(line.slice(6)) as { choices: { text: string }[]; moe?: Partial<ReplyCost> });
    expect(streamed.map(({ choices }) => choices[0]?.text ?? "").join("")).toBe(alone.at(-1)!.choices[0]!.text);
    expect(streamed.findLast(({ moe }) => moe?.pruned !== undefined)?.moe?.pruned).toEqual(alone.at(-1)!.moe.pruned);
    replies.set(packId, alone);
  }
  const [one, four] = [...replies.values()] as [Reply[], Reply[]];
  four.forEach(({ choices, moe }, i) => {
    expect(choices).toEqual(one[i]!.choices);
    expect(moe.pruned).toEqual(one[i]!.moe.pruned);
  });
  // Some text is another than with all experts: something was done.
  expect(one.some(({ choices }) => choices[0]!.text !== one[0]!.choices[0]!.text)).toBe(true);
});

it("names in a trace only the experts that were asked", async () => {
  deploy({ packId: "prune-4", shards: 4 });
  const { choices } = await whole("prune-4", { prune: { ratio: 1, protect_first: 0 }, trace: true });
  const { tokens } = (choices[0] as unknown as { moe: { tokens: { experts: number[][]; weights: number[][]; shards: (number | null)[][] }[] } }).moe;
  expect(tokens.length).toBeGreaterThan(8);
  for (const { experts, weights, shards } of tokens) expect([experts, weights, shards].map((layers) => layers.map(({ length }) => length))).toEqual([[1, 1], [1, 1], [1, 1]]);
});
