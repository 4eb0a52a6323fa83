// Every registered kind of gate, scope, score, selection, weight and expert against the float64 definition, on its golden case (routing-cases.ts); the same bits
// whatever the chunks and the company; and the page's table of kinds is the registry's.

import { beforeAll, describe, expect, it } from "vitest";
import { buildKernels } from "../../../cli/build-kernels.mjs";
import { openPackFrom } from "../../../cli/open-pack.ts";
import { freezeConfig } from "../../../model/architectures/common.ts";
import type { ModelConfig } from "../../../model/config.ts";
import { forwardDefinition } from "../../../model/definition.ts";
import type { Engine } from "../../../model/engine.ts";
import type { GateAnswers } from "../../../model/gate-stage.ts";
import { ROUTING_KINDS } from "../../../model/routing-kinds.ts";
import { createScalarKernels } from "../../../model/scalar-kernels.ts";
import { RESERVED_BYTES } from "../../../model/wasm-kernels.ts";
import { directEngine, logitsOf } from "../../support/direct-engine.ts";
import { packToMemory } from "../../support/pack-to-memory.ts";
import { plainCheckpoint } from "../../support/plain-checkpoint.ts";
import { ROUTING_CASES } from "../../support/routing-cases.ts";
import { seededWeights } from "../../support/seeded-model.ts";

beforeAll(() => buildKernels({ log: () => {} }));

const IDS = [3, 17, 60, 4, 4, 29, 8, 55, 31, 12, 0, 41, 7];
const engineOf = (config: ModelConfig, maxChunkTokens = 16, weightsOf = seededWeights): Engine => {
  const memory = new WebAssembly.Memory({ initial: 16 });
  return directEngine(config, weightsOf(config, 5), RESERVED_BYTES, { kernels: createScalarKernels(memory), contextLength: 64, maxChunkTokens }).engine;
};
const settings = (answers?: GateAnswers) => (answers === undefined ? {} : { answers });
/** A line for a vitest title. */
const names = Object.entries(ROUTING_KINDS).flatMap(([stage, kinds]) => Object.keys(kinds).map((kind) => `${stage}:${kind}` as keyof typeof ROUTING_CASES));

describe.each(names)("%s", (name) => {
  const { config, answers, weights: weightsOf = seededWeights } = ROUTING_CASES[name];

  it("is a config that the check takes, and gives the definition's logits", async () => {
    freezeConfig("the case", structuredClone(config));
    const { logits, routing } = forwardDefinition(config, weightsOf(config, 5), IDS, IDS.length, answers);
    const clear = Math.min(Infinity, ...routing.flat().map(({ margin }) => margin));
    expect(clear, "the choice of experts is clear").toBeGreaterThan(1e-5);
    const found = await logitsOf(engineOf(config, 16, weightsOf), IDS, [IDS.length], settings(answers));
    const scale = Math.max(...logits.flat().map(Math.abs));
    expect(scale).toBeGreaterThan(0.1);
    logits.flat().forEach((value, i) => expect(Math.abs(found[i]! - value) / scale, `logit ${i}`).toBeLessThan(2e-5));
  });

  it("goes through a pack: in f32 the same numbers, in 8 bits those of 8-bit weights", async () => {
    for (const [quant, tolerance] of [["f32", 2e-5], ["q8", 0.08]] as const) {
      const { source } = await packToMemory(plainCheckpoint(config, weightsOf(config, 5)), { quant, kvFormat: "f32" });
      const { engine } = await openPackFrom(source);
      const { logits } = forwardDefinition(config, weightsOf(config, 5), IDS, IDS.length, answers);
      const scale = Math.max(...logits.flat().map(Math.abs));
      const found = await logitsOf(engine, IDS, [IDS.length], settings(answers));
      const errors = logits.flat().map((value, i) => Math.abs(found[i]! - value) / scale).sort((a, b) => a - b);
      // In 8 bits a token near a border may go to another expert: the middle is judged.
      expect(errors[quant === "f32" ? errors.length - 1 : errors.length >> 1]!).toBeLessThan(tolerance);
    }
  });

  it("gives the same bits token by token, in chunks, at once, and beside others", async () => {
    const whole = await logitsOf(engineOf(config, 16, weightsOf), IDS, [IDS.length], settings(answers));
    for (const chunks of [[1], [5, 1, 3]]) expect(await logitsOf(engineOf(config, 7, weightsOf), IDS, chunks, settings(answers))).toEqual(whole);
    const engine = engineOf(config, 32, weightsOf);
    const [other, timeline] = [engine.kv.open(16), engine.kv.open(16)];
    const { logits } = await engine.step([{ timeline: other, ids: IDS.slice(3).reverse(), logits: "all", ...settings(answers) }, { timeline, ids: IDS, logits: "all", ...settings(answers) }]);
    expect(logits[1]).toEqual(whole);
  });
});
