// `workers-moe deploy`: what goes up and in which order, what is refused, and that wrangler takes the configurations it writes: its own dry run of a stage's script
// and of the edge's.

import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { readBaseConfig } from "../../../cli/base-config.ts";
import { deploySteps, planDeploy, type DeployedPack, type DeployWish } from "../../../cli/deploy-plan.ts";
import { fleetScripts } from "../../../cli/fleet-scripts.ts";
import { plannedPack } from "../../../cli/memory-table.ts";
import { boundScripts, type ConfigWishes, type WranglerConfig } from "../../../cli/script-configs.ts";
import { serveMemory } from "../../../cli/serve-memory.ts";
import { pinnedNode, ROOT } from "../../../cli/setup.mjs";
import { shapeConfig } from "../../../bench/model/write-shape.ts";
import { tenantBytes } from "../../../durable/isolate.ts";
import { LIMITS } from "../../../durable/limits.ts";
import { writeRingPlan } from "../../support/ring-plan.ts";
import { run, writeTinyPack } from "../../support/serve.ts";

const MIB = 1024 * 1024;
const WISH: DeployWish = { isolate: "script", shards: null, replicas: 1, scripts: null, plan: null, bucket: null };
const PARTS = [{ name: "parts/00000.bin", bytes: 4 * MIB }];
const wide = shapeConfig("granitemoe");
const GRANITE: DeployedPack = { ...plannedPack("granite", { ...wide, vocabSize: 1024 }, "q4", 4096), contextLength: 4096, parts: PARTS };

describe("planDeploy", () => {
  it("takes the fewest shards that fit isolates, each in a script of its own", () => {
    const { layout: { shards }, scripts, memory } = planDeploy(GRANITE, "moe", WISH);
    expect([scripts.length, shards > 1, memory.shardBytes <= tenantBytes(LIMITS)]).toEqual([shards, true, true]);
    expect(Math.max(...serveMemory(GRANITE, { shards: shards - 1, processes: 1 }).shardBytes)).toBeGreaterThan(tenantBytes(LIMITS));
    expect(planDeploy(GRANITE, "moe", { ...WISH, isolate: "class" }).scripts).toEqual([]);
    expect(planDeploy(GRANITE, "moe", { ...WISH, scripts: shards + 3 }).scripts).toHaveLength(shards + 3);
  });

  it("refuses with the numbers what cannot be, and says what can", () => {
    const trunk: DeployedPack = { ...plannedPack("granite", wide, "q8", 4096), contextLength: 4096, parts: PARTS };
    expect(() => planDeploy(trunk, "moe", WISH)).toThrow(/^The trunk of pack granite takes \d+\.\d MiB .*82\.0 MiB for an object.* then --plan plan\.json\.$/);
    expect(() => planDeploy(GRANITE, "moe", { ...WISH, shards: 1 })).toThrow(/^The largest of 1 shards of pack granite takes .* More --shards/);
    expect(() => planDeploy(GRANITE, "moe", { ...WISH, shards: 500 })).toThrow("This would be 501 scripts, and an account has 500");
    expect(() => planDeploy(GRANITE, "moe", { ...WISH, shards: 499 })).not.toThrow();
    expect(() => planDeploy(GRANITE, "moe", { ...WISH, shards: 500, isolate: "class" })).not.toThrow();
    expect(() => planDeploy(GRANITE, "moe", { ...WISH, shards: 20, scripts: 19 })).toThrow(/--scripts 19 goes with --isolate script and at most as many shards; these are 20/);
    const parts = [{ name: "parts/00000.bin", bytes: 64 * MIB }];
    expect(() => planDeploy({ ...GRANITE, parts }, "moe", WISH)).toThrow(/parts of 64\.0 MiB, and a static asset has at most 25\.0 MiB .*--r2/);
    expect(() => planDeploy({ ...GRANITE, parts }, "moe", { ...WISH, bucket: "packs" })).not.toThrow();
  });
});

