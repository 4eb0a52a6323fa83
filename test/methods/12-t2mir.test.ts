// Row 12, T2MIR (W. Wu et al., 2025): a layer of two branches, one routed token by token and one by the sequence, each giving half of the row; gates of two layers with tanh,
// the largest k and a softmax over them. The sequence's gate reads the mean of its first rows, so that from there on one set of experts serves it.

import { describe, expect, it } from "vitest";
import { freezeConfig } from "../../model/architectures/common.ts";
import type { ModelConfig } from "../../model/config.ts";
import { forwardDefinition, softmax } from "../../model/definition.ts";
import { pageBytesOf } from "../../model/kv-page.ts";
import { createScalarKernels } from "../../model/scalar-kernels.ts";
import type { Tap } from "../../model/taps.ts";
import { RESERVED_BYTES } from "../../model/wasm-kernels.ts";
import { directEngine, logitsOf } from "../support/direct-engine.ts";
import { seededConfig, seededWeights } from "../support/seeded-model.ts";

const TOKENS = 5;
const config: ModelConfig = {
  ...seededConfig, nExperts: 16, router: {
    ...seededConfig.router, score: "logits", weigh: "softmax-selected", logitBias: true, topK: 3, gate: { kind: "mlp", width: 20, activation: "tanh" },
    branches: [{ topK: 2 }, { topK: 1, scope: { kind: "sequence", tokens: TOKENS } }],
  },
};
const IDS = Array.from({ length: 40 }, (_, i) => (i * 23 + 5) % 61);
const engineOf = (of: ModelConfig = config) => directEngine(of, seededWeights(of, 5), RESERVED_BYTES, { kernels: createScalarKernels(new WebAssembly.Memory({ initial: 32 })), contextLength: 64, maxChunkTokens: 64 }).engine;

it("each branch by hand: tanh gate, the k largest, softmax over them; outputs side by side", async () => {
  const w = seededWeights(config, 5);
  const engine = engineOf();
  let x = new Float32Array(0);
  const out: Float32Array[] = [];
  const chosen: number[][] = [];
  const weighed: number[][] = [];
  const taps: Tap[] = [
    { at: "input", layers: [0], run: ({ values }) => { x = values.slice(); } },
    { at: "selection", layers: [0], run: ({ ids, weights }) => { chosen.push([...ids]); weighed.push([...weights]); } },
    { at: "layerOutput", layers: [0], run: ({ values }) => void out.push(values.slice()) },
  ];
  await engine.step([{ timeline: engine.kv.open(40), ids: IDS.slice(0, 8), logits: "none" }], taps);
  const h = 48;
  const normed = Array.from({ length: 8 }, (_, t) => {
    const row = [...x.subarray(t * h, (t + 1) * h)];
    const rms = Math.sqrt(row.reduce((sum, v) => sum + v * v, 0) / h + config.normEps);
    return row.map((v, i) => (v / rms) * w("layers.0.ffnNorm").values[i]!);
  });
  const product = (name: string, of: readonly number[]): number[] => {
    const { rows, cols, values } = w(name);
    return Array.from({ length: rows }, (_, r) => of.reduce((sum, v, c) => sum + v * values[r * cols + c]!, 0));
  };
  const silu = (v: number): number => v / (1 + Math.exp(-v));
  for (let t = 0; t < 8; t++) {
    const seen = normed.slice(0, Math.min(t + 1, TOKENS));
    const mean = seen[0]!.map((_, i) => seen.reduce((sum, row) => sum + row[i]!, 0) / seen.length);
    const parts = [[normed[t]!, 2], [mean, 1]].flatMap(([input, k], branch) => {
      const hidden = product(`layers.0.routerHidden.${branch}`, input as number[]).map((v, i) => Math.tanh(v + w("layers.0.routerHiddenBias").values[branch * 20 + i]!));
      const z = product(`layers.0.router.${branch}`, hidden).map((v, e) => v + w("layers.0.routerBias").values[branch * 8 + e]!);
      const ids = z.map((_, e) => e).sort((a, b) => z[b]! - z[a]!).slice(0, k as number);
      const weights = softmax(ids.map((e) => z[e]!));
      const from = branch === 0 ? 0 : 2;
      expect(chosen[0]!.slice(3 * t + from, 3 * t + from + (k as number))).toEqual(ids.map((e) => branch * 8 + e));
      weights.forEach((weight, rank) => expect(Math.abs(weighed[0]![3 * t + from + rank]! - weight)).toBeLessThan(1e-5));
      return [ids.reduce((sum, e, rank) => {
        const at = `layers.0.experts.${branch * 8 + e}.`;
        const up = product(at + "up", normed[t]!);
        const y = product(at + "down", product(at + "gate", normed[t]!).map((g, i) => silu(g) * up[i]!));
        expect(y.length).toBe(h / 2);
        return sum.map((v, i) => v + weights[rank]! * y[i]!);
      }, new Array<number>(h / 2).fill(0))];
    });
    parts.flat().forEach((v, i) => expect(Math.abs(out[0]![t * h + i]! - (x[t * h + i]! + v))).toBeLessThan(1e-4));
  }
});

