// Who may ask. Keys come as the secret API_KEYS (comma separated); a request carries one as `Authorization: Bearer <key>`.
// SHA-256 digests are compared in constant time and all of them, before any Durable Object is touched. Access without a key exists only where
// none is configured and OPEN_ACCESS is "true", which local serving sets and a deployment must not.

import { RequestError } from "./errors.ts";
import { EDGE_LIMITS } from "./limits.ts";

export interface AuthSettings {
  readonly API_KEYS?: string;
  readonly OPEN_ACCESS?: string;
}

const digest = async (text: string): Promise<ArrayBuffer> => crypto.subtle.digest("SHA-256", new TextEncoder().encode(text));

const configuredKeys = (settings: AuthSettings): string[] =>
  (settings.API_KEYS ?? "").split(",").map((key) => key.trim()).filter((key) => key !== "").slice(0, EDGE_LIMITS.apiKeys);

/** Whether requests without a key are served. */
export const isOpen = (settings: AuthSettings): boolean => configuredKeys(settings).length === 0 && settings.OPEN_ACCESS === "true";

/** Who asks, as far as anything behind this file needs to know. */
export interface Caller {
  /** Tells keys apart without being one: the beginning of the key's digest in hex; "open" where no key is needed. */
  readonly id: string;
}
const CALLER_ID_BYTES = 16;
const hex = (bytes: Uint8Array): string => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");

/** The key of a request: `Authorization: Bearer <key>`, or `x-api-key: <key>` as Anthropic's clients send it. */
export const presentedKey = (headers: Headers): string | null => headers.get("Authorization") ?? (headers.has("x-api-key") ? `Bearer ${headers.get("x-api-key")}` : null);

/** The caller, or throws a RequestError 401. */
export async function requireKey(authorization: string | null, settings: AuthSettings): Promise<Caller> {
  if (isOpen(settings)) return { id: "open" };
  const keys = configuredKeys(settings);
  if (keys.length === 0) {
    throw new RequestError({
      status: 401, code: "no_api_keys_configured",
      message: "This deployment has no API keys yet, so it answers nobody. Its owner sets them with `wrangler secret put API_KEYS` (several: separated by commas).",
    });
  }
  const given = /^Bearer +(\S+) *$/i.exec(authorization ?? "")?.[1];
  if (given === undefined) {
    throw new RequestError({
      status: 401, code: "missing_api_key",
      message: `An API key was expected in the header \`Authorization: Bearer <key>\`; found ${authorization === null ? "no such header" : "another form of it"}.`,
    });
  }
  const givenDigest = await digest(given);
  let matches = 0;
  for (const key of keys) matches += crypto.subtle.timingSafeEqual(givenDigest, await digest(key)) ? 1 : 0;
  if (matches === 0) throw new RequestError({ status: 401, code: "invalid_api_key", message: "The API key given is not one of this deployment's." });
  return { id: hex(new Uint8Array(givenDigest, 0, CALLER_ID_BYTES)) };
}
