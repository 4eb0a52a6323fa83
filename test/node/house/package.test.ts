// What package.json promises: exact versions, one copy of the runtime, and the scripts of the README.

import { readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { describe, expect, it } from "vitest";

const ROOT = resolve(import.meta.dirname, "../../..");
const read = (name: string): string => readFileSync(join(ROOT, name), "utf8");
const manifest = JSON.parse(read("package.json")) as {
  scripts: Record<string, string>; dependencies: Record<string, string>; devDependencies: Record<string, string>; license: string;
};
const lock = JSON.parse(read("package-lock.json")) as { packages: Record<string, { version: string; resolved?: string; optionalDependencies?: Record<string, string> }> };

describe("package.json", () => {
  it("pins every dependency exactly", () => {
    const loose = Object.entries({ ...manifest.dependencies, ...manifest.devDependencies }).filter(([, version]) => !/^\d+\.\d+\.\d+(-[\w.]+)?$/.test(version));
    expect(loose).toEqual([]);
  });

  it("has one copy each of workerd, wrangler and miniflare", () => {
    const copies = Object.keys(lock.packages).filter((path) => /(^|\/)node_modules\/(workerd|wrangler|miniflare)$/.test(path));
    expect(copies.sort()).toEqual(["node_modules/miniflare", "node_modules/workerd", "node_modules/wrangler"]);
  });

  it("names no registry in the lock file, so that every user's own is used", () => {
    expect(Object.entries(lock.packages).filter(([, entry]) => entry.resolved !== undefined)).toEqual([]);
  });

  it("locks the optional packages of every platform: npm ci refuses a lock file that leaves one out", () => {
    const locked = new Set(Object.keys(lock.packages).map((path) => path.replace(/^.*node_modules\//, "")));
    const missing = Object.values(lock.packages).flatMap((entry) => Object.keys(entry.optionalDependencies ?? {})).filter((name) => !locked.has(name));
    expect(missing).toEqual([]);
  });

  it("explains every dependency in docs/dependencies.md, with its version", () => {
    const documented = read("docs/dependencies.md");
    const missing = Object.entries({ ...manifest.dependencies, ...manifest.devDependencies }).filter(([name, version]) => !documented.includes(`\`${name}\` ${version}`));
    expect(missing).toEqual([]);
  });

  it("runs in CI exactly what the README tells a newcomer to run", () => {
    expect(read("README.md")).toMatch(/^npm test\b/m);
    expect(read(".ci/run")).toMatch(/^npm test$/m);
  });
});
