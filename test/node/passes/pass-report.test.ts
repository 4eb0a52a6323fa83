// Reports of passes: sizes to the byte against the file itself, equal experts counted once, what a pass returns put under one record, and records that are not.

import { beforeAll, describe, expect, it } from "vitest";
import { buildKernels } from "../../../cli/build-kernels.mjs";
import { kernelModules } from "../../../cli/open-pack.ts";
import { heatSteps, passPage } from "../../../cli/report/pass-page.ts";
import { openModelFolder } from "../../../formats/canonical-model.ts";
import type { Checkpoint } from "../../../formats/checkpoint.ts";
import { MemorySink, MemorySource } from "../../../formats/memory-source.ts";
import { parseBitPlan } from "../../../passes/bit-plan.ts";
import { mergeModel } from "../../../passes/merge-model.ts";
import { modelPart, modelSizes } from "../../../passes/model-sizes.ts";
import { parsePassReport, passReport, passReportSchema } from "../../../passes/pass-report.ts";
import { quantizeModel } from "../../../passes/quantize-model.ts";
import { openTinyHuggingFace } from "../../support/pack-to-memory.ts";
import { tinyModel } from "../../support/tiny-models.ts";

beforeAll(() => buildKernels({ log: () => {} }));

const SEQUENCES = Array.from({ length: 3 }, (_, s) => Array.from({ length: 20 }, (_, i) => (i * 31 + s * 7 + 3) % 97));

async function quantized(checkpoint: Checkpoint, rules: string): Promise<{ model: Checkpoint; tensorBytes: number }> {
  const sink = new MemorySink();
  await quantizeModel(checkpoint, sink, kernelModules(), { plan: parseBitPlan(rules, checkpoint.config), method: "nearest", sequences: [], actOrder: false, damping: 0, weighting: "count" });
  const file = sink.files.get("model.safetensors")!;
  const headerBytes = Number(new DataView(file.buffer, file.byteOffset).getBigUint64(0, true));
  return { model: await openModelFolder(new MemorySource(sink.files), "quantized"), tensorBytes: file.length - 8 - headerBytes };
}

describe("sizes", () => {
  it("are the bytes of the file, part by part, and bits of each expert those of its formats", async () => {
    const checkpoint = await openTinyHuggingFace(tinyModel("qwen2_moe", 5));
    const { config: c } = checkpoint;
    const { model, tensorBytes } = await quantized(checkpoint, "all=8; routed=4; exp[l0e1]=2; exp[l1e0].down=8");
    const sizes = await modelSizes(model, { findEqual: true });
    expect(sizes.bytes).toBe(tensorBytes);
    expect(sizes.distinctBytes).toBe(tensorBytes);
    expect(sizes.parts.reduce((sum, { bytes }) => sum + bytes, 0)).toBe(tensorBytes);
    const embed = sizes.parts.find(({ part }) => part === "embed")!;
    expect(embed).toEqual({ part: "embed", weights: c.vocabSize * c.hiddenSize, bytes: (c.vocabSize * c.hiddenSize * 34) / 32 });
    const [first, second] = sizes.experts;
    expect(first!.bits).toEqual(Array.from({ length: c.nExperts }, (_, e) => (e === 1 ? 2.5 : 4.5)));
    expect(second!.bits[0]).toBeCloseTo((4.5 + 4.5 + 8.5) / 3, 12);
    expect(new Set(sizes.parts.map(({ part }) => part))).toEqual(new Set(["embed", "head", "attention", "router", "shared", "experts", "other"]));
  });

  it.each([["embed", "embed"], ["head", "head"], ["normBias", "other"], ["layers.3.qBias", "attention"], ["layers.0.kB.11", "attention"], ["layers.0.attnNorm", "other"], ["layers.0.qNorm", "other"],
    ["layers.2.routerBias", "router"], ["layers.2.sharedGate", "router"], ["layers.0.shared.up", "shared"], ["layers.0.experts.12.downBias", "experts"]])("has %s as %s", (name, part) => expect(modelPart(name)).toBe(part));
});

describe("a report", () => {
  it("of a merge counts what became one once, and goes through its own schema and onto a page", async () => {
    const input = await openTinyHuggingFace(tinyModel("olmoe", 6));
    const sink = new MemorySink();
    const findings = await mergeModel(input, sink, kernelModules(), { share: 0.5, join: "mean", rank: 1, sequences: SEQUENCES, seed: 1 });
    const made = await openModelFolder(new MemorySource(sink.files), "half");
    const report = await passReport({ pass: { name: "merge", source: "Sub-MoE, 2025" }, input, made, findings, seconds: 1.5 });
    const { nExperts } = input.config;
    expect(report.after!.experts.map(({ distinct }) => distinct)).toEqual(findings.layers.map(({ of }) => new Set(of).size));
    expect(report.after!.experts.reduce((sum, { distinct }) => sum + distinct, 0)).toBe(nExperts); // half of two layers' experts
    expect(report.before.distinctBytes).toBe(report.before.bytes);
    // Merged experts are in f32; every one but the first of its cluster is there again.
    const expertBytes = 4 * 3 * input.config.hiddenSize * input.config.expertIntermediateSize;
    expect(report.after!.bytes - report.after!.distinctBytes).toBe((2 * nExperts - nExperts) * expertBytes);
    expect(report).toMatchObject({ pass: "merge", calibrationTokens: 60, options: { share: 0.5, rank: 1 }, input: { kind: "huggingface", sha256: input.sha256 }, output: { kind: "canonical", name: "half" } });
    expect(parsePassReport(JSON.stringify(report), "report.json")).toEqual(report);
    const page = await passPage(report);
    expect(page.match(/<svg role="img" aria-label="[^"]+"/g)!.length).toBe(page.match(/<svg/g)!.length);
    expect(page.match(/<figure>/g)!.length).toBe(page.match(/<details><summary>/g)!.length);
    // Nothing is asked for: the only addresses are names of namespaces and data.
    expect([...page.matchAll(/\b(?:src|href|url)\s*[=(]\s*["']?([^"')\s>]+)/g)].map(([, to]) => to).filter((to) => !to!.startsWith("#clip"))).toEqual(["data:,"]);
    expect(page).not.toContain("<script");
  });

  it("refuses what is none, naming the field", async () => {
    expect(() => parsePassReport("{", "a/report.json")).toThrow("a/report.json is no JSON");
    expect(() => parsePassReport(JSON.stringify({ format: "workers-moe-report", version: 2 }), "a/report.json")).toThrow("a/report.json is no report of version 1: version:");
    expect(passReportSchema.safeParse({}).success).toBe(false);
  });

  it("shades few widths one by one and many in even steps", () => {
    expect(heatSteps([4.5, 2.5, 4.5]).labels).toEqual(["2.5", "4.5"]);
    const many = heatSteps([2, 3, 4, 5, 6, 7, 8]);
    expect(many.labels).toEqual(["2 to 3", "3 to 4", "4 to 5", "5 to 6", "6 to 7", "7 to 8"]);
    expect([2, 2.99, 3, 8].map((x) => many.labelOf(x))).toEqual(["2 to 3", "2 to 3", "3 to 4", "7 to 8"]);
  });
});
