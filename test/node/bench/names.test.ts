// The benchmarks that docs/benchmarks.md lists are those that `npm run bench` knows: the command finds them by their headers, so a header that is written
// another way would lose one without a sign.

import { execFile } from "node:child_process";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { expect, it } from "vitest";

const file = (path: string): string => fileURLToPath(new URL(`../../../${path}`, import.meta.url));

it("are the same in the document and in the command", async () => {
  const listed = [...readFileSync(file("docs/benchmarks.md"), "utf8").matchAll(/^\| `([\w-]+)` \| [\d.]+ (?:min|s)\b/gm)].map(([, name]) => name!);
  expect(listed.length).toBeGreaterThan(5);
  const { stderr } = await promisify(execFile)(process.execPath, [file("bin/workers-moe.js"), "bench", "nothing"]).catch((cause: { stderr: string }) => cause);
  const known = /expected ([\w, -]+) or all\./.exec(stderr)?.[1]!.split(", ") ?? [];
  expect(listed.sort()).toEqual(known);
});
