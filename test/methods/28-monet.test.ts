// Row 28, Monet (Park et al., 2024): experts made of halves. The factored sums against the plain sum over all experts and against the paper's formulas as PyTorch contracts
// them (28-monet/golden.py), bit for bit under any batch; masks of single experts; 262,144 experts a layer; packs, rings, files and commands.

import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import type { ModelConfig, ProductExpertsConfig } from "../../model/config.ts";
import { forwardDefinition, type DefinitionMask } from "../../model/definition.ts";
import { keyWeights } from "../../model/definition-product.ts";
import type { Engine } from "../../model/engine.ts";
import type { StepEntry } from "../../model/step.ts";
import { normalQuantile } from "../../model/normal-quantile.ts";
import type { ProductMask } from "../../model/product-mask.ts";
import { keptKeys } from "../../model/product-router.ts";
import { plainInverseFrequencies } from "../../model/rope.ts";
import { createScalarKernels } from "../../model/scalar-kernels.ts";
import type { Tap } from "../../model/taps.ts";
import { directEngine, logitsOf, type PlainWeights } from "../support/direct-engine.ts";
import { productConfig, productWeights } from "../support/product-model.ts";

const kernels = () => createScalarKernels(new WebAssembly.Memory({ initial: 2 }));
const engineOf = (config: ModelConfig, weights: PlainWeights): Engine => directEngine(config, weights, 65536, { kernels: kernels(), contextLength: 64 }).engine;
const bits = (x: Float32Array): Uint32Array => new Uint32Array(x.buffer, x.byteOffset, x.length);
const largest = (rows: readonly (readonly number[])[]): number => Math.max(...rows.flat().map(Math.abs));
const IDS = Array.from({ length: 24 }, (_, i) => (i * i * 7 + 3 * i + 11) % 61);

/** The largest difference between logits, over the largest logit. */
function distance(found: Float32Array, truth: readonly (readonly number[])[]): number {
  let worst = 0;
  truth.forEach((row, t) => row.forEach((v, i) => { worst = Math.max(worst, Math.abs(v - found[t * row.length + i]!)); }));
  return worst / largest(truth);
}

const VARIANTS: readonly (readonly [string, Partial<ProductExpertsConfig>])[] = [
  ["vertical", { form: "vertical" }], ["horizontal", { form: "horizontal" }],
  ["vertical, keys across row blocks, a router for two layers", { nKeys: 12, expertSize: 14, routerLayers: 2 }],
  ["horizontal, one head that keeps about two, a router for all layers", { form: "horizontal", nHeads: 1, topK: 2, expertSize: 5, routerLayers: 3 }],
];

describe.each(VARIANTS)("%s", (_, of) => {
  const config = productConfig(of, 3);

  it("experts by their halves are the sum over all experts, to 1e-5", async () => {
    for (let seed = 1; seed <= 4; seed++) {
      const weights = productWeights(config, seed);
      expect(distance(await logitsOf(engineOf(config, weights), IDS, [16]), forwardDefinition(config, weights, IDS).logits)).toBeLessThan(1e-5);
    }
  });

  it("one by one, whole and in any chunks give the same bits, alone and beside another timeline", async () => {
    const engine = engineOf(config, productWeights(config, 5));
    const whole = bits(await logitsOf(engine, IDS, [16]));
    expect(whole.some((word) => word !== 0)).toBe(true);
    for (const chunks of [[1], [3, 7, 1, 13], [11, 2]]) expect(bits(await logitsOf(engine, IDS, chunks))).toEqual(whole);
    const [a, b] = [engine.kv.open(8), engine.kv.open(8)];
    const { logits } = await engine.step([{ timeline: a, ids: IDS.slice(9, 15), logits: "all" }, { timeline: b, ids: IDS.slice(0, 5), logits: "all" }]);
    expect(bits(logits[1]!)).toEqual(whole.subarray(0, 5 * config.vocabSize));
  });
});

