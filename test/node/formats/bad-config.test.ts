// A config.json that contradicts its tensors, or is none: every size of every architecture in turn off by one, doubled, halved, zero, negative,
// enormous, of another kind, null or missing. Each is refused in one sentence that names the file and the key, or the tensor and both shapes.

import { describe, expect, it } from "vitest";
import { openHuggingFace } from "../../../formats/huggingface.ts";
import { MemorySource } from "../../../formats/memory-source.ts";
import { refusalOf } from "../../support/refusal.ts";
import { TINY_ARCHITECTURES, tinyModel } from "../../support/tiny-models.ts";

const encoder = new TextEncoder();

/** Keys that say how large tensors are, or how many; where they are given. */
const SIZES = ["vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size", "moe_intermediate_size", "shared_intermediate_size",
  "shared_expert_intermediate_size", "num_experts", "num_local_experts", "n_routed_experts", "n_shared_experts", "kv_lora_rank", "q_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"];

/** Where another number contradicts nothing: what the architecture does not read in a model of these layers. */
const UNUSED: Readonly<Record<string, readonly string[]>> = {
  qwen3_moe: ["intermediate_size"], qwen2_moe: ["intermediate_size"], // every layer has experts
  deepseek_v2: ["num_key_value_heads"], deepseek_v3: ["num_key_value_heads"], // latent attention has one
};
/** What stands for a missing key is the released value, the class's default, or what the other keys say. */
const OPTIONAL = new Set(["head_dim", "num_key_value_heads", "q_lora_rank", "n_shared_experts", "intermediate_size", "shared_intermediate_size"]);

describe.each(TINY_ARCHITECTURES)("%s", (architecture) => {
  const model = tinyModel(architecture, 64);
  const files = model.huggingFaceFiles();
  const withConfig = (change: (config: Record<string, unknown>) => string | void): Promise<string | null> => {
    const config = { ...model.configJson };
    const text = change(config) ?? JSON.stringify(config);
    return refusalOf(() => openHuggingFace(new MemorySource(new Map(files).set("config.json", encoder.encode(text))), "tiny"));
  };
  const keys = SIZES.filter((key) => typeof model.configJson[key] === "number" && !(UNUSED[architecture] ?? []).includes(key));

  it("every size that is another", async () => {
    expect(await withConfig(() => undefined)).toBeNull();
    expect(keys.length).toBeGreaterThan(5);
    for (const key of keys) {
      const value = model.configJson[key] as number;
      for (const other of [value + 1, value - 1, value * 2, value / 2, value + 0.5, 0, -value, 2 ** 31, 2 ** 53, 1e300]) {
        expect(await withConfig((config) => { config[key] = other; }), `${key} = ${other} in place of ${value}`).toMatch(/^memory[,:] /);
      }
    }
  });

  it("every size that is no number", async () => {
    for (const key of keys) {
      for (const text of [`"${String(model.configJson[key])}"`, "true", "[]", "{}", "[64]", "1e999", '"NaN"', "9007199254740993"]) {
        const message = await withConfig((config) => JSON.stringify(config).replace(`"${key}":${String(model.configJson[key])}`, `"${key}":${text}`));
        expect(message, `${key} = ${text}`).toMatch(new RegExp(`^memory, config\\.json has ${key} = .*, expected `));
      }
    }
  });

  it("every size that is missing or null", async () => {
    for (const key of keys) {
      for (const change of [(c: Record<string, unknown>) => { delete c[key]; }, (c: Record<string, unknown>) => { c[key] = null; }]) {
        const message = await withConfig(change);
        if (OPTIONAL.has(key) && message === null) continue;
        expect(message, key).toMatch(OPTIONAL.has(key) ? /^memory/ : new RegExp(`^memory, config\\.json has no ${key}, expected a whole number`));
      }
    }
  });

  it("every key of another kind: read or refused, never anything else", async () => {
    for (const key of Object.keys(model.configJson)) {
      for (const value of [null, true, false, 0, -1, 0.5, 1e308, "", "x", [], {}, [null], { type: null }, [[]]]) await withConfig((config) => { config[key] = value; });
    }
  });

  it("a scaling of rotary frequencies that is none", async () => {
    const scaling = model.configJson["rope_scaling"];
    if (scaling === null || typeof scaling !== "object") return;
    const wrong = (value: unknown): Promise<string | null> => withConfig((config) => { config["rope_scaling"] = value; });
    // Without its type the factor would be passed over.
    for (const type of [null, "default"]) expect(await wrong({ ...scaling, type, rope_type: type })).toMatch(/^memory, config\.json, rope_scaling has \w*factor = .*without a "type"/);
    for (const [key, value] of Object.entries(scaling)) {
      for (const other of ["x", -1, 0, {}, [], [1], [..."12345678"], Array(8).fill(-1), Array(8).fill(null)]) {
        const message = await wrong({ ...scaling, [key]: other });
        // A ramp may be of any width, and not rounded.
        if (message === null) expect(["beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"], `${key} = ${JSON.stringify(other)} in place of ${JSON.stringify(value)}`).toContain(key);
        else expect(message).toMatch(/^memory, config\.json/);
      }
    }
  });
});

