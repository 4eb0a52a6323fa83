// Addresses beyond 2 GiB, where a 32-bit number read with a sign is negative, and up to the last usable byte of a WebAssembly memory: every architecture
// gives the bits it gives at the bottom of memory, with each variant of the kernels and with the scalar ones. The memory is reserved, hardly touched.

import { beforeAll, describe, expect, it } from "vitest";
import { buildKernels } from "../../../cli/build-kernels.mjs";
import { kernelModules } from "../../../cli/open-pack.ts";
import { loadModel } from "../../../formats/load-model.ts";
import { openPack } from "../../../formats/pack-reader.ts";
import { Engine } from "../../../model/engine.ts";
import { Heap } from "../../../model/heap.ts";
import type { Kernels } from "../../../model/kernels.ts";
import { ExpertRunner, LocalExperts } from "../../../model/local-experts.ts";
import { createScalarKernels } from "../../../model/scalar-kernels.ts";
import { instantiateKernels, RESERVED_BYTES, type KernelModules } from "../../../model/wasm-kernels.ts";
import { openTinyHuggingFace, packToMemory, type MemoryPack } from "../../support/pack-to-memory.ts";
import { TINY_ARCHITECTURES, tinyModel } from "../../support/tiny-models.ts";

beforeAll(() => buildKernels({ log: () => {} }));

const GIB = 1024 ** 3;
const PAGE = 65536;
/** As durable/limits.ts has it: the last page stays unused. */
const END = 4 * GIB - PAGE;
const PROMPT = [5, 44, 90, 3, 17, 61, 8, 29, 70, 12, 2];

/** Logits of a prompt and of three tokens after it, in a heap that begins at `base`; and the bytes it used. */
async function run({ source }: MemoryPack, base: number, makeKernels: (memory: WebAssembly.Memory) => Kernels): Promise<{ logits: Float32Array[]; usedBytes: number }> {
  const { manifest } = await openPack(source);
  const memory = new WebAssembly.Memory({ initial: RESERVED_BYTES / PAGE, maximum: END / PAGE });
  const heap = new Heap(memory, base, END - base);
  const kernels = makeKernels(memory);
  const { trunk, lookup, segmentCounts, shared, maxSegmentWidth } = await loadModel(source, manifest, heap);
  const { config, kvFormat, activations } = manifest;
  const runner = new ExpertRunner(kernels, heap, config, maxSegmentWidth, 16);
  const engine = new Engine({ config, kernels, heap, trunk, segmentCounts, shared, kvFormat, activations, maxChunkTokens: 16, experts: new LocalExperts(runner, lookup) });
  const timeline = engine.kv.open(PROMPT.length + 3);
  const logits: Float32Array[] = [];
  for (const ids of [PROMPT, [9], [33], [71]]) logits.push((await engine.step([{ timeline, ids, logits: "all" }])).logits[0]!);
  return { logits, usedBytes: heap.usedBytes };
}

const VARIANTS = ["simd128", "relaxed-i32", "relaxed-i16"] as const;
let modules: KernelModules;
beforeAll(() => { modules = kernelModules(); });
const kernelsOf = (variant: (typeof VARIANTS)[number]) => (memory: WebAssembly.Memory): Kernels =>
  instantiateKernels({ simd128: modules.simd128, "relaxed-i32": modules.relaxedI32!, "relaxed-i16": modules.relaxedI16! }[variant], memory, variant);

describe.each(TINY_ARCHITECTURES)("%s", (architecture) => {
  it.each(["q8", "source"] as const)("gives the same bits across 2 GiB and at the end of memory (%s)", async (quant) => {
    const pack = await packToMemory(await openTinyHuggingFace(tinyModel(architecture, 8)), { quant });
    const { logits, usedBytes } = await run(pack, RESERVED_BYTES, kernelsOf("simd128"));
    const across = 2 * GIB - Math.ceil(usedBytes / 128) * 64;
    for (const variant of VARIANTS) expect((await run(pack, across, kernelsOf(variant))).logits, `${variant} across 2 GiB`).toEqual(logits);
    expect((await run(pack, END - usedBytes, kernelsOf("simd128"))).logits, "up to the end").toEqual(logits);
  });
});

it("the scalar kernels read addresses beyond 2 GiB too", async () => {
  for (const architecture of ["olmoe", "deepseek_v2", "gpt_oss"] as const) {
    const pack = await packToMemory(await openTinyHuggingFace(tinyModel(architecture, 8)), { quant: "q8" });
    const { logits } = await run(pack, RESERVED_BYTES, kernelsOf("simd128"));
    expect((await run(pack, 3 * GIB, createScalarKernels)).logits).toEqual(logits);
  }
});
