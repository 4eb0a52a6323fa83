// What `inspect` says of a model: its counts for every architecture in both forms, and of an architecture that nobody here knows.

import { execFile } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, it } from "vitest";
import { inspect } from "../../../cli/commands/inspect.ts";
import { openTinyGguf, openTinyHuggingFace, packToMemory } from "../../support/pack-to-memory.ts";
import { TINY_ARCHITECTURES, tinyModel } from "../../support/tiny-models.ts";
import { writeHuggingFace } from "../../support/write-tiny.ts";

const LAUNCHER = fileURLToPath(new URL("../../../bin/workers-moe.js", import.meta.url));
const folder = mkdtempSync(join(tmpdir(), "inspect-"));
afterAll(() => rmSync(folder, { recursive: true }));

describe.each(TINY_ARCHITECTURES)("%s", (architecture) => {
  it("counts parameters as there are weights, and bytes as the file has them", async () => {
    const model = tinyModel(architecture, 61);
    const count = (names: (name: string) => boolean): number => [...model.weights].reduce((n, [name, w]) => n + (names(name) ? w.values.length : 0), 0);
    const { nExperts, router: { topK } } = model.config;
    const all = count(() => true);
    const experts = count((name) => name.includes(".experts."));
    const folderSeen = inspect({ kind: "checkpoint", checkpoint: await openTinyHuggingFace(model, { dtype: "F32" }) });
    const fileSeen = inspect({ kind: "checkpoint", checkpoint: await openTinyGguf(model, { type: "F32", mla: "fused" }) });
    for (const seen of [folderSeen, fileSeen]) {
      expect(seen).toMatchObject({ architecture, parameters: all, activeParameters: all - experts + (nExperts === 0 ? 0 : (experts / nExperts) * topK), totalBytes: 4 * all, typeBytes: { F32: 4 * all } });
      expect(seen.expertBytes.first).toBe(4 * count((name) => name.includes(`layers.${model.config.layerFfns.indexOf("moe")}.experts.0.`)));
    }
  });

  it("counts a pack's parameters the same, and all of its blobs", async () => {
    const { summary } = await packToMemory(await openTinyHuggingFace(tinyModel(architecture, 62)), { quant: "f32" });
    const seen = inspect({ kind: "pack", manifest: summary.manifest, packHash: summary.packHash } as unknown as Parameters<typeof inspect>[0]);
    const { rope, ...blobs } = summary.manifest.blobs;
    const ffn = [...summary.manifest.experts, ...summary.manifest.shared].flatMap((e) => e.segments).reduce((n, s) => n + s.bytes, 0);
    expect(Object.values(seen.typeBytes).reduce((a, b) => a + b)).toBe(Object.values(blobs).reduce((n, b) => n + b.bytes, rope!.bytes + ffn));
    expect(seen.parameters).toBe(inspect({ kind: "checkpoint", checkpoint: await openTinyHuggingFace(tinyModel(architecture, 62)) }).parameters);
  });
});

it("FP8 and MXFP4 count as they are stored", async () => {
  const fp8 = inspect({ kind: "checkpoint", checkpoint: await openTinyHuggingFace(tinyModel("deepseek_v3", 63, { exactIn: "F8_E4M3" }), { dtype: "F8_E4M3" }) });
  expect(Object.keys(fp8.typeBytes).sort()).toEqual(["BF16", "F32", "F8_E4M3"]);
  expect(fp8.expertBytes.first).toBe(3 * 64 * 32);
  const oss = inspect({ kind: "checkpoint", checkpoint: await openTinyHuggingFace(tinyModel("gpt_oss", 63, { exactIn: "MXFP4" })) });
  // Three matrices of 64 x 64 at 17 bytes for 32 values, and biases of 64, 64 and 64 in BF16.
  expect(oss.expertBytes.first).toBe(3 * 64 * 2 * 17 + 3 * 64 * 2);
});

it("an unknown architecture is told in one sentence after another, without a stack trace", async () => {
  const path = join(folder, "Kimi");
  await writeHuggingFace(tinyModel("deepseek_v3", 64), path);
  const config = JSON.parse(readFileSync(join(path, "config.json"), "utf8")) as object;
  writeFileSync(join(path, "config.json"), JSON.stringify({ ...config, model_type: "kimi_linear", linear_attn_config: { head_dim: 16 } }));
  const { code, stdout, stderr } = await new Promise<{ code: number; stdout: string; stderr: string }>((resolve) => {
    execFile(process.execPath, [LAUNCHER, "inspect", path], (error, out, err) => resolve({ code: error === null ? 0 : Number(error.code), stdout: out, stderr: err }));
  });
  expect([code, stdout]).toEqual([1, ""]);
  expect(stderr).toMatch(/^workers-moe: .*config\.json has model_type = "kimi_linear", an architecture this version does not know\. Known: .*the nearest is "deepseek_v3"\. This one has keys that deepseek_v3 does not know: linear_attn_config; deepseek_v3 reads keys that are missing here: [\w, ]+\.\n$/);
});
