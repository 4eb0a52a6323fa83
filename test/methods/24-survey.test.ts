// Row 24, the survey's taxonomy of gates: each family is a kind that a model can name, with golden models, or is known to training alone and said to be. The registry
// (model/routing-kinds.ts) is what the page shows and what the schema takes; a kind without a golden case does not compile (support/routing-cases.ts).

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { ROOT } from "../../cli/setup.mjs";
import { configSchema } from "../../formats/config-schema.ts";
import { freezeConfig } from "../../model/architectures/common.ts";
import { EXPERT_KINDS } from "../../model/kernels.ts";
import { GATE_KINDS } from "../../model/router-config.ts";
import { ROUTING_KINDS, TRAINING_ONLY } from "../../model/routing-kinds.ts";
import { kindsOf, pageWithTable } from "../routing-table.ts";
import { ROUTING_CASES } from "../support/routing-cases.ts";
import { goldenRoutings } from "../support/routing-golden.ts";

/** Where the survey's families of gates are: a kind of the registry, or a reason. */
const FAMILIES: Readonly<Record<string, string>> = {
  "dense": "select:top-k", "top-k": "select:top-k", "noisy": "noisy", "switch": "select:top-k", "expert choice": "expert choice", "hash": "gate:hash", "threshold": "select:threshold",
  "hierarchical or group": "select:groups", "cosine": "gate:cosine", "attention": "gate:attention", "task": "gate:tasks", "null": "select:null", "dense to sparse": "dense to sparse (Gumbel)",
};

it.each(Object.entries(FAMILIES))("the family %s is here", (_, where) => {
  const [stage, kind] = where.split(":");
  if (kind === undefined) expect(TRAINING_ONLY[where]?.length).toBeGreaterThan(40);
  else expect(ROUTING_KINDS[stage as keyof typeof ROUTING_KINDS]).toHaveProperty(kind);
});

describe("every registered kind", () => {
  it.each(Object.keys(ROUTING_CASES) as (keyof typeof ROUTING_CASES)[])("%s: its golden case has it, and its config is one that files may hold", (name) => {
    const { config } = ROUTING_CASES[name];
    expect(kindsOf(config)).toContain(name);
    expect(configSchema.parse(JSON.parse(JSON.stringify(freezeConfig("the case", structuredClone(config)))))).toEqual(JSON.parse(JSON.stringify(config)));
  });

  it("is what a config can name: no gate and no expert is missing", () => {
    expect(Object.keys(ROUTING_KINDS.gate).sort()).toEqual(["linear", ...GATE_KINDS].sort());
    expect(Object.keys(ROUTING_KINDS.expert).sort()).toEqual([...EXPERT_KINDS, "product"].sort());
  });

  it("that is more than a release has was computed by PyTorch too", () => {
    const compared = new Set(goldenRoutings().flatMap(({ config }) => kindsOf(config)));
    const own = Object.keys(ROUTING_CASES).filter((name) => !compared.has(name));
    // Those of published architectures are compared with llama.cpp and PyTorch elsewhere; conditions and zero experts, by hand.
    expect(own.sort()).toEqual(["combine:auxiliary", "combine:shared", "expert:clamped-swiglu", "gate:conditions", "score:one", "score:sigmoid", "select:groups", "select:sparsemixer", "select:zero", "table:latent", "weigh:one"]);
  });
});

it("docs/routing.md shows the registry of now (node test/routing-table.ts --write)", () => {
  const page = readFileSync(join(ROOT, "docs/routing.md"), "utf8");
  expect(pageWithTable(page)).toBe(page);
});

it("a model with several kinds at once is held to the definition too: branches, gates of two layers, a scope", () => {
  expect(kindsOf(ROUTING_CASES["combine:concat"].config)).toEqual(expect.arrayContaining(["gate:mlp", "scope:token", "scope:sequence", "combine:concat", "weigh:softmax-selected"]));
});
