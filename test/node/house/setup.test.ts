// The set-up script behind `npm start` and `npm test`: what it counts as installed, as changed, and what it puts into the assets folder.

import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterEach, describe, expect, it } from "vitest";
import { assembleAssets, hashOf, missingPackages, pinnedNode, ROOT } from "../../../cli/setup.mjs";

const folders: string[] = [];
function folder(files: Readonly<Record<string, string>>): string {
  const root = mkdtempSync(join(tmpdir(), "workers-moe-setup-"));
  folders.push(root);
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(dirname(join(root, name)), { recursive: true });
    writeFileSync(join(root, name), text);
  }
  return root;
}
afterEach(() => folders.splice(0).forEach((root) => rmSync(root, { recursive: true, force: true })));

const packages = (entries: object): string => JSON.stringify({ packages: { "": {}, ...entries } });

describe("missingPackages", () => {
  const lock = packages({ "node_modules/a": { version: "1.0.0" }, "node_modules/other-platform": { version: "2.0.0", optional: true } });

  it("finds nothing where what is installed is what the lock says", () => {
    const root = folder({ "package-lock.json": lock, "node_modules/.package-lock.json": packages({ "node_modules/a": { version: "1.0.0" } }), "node_modules/a/package.json": "{}" });
    expect(missingPackages(root)).toBeNull();
  });
  it("names a missing node_modules", () => {
    expect(missingPackages(folder({ "package-lock.json": lock }))).toBe("node_modules is missing");
  });
  it("names a package of another version", () => {
    const root = folder({ "package-lock.json": lock, "node_modules/.package-lock.json": packages({ "node_modules/a": { version: "0.9.0" } }), "node_modules/a/package.json": "{}" });
    expect(missingPackages(root)).toBe("node_modules/a is 0.9.0, package-lock.json wants 1.0.0");
  });
  it("names a package whose folder was deleted", () => {
    const root = folder({ "package-lock.json": lock, "node_modules/.package-lock.json": packages({ "node_modules/a": { version: "1.0.0" } }) });
    expect(missingPackages(root)).toBe("node_modules/a is missing");
  });
  it("finds this checkout complete, since the tests run in it", () => {
    expect(missingPackages(ROOT)).toBeNull();
    expect(existsSync(pinnedNode)).toBe(true);
  });
});

describe("hashOf", () => {
  it("changes with a byte, with a name and with a new file, and with nothing else", () => {
    const root = folder({ "in/a.txt": "one", "out.txt": "x" });
    const first = hashOf(root, ["in"]);
    writeFileSync(join(root, "out.txt"), "y");
    expect(hashOf(root, ["in"])).toBe(first);
    writeFileSync(join(root, "in/a.txt"), "two");
    const changed = hashOf(root, ["in"]);
    writeFileSync(join(root, "in/b.txt"), "");
    expect(new Set([first, changed, hashOf(root, ["in"])]).size).toBe(3);
  });
});

describe("assembleAssets", () => {
  it("puts packs below packs/<id> and clears what was there", () => {
    const root = folder({ "pack/manifest.json": "{}", "pack/parts/00000.bin": "bytes", "assets/old.txt": "old" });
    assembleAssets(join(root, "assets"), { tiny: join(root, "pack") });
    expect(readFileSync(join(root, "assets/packs/tiny/parts/00000.bin"), "utf8")).toBe("bytes");
    expect(existsSync(join(root, "assets/old.txt"))).toBe(false);
  });
});

describe("the script", () => {
  it("refuses an unknown command and names those there are", () => {
    const done = spawnSync(process.execPath, [join(ROOT, "cli/setup.mjs"), "fly"], { encoding: "utf8" });
    expect(done.status).toBe(1);
    expect(done.stderr).toContain('"fly" is not one of build, start, test, bench, check, deploy.');
  });

  it("imports nothing but Node's own modules, because it runs before packages exist", () => {
    const specifiers = [...readFileSync(join(ROOT, "cli/setup.mjs"), "utf8").matchAll(/^import .*"([^"]+)";$/gm)].map((match) => match[1]!);
    expect(specifiers.length).toBeGreaterThan(0);
    expect(specifiers.filter((specifier) => !specifier.startsWith("node:"))).toEqual([]);
  });
});