describe("a config.json that is none", () => {
  const open = (text: string | Uint8Array): Promise<string | null> =>
    refusalOf(() => openHuggingFace(new MemorySource(tinyModel("olmoe", 64).huggingFaceFiles().set("config.json", typeof text === "string" ? encoder.encode(text) : text)), "tiny"));

  it("cut at every byte", async () => {
    const whole = tinyModel("olmoe", 64).huggingFaceFiles().get("config.json")!;
    const end = whole.lastIndexOf("}".charCodeAt(0)) + 1;
    for (let length = 0; length < end; length++) expect(await open(whole.slice(0, length)), `${length} bytes`).toMatch(/^memory, config\.json is no valid JSON: .*\.$/);
    expect(await open(whole.slice(0, end))).toBeNull();
  });

  it.each<[string | Uint8Array, RegExp]>([
    ["null", /config\.json should hold a JSON object, found null/], ["[]", /found \[\]/], ["5", /found 5/], ["{}", /config\.json has no model_type, expected a string/],
    [Uint8Array.of(0x7b, 0xff, 0x7d), /config\.json is no valid JSON/], [`{"model_type": "${"x".repeat(100_000)}"}`, /has model_type = "x{64}\.\.\.", an architecture this version does not know/],
    ['{"model_type": "__proto__"}', /has model_type = "__proto__", an architecture/], ['{"model_type": "line\\nend"}', /has model_type = "line\\u000aend"/],
    ["[".repeat(100_000), /no valid JSON/], [`${"[".repeat(65)}${"]".repeat(65)}`, /nests objects and lists more than 64 deep/], [`${"[".repeat(64)}${"]".repeat(64)}`, /should hold a JSON object/],
  ])("%#", async (text, message) => {
    expect(await open(text)).toMatch(message);
  });

  it.each(["generation_config.json", "tokenizer_config.json", "tokenizer.json"])("%s of another kind, or cut at every byte", async (file) => {
    const files = tinyModel("olmoe", 64).huggingFaceFiles();
    const withFile = (bytes: Uint8Array) => refusalOf(() => openHuggingFace(new MemorySource(new Map(files).set(file, bytes)), "tiny"));
    for (const text of ["null", "[]", "5", '"x"']) expect(await withFile(encoder.encode(text)), text).toMatch(new RegExp(`^memory, ${file.replace(".", "\\.")} `));
    const whole = files.get(file)!;
    const end = whole.lastIndexOf("}".charCodeAt(0)) + 1;
    for (let length = 0; length < end; length++) expect(await withFile(whole.slice(0, length)), `${length} bytes`).toMatch(new RegExp(`^memory, ${file.replace(".", "\\.")} is no valid JSON`));
  });

  it("settings of the tokenizer of any kind: read or refused", async () => {
    const files = tinyModel("olmoe", 64).huggingFaceFiles();
    for (const key of ["bos_token", "eos_token", "chat_template", "added_tokens_decoder", "add_bos_token", "tokenizer_class", "legacy"]) {
      for (const value of [null, 5, "", [], {}, [null], [{}], { content: 5 }, { 0: null }, { "-1": { content: "x" } }, { 1e9: { content: "x" } }, [{ name: "default", template: 5 }]]) {
        for (const withJson of [true, false]) {
          const changed = new Map(files).set("tokenizer_config.json", encoder.encode(JSON.stringify({ [key]: value })));
          if (!withJson) changed.delete("tokenizer.json");
          await refusalOf(() => openHuggingFace(new MemorySource(changed), "tiny"));
        }
      }
    }
  });
});
