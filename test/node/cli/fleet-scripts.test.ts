// Which scripts a fleet lives in, which process runs each, and what each is bound to: numbers and configurations, without processes.

import { describe, expect, it } from "vitest";
import { fleetScripts, heldStages, processOf, scriptsOf, type FleetShape } from "../../../cli/fleet-scripts.ts";
import { boundScripts, edgeConfig, heldConfig, scriptVars, unboundConfig, type ConfigWishes, type WranglerConfig } from "../../../cli/script-configs.ts";

const SHAPE: FleetShape = { isolate: "script", edge: "moe", shards: 4, replicas: 1, scripts: 4, nStages: 1, lanes: 1, processes: 1 };
const BASE: WranglerConfig = {
  name: "moe", main: "worker/index.ts", compatibility_date: "2026-11-17", exports: { Orchestrator: { type: "durable-object", storage: "sqlite" } },
  durable_objects: { bindings: ["ORCHESTRATOR", "DIRECTORY", "BUDGETS"].map((name) => ({ name, class_name: name })) },
  assets: { directory: "build/assets", binding: "ASSETS", run_worker_first: true }, vars: { LOG: "off", KEY_SETTINGS: { "*": {} }, CORS_ORIGINS: "*" },
};
const WISHES: ConfigWishes = { vars: { PACK_ID: "p" }, bucket: null, mains: { edge: "e.ts", held: "h.ts" }, assets: { edge: "all", held: "pack" } };

describe("fleetScripts", () => {
  it("has one script a process in class mode, with both classes where there is a ring, and none in one process", () => {
    expect(fleetScripts({ ...SHAPE, isolate: "class" })).toEqual([]);
    expect(fleetScripts({ ...SHAPE, isolate: "class", processes: 3 })).toEqual([{ name: "moe-shards-0", classes: ["ExpertShard"], process: 1 }, { name: "moe-shards-1", classes: ["ExpertShard"], process: 2 }]);
    expect(fleetScripts({ ...SHAPE, isolate: "class", processes: 2, nStages: 3 })).toEqual([{ name: "moe-shards-0", classes: ["ExpertShard", "Stage"], process: 1 }]);
  });

  it("has one a shard and one for each stage after the first of every lane in script mode, spread over the processes", () => {
    const scripts = fleetScripts({ ...SHAPE, shards: 3, scripts: 5, nStages: 3, lanes: 2, processes: 3 });
    expect(scripts.map(({ name, process }) => `${name} ${process}`)).toEqual([
      "moe-shard-0 1", "moe-shard-1 2", "moe-shard-2 1", "moe-shard-3 2", "moe-shard-4 1", "moe-stage-0 1", "moe-stage-1 2", "moe-stage-2 1", "moe-stage-3 2",
    ]);
    expect([heldStages({ nStages: 3, lanes: 2 }), scriptsOf(scripts, "Stage").length, processOf(scripts, "ExpertShard", 6)]).toEqual([4, 4, 2]);
    expect(new Set(fleetScripts({ ...SHAPE, nStages: 2 }).map(({ process }) => process))).toEqual(new Set([0]));
  });

  it("keeps holders in a row in different processes wherever any order does, and leaves no process without a shard", () => {
    /** Whether any way round a ring keeps `replicas` in a row apart: all ways tried. */
    const possible = (shards: number, replicas: number, others: number, ring: number[] = []): boolean => {
      if (ring.length === shards) return isApart(ring, replicas);
      return Array.from({ length: others }, (_, n) => n).some((n) => !ring.slice(1 - replicas).slice(-(replicas - 1)).includes(n) && possible(shards, replicas, others, [...ring, n]));
    };
    const isApart = (ring: readonly number[], replicas: number): boolean =>
      ring.every((_, at) => new Set(Array.from({ length: replicas }, (_, n) => ring[(at + n) % ring.length])).size === replicas);
    let [kept, hopeless] = [0, 0];
    for (let shards = 2; shards <= 8; shards++) for (let replicas = 2; replicas <= Math.min(3, shards); replicas++) for (let others = 2; others <= Math.min(5, shards); others++) {
      const scripts = fleetScripts({ ...SHAPE, shards, scripts: shards, replicas, processes: others + 1 });
      const ring = Array.from({ length: shards }, (_, shard) => processOf(scripts, "ExpertShard", shard));
      const what = `${shards} shards, ${replicas} replicas, ${others} processes: ${ring.join()}`;
      expect(isApart(ring, replicas), what).toBe(possible(shards, replicas, others));
      expect(new Set(ring).size, what).toBe(others);
      if (isApart(ring, replicas)) kept++;
      else hopeless++;
    }
    expect(kept).toBeGreaterThan(20);
    expect(hopeless).toBeGreaterThan(3);
  });
});

