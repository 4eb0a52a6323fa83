// Who may ask, and for what. Keys come as the secrets API_KEYS (scope infer) and ADMIN_KEYS (scopes infer and admin): comma separated, each `<key>` or
// `<name>:<key>`; a request carries one as `Authorization: Bearer <key>` or `x-api-key: <key>`. SHA-256 digests are compared in constant time and all of
// them, before any Durable Object is touched. Access without a key exists only where none is configured and OPEN_ACCESS is "true", which local serving
// sets and a deployment must not. Refuses to keep or show a key: what is behind this file knows a caller by its digest or its name.

import { badConfiguration, RequestError } from "./errors.ts";
import { keyLimits, NO_KEY_LIMITS, type KeyLimits, type KeySettings } from "./key-settings.ts";
import { EDGE_LIMITS } from "./limits.ts";

export interface AuthSettings extends KeySettings {
  readonly API_KEYS?: string;
  readonly ADMIN_KEYS?: string;
  readonly OPEN_ACCESS?: string;
}

/** `infer`: everything that answers. `admin`: what looks inside the fleet, or changes how it behaves. */
export type Scope = "infer" | "admin";

/** Who asks, as far as anything behind this file needs to know. */
export interface Caller {
  /** Tells keys apart without being one: the beginning of the key's digest in hex; "open" where no key is needed. */
  readonly id: string;
  /** Whose requests are counted together and take turns with others': the key's name, which several keys may share; its id where it has none. */
  readonly account: string;
  readonly scopes: ReadonlySet<Scope>;
  readonly limits: KeyLimits;
}

interface ConfiguredKey {
  readonly name: string | null;
  readonly key: string;
  readonly scopes: readonly Scope[];
}

function keysOf(variable: "API_KEYS" | "ADMIN_KEYS", settings: AuthSettings, scopes: readonly Scope[]): ConfiguredKey[] {
  const entries = (settings[variable] ?? "").split(",").map((entry) => entry.trim()).filter((entry) => entry !== "");
  if (entries.length > EDGE_LIMITS.apiKeys) throw badConfiguration(`The secret ${variable} has ${entries.length} keys; at most ${EDGE_LIMITS.apiKeys} were expected.`);
  return entries.map((entry) => {
    const [, name, key] = /^([\w.-]{1,64}):(\S+)$/.exec(entry) ?? [];
    return { name: name ?? null, key: key ?? entry, scopes };
  });
}

const configuredKeys = (settings: AuthSettings): ConfiguredKey[] => [...keysOf("API_KEYS", settings, ["infer"]), ...keysOf("ADMIN_KEYS", settings, ["infer", "admin"])];

/** Whether requests without a key are served. */
export const isOpen = (settings: AuthSettings): boolean => settings.OPEN_ACCESS === "true" && configuredKeys(settings).length === 0;

const digest = async (text: string): Promise<ArrayBuffer> => crypto.subtle.digest("SHA-256", new TextEncoder().encode(text));
const CALLER_ID_BYTES = 16;
const hex = (bytes: Uint8Array): string => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");

/** The key of a request: `Authorization: Bearer <key>`, or `x-api-key: <key>` as Anthropic's clients send it. */
export function presentedKey(headers: Headers): string | null {
  const [authorization, plain] = [headers.get("Authorization"), headers.get("x-api-key")];
  return plain !== null && !/^Bearer /i.test(authorization ?? "") ? `Bearer ${plain}` : authorization;
}

/** The caller, or throws a RequestError 401. */
export async function requireKey(authorization: string | null, settings: AuthSettings): Promise<Caller> {
  if (isOpen(settings)) return { id: "open", account: "open", scopes: new Set(["infer", "admin"]), limits: NO_KEY_LIMITS };
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
  const [givenDigest, ...digests] = await Promise.all([given, ...keys.map(({ key }) => key)].map(digest));
  const matches = digests.map((known) => crypto.subtle.timingSafeEqual(givenDigest!, known));
  const found = keys.filter((_, i) => matches[i]);
  if (found.length === 0) throw new RequestError({ status: 401, code: "invalid_api_key", message: "The API key given is not one of this deployment's." });
  const id = hex(new Uint8Array(givenDigest!, 0, CALLER_ID_BYTES));
  const name = found.find((key) => key.name !== null)?.name ?? null;
  // A name cannot pass for another key's id: the two are spelled apart.
  return { id, account: name === null ? `key:${id}` : `name:${name}`, scopes: new Set(found.flatMap(({ scopes }) => scopes)), limits: keyLimits(settings, name) };
}

/** Throws a RequestError 403 unless the caller's key has the scope. */
export function requireScope(caller: Caller, scope: Scope): void {
  if (caller.scopes.has(scope)) return;
  const have = [...caller.scopes].join(", ");
  throw new RequestError({ status: 403, code: "insufficient_permissions", message: `This needs a key with the scope "${scope}"; the key given has "${have}". The deployment's owner sets such keys with \`wrangler secret put ADMIN_KEYS\`.` });
}