describe("the paper's formulas as PyTorch contracts them", () => {
  interface Golden {
    readonly sizes: { readonly vocab: number; readonly hidden: number; readonly layers: number; readonly heads: number; readonly kvHeads: number; readonly headDim: number; readonly theta: number; readonly eps: number };
    readonly tokens: number[];
    readonly models: readonly { readonly productExperts: ProductExpertsConfig; readonly keys: number[][][][]; readonly logits: number[][] }[];
  }
  const golden = JSON.parse(readFileSync(new URL("28-monet/golden.json", import.meta.url), "utf8")) as Golden;

  /** As golden.py draws them: a linear congruence from the name's FNV-1a hash. */
  function drawn(config: ModelConfig): PlainWeights {
    const numbers = (name: string, n: number): number[] => {
      let state = 0x811c9dc5;
      for (const byte of new TextEncoder().encode(name)) state = Math.imul(state ^ byte, 0x01000193);
      return Array.from({ length: n }, () => (((state = Math.imul(state, 1664525) + 1013904223 | 0) >>> 8) / 2 ** 23 - 1));
    };
    const { hiddenSize: d, productExperts } = config;
    const { form, nKeys, nHeads, expertSize } = productExperts!;
    const width = form === "vertical" ? nKeys * expertSize / 2 : nKeys * expertSize;
    const half = form === "vertical" ? d / 2 : d;
    const [q, kv] = [config.nHeads * config.headDim, config.nKvHeads * config.headDim];
    const shapes: readonly (readonly [RegExp, number, number])[] = [
      [/^(embed|head)$/, config.vocabSize, d], [/orm$/, 1, d], [/\.q$/, q, d], [/\.[kv]$/, kv, d], [/\.o$/, d, q], [/\.w[12]$/, nHeads * nKeys, d], [/\.(mean|variance)[12]$/, 1, nHeads],
      [/\.u[12]?$/, width, d], [/\.u[12]?Bias$/, 1, width], [/\.b[12]?$/, 1, nKeys * half], [/\.v(11|12|21|22)$/, half, width],
    ];
    return (name) => {
      const [, rows, cols] = name.endsWith("product.v") ? [0, half, width] : shapes.find(([of]) => of.test(name))!;
      const values = numbers(name, rows * cols).map((v) => (name === "embed" ? v : /orm$/.test(name) ? 1 + 0.3 * v : name.includes("variance") ? 1.3 + 0.5 * v : rows === 1 ? 0.5 * v : v * (2 / cols ** 0.5)));
      return { rows, cols, values: Float32Array.from(values) };
    };
  }

  it.each(golden.models.map((model) => [`${model.productExperts.form}, ${model.productExperts.nKeys} keys, ${model.productExperts.nHeads} heads`, model] as const))("%s", async (_, { productExperts, keys, logits }) => {
    const { sizes, tokens } = golden;
    const config = productConfig(productExperts, sizes.layers, {
      vocabSize: sizes.vocab, hiddenSize: sizes.hidden, nHeads: sizes.heads, nKvHeads: sizes.kvHeads, headDim: sizes.headDim, attentionScale: sizes.headDim ** -0.5, normEps: sizes.eps,
      rope: { ...productConfig({}).rope, dim: sizes.headDim, theta: sizes.theta, inverseFrequencies: plainInverseFrequencies(sizes.headDim, sizes.theta) },
    });
    const weights = drawn(config);
    forwardDefinition(config, weights, tokens).logits.forEach((row, t) => row.forEach((v, i) => expect(Math.abs(v - logits[t]![i]!)).toBeLessThan(2e-8)));
    const engine = engineOf(config, weights);
    const seen: number[][][] = [];
    const tap: Tap = { at: "keys", run: ({ layer, values, rowLength, nTokens }) => { if (layer % productExperts.routerLayers === 0) seen.push(Array.from({ length: nTokens }, (_, t) => Array.from(values.subarray(t * rowLength, (t + 1) * rowLength)))); } };
    const timeline = engine.kv.open(tokens.length);
    const found = (await engine.step([{ timeline, ids: tokens, logits: "all" }], [tap])).logits[0]!;
    expect(distance(found, logits)).toBeLessThan(1e-5);
    expect(seen).toHaveLength(keys.length);
    // Of each routing layer and token: who is kept is the same, weights to rounding.
    keys.forEach(([first, second], n) => first!.forEach((row, t) => {
      const wanted = [...row, ...second![t]!];
      expect(seen[n]![t]!.map((g) => g !== 0)).toEqual(wanted.map((g) => g !== 0));
      wanted.forEach((g, i) => expect(Math.abs(seen[n]![t]![i]! - g)).toBeLessThan(1e-5));
    }));
  });
});

