// `npm run deploy` without an account: wrangler's dry run of the real configuration. Shows that the Worker bundles with its kernels, that all
// Durable Object classes are declared, and that nothing of the pack goes into the script. Also that what wrangler.toml says twice agrees with the code.

import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { pinnedNode, ROOT } from "../../../cli/setup.mjs";
import { EDGE_LIMITS } from "../../../worker/limits.ts";

const out = mkdtempSync(join(tmpdir(), "workers-moe-deploy-"));
afterAll(() => rmSync(out, { recursive: true, force: true }));

describe("wrangler deploy --dry-run", () => {
  it("bundles the Worker, its kernels and every Durable Object class", () => {
    mkdirSync(join(ROOT, "build", "assets"), { recursive: true });
    const done = spawnSync(pinnedNode, [join(ROOT, "node_modules/wrangler/bin/wrangler.js"), "deploy", "--dry-run", "--outdir", out], {
      cwd: ROOT, encoding: "utf8", env: { ...process.env, WRANGLER_SEND_METRICS: "false", NO_COLOR: "1" },
    });
    expect(done.status, done.stdout + done.stderr).toBe(0);
    expect(done.stdout).toMatch(/env\.ORCHESTRATOR \(Orchestrator\)\s+Durable Object/);
    expect(done.stdout).toMatch(/env\.SHARDS \(ExpertShard\)\s+Durable Object/);
    expect(done.stdout).toMatch(/env\.DIRECTORY \(Directory\)\s+Durable Object/);
    expect(done.stdout).toMatch(/env\.BUDGETS \(TokenBudget\)\s+Durable Object/);
    expect(Number(/env\.RATE_LIMITER \((\d+) requests\/60s\)\s+Rate Limit/.exec(done.stdout)?.[1])).toBe(EDGE_LIMITS.requestsPerMinute);
    expect(done.stdout).toMatch(/env\.ASSETS\s+Assets/);
    expect(done.stdout).not.toMatch(/OPEN_ACCESS|_KEYS|CORS_ORIGINS/); // a deployment answers nobody without keys, and no other page
    const files = readdirSync(out);
    expect(files.filter((name) => name.endsWith(".wasm")).length).toBe(4);
    const script = readFileSync(join(out, "index.js"), "utf8");
    expect(/export \{[^}]*\}/s.exec(script)?.[0]).toMatch(/ExpertShard[^}]*Orchestrator/s);
    const MIB = 1024 * 1024;
    expect(files.reduce((sum, name) => sum + (name.endsWith(".map") ? 0 : statSync(join(out, name)).size), 0)).toBeLessThan(4 * MIB);
  });
});