describe("configurations", () => {
  const scripts = fleetScripts({ ...SHAPE, shards: 2, scripts: 2, nStages: 2 });
  const [shard, , stage] = scripts.map((script) => heldConfig(BASE, script, scripts, WISHES));
  const edge = edgeConfig(BASE, scripts, WISHES);

  it("bind the edge to every shard and stage, beside what it has", () => {
    expect(edge.durable_objects.bindings.slice(3)).toEqual([
      { name: "SHARDS_0", class_name: "ExpertShard", script_name: "moe-shard-0" }, { name: "SHARDS_1", class_name: "ExpertShard", script_name: "moe-shard-1" },
      { name: "STAGES_0", class_name: "Stage", script_name: "moe-stage-0" },
    ]);
    expect(edge.vars).toEqual({ ...BASE.vars, PACK_ID: "p", SHARD_SCRIPTS: "2", STAGE_SCRIPTS: "1" });
    expect([edge.main, edge.assets!.directory, scriptVars([])]).toEqual(["e.ts", "all", { SHARD_SCRIPTS: "0", STAGE_SCRIPTS: "0" }]);
  });

  it("give a shard its class, the others as donors, no route, and nothing about who may ask", () => {
    expect(shard).toMatchObject({ main: "h.ts", workers_dev: false, preview_urls: false, exports: { ExpertShard: { type: "durable-object", storage: "sqlite" } } });
    expect(Object.keys(shard!.exports)).toEqual(["ExpertShard"]);
    expect(shard!.durable_objects.bindings).toEqual([
      { name: "SHARDS_0", class_name: "ExpertShard" }, { name: "SHARDS_1", class_name: "ExpertShard", script_name: "moe-shard-1" }, { name: "STAGES_0", class_name: "Stage", script_name: "moe-stage-0" },
    ]);
    expect(shard!.vars).toEqual({ LOG: "off", PACK_ID: "p", SHARD_SCRIPTS: "2", STAGE_SCRIPTS: "1" });
    expect(shard).not.toHaveProperty("routes");
  });

  it("give a stage the way back to the orchestrator and to the directory", () => {
    expect(stage!.durable_objects.bindings.filter(({ script_name: other }) => other === "moe")).toEqual([
      { name: "ORCHESTRATOR", class_name: "ORCHESTRATOR", script_name: "moe" }, { name: "DIRECTORY", class_name: "DIRECTORY", script_name: "moe" },
    ]);
    expect(boundScripts(stage!)).toEqual(["moe-shard-0", "moe-shard-1", "moe"]);
    expect(unboundConfig(stage!).durable_objects.bindings).toEqual([{ name: "STAGES_0", class_name: "Stage" }]);
  });

  it("read a pack in a bucket from there, in every script, and send no assets with shards", () => {
    const inBucket = { ...WISHES, bucket: "packs" };
    const held = heldConfig(BASE, scripts[0]!, scripts, inBucket);
    expect([held.assets, held.r2_buckets, edgeConfig(BASE, scripts, inBucket).r2_buckets]).toEqual([undefined, [{ binding: "PACKS", bucket_name: "packs" }], [{ binding: "PACKS", bucket_name: "packs" }]]);
  });
});