describe("keys", () => {
  it("are kept above the normal quantile, the best at least, about as many as asked", () => {
    // Of a table of the normal distribution.
    for (const [p, x] of [[0.5, 0], [0.75, 0.6744897501960817], [0.9375, 1.5341205443525459], [0.001, -3.090232306167813], [0.075, -1.4395314709384557], [0, -Infinity]] as const) expect(normalQuantile(p)).toBeCloseTo(x, 14);
    expect(() => normalQuantile(1.5)).toThrow(/a share from 0 to 1 was expected/);
    const config = productConfig({ nKeys: 256, nHeads: 8, topK: 16 }, 1);
    const { rows, cols } = { rows: 64, cols: config.hiddenSize };
    const weights = productWeights(config, 3);
    let [kept, heads] = [0, 0];
    for (let t = 0; t < rows; t++) {
      const row = Array.from({ length: cols }, (_, i) => Math.sin(t * 31 + i * i * 0.7) * Math.SQRT2);
      for (const head of keyWeights(config, weights, "layers.0.", row).flat()) {
        const n = head.filter((g) => g > 0).length;
        expect(n).toBeGreaterThanOrEqual(1);
        expect(head.reduce((a, b) => a + b, 0)).toBeCloseTo(1, 12);
        kept += n;
        heads++;
      }
    }
    // The statistics are drawn, not fitted: within a factor of four of 16.
    expect(kept / heads).toBeGreaterThan(4);
    expect(kept / heads).toBeLessThan(64);
  });

  it("a tap sees who is kept; what it takes away is gone until the next router", async () => {
    const config = productConfig({ routerLayers: 2 }, 4);
    const engine = engineOf(config, productWeights(config, 1));
    const run = async (taps: readonly Tap[]): Promise<Float32Array> => {
      const timeline = engine.kv.open(8);
      const { logits } = await engine.step([{ timeline, ids: IDS.slice(0, 5), logits: "all" }], taps);
      engine.kv.close(timeline);
      return logits[0]!;
    };
    const counts: number[][] = [];
    const counting: Tap = { at: "keys", run: ({ layer, values, rowLength }) => {
      const [first, second] = keptKeys(config.productExperts!, values.subarray(0, rowLength));
      counts.push([layer, first.length, second.length, ...[...first, ...second].map(({ length }) => length)]);
    } };
    const plain = await run([counting]);
    expect(bits(await run([]))).toEqual(bits(plain));
    expect(counts.map(([layer, a, b]) => [layer, a, b])).toEqual([0, 1, 2, 3].map((layer) => [layer, 3, 3]));
    expect(counts[1]!.slice(3)).toEqual(counts[0]!.slice(3)); // one router for both
    expect(counts[2]!.slice(3)).not.toEqual(counts[0]!.slice(3));
    expect(counts.flatMap((of) => of.slice(3)).every((n) => n >= 1 && n < 8)).toBe(true);
    const silenced = await run([{ at: "keys", layers: [0], run: ({ values }) => { values.fill(0); } }, counting]);
    expect(counts.slice(4).map((of) => of.slice(3).some((n) => n > 0))).toEqual([false, false, true, true]);
    expect(bits(silenced)).not.toEqual(bits(plain));
  });
});

