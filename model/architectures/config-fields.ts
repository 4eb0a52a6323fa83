// Typed reading of a configuration object (config.json or GGUF metadata), with errors that name file and key.
// Owns the rule that a value this version does not understand is refused, never ignored. JSON does not tell 1 from 1.0,
// so any finite number serves where a float is wanted and any whole number where an integer is.
// Refuses: knowledge of architectures (they say which keys and values they take).

import { CONFIG_MOST, ModelError } from "../config.ts";

const show = (value: unknown): string => {
  const text = JSON.stringify(value) ?? "nothing";
  return text.length > 120 ? text.slice(0, 117) + "..." : text;
};

/** CONFIG_MOST by the keys of both formats. */
const LARGEST: readonly (readonly [keys: RegExp, largest: number])[] = [
  [/(^|\.)(num_hidden_layers|block_count|nextn_predict_layers|num_nextn_predict_layers|first_k_dense_replace|leading_dense_block_count)$/, CONFIG_MOST.layers],
  [/(head_dim|key_length|value_length|key_length_mla|value_length_mla|dimension_count|kv_lora_rank|q_lora_rank)$/, CONFIG_MOST.headDim],
  [/(num_attention_heads|num_key_value_heads|head_count|head_count_kv)$/, CONFIG_MOST.heads],
  [/(hidden_size|embedding_length)$/, CONFIG_MOST.hidden],
  [/moe_experts$/, CONFIG_MOST.productKeys],
  [/(num_experts|num_local_experts|n_routed_experts|expert_count|expert_group_count|n_group)$/, CONFIG_MOST.experts],
];

export class ConfigFields {
  /** File of the values, for messages. */
  readonly file: string;
  readonly values: Readonly<Record<string, unknown>>;

  constructor(file: string, values: unknown) {
    if (typeof values !== "object" || values === null || Array.isArray(values)) {
      throw new ModelError(`${file} should hold a JSON object, found ${show(values)}.`);
    }
    this.file = file;
    this.values = values as Record<string, unknown>;
  }

  /** True when the key is there with a value other than null. */
  has(key: string): boolean {
    return this.values[key] !== undefined && this.values[key] !== null;
  }

  /** A whole number of at least `min`; `fallback` where the key is missing or null. */
  integer(key: string, min: number, fallback?: number): number {
    const value = this.#present(key, "a whole number", fallback);
    if (typeof value !== "number" || !Number.isSafeInteger(value) || value < min) {
      throw this.error(key, `a whole number of at least ${min}`);
    }
    const [, largest] = LARGEST.find(([keys]) => keys.test(key)) ?? [];
    if (largest !== undefined && value > largest) throw this.error(key, `at most ${largest}`);
    return value;
  }

  /** A finite number above 0. */
  positive(key: string, fallback?: number): number {
    const value = this.#present(key, "a number above 0", fallback);
    if (typeof value !== "number" || !Number.isFinite(value) || value <= 0) throw this.error(key, "a number above 0");
    return value;
  }

  boolean(key: string, fallback?: boolean): boolean {
    const value = this.#present(key, "true or false", fallback);
    if (typeof value !== "boolean") throw this.error(key, "true or false");
    return value;
  }

  string(key: string, fallback?: string): string {
    const value = this.#present(key, "a string", fallback);
    if (typeof value !== "string") throw this.error(key, "a string");
    return value;
  }

  /** A finite number, of any sign. */
  number(key: string, fallback?: number): number {
    const value = this.#present(key, "a number", fallback);
    if (typeof value !== "number" || !Number.isFinite(value)) throw this.error(key, "a number");
    return value;
  }

  /** A list of `length` numbers above 0. */
  positives(key: string, length: number): number[] {
    const value = this.#present(key, `a list of ${length} numbers above 0`, undefined);
    if (!Array.isArray(value) || value.length !== length || value.some((x) => typeof x !== "number" || !Number.isFinite(x) || x <= 0)) {
      throw this.error(key, `a list of ${length} numbers above 0`);
    }
    return value as number[];
  }

  /** A number above 0, or null where the key is missing or null. */
  positiveOrNull(key: string): number | null {
    return this.has(key) ? this.positive(key) : null;
  }

  /** Ids given as one number, a list or null. */
  ids(key: string): number[] {
    if (!this.has(key)) return [];
    const value = this.values[key];
    const list: unknown[] = Array.isArray(value) ? value : [value];
    for (const id of list) {
      if (typeof id !== "number" || !Number.isSafeInteger(id) || id < 0) throw this.error(key, "a token id or a list of token ids");
    }
    return list as number[];
  }

  /** A nested object, or null where the key is missing or null. */
  object(key: string): ConfigFields | null {
    if (!this.has(key)) return null;
    const value = this.values[key];
    if (typeof value !== "object" || Array.isArray(value)) throw this.error(key, "an object");
    return new ConfigFields(`${this.file}, ${key}`, value);
  }

  /** Refuses every value of the key but those listed (a missing key and null count as absent and pass). */
  only(key: string, allowed: readonly unknown[], why: string): void {
    if (this.has(key) && !allowed.some((a) => show(a) === show(this.values[key]))) {
      throw new ModelError(
        `${this.file} has ${key} = ${show(this.values[key])}, which this version cannot run (${why}); `
        + `expected ${allowed.length === 0 ? "no such key" : allowed.map(show).join(" or ")}.`,
      );
    }
  }

  /** The value as messages show it. */
  shown(key: string): string {
    return show(this.values[key]);
  }

  error(key: string, expected: string): ModelError {
    return new ModelError(`${this.file} has ${key} = ${show(this.values[key])}, expected ${expected}.`);
  }

  #present(key: string, expected: string, fallback: unknown): unknown {
    const value = this.values[key] ?? fallback;
    if (value === undefined) throw new ModelError(`${this.file} has no ${key}, expected ${expected}.`);
    return value;
  }
}