describe("deploySteps", () => {
  const base: WranglerConfig = { name: "moe", main: "m.ts", compatibility_date: "2026-11-17", exports: {}, durable_objects: { bindings: [{ name: "ORCHESTRATOR", class_name: "Orchestrator" }] }, vars: {} };
  const wishes: ConfigWishes = { vars: {}, bucket: null, mains: { edge: "e.ts", held: "h.ts" }, assets: { edge: "a", held: "b" } };
  const stepsOf = (nStages: number, isFirst: boolean): ReturnType<typeof deploySteps> =>
    deploySteps(base, fleetScripts({ isolate: "script", edge: "moe", shards: 3, replicas: 1, scripts: 3, nStages, lanes: 1, processes: 1 }), wishes, isFirst);

  it("puts the edge last", () => {
    expect(stepsOf(2, false).map(({ name }) => name)).toEqual(["moe-shard-0", "moe-shard-1", "moe-shard-2", "moe-stage-0", "moe"]);
  });

  it("at first makes every script before another one is bound to it, and no more than that", () => {
    for (const nStages of [1, 2]) {
      const there = new Set<string>();
      const steps = stepsOf(nStages, true);
      for (const { name, config } of steps) {
        for (const other of boundScripts(config)) expect(there, `${name} before ${other}`).toContain(other);
        there.add(name);
      }
      expect(steps.slice(-stepsOf(nStages, false).length)).toEqual(stepsOf(nStages, false));
      const early = steps.filter(({ isFirstRound }) => isFirstRound).map(({ name }) => name);
      expect(early).toEqual(nStages === 1 ? ["moe-shard-1", "moe-shard-2"] : ["moe-shard-1", "moe-shard-2", "moe-stage-0", "moe"]);
    }
  });
});

describe("the command", () => {
  const out = mkdtempSync(join(tmpdir(), "workers-moe-deploy-"));
  afterAll(() => rmSync(out, { recursive: true, force: true }));

  it("writes configurations that wrangler takes, and sends nothing up", async () => {
    const pack = await writeTinyPack();
    try {
      const command = run(["deploy", pack.folder, "--isolate", "script", "--plan", await writeRingPlan(pack.folder, { shards: 2, lanes: 1 }), "--first", "--dry-run", "--out", out, "--name", "trial"]);
      expect(await command.exit, command.output()).toBe(0);
      expect(command.output()).toMatch(/^4 of the 500 scripts of an account: 2 for shards, 1 for stages, trial with the API\./m);
      expect([...command.output().matchAll(/^ {2}(trial\S*?)( \(without bindings\))?: /gm)].map(([, name, early]) => name + (early ?? ""))).toEqual([
        "trial-shard-1 (without bindings)", "trial-stage-0 (without bindings)", "trial (without bindings)", "trial-shard-0", "trial-shard-1", "trial-stage-0", "trial",
      ]);
    } finally {
      pack.remove();
    }
    const files = join("packs", "tiny");
    expect(readdirSync(join(out, "pack-assets"))).toEqual(["packs"]); // no page where there is no route
    for (const of of ["assets", "pack-assets"]) for (const name of ["manifest.json", "tokenizer.json", "fleet-plan.json"]) expect(existsSync(join(out, of, files, name)), `${of}/${name}`).toBe(true);

    const { durable_objects: objects, limits } = JSON.parse(readFileSync(join(out, "trial", "wrangler.json"), "utf8")) as WranglerConfig;
    expect([objects.code_update_strategy, limits]).toEqual([{ mode: "deferred", max_delay: 300 }, { cpu_ms: 30_000, subrequests: 10_000 }]);
    for (const [name, bindings] of [
      ["trial-stage-0", [/env\.SHARDS_1 \(ExpertShard, defined in trial-shard-1\)/, /env\.STAGES_0 \(Stage\)/, /env\.ORCHESTRATOR \(Orchestrator, defined in trial\)/, /env\.DIRECTORY \(Directory, defined in trial\)/]],
      ["trial", [/env\.SHARDS_0 \(ExpertShard, defined in trial-shard-0\)/, /env\.STAGES_0 \(Stage, defined in trial-stage-0\)/, /env\.ORCHESTRATOR \(Orchestrator\)/, /env\.ISOLATES \("strict"\)/, /env\.PLAN_FILE \("fleet-plan\.json"\)/]],
    ] as const) {
      const done = spawnSync(pinnedNode, [join(ROOT, "node_modules/wrangler/bin/wrangler.js"), "deploy", "--dry-run", "--config", join(out, name, "wrangler.json"), "--outdir", join(out, name, "bundle")],
        { cwd: ROOT, encoding: "utf8", env: { ...process.env, WRANGLER_SEND_METRICS: "false", NO_COLOR: "1" } });
      expect(done.status, done.stdout + done.stderr).toBe(0);
      expect(done.stdout + done.stderr).not.toMatch(/WARNING|Unexpected fields/);
      for (const binding of bindings) expect(done.stdout).toMatch(binding);
    }
  });

  it("begins with the repository's own configuration", async () => {
    const base = await readBaseConfig();
    expect([base.name, base.main, base.compatibility_date.length, base.limits?.cpu_ms]).toEqual(["workers-moe", "worker/index.ts", 10, 30_000]);
    expect(base.durable_objects.bindings.map(({ name }) => name)).toEqual(expect.arrayContaining(["ORCHESTRATOR", "SHARDS", "STAGES", "DIRECTORY", "BUDGETS"]));
  });
});
