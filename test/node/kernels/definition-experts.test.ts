// The scalar reference's experts against docs/arithmetic.md section 6, spelled out in f64: every kind, in its layout, with biases that reach both ends of the clamps.
// It shares no helper with the reference, for the variants are only ever compared with the reference.

import { describe, expect, test } from "vitest";
import type { ExpertKind } from "../../../model/config.ts";
import { erf } from "../../../model/definition.ts";
import { EXPERT_KINDS, expertScratchBytes, matmulScratchBytes, segmentBytes } from "../../../model/kernels.ts";
import { AUX, f32, kernels, SCRATCH, u32, W, X, Y } from "./reference-memory.ts";

describe("expertFfn: section 6 in f32 against f64", () => {
  const hidden = 22;
  const width = 19;
  const gate = (i: number, k: number) => Math.sin(i * 3 + k) / 3;
  const up = (i: number, k: number) => Math.cos(i + k * 2) / 2;
  const down = (r: number, i: number) => Math.sin(r - i * 5) / 4;
  const gateBias = (i: number) => 5 * Math.sin(i * 2 + 1);
  const upBias = (i: number) => 5 * Math.cos(i);
  const downBias = (r: number) => Math.sin(r * 7);
  const x = Array.from({ length: hidden }, (_, k) => Math.cos(k));
  const dot = (row: (k: number) => number) => x.reduce((sum, value, k) => sum + value * row(k), 0);
  const h = {
    "swiglu": (i: number) => {
      const g = dot((k) => gate(i, k));
      return g / (1 + Math.exp(-g)) * dot((k) => up(i, k));
    },
    "clamped-swiglu": (i: number) => {
      const g = Math.min(dot((k) => gate(i, k)) + gateBias(i), 3);
      const u = Math.max(-3, Math.min(dot((k) => up(i, k)) + upBias(i), 3));
      return (u + 1) * g / (1 + Math.exp(-1.702 * g));
    },
    "relu-mlp": (i: number) => Math.max(0, dot((k) => up(i, k)) + upBias(i)),
    "gelu-mlp": (i: number) => {
      const u = dot((k) => up(i, k)) + upBias(i);
      return u / 2 * (1 + erf(u / Math.SQRT2));
    },
  };
  const isGated = (kind: ExpertKind): boolean => kind === "swiglu" || kind === "clamped-swiglu";
  const rowsOf = (kind: ExpertKind): number => (isGated(kind) ? 64 : 32); // of gate-up
  const downOf = (kind: ExpertKind): number => W / 4 + rowsOf(kind) * hidden;
  const biasesOf = (kind: ExpertKind): number => downOf(kind) + 32 * width;

  /** A segment in the kind's layout, its activation row, and its one output row. */
  const run = (kind: (typeof EXPERT_KINDS)[number]): Float32Array => {
    f32.fill(0, W / 4, W / 4 + segmentBytes(kind, "f32", "f32", hidden, hidden, width) / 4);
    const [downAt, biasAt] = [downOf(kind), biasesOf(kind)];
    for (let i = 0; i < width; i++) {
      for (let k = 0; k < hidden; k++) {
        if (!isGated(kind)) {
          f32[W / 4 + k * 32 + i] = up(i, k);
          continue;
        }
        const at = W / 4 + Math.floor(i / 16) * 32 * hidden + k * 32 + (i % 16);
        f32[at] = gate(i, k);
        f32[at + 16] = up(i, k);
      }
    }
    for (let r = 0; r < hidden; r++) for (let i = 0; i < width; i++) f32[downAt + i * 32 + r] = down(r, i);
    if (kind === "clamped-swiglu") {
      for (let i = 0; i < width; i++) {
        f32[biasAt + Math.floor(i / 16) * 32 + (i % 16)] = gateBias(i);
        f32[biasAt + Math.floor(i / 16) * 32 + 16 + (i % 16)] = upBias(i);
      }
      for (let r = 0; r < hidden; r++) f32[biasAt + 64 + r] = downBias(r);
    }
    if (!isGated(kind)) {
      for (let i = 0; i < width; i++) f32[biasAt + i] = upBias(i);
      for (let r = 0; r < hidden; r++) f32[biasAt + 32 + r] = downBias(r);
    }
    f32.set(x, X / 4);
    u32[AUX / 4] = X;
    kernels.expertFfn(EXPERT_KINDS.indexOf(kind), 3, 0, 0, W, hidden, hidden, width, AUX, 1, Y, 0, SCRATCH);
    return f32.subarray(Y / 4, Y / 4 + hidden);
  };

  test.each(EXPERT_KINDS)("%s", (kind) => {
    expect(expertScratchBytes(hidden, width)).toBeGreaterThan(matmulScratchBytes(hidden));
    expect(segmentBytes(kind, "f32", "f32", hidden, hidden, width)).toBe((biasesOf(kind) - W / 4) * 4 + (kind === "swiglu" ? 0 : 4 * rowsOf(kind) + 96));
    const out = run(kind);
    const inner = Array.from({ length: width }, (_, i) => h[kind](i));
    for (let r = 0; r < hidden; r++) {
      const expected = inner.reduce((sum, value, i) => sum + value * down(r, i), kind === "swiglu" ? 0 : downBias(r));
      expect(Math.abs(out[r]! - expected)).toBeLessThan(1e-5);
    }
  });

  test("clamped-swiglu: the biases above reach both ends of both clamps, and the middle", () => {
    const all = Array.from({ length: width }, (_, i) => [dot((k) => gate(i, k)) + gateBias(i), dot((k) => up(i, k)) + upBias(i)] as const);
    for (const place of [0, 1]) for (const is of [(v: number) => v > 3, (v: number) => v < -3, (v: number) => Math.abs(v) < 3]) expect(all.some((pair) => is(pair[place]!))).toBe(true);
  });
});