describe.each(["vertical", "horizontal"] as const)("a mask of %s experts", (form) => {
  const config = productConfig({ form, routerLayers: 2 }, 4);
  const weights = productWeights(config, 7);
  const engine = engineOf(config, weights);
  const isMaskedBy = ({ layers }: ProductMask): DefinitionMask => (layer, i, j) =>
    layers.some((of) => of.layer === layer && (of.firstKeys?.includes(i) === true || of.secondKeys?.includes(j) === true || of.pairs?.some(([a, b]) => a === i && b === j) === true));
  const run = async (masks: readonly (ProductMask | null | undefined)[], taps: readonly Tap[] = []): Promise<Float32Array[]> => {
    const entries = masks.map((productMask): StepEntry => ({ timeline: engine.kv.open(8), ids: IDS.slice(0, 8), logits: "all", ...(productMask == null ? {} : { routing: { productMask } }) }));
    const { logits } = await engine.step(entries, taps);
    for (const { timeline } of entries) engine.kv.close(timeline);
    return logits;
  };
  const truthOf = (mask: ProductMask): number[][] => forwardDefinition(config, weights, IDS.slice(0, 8), 8, { isMasked: isMaskedBy(mask) }).logits;

  it.each([
    ["pairs", { layers: [{ layer: 1, pairs: [[0, 1], [2, 2], [5, 0], [7, 3], [1, 6]] }] }],
    ["keys of both codebooks", { layers: [{ layer: 0, firstKeys: [1, 4] }, { layer: 2, secondKeys: [0, 3, 7] }] }],
    ["all of these", { layers: [{ layer: 0, firstKeys: [2], secondKeys: [5], pairs: [[3, 3], [0, 7], [6, 1]] }, { layer: 3, pairs: [[0, 0], [1, 1], [2, 2], [3, 3], [4, 4]] }] }],
    ["every expert of a layer", { layers: [{ layer: 1, firstKeys: [0, 1, 2, 3, 4, 5, 6, 7] }] }],
  ] satisfies [string, ProductMask][])("is the sum over the others: %s", async (_, mask) => {
    const [plain, masked] = [await run([undefined]), await run([mask])] as const;
    expect(distance(masked[0]!, truthOf(mask))).toBeLessThan(1e-5);
    expect(distance(plain[0]!, truthOf(mask))).toBeGreaterThan(1e-3);
  });

  it("that is empty, or meets nobody who is kept, changes no bit", async () => {
    const kept: [number[], number[]][] = config.layerFfns.map(() => [[], []]);
    const [plain] = await run([undefined], [{ at: "keys", run: ({ layer, values, rowLength, nTokens }) => {
      for (let t = 0; t < nTokens; t++) keptKeys(config.productExperts!, values.subarray(t * rowLength, (t + 1) * rowLength)).forEach((heads, codebook) => kept[layer]![codebook]!.push(...heads.flat()));
    } }]) as [Float32Array];
    const keys = Array.from({ length: 8 }, (_, n) => n);
    // Experts that share no head, or whose keys nobody keeps; and one of them that somebody runs, so that the list is known to be sharp.
    const together = new Set<number>();
    await run([undefined], [{ at: "keys", layers: [1], run: ({ values, rowLength, nTokens }) => {
      for (let t = 0; t < nTokens; t++) {
        const [first, second] = keptKeys(config.productExperts!, values.subarray(t * rowLength, (t + 1) * rowLength));
        first.forEach((own, h) => own.forEach((i) => second[h]!.forEach((j) => together.add(i * 8 + j))));
      }
    } }]);
    const pairs = keys.flatMap((i) => keys.map((j) => [i, j] as const)).filter(([i, j]) => !together.has(i * 8 + j));
    expect(pairs.length).toBeGreaterThan(0);
    for (const mask of [null, { layers: [] }, { layers: [{ layer: 2 }] }, { layers: [{ layer: 1, pairs }] }]) expect(bits((await run([mask]))[0]!)).toEqual(bits(plain));
    const met = [...together][0]!;
    expect(bits((await run([{ layers: [{ layer: 1, pairs: [[Math.floor(met / 8), met % 8]] }] }]))[0]!)).not.toEqual(bits(plain));
  });

  it("is one entry's own, and changes the others' layers not at all", async () => {
    const mask: ProductMask = { layers: [{ layer: 1, firstKeys: [0, 1, 2, 3], pairs: [[5, 5]] }] };
    const [plain] = await run([undefined]) as [Float32Array];
    const [alone] = await run([mask]) as [Float32Array];
    const together = await run([undefined, mask]);
    expect(together.map(bits)).toEqual([bits(plain), bits(alone)]);
  });

  it("gives the same bits in a long step of two rounds, several turns each, as in short ones", async () => {
    const long = directEngine(config, weights, 65536, { kernels: kernels(), contextLength: 64, maxChunkTokens: 80, maxRoundTokens: 40 }).engine;
    const masks: readonly (ProductMask | null)[] = [{ layers: [{ layer: 0, firstKeys: [2, 5] }, { layer: 3, pairs: [[1, 1], [4, 2]] }] }, null, { layers: [{ layer: 1, secondKeys: [0, 4, 6] }] }];
    const [lengths, chunks] = [[19, 23, 30], [[19, 23, 30], [7, 7, 7], [1, 16, 5]]];
    const found: Uint32Array[][] = [];
    for (const chunk of chunks) {
      const timelines = lengths.map((length) => long.kv.open(length));
      const rows: Float32Array[][] = lengths.map(() => []);
      while (timelines.some(({ length }, n) => length < lengths[n]!)) {
        const open = timelines.flatMap((timeline, n) => (timeline.length < lengths[n]! ? [{ n, timeline }] : []));
        const entries = open.map(({ n, timeline }): StepEntry => ({
          timeline, ...(masks[n] == null ? {} : { routing: { productMask: masks[n] } }), logits: "all", ids: Array.from({ length: lengths[n]! }, (_, i) => (i * i * 5 + 7 * n + 3) % 61).slice(timeline.length, Math.min(lengths[n]!, timeline.length + chunk[n]!)),
        }));
        (await long.step(entries)).logits.forEach((logits, i) => rows[open[i]!.n]!.push(logits));
      }
      for (const timeline of timelines) long.kv.close(timeline);
      found.push(rows.map((parts) => bits(Float32Array.from(parts.flatMap((part) => [...part])))));
    }
    const [whole, ...others] = found;
    for (const other of others) expect(other).toEqual(whole);
    // And of the entry in the middle, the bits it has without any other beside it.
    expect(whole![1]).toEqual(bits(await logitsOf(long, Array.from({ length: 23 }, (_, i) => (i * i * 5 + 7 + 3) % 61), [4])));
  });

  it("changes tokens only that keep what it names", async () => {
    // The first layer's output, which all tokens reach with the residual they always had; of each token the keys that some head keeps.
    const first = async (mask: ProductMask | undefined): Promise<{ kept: number[][]; rows: Float32Array }> => {
      let [kept, rows] = [[] as number[][], new Float32Array(0)];
      await run([mask], [
        { at: "keys", layers: [0], run: ({ values, rowLength, nTokens }) => {
          kept = Array.from({ length: nTokens }, (_, t) => keptKeys(config.productExperts!, values.subarray(t * rowLength, (t + 1) * rowLength))[0].flat());
        } },
        { at: "layerOutput", layers: [0], run: ({ values }) => { rows = values.slice(); } },
      ]);
      return { kept, rows };
    };
    const { kept, rows: before } = await first(undefined);
    const key = Array.from({ length: 8 }, (_, n) => n).find((n) => kept.some((of) => of.includes(n)) && kept.some((of) => !of.includes(n)))!;
    const { rows: after } = await first({ layers: [{ layer: 0, firstKeys: [key] }] });
    const n = config.hiddenSize;
    const row = (rows: Float32Array, t: number): Uint32Array => bits(rows.slice(t * n, (t + 1) * n));
    expect(kept.map((_, t) => row(before, t).some((word, i) => word !== row(after, t)[i]))).toEqual(kept.map((of) => of.includes(key)));
  });

  it("of what is not there is refused in words", async () => {
    for (const [mask, message] of [
      [{ layers: [{ layer: 4 }] }, /names layer 4, which has no product experts/], [{ layers: [{ layer: 1 }, { layer: 1 }] }, /names layer 1 twice/],
      [{ layers: [{ layer: 0, pairs: [[0, 8]] }] }, /names key 8 in layer 0; keys from 0 to 7 were expected\.$/], [{ layers: [{ layer: 0, firstKeys: [1.5] }] }, /names key 1\.5/],
    ] as const) await expect(run([mask])).rejects.toThrow(message);
  });
});
