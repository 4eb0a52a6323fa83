// What experts compute between their matrices, docs/arithmetic.md sections 2 and 6: both forms of SwiGLU of interleaved gate and up rows, ReLU and GELU of up rows with
// their biases, as f32 or at once as qa8, 32 of h at a time. Owns the codes of the kinds.
// Refuses to see more than one group: h of 32 is made while its gate and up are in the L1 cache.

import { clampedSwiglu4, gelu4, swiglu4 } from "./floats";
import { quantizeGroup } from "./quantize";

/** By model/kernels.ts EXPERT_KINDS. */
export const SWIGLU: i32 = 0;
export const CLAMPED_SWIGLU: i32 = 1;
export const RELU: i32 = 2;

/** Kinds from this code on have no gate. */
export const FIRST_UNGATED: i32 = 2;

/** The 16 gate and 16 up values at `rows` become 16 of h at `h`, which may be `rows`. */
function swigluBlock(rows: usize, h: usize): void {
  for (let i: usize = 0; i < 64; i += 32) {
    const a = swiglu4(v128.load(rows + i), v128.load(rows + i, 64)), b = swiglu4(v128.load(rows + i, 16), v128.load(rows + i, 80));
    v128.store(h + i, a);
    v128.store(h + i, b, 16);
  }
}

/** The same of clamped SwiGLU, whose 32 biases lie at `bias`. */
function clampedBlock(rows: usize, bias: usize, limit: v128, h: usize): void {
  for (let i: usize = 0; i < 64; i += 16) {
    const gate = f32x4.add(v128.load(rows + i), v128.load(bias + i)), up = f32x4.add(v128.load(rows + i, 64), v128.load(bias + i, 64));
    v128.store(h + i, clampedSwiglu4(gate, up, limit));
  }
}

/** 32 up values at `rows`, whose biases lie at `bias`, become 32 of h at `h`, which may be `rows`. */
function reluBlock(rows: usize, bias: usize, h: usize): void {
  const zero = f32x4.splat(0);
  for (let i: usize = 0; i < 128; i += 16) v128.store(h + i, f32x4.max(f32x4.add(v128.load(rows + i), v128.load(bias + i)), zero));
}

function geluBlock(rows: usize, bias: usize, h: usize): void {
  for (let i: usize = 0; i < 128; i += 16) v128.store(h + i, gelu4(f32x4.add(v128.load(rows + i), v128.load(bias + i))));
}

/**
 * h of the group with `left` numbers to come, from what its row blocks gave: gate and up of 16 in one block or of 32 in two, or up of 32. f32 goes to `h`; where `scale`
 * is not 0, `h` gets int8 and it the group's scale. `rows` may be overwritten.
 */
@inline
export function activateGroup(kind: i32, limit: v128, bias: usize, rows: usize, nBlocks: i32, left: i32, h: usize, scale: usize): void {
  const to = scale != 0 ? rows : h;
  if (kind >= FIRST_UNGATED) {
    if (kind == RELU) reluBlock(rows, bias, to);
    else geluBlock(rows, bias, to);
  } else if (kind == SWIGLU) {
    swigluBlock(rows, to);
    if (nBlocks == 2) swigluBlock(rows + 128, to + 64);
  } else {
    clampedBlock(rows, bias, limit, to);
    if (nBlocks == 2) clampedBlock(rows + 128, bias + 128, limit, to + 64);
  }
  if (scale == 0) return;
  if (left < 32) memory.fill(rows + (<usize>left << 2), 0, <usize>(32 - left) << 2);
  quantizeGroup(rows, h, scale);
}
