// How many processes, shards and replicas go together: holders of one expert never share a process.

import { describe, expect, it } from "vitest";
import { plannedPack } from "../../../cli/memory-table.ts";
import { holdersOf, requireLayout } from "../../../cli/serve-layout.ts";
import { serveMemory } from "../../../cli/serve-memory.ts";
import { tinyModel } from "../../support/tiny-models.ts";

describe("requireLayout", () => {
  it("lets through exactly what keeps the holders of every expert in different processes", () => {
    let refused = 0;
    for (let shards = 1; shards <= 8; shards++) for (let processes = 2; processes <= shards + 1; processes++) for (let replicas = 1; replicas <= shards; replicas++) {
      const apart = Array.from({ length: shards }, (_, shard) => new Set(Array.from({ length: replicas }, (_, n) => ((shard + n) % shards) % (processes - 1))).size).every((size) => size === replicas);
      if (!apart) refused++;
      const check = (): void => requireLayout({ shards, processes, replicas });
      if (apart) expect(check).not.toThrow();
      else expect(check).toThrow(/would end together; (--shards \d+|at least --processes \d+)(, or --isolate script)? keeps them apart\.$/);
    }
    expect(refused).toBeGreaterThan(20);
  });

  it("names numbers that do go together", () => {
    expect(() => requireLayout({ shards: 4, processes: 4, replicas: 2 })).toThrow("--replicas 2 puts an expert on shards 3 and 0, which are both in shard process 1 of 3 and would end together; --shards 6, or --isolate script keeps them apart.");
    expect(() => requireLayout({ shards: 4, processes: 4, replicas: 2, isolate: "script" })).not.toThrow();
    // Five in a ring over four, three in a row: no order keeps them apart.
    expect(() => requireLayout({ shards: 5, processes: 5, replicas: 3, isolate: "script" })).toThrow(/; --shards 8 keeps them apart\.$/);
    expect(() => requireLayout({ shards: 6, processes: 4, replicas: 2 })).not.toThrow();
    expect(() => requireLayout({ shards: 4, processes: 2, replicas: 2 })).toThrow(/at least --processes 3 keeps them apart/);
    expect(() => requireLayout({ shards: 4, processes: 3, replicas: 2 })).not.toThrow();
  });

  it("refuses more processes than shards and more replicas than shards, and leaves one process alone", () => {
    expect(() => requireLayout({ shards: 2, processes: 4 })).toThrow(/leaves 3 processes for 2 shards.*at most 3 processes/);
    expect(() => requireLayout({ shards: 2, processes: 1, replicas: 3 })).toThrow(/asks for each expert on 3 shards, and there are 2/);
    expect(() => requireLayout({ shards: 2, processes: 1, replicas: 2 })).not.toThrow();
    expect(() => requireLayout({ shards: 4, processes: 1, isolate: "script", scripts: 3 })).toThrow(/--scripts 3 leaves 3 scripts for 4 shards/);
  });
});

it("counts memory by isolate: a process of many scripts has as many memories, and one of a class a single one", () => {
  const tiny = { ...plannedPack("tiny", tinyModel("olmoe", 1).config, "q8", 128), contextLength: 128 };
  const [together, apart] = (["class", "script"] as const).map((isolate) => serveMemory(tiny, { shards: 4, processes: 2, isolate }));
  const { shardBytes, processBytes } = together!;
  expect(processBytes[1]).toBe(apart!.processBytes[1]! + shardBytes.reduce((sum, bytes) => sum + bytes, 0) - Math.max(...shardBytes));
  const span = { embeddingRows: [0, tiny.config.vocabSize], headRows: [0, tiny.config.vocabSize], slots: [] } as const;
  const ring = [{ ...span, layers: [0, 1], headRows: [0, 0] }, { ...span, layers: [1, tiny.config.nLayers], embeddingRows: [tiny.config.vocabSize, tiny.config.vocabSize] }] as const;
  const [one, two] = [1, 2].map((lanes) => serveMemory(tiny, { shards: 4, processes: 2, stages: ring, lanes }));
  expect(one!.trunkBytes).toBeLessThan(together!.trunkBytes);
  // Both lanes' first stages are in the first process, the others in the second.
  for (const process of [0, 1]) expect(two!.processBytes[process]).toBeGreaterThan(one!.processBytes[process]!);
});

it("counts each expert's memory on all of its holders", () => {
  expect(holdersOf({ shards: 3, processes: 1, replicas: 2 }, 2)).toEqual([2, 0]);
  const tiny = { ...plannedPack("tiny", tinyModel("olmoe", 1).config, "q8", 128), contextLength: 128 };
  const [one, all] = [1, 4].map((replicas) => serveMemory(tiny, { shards: 4, processes: 5, replicas }).shardBytes);
  const whole = serveMemory(tiny, { shards: 1, processes: 2 }).shardBytes[0]!;
  expect(all).toEqual([whole, whole, whole, whole]);
  for (const bytes of one!) expect(bytes).toBeLessThan(whole);
});
