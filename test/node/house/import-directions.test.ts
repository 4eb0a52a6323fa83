// The rooms of the house and who may import whom (docs/architecture.md). Reads the import lines of every source file; nothing is executed.

import { readdirSync, readFileSync, statSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import { describe, expect, it } from "vitest";

const ROOT = resolve(import.meta.dirname, "../../..");

/** Rooms a room may import, itself left out. `types:` means `import type` only. */
const MAY_IMPORT: Readonly<Record<string, readonly string[]>> = {
  "kernels-as": [],
  model: [],
  formats: ["model"],
  fleet: ["model"],
  passes: ["model", "formats", "fleet"],
  durable: ["model", "formats", "fleet", "build"],
  worker: ["model", "formats", "durable"],
  web: ["types:worker"],
  sim: ["model", "formats", "fleet", "durable"],
  cli: ["model", "formats", "fleet", "passes", "durable", "worker", "bench", "build", "kernels-as"],
  bench: ["model", "formats", "fleet", "passes", "durable", "worker", "cli", "build"],
  bin: ["cli"],
  test: ["model", "formats", "fleet", "passes", "durable", "worker", "web", "sim", "cli", "bench", "demo", "kernels-as", "build"],
};
/** Rooms that may use Node's own modules, and Cloudflare's. */
const NODE_ROOMS = ["cli", "bin", "bench", "sim", "test"];
const CLOUDFLARE_ROOMS = ["durable", "worker"];

interface Import {
  readonly file: string;
  readonly specifier: string;
  readonly typeOnly: boolean;
}

function sourceFiles(folder: string): string[] {
  let names: string[];
  try {
    names = readdirSync(folder);
  } catch {
    return []; // a room of the plan that is not built yet
  }
  return names.filter((name) => name !== "node_modules").flatMap((name) => {
    const path = join(folder, name);
    if (statSync(path).isDirectory()) return sourceFiles(path);
    return /\.(ts|mts|mjs|js)$/.test(name) ? [path] : [];
  });
}

/** Import and export-from statements, dynamic imports included. */
export function importsOf(file: string, source: string): Import[] {
  const found: Import[] = [];
  const statement = /^\s*(?:import|export)\s+(type\s+)?(?:[^"';]*?\sfrom\s+)?["']([^"']+)["']/gm;
  for (const match of source.matchAll(statement)) found.push({ file, specifier: match[2]!, typeOnly: match[1] !== undefined });
  for (const match of source.matchAll(/\bimport\(\s*["']([^"']+)["']\s*\)/g)) found.push({ file, specifier: match[1]!, typeOnly: false });
  return found;
}

const roomOf = (path: string): string => relative(ROOT, path).split("/")[0]!;

/** Why an import is not allowed, or null. */
export function objection(room: string, { file, specifier, typeOnly }: Import): string | null {
  const where = `${relative(ROOT, file)} imports ${specifier}`;
  if (specifier.startsWith("node:")) return NODE_ROOMS.includes(room) ? null : `${where}: node:* belongs to ${NODE_ROOMS.join(", ")}.`;
  if (specifier.startsWith("cloudflare:")) {
    const path = relative(ROOT, file);
    const allowed = CLOUDFLARE_ROOMS.includes(room) || path.startsWith("test/workerd/") || /^bench\/[a-z-]+-worker\.ts$/.test(path);
    return allowed ? null : `${where}: cloudflare:* belongs to ${CLOUDFLARE_ROOMS.join(", ")}, test/workerd and bench/*-worker.ts, which run in workerd.`;
  }
  if (!specifier.startsWith(".")) return null;
  const target = roomOf(resolve(dirname(file), specifier));
  if (target === room || target.endsWith(".json")) return null;
  const allowed = MAY_IMPORT[room] ?? [];
  if (allowed.includes(target) || (typeOnly && allowed.includes(`types:${target}`))) return null;
  return `${where}: ${room} may import ${allowed.length === 0 ? "no other room" : allowed.join(", ")}${typeOnly ? " (this is a type import)" : ""}.`;
}

describe("import directions", () => {
  for (const room of Object.keys(MAY_IMPORT)) {
    it(`${room} imports only what it may`, () => {
      const objections = sourceFiles(join(ROOT, room))
        .flatMap((file) => importsOf(file, readFileSync(file, "utf8")))
        .map((entry) => objection(room, entry))
        .filter((sentence) => sentence !== null);
      expect(objections).toEqual([]);
    });
  }

  it("reads every form of import", () => {
    const source = [
      'import type { A } from "../a.ts";', 'import {\n  b,\n  c,\n} from "../b.ts";', 'export * from "../c.ts";', 'import "../d.ts";',
      'const e = await import("../e.ts");', '// import "../not-a-line.ts" is a comment',
    ].join("\n");
    expect(importsOf("x.ts", source).map((entry) => `${entry.typeOnly ? "type " : ""}${entry.specifier}`))
      .toEqual(["type ../a.ts", "../b.ts", "../c.ts", "../d.ts", "../e.ts"]);
  });

  it("objects to what the table forbids", () => {
    const at = (path: string, specifier: string, typeOnly = false) => objection(path.split("/")[0]!, { file: join(ROOT, path), specifier, typeOnly });
    expect(at("model/x.ts", "../formats/y.ts")).toMatch(/model may import no other room/);
    expect(at("model/x.ts", "node:fs")).toMatch(/node:\* belongs/);
    expect(at("formats/x.ts", "cloudflare:workers")).toMatch(/cloudflare:\* belongs/);
    expect(at("web/x.ts", "../worker/y.ts")).toMatch(/web may import/);
    expect(at("web/x.ts", "../worker/y.ts", true)).toBeNull();
    expect(at("worker/x.ts", "../cli/y.ts")).toMatch(/worker may import/);
    expect(at("durable/x.ts", "../cli/y.ts")).toMatch(/durable may import/);
    expect(at("cli/x.ts", "../test/y.ts")).toMatch(/cli may import/);
  });
});

describe("file headers", () => {
  it("open every source file with a comment that says what it owns", () => {
    const without = Object.keys(MAY_IMPORT)
      .flatMap((room) => sourceFiles(join(ROOT, room)))
      .filter((file) => !/^(#![^\n]*\n)?(\/\/ |\/\*)/.test(readFileSync(file, "utf8")));
    expect(without.map((file) => relative(ROOT, file))).toEqual([]);
  });

  it("no file is named utils", () => {
    const all = Object.keys(MAY_IMPORT).flatMap((room) => sourceFiles(join(ROOT, room)));
    expect(all.filter((file) => /(^|\/)(utils|helpers|misc)\.[a-z]+$/.test(file))).toEqual([]);
  });
});
