// docs/memory.md shows what the plan of memory says today, and a plan for a model without its weights is the plan for its pack.

import { expect, test } from "vitest";
import { memoryRow, memoryTable, plannedPack, writtenTable } from "../../../cli/memory-table.ts";
import { LIMITS } from "../../../durable/limits.ts";
import { orchestratorMemory, shardMemory } from "../../../durable/memory-plan.ts";
import { openPack } from "../../../formats/pack-reader.ts";
import { openTinyHuggingFace, packToMemory } from "../../support/pack-to-memory.ts";
import { tinyModel } from "../../support/tiny-models.ts";

test("the document has the table as it is computed", () => {
  expect(writtenTable(), "`node cli/memory-table.ts --write` brings the document up to date").toBe(memoryTable());
});

test("KV bytes per token are layers x 2 x key-value heads x head size x 2, and a little for page tables", () => {
  for (const [model, bytes] of [["OLMoE-1B-7B", 16 * 2 * 16 * 128 * 2], ["Qwen3-30B-A3B", 48 * 2 * 4 * 128 * 2], ["Mixtral-8x7B", 32 * 2 * 8 * 128 * 2]] as const) {
    expect(memoryRow(model, "q4").kvBytesPerToken / bytes).toBeCloseTo(1, 4);
  }
});

test.each(["q4", "q8", "f32"] as const)("a %s pack planned from the config alone has the bytes of the packed one", async (quant) => {
  for (const kind of ["olmoe", "qwen3_moe", "mixtral"] as const) {
    const pack = await packToMemory(await openTinyHuggingFace(tinyModel(kind, 2)), { quant, segmentWidth: 32 });
    const { manifest } = await openPack(pack.source);
    const planned = plannedPack("tiny", manifest.config, quant, manifest.contextLength, 32);
    const ranges = manifest.experts.map(({ layer, expert, segments }) => ({ layer, expert, segments: [0, segments.length] as const }));
    const steps = { stepTokens: 16, roundTokens: 8, ranges: [] };
    expect(shardMemory(planned, ranges, LIMITS)).toEqual(shardMemory(manifest, ranges, LIMITS));
    expect(orchestratorMemory(planned, steps, LIMITS)).toEqual(orchestratorMemory(manifest, steps, LIMITS));
    expect([planned.kvFormat, planned.activations]).toEqual([manifest.kvFormat, manifest.activations]);
  }
});
