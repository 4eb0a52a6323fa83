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
import { inspect, inspectionText } from "../../cli/commands/inspect.ts";
import { kindsOf, noteOf, ROUTING_KINDS, type RoutingKindName, TRAINING_ONLY } from "../../model/routing-kinds.ts";
import { pageWithTable } from "../routing-table.ts";
import { plainCheckpoint } from "../support/plain-checkpoint.ts";
import { ROUTING_CASES } from "../support/routing-cases.ts";
import { goldenRoutings } from "../support/routing-golden.ts";
import { seededWeights } from "../support/seeded-model.ts";

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
  it.each(Object.keys(ROUTING_CASES) as RoutingKindName[])("%s: its golden case has it, and its config is one that files may hold", (name) => {
    const { config } = ROUTING_CASES[name];
    expect(kindsOf(config)).toContain(name);
    expect(configSchema.parse(JSON.parse(JSON.stringify(freezeConfig("the case", structuredClone(config)))))).toEqual(JSON.parse(JSON.stringify(config)));
  });

  // What every model has needs no line, and what the lines of experts and branches say is not said twice.
  const IN_OTHER_WORDS: Partial<Readonly<Record<RoutingKindName, RegExp>>> = {
    "gate:linear": /router +softmax/, "scope:token": /router +softmax/, "table:own": /8 per layer, 2 per token/, "combine:sum": /8 per layer, 2 per token/, "expert:swiglu": /8 per layer, 2 per token/,
    "table:latent": /reading 32 numbers of a token \(2 latent groups\)/, "combine:shared": /and a shared one, 72 wide/, "combine:auxiliary": /2 per token and 2 that stand by/,
    "combine:concat": /branch 0 +2 of experts 0 to 3, numbers 0 to 23 of the row; the gate reads the token's own row\n +branch 1 +1 of experts 4 to 7, numbers 24 to 47 .*first rows \(5\)/,
    "expert:product": /product experts +[0-9,]+ in each of 2 layers/,
  };
  const SETTINGS: Partial<Readonly<Record<RoutingKindName, string>>> = {
    "gate:tasks": " (3 tasks)", "gate:mlp": " (20 wide)", "scope:sequence": " (6)", "scope:condition": " (8 numbers)", "table:pool": " (8 for every 2 layers)", "select:null": " (6 of them)",
    "select:threshold": " (above 0.08 at temperature 2)",
  };
  it.each(Object.keys(ROUTING_CASES) as RoutingKindName[])("%s: inspect names it", (name) => {
    const { config, weights: weightsOf = seededWeights } = ROUTING_CASES[name];
    const found = inspect({ kind: "checkpoint", checkpoint: plainCheckpoint(config, weightsOf(config, 5)) });
    expect(found.routing).toContain(name);
    expect(inspectionText(found)).toEqual(IN_OTHER_WORDS[name] === undefined ? expect.stringContaining(`${noteOf(name).does}${SETTINGS[name] ?? ""}`) : expect.stringMatching(IN_OTHER_WORDS[name]));
  });

  it("is what a config can name: no gate and no expert is missing", () => {
    expect(Object.keys(ROUTING_KINDS.gate).sort()).toEqual(["linear", ...GATE_KINDS].sort());
    expect(Object.keys(ROUTING_KINDS.expert).sort()).toEqual([...EXPERT_KINDS, "product"].sort());
  });

  it("that is more than a release has was computed by PyTorch too", () => {
    const compared = new Set(goldenRoutings().flatMap(({ config }) => kindsOf(config)));
    const own = (Object.keys(ROUTING_CASES) as RoutingKindName[]).filter((name) => !compared.has(name));
    // Those of published architectures are compared with llama.cpp and PyTorch elsewhere; conditions, by hand.
    expect(own.sort()).toEqual(["combine:auxiliary", "combine:shared", "expert:clamped-swiglu", "gate:conditions", "score:one", "score:sigmoid", "select:groups", "select:sparsemixer", "table:latent", "weigh:one"]);
  });
});

it("docs/routing.md shows the registry of now (node test/routing-table.ts --write)", () => {
  const page = readFileSync(join(ROOT, "docs/routing.md"), "utf8");
  expect(pageWithTable(page)).toBe(page);
});

it("a model with several kinds at once is held to the definition too: branches, gates of two layers, a scope", () => {
  expect(kindsOf(ROUTING_CASES["combine:concat"].config)).toEqual(expect.arrayContaining(["gate:mlp", "scope:token", "scope:sequence", "combine:concat", "weigh:softmax-selected"]));
});
