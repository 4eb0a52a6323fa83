// The Durable Object that counts the tokens of one account: what a request may need is set aside before it runs, and what it did not use is given back
// after. Owns the count of the day (UTC) in SQLite. One call before a reply and one after it, none on the token path. A reservation has a name given by
// the caller, so that either call may be repeated; one that is never settled (its Worker died) counts in full until the day ends. Refuses to know keys or texts.

import { DurableObject } from "cloudflare:workers";
import type { DurableEnv } from "./env.ts";

export interface Reservation {
  readonly granted: boolean;
  /** Tokens of the day that nobody has used or set aside, after this reservation where it was granted. */
  readonly remainingTokens: number;
  /** When the next day begins, in milliseconds since 1970. */
  readonly resetsAtMs: number;
}

const DAY_MS = 24 * 60 * 60_000;

export class TokenBudget extends DurableObject<DurableEnv> {
  readonly #sql: SqlStorage;

  constructor(ctx: DurableObjectState, env: DurableEnv) {
    super(ctx, env);
    this.#sql = ctx.storage.sql;
    // `taken` is what the day's requests have used and what is set aside; `reservations` says of which requests the latter is.
    this.#sql.exec("CREATE TABLE IF NOT EXISTS days (day INTEGER PRIMARY KEY, taken INTEGER NOT NULL); CREATE TABLE IF NOT EXISTS reservations (name TEXT PRIMARY KEY, day INTEGER NOT NULL, tokens INTEGER NOT NULL)");
  }

  /** Sets `tokens` aside where the day has as many left of `tokensPerDay`. Asked again under the same name, it answers the same. */
  reserve(name: string, tokens: number, tokensPerDay: number): Reservation {
    const day = Math.floor(Date.now() / DAY_MS);
    const resetsAtMs = (day + 1) * DAY_MS;
    this.#sql.exec("DELETE FROM days WHERE day < ?", day);
    this.#sql.exec("DELETE FROM reservations WHERE day < ?", day);
    const isKnown = this.#sql.exec("SELECT 1 FROM reservations WHERE name = ?", name).toArray().length > 0;
    const remaining = Math.max(0, tokensPerDay - this.#taken(day));
    if (isKnown) return { granted: true, remainingTokens: remaining, resetsAtMs };
    if (tokens > remaining) return { granted: false, remainingTokens: remaining, resetsAtMs };
    this.#sql.exec("INSERT INTO days (day, taken) VALUES (?1, ?2) ON CONFLICT (day) DO UPDATE SET taken = taken + ?2", day, tokens);
    this.#sql.exec("INSERT INTO reservations (name, day, tokens) VALUES (?, ?, ?)", name, day, tokens);
    return { granted: true, remainingTokens: remaining - tokens, resetsAtMs };
  }

  /** Gives back what a reservation did not use. Counts once, however often it is called; after the reservation's day nothing is left to count. */
  settle(name: string, usedTokens: number): void {
    const found = this.#sql.exec<{ day: number; tokens: number }>("DELETE FROM reservations WHERE name = ? RETURNING day, tokens", name).toArray()[0];
    if (found !== undefined) this.#sql.exec("UPDATE days SET taken = taken + ? WHERE day = ?", usedTokens - found.tokens, found.day);
  }

  /** Tokens of today that are used or set aside. */
  taken(): number {
    return this.#taken(Math.floor(Date.now() / DAY_MS));
  }

  #taken(day: number): number {
    return this.#sql.exec<{ taken: number }>("SELECT taken FROM days WHERE day = ?", day).toArray()[0]?.taken ?? 0;
  }
}
