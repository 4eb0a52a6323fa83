// What `serve` says of packs that do not fit: the numbers, and the option that helps. Sizes are those of real models' packs, without a byte of weights.

import { describe, expect, it } from "vitest";
import { plannedPack } from "../../../cli/memory-table.ts";
import { liftedNotice, MOST_ISOLATE_MIB, requireServeMemory, serveMemory } from "../../../cli/serve-memory.ts";
import { shapeConfig } from "../../../bench/model/write-shape.ts";
import type { ShapeName } from "../../../bench/model/released-shapes.ts";
import { LIMITS } from "../../../durable/limits.ts";
import { tinyModel } from "../../support/tiny-models.ts";

const pack = (name: ShapeName, quant: "f32" | "q8" | "q4", layers?: number) => {
  const config = shapeConfig(name);
  const nLayers = layers ?? config.nLayers;
  const repeated = <T>(list: readonly T[]): T[] => Array.from({ length: nLayers }, (_, n) => list[Math.min(n, list.length - 1)]!);
  return { ...plannedPack(name, { ...config, nLayers, slidingWindows: repeated(config.slidingWindows), layerFfns: repeated(config.layerFfns) }, quant, 4096), contextLength: 4096 };
};
const ONE = { shards: 1, processes: 1 };

describe("requireServeMemory", () => {
  it("lets small packs through", () => {
    const tiny = { ...plannedPack("tiny", tinyModel("olmoe", 1).config, "q8", 128), contextLength: 128 };
    expect(() => requireServeMemory(tiny, ONE, null)).not.toThrow();
    expect(serveMemory(tiny, ONE).isolateMib).toBeLessThan(90);
  });

  it("names the trunk's size, an isolate's, and the option; with what it names the pack is let through", () => {
    const granite = pack("granitemoe", "q8");
    const { isolateMib, trunkBytes } = serveMemory(granite, ONE);
    const mib = (trunkBytes / 2 ** 20).toFixed(1);
    expect(() => requireServeMemory(granite, ONE, null)).toThrow(new RegExp(`The trunk of pack granitemoe takes ${mib.replace(".", "\\.")} MiB .*82\\.0 MiB for an object: 90\\.0 MiB of the 128 MB .*--isolate-mib ${isolateMib}\\.`));
    expect(() => requireServeMemory(granite, ONE, isolateMib - 1)).toThrow(new RegExp(`--isolate-mib ${isolateMib - 1} leaves .*--isolate-mib ${isolateMib}\\.`));
    expect(() => requireServeMemory(granite, ONE, isolateMib)).not.toThrow();
    expect(liftedNotice(granite, ONE, isolateMib)).toMatch(/on this machine only: Cloudflare would allow 82\.0 MiB for an object; here the trunk takes /);
  });

  it("says so where only the shards are too large, and that more of them are smaller", () => {
    const config = { ...shapeConfig("granitemoe"), vocabSize: 1024 };
    const small = { ...plannedPack("granite", config, "q4", 4096), contextLength: 4096 };
    expect(() => requireServeMemory(small, ONE, null)).toThrow(/^The largest of 1 shards of pack granite takes .* More --shards make each of them smaller\./);
    expect(() => requireServeMemory(small, { shards: 8, processes: 1 }, null)).not.toThrow();
  });

  it("refuses a trunk beyond 4 GiB, whatever is asked for", () => {
    const v3 = pack("deepseek_v3", "f32");
    expect(() => requireServeMemory(v3, { shards: 8, processes: 3 }, MOST_ISOLATE_MIB)).toThrow(/The trunk of pack deepseek_v3 takes \d+\.\d MiB .*a WebAssembly memory ends at 4 GiB .*--quant q8 or q4/);
  });

  it("sends shards to other processes where one memory cannot hold all, and the layout it names fits", () => {
    const mixtral = pack("mixtral", "q8", 4);
    const said = (() => { try { requireServeMemory(mixtral, ONE, MOST_ISOLATE_MIB); return ""; } catch (error) { return (error as Error).message; } })();
    expect(said).toMatch(/^Process 1 of 1 would hold \d+\.\d MiB of pack mixtral .*all objects of a script in a process share one/);
    const [, processes, shards] = /--processes (\d+) --shards (\d+)/.exec(said)!;
    const layout = { shards: Number(shards), processes: Number(processes) };
    const { isolateMib, processBytes } = serveMemory(mixtral, layout);
    expect(isolateMib).toBeLessThanOrEqual(MOST_ISOLATE_MIB);
    expect(Math.max(...processBytes)).toBeLessThanOrEqual(LIMITS.memoryMaximumBytes);
    expect(() => requireServeMemory(mixtral, layout, isolateMib)).not.toThrow();
  });
});
