// Which web pages may call the API from a browser: the variable CORS_ORIGINS, `*` or origins separated by commas; without it no other origin's page may.
// Owns reading the variable; hono/cors does the rest, preflights included, which browsers send without a key. Refuses entries that are no origin: they would
// never match. Keys travel in headers and never in cookies, so credentials are not allowed.

import type { MiddlewareHandler } from "hono";
import { cors } from "hono/cors";
import { badConfiguration } from "./errors.ts";

export interface CorsSettings {
  readonly CORS_ORIGINS?: string;
}

/** A browser asks again after a day; most keep the answer for two hours at most. */
const PREFLIGHT_SECONDS = 24 * 60 * 60;
/** Headers of replies that a page may read. */
const EXPOSED = ["Retry-After", "Server-Timing", "X-Request-Id", "X-Served-By", "X-Max-Tokens", "X-RateLimit-Limit-Tokens", "X-RateLimit-Remaining-Tokens", "X-RateLimit-Reset-Tokens"];

/** `*`, a list of origins, or null for none. Throws a RequestError 500 where the variable has something else. */
export function allowedOrigins({ CORS_ORIGINS: text }: CorsSettings): "*" | readonly string[] | null {
  const entries = (text ?? "").split(",").map((entry) => entry.trim()).filter((entry) => entry !== "");
  if (entries.length === 0) return null;
  if (entries.includes("*")) return "*";
  for (const entry of entries) {
    if (URL.parse(entry)?.origin !== entry) throw badConfiguration(`The variable CORS_ORIGINS has ${JSON.stringify(entry)}; expected "*", or origins such as "https://app.example" without a path, separated by commas.`);
  }
  return entries;
}

export const crossOrigin: MiddlewareHandler<{ Bindings: CorsSettings }> = async (c, next) => {
  const origins = allowedOrigins(c.env);
  if (origins === null) return next();
  return cors({ origin: origins === "*" ? origins : [...origins], allowMethods: ["GET", "POST", "PUT", "DELETE"], exposeHeaders: EXPOSED, maxAge: PREFLIGHT_SECONDS })(c, next);
};