describe("the sequence's branch", () => {
  const expertsOf = async (chunks: readonly number[], ids = IDS): Promise<number[][]> => {
    const engine = engineOf();
    const timeline = engine.kv.open(40);
    const found: number[][] = [];
    for (let done = 0, i = 0; done < ids.length; i++) {
      const chunk = ids.slice(done, done + chunks[Math.min(i, chunks.length - 1)]!);
      await engine.step([{ timeline, ids: chunk, logits: "none" }], [{ at: "selection", layers: [1], run: (event) => { for (let t = 0; t < event.nTokens; t++) found.push([...event.ids.subarray(3 * t, 3 * t + 3)]); } }]);
      done += chunk.length;
    }
    return found;
  };

  it("has one set of experts from where its mean is whole, whatever the tokens are and however they came", async () => {
    for (const chunks of [[40], [1], [3, 7, 2]]) {
      const own = await expertsOf(chunks);
      expect(new Set(own.slice(TOKENS - 1).map((ids) => ids[2])).size).toBe(1);
      expect(new Set(own.map((ids) => ids.slice(0, 2).join())).size).toBeGreaterThan(5);
      expect(own).toEqual(await expertsOf([40]));
    }
  });

  it("is the definition's, across pages of the cache, in any chunks, bit for bit", async () => {
    const expected = forwardDefinition(config, seededWeights(config, 5), IDS).logits.flat();
    const whole = await logitsOf(engineOf(), IDS, [40]);
    const scale = Math.max(...expected.map(Math.abs));
    expected.forEach((value, i) => expect(Math.abs(whole[i]! - value) / scale).toBeLessThan(2e-5));
    for (const chunks of [[1], [4, 1, 20], [33, 7]]) expect(await logitsOf(engineOf(), IDS, chunks)).toEqual(whole);
  });

  it("goes on behind a prefix that another left, and behind guesses that were taken back", async () => {
    const whole = await logitsOf(engineOf(), IDS, [40]);
    const engine = engineOf();
    const shared = { scope: "s", ids: IDS };
    const first = engine.kv.open(40, shared);
    await engine.step([{ timeline: first, ids: IDS.slice(0, 36), logits: "none" }]);
    engine.kv.keep(first, { ...shared, ids: IDS.slice(0, 36) });
    engine.kv.close(first);
    const second = engine.kv.open(40, shared);
    expect(second.length).toBeGreaterThanOrEqual(32);
    const from = second.length;
    const { logits: [rest] } = await engine.step([{ timeline: second, ids: IDS.slice(from), logits: "all" }]);
    expect(rest).toEqual(whole.subarray(from * 61));

    const third = engine.kv.open(40);
    await engine.step([{ timeline: third, ids: [...IDS.slice(0, 2), 60, 59, 58], logits: "none" }]);
    third.length = 2;
    const { logits: [again] } = await engine.step([{ timeline: third, ids: IDS.slice(2), logits: "all" }]);
    expect(again).toEqual(whole.subarray(2 * 61));
  });

  it("takes room in pages, and models without it none", () => {
    const own = pageBytesOf(config, "f32", 2);
    expect(own - pageBytesOf({ ...config, router: seededConfig.router }, "f32", 2)).toBe(2 * 32 * 48 * 4);
  });
});

it("branches that do not fit are refused with the reason", () => {
  const refused = (router: Partial<ModelConfig["router"]>, over: Partial<ModelConfig> = {}) => expect(() => freezeConfig("a config", { ...config, ...over, router: { ...config.router, ...router } }));
  refused({ branches: [{ topK: 3 }] }).toThrow("expected two or more");
  refused({ topK: 4 }).toThrow("take 3 experts per token together, but the router 4");
  refused({}, { nExperts: 12 }).toThrow("no multiples of four");
  refused({ scope: { kind: "condition", size: 4 } }).toThrow("scopes of branches");
  refused({ branches: [{ topK: 2 }, { topK: 1, scope: { kind: "sequence", tokens: 5 } }], nullExperts: 2 }).toThrow("stand alone");
});
