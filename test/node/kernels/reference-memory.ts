// The scalar reference over one memory, and where tests of the definition put things in it. Owns the memory, its views and the addresses; each test file has its own. Refuses to lay anything out.

import { createScalarKernels } from "../../../model/scalar-kernels.ts";

const memory = new WebAssembly.Memory({ initial: 16 });
export const kernels = createScalarKernels(memory);
export const u8 = new Uint8Array(memory.buffer);
export const i8 = new Int8Array(memory.buffer);
export const u16 = new Uint16Array(memory.buffer);
export const u32 = new Uint32Array(memory.buffer);
export const f32 = new Float32Array(memory.buffer);
export const W = 0x10000;
export const X = 0x60000;
export const Y = 0x70000;
export const AUX = 0x78000;
export const SCRATCH = 0x80000;
