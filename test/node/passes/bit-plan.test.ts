// The grammar of bit plans: what each rule reaches, which one counts, and what is refused.

import { expect, it } from "vitest";
import { parseBitPlan } from "../../../passes/bit-plan.ts";
import { tinyModel } from "../../support/tiny-models.ts";

const { config } = tinyModel("deepseek_v2", 1); // layer 0 dense, then 8 experts and a shared one

const typesOf = (text: string, ...names: readonly string[]): (string | null)[] => {
  const plan = parseBitPlan(text, config);
  return names.map((name) => plan.typeOf({ name, nRows: 64 }));
};

it("names structures", () => {
  expect(typesOf("attn=4; shared=8; routed=2; embed=8", "layers.0.q", "layers.1.kB.3", "layers.1.shared.gate", "layers.0.shared.gate", "layers.2.experts.7.down", "embed", "head"))
    .toEqual(["Q4_0", "Q4_0", "Q8_0", null, "Q2_32", "Q8_0", null]);
  expect(typesOf("dense=4; shared=3", "layers.0.shared.down", "layers.1.shared.down")).toEqual(["Q4_0", "Q3_32"]);
});

it("lets later rules take precedence, by layers, experts and matrices", () => {
  const text = "all=8; routed=2; routed[l2]=4; exp[l1e3]=4; exp[l1e3].down=16; attn[l0-1]=16";
  expect(typesOf(text, "layers.1.experts.2.up", "layers.2.experts.2.up", "layers.1.experts.3.up", "layers.1.experts.3.down", "layers.1.o", "layers.2.o", "head"))
    .toEqual(["Q2_32", "Q4_0", "Q4_0", null, null, "Q8_0", "Q8_0"]);
  expect(typesOf("routed.down=4", "layers.1.experts.0.gate", "layers.1.experts.0.down")).toEqual([null, "Q4_0"]);
});

it("leaves routers, norms and vectors alone", () => {
  expect(typesOf("all=2", "layers.1.router", "layers.1.attnNorm", "norm", "rope")).toEqual([null, null, null, null]);
  expect(parseBitPlan("all=2", config).typeOf({ name: "layers.1.o", nRows: 1 })).toBeNull();
});

it.each([
  ["", "The bit plan has no rule; expected such as \"attn=8; routed=4\"."],
  ["attn=5", "The bit plan's rule \"attn=5\" does not end in =2, =3, =4, =8, =16: the widths that kernels have, and 16 for as it is."],
  ["attn", "The bit plan's rule \"attn\" does not end in"],
  ["attn=4=8", "does not end in"],
  ["experts=4", "The bit plan's rule \"experts=4\" names no part of a model; expected all, embed, head, attn, dense, shared, routed, perhaps with layers such as routed[l0-3], or one expert such as exp[l1e3], perhaps .gateUp or .down behind."],
  ["exp[l1e8]=4", "names an expert that is not there: layers with experts have 0 to 7."],
  ["exp[l0e1]=4", "names an expert that is not there"],
  ["attn[l0-3]=4", "names a layer that is not there: the model has 0 to 2."],
])("refuses %j", (text, message) => {
  expect(() => parseBitPlan(text, config)).toThrow(message);
});
