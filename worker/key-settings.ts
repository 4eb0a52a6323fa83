// What each key may use: the variable KEY_SETTINGS, a JSON object from a key's name to its limits, `*` for keys it does not name.
// Owns its schema. Without the variable nobody is limited, so local serving is not. Refuses to guess: a mistake in it is said to whoever asks, and nobody is
// served, since taking it for "no limits" would be the dearest way to be wrong.

import { z } from "zod";
import { badConfiguration } from "./errors.ts";
import { EDGE_LIMITS } from "./limits.ts";

export interface KeySettings {
  /** JSON, as text or as a variable of wrangler.toml that is a table. */
  readonly KEY_SETTINGS?: string | object;
}

export interface KeyLimits {
  /** Tokens of prompts and replies together, from midnight to midnight UTC; null for any number. */
  readonly tokensPerDay: number | null;
  /** POST requests, counted at each of the platform's locations. */
  readonly requestsPerMinute: number | null;
  /** Most tokens of one reply. */
  readonly maxTokens: number | null;
}

export const NO_KEY_LIMITS: KeyLimits = { tokensPerDay: null, requestsPerMinute: null, maxTokens: null };

const limit = (most: number) => {
  const expected = `a whole number from 1 to ${most}, or null for no limit`;
  return z.number(expected).int(expected).min(1, expected).max(most, expected).nullish().transform((value) => value ?? null);
};
const schema = z.record(z.string(), z.strictObject({
  tokensPerDay: limit(Number.MAX_SAFE_INTEGER), requestsPerMinute: limit(EDGE_LIMITS.requestsPerMinute), maxTokens: limit(Number.MAX_SAFE_INTEGER),
}, "an object with `tokensPerDay`, `requestsPerMinute` and/or `maxTokens`"), "an object from names of keys to their limits");

/** The limits of the key of this name, null for one without a name. Throws a RequestError 500 when the variable is not what it must be. */
export function keyLimits({ KEY_SETTINGS: given }: KeySettings, name: string | null): KeyLimits {
  if (given === undefined || given === "") return NO_KEY_LIMITS;
  const settings = settingsOf(given);
  return (name === null ? undefined : settings.get(name)) ?? settings.get("*") ?? NO_KEY_LIMITS;
}

function settingsOf(given: string | object): ReadonlyMap<string, KeyLimits> {
  let json: unknown = given;
  try {
    if (typeof given === "string") json = JSON.parse(given);
  } catch (cause) {
    throw badConfiguration(`The variable KEY_SETTINGS is not JSON: ${cause instanceof Error ? cause.message : String(cause)}.`);
  }
  const parsed = schema.safeParse(json);
  if (parsed.success) return new Map(Object.entries(parsed.data));
  const issue = parsed.error.issues[0]!;
  const found = issue.code === "unrecognized_keys" ? `found ${issue.keys.map((key) => JSON.stringify(key)).join(", ")}, ` : "";
  throw badConfiguration(`The variable KEY_SETTINGS${issue.path.length === 0 ? "" : ` at ${issue.path.join(".")}`}: ${found}expected ${issue.message}.`);
}
