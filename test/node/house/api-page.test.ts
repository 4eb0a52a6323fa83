// docs/api.md is what the schemas say, and every field of a request has a test that is there.

import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { ROOT } from "../../../cli/setup.mjs";
import { parts, requestFields } from "../../api-page.ts";
import { CONFORMANCE, refusalsIn } from "../../support/conformance.ts";

it.each(parts().map(({ name, written, computed }) => [name, written, computed] as const))("%s as it is computed", (_, written, computed) => {
  expect(written, "`node test/api-page.ts --write` brings the page up to date").toBe(computed);
});

describe("the conformance table", () => {
  it.each(requestFields().map(([name, field]) => [name, field] as const))("has a test of %s.%s", (name, field) => {
    expect(CONFORMANCE[name]?.[field] ?? []).not.toEqual([]);
  });

  it("names no field that is gone", () => {
    const known = new Set(requestFields().map(([name, field]) => `${name}.${field}`));
    for (const [name, fields] of Object.entries(CONFORMANCE)) for (const field of Object.keys(fields)) expect(known).toContain(`${name}.${field}`);
  });

  it.each([...new Set(Object.values(CONFORMANCE).flatMap((fields) => Object.values(fields).flat()))])("%s exists", (test) => {
    const [file, ...titles] = test.split(" > ");
    expect(existsSync(join(ROOT, file!))).toBe(true);
    const source = readFileSync(join(ROOT, file!), "utf8");
    for (const title of titles) expect(source, title).toContain(JSON.stringify(title));
  });

  it("finds the refusals that name a field", () => {
    const refused = refusalsIn(readFileSync(join(ROOT, "test/workerd/api-refusals.test.ts"), "utf8"));
    for (const field of ["model", "prompt", "messages", "temperature", "stop", "logprobs", "moe"]) expect(refused.get(field) ?? [], field).not.toEqual([]);
  });
});
