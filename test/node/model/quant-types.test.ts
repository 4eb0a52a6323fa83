// Every architecture x form x stored type of test/support/model-cells.ts, from the file through reader, pack and kernels to logits. In f32 the pack must
// give the float64 definition's logits on the file's dequantised weights: names, order and dequantiser of every tensor. At the source's own
// quality its formats must be those promised, and its error that of int8 activations and of what docs/formats.md says is rounded.

import { beforeAll, describe, expect, it } from "vitest";
import { buildKernels } from "../../../cli/build-kernels.mjs";
import { type CellModel, type Truth, cellModel, engineRows, truthOf } from "../../support/cell-model.ts";
import { logitDifference } from "../../support/logit-difference.ts";
import { type ModelCell, cellTitle, cellsOf, isWide, promised, sourceBounds } from "../../support/model-cells.ts";
import { packToMemory } from "../../support/pack-to-memory.ts";
import { TINY_ARCHITECTURES } from "../../support/tiny-models.ts";

beforeAll(() => buildKernels({ log: () => {} }));

/** Two long enough for windows and several rotations, and short ones, where fewer tokens lie behind an unclear choice of experts. */
const SEQUENCES = Array.from({ length: 18 }, (_, s) => Array.from({ length: s < 2 ? 12 : 4 }, (_, i) => (i * i * (5 + s) + 3 * i * (s + 1) + 7 * s + 11) % 97));

/** Rows of the tokens whose choice of experts is at least so clear. */
const pairs = ({ logits, clearness }: Truth, rows: readonly (readonly ArrayLike<number>[])[], clear: number) =>
  SEQUENCES.flatMap((ids, s) => ids.flatMap((_, t) => (clearness[s]![t]! < clear ? [] : [[logits[s]![t]!, rows[s]![t]!] as const])));

let made: { readonly cell: ModelCell; readonly model: CellModel; readonly truth: Truth } | null = null;
/** The two tests of a cell share its model. */
function of(cell: ModelCell) {
  if (made?.cell !== cell) {
    const model = cellModel(cell, 1);
    made = { cell, model, truth: truthOf(model, SEQUENCES) };
  }
  return made;
}

describe.each(TINY_ARCHITECTURES)("%s", (architecture) => {
  describe.each(cellsOf(architecture).map((cell) => [cellTitle(cell), cell] as const))("%s", (_, cell) => {
    it("in f32: logits within 1e-4 of the largest", async () => {
      const { model, truth } = of(cell);
      const judged = pairs(truth, await engineRows(await packToMemory(await model.open(), { quant: "f32" }), SEQUENCES), 1e-3);
      const largest = judged.flatMap(([right]) => Array.from(right)).reduce((most, x) => Math.max(most, Math.abs(x)), 0);
      const worst = judged.flatMap(([right, ours]) => Array.from(right, (x, v) => Math.abs(x - ours[v]!))).reduce((most, x) => Math.max(most, x), 0);
      expect(judged.length).toBeGreaterThanOrEqual(50);
      expect(worst).toBeLessThan(1e-4 * largest);
    });

    it("at the source's quality: the promised formats, and their error", async () => {
      const { model, truth } = of(cell);
      const { source, files, summary } = await packToMemory(await model.open(), { quant: "source" });
      const { manifest, requantized } = summary;
      const { hiddenSize, expertIntermediateSize, nExperts, denseIntermediateSize } = model.model.config;
      const [wide, down] = [hiddenSize, nExperts > 0 ? expertIntermediateSize : denseIntermediateSize].map((nCols) => promised(cell.type, nCols)) as [ReturnType<typeof promised>, ReturnType<typeof promised>];
      expect(new Set([...manifest.experts, ...manifest.shared].map((e) => `${e.gateUp} ${e.down}`))).toEqual(new Set([`${wide.format} ${down.format}`]));
      const { blobs } = manifest;
      const trunk = ["q", "qB", "kvA", "vB", "o"].flatMap((name) => blobs[`layers.0.${name}`] ?? []);
      const others = cell.form === "folder" && cell.type === "MXFP4" ? "bf16" : wide.format; // gpt-oss' releases quantise experts alone
      expect(new Set([...trunk].map(({ format }) => format))).toEqual(new Set([others]));
      // FP8 leaves the embedding and the head as they are.
      expect(blobs["embed"]!.format).toBe(cell.type === "F8_E4M3" ? "bf16" : others);
      if (wide.isLossless) expect(requantized).toEqual([]);
      else expect(requantized.every(({ loss }) => loss.errorSquares > 0)).toBe(true);

      const { clear, relative, atLeast } = sourceBounds(cell);
      const judged = pairs(truth, await engineRows({ source, files, summary }, SEQUENCES), clear);
      const difference = logitDifference(judged);
      expect(judged.length, "tokens with a clear choice of experts").toBeGreaterThanOrEqual(atLeast);
      expect(difference.relative).toBeLessThan(relative);
    });
  });
});

it("the wide models of K-quants have rows of whole blocks, but DeepSeek's attn_k_b", () => {
  for (const architecture of TINY_ARCHITECTURES) {
    for (const cell of cellsOf(architecture).filter(({ type }) => isWide(type))) {
      const ragged = [...cellModel(cell, 1).model.weights].filter(([, m]) => m.rows > 1 && m.cols % 256 !== 0).map(([name]) => name);
      expect(ragged.every((name) => /\.kB\.\d+$/.test(name)), ragged.join(", ")).toBe(true);
    }
  }
});
