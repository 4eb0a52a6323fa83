// The Durable Object that counts the tokens of one account: what a request may need is set aside before it runs, and what it did not use is given back
// after. Owns the count of the day (UTC) in SQLite. One call before a reply and one after it, none on the token path. A reservation has a name given by
// the caller, so that either call may be repeated; one that is not settled in time (its Worker died) is released. A reply that is continued is one reply,
// however many requests it takes: what counts is the most that any of them has used or set aside. Refuses to know keys or texts.

import { DurableObject } from "cloudflare:workers";
import type { DurableEnv } from "./env.ts";
import { LIMITS } from "./limits.ts";

export interface Reservation {
  readonly granted: boolean;
  /** Tokens that had to be set aside: all that were asked for, but those that count for the same reply already. */
  readonly newTokens: number;
  /** Tokens of the day that nobody has used or set aside, after this reservation where it was granted. */
  readonly remainingTokens: number;
  /** When the next day begins, in milliseconds since 1970. */
  readonly resetsAtMs: number;
}

interface ReplyRow extends Record<string, SqlStorageValue> {
  /** The last day on which something of it was set aside. */
  readonly day: number;
  /** Most tokens that a request of it has used. */
  readonly spent: number;
  /** Of those, the ones that counted on earlier days. */
  readonly earlier: number;
}

const DAY_MS = 24 * 60 * 60_000;

export class TokenBudget extends DurableObject<DurableEnv> {
  readonly #sql: SqlStorage;

  constructor(ctx: DurableObjectState, env: DurableEnv) {
    super(ctx, env);
    this.#sql = ctx.storage.sql;
    // `taken` is what the day's replies have used and what is set aside for them; `held` is the latter, by reservation, 0 once it was released.
    this.#sql.exec(`CREATE TABLE IF NOT EXISTS days (day INTEGER PRIMARY KEY, taken INTEGER NOT NULL);
      CREATE TABLE IF NOT EXISTS replies (name TEXT PRIMARY KEY, day INTEGER NOT NULL, spent INTEGER NOT NULL, earlier INTEGER NOT NULL, known_until_ms INTEGER NOT NULL);
      CREATE TABLE IF NOT EXISTS held (name TEXT PRIMARY KEY, reply TEXT NOT NULL, tokens INTEGER NOT NULL, expires_at_ms INTEGER NOT NULL)`);
  }

  /**
   * Sets `tokens` aside, prompt and longest reply, where the day has as many left of `tokensPerDay`. Asked again under the same name, it answers the same.
   * `reply` names what may be continued by another request: tokens that count for it already are not set aside again.
   */
  reserve(name: string, tokens: number, tokensPerDay: number, reply: string = name): Reservation {
    const nowMs = Date.now();
    const day = Math.floor(nowMs / DAY_MS);
    const resetsAtMs = (day + 1) * DAY_MS;
    this.#forget(nowMs, day);
    const remaining = Math.max(0, tokensPerDay - this.#taken(day));
    const isKnown = this.#sql.exec("SELECT 1 FROM held WHERE name = ?", name).toArray().length > 0;
    if (isKnown) return { granted: true, newTokens: 0, remainingTokens: remaining, resetsAtMs };
    const known = this.#reply(reply);
    // A reply of the day before begins anew, but for what it had used by then.
    const earlier = known === null ? 0 : known.day < day ? known.spent : known.earlier;
    const most = Math.max(known?.spent ?? 0, this.#held(reply), tokens);
    const newTokens = Math.max(0, most - earlier) - (known?.day === day ? this.#counted(reply) : 0);
    if (newTokens > remaining) return { granted: false, newTokens, remainingTokens: remaining, resetsAtMs };
    this.#sql.exec("INSERT INTO replies (name, day, spent, earlier, known_until_ms) VALUES (?1, ?2, 0, 0, 0) ON CONFLICT (name) DO UPDATE SET day = ?2, earlier = ?3", reply, day, earlier);
    this.#sql.exec("INSERT INTO held (name, reply, tokens, expires_at_ms) VALUES (?, ?, ?, ?)", name, reply, tokens, nowMs + LIMITS.reservationMs);
    this.#sql.exec("INSERT INTO days (day, taken) VALUES (?1, ?2) ON CONFLICT (day) DO UPDATE SET taken = taken + ?2", day, newTokens);
    return { granted: true, newTokens, remainingTokens: remaining - newTokens, resetsAtMs };
  }

  /** Gives back what a reservation did not use. Counts once, however often it is called, and also after the reservation was released; of the day before nothing is left to count. */
  settle(name: string, usedTokens: number): void {
    const reply = this.#sql.exec<{ reply: string }>("SELECT reply FROM held WHERE name = ?", name).toArray()[0]?.reply;
    if (reply === undefined) return;
    this.#recount(reply, () => {
      this.#sql.exec("DELETE FROM held WHERE name = ?", name);
      this.#sql.exec("UPDATE replies SET spent = MAX(spent, ?), known_until_ms = ? WHERE name = ?", usedTokens, Date.now() + LIMITS.journalMs, reply);
    });
  }

  /** Tokens of today that are used or set aside. */
  taken(): number {
    const nowMs = Date.now();
    const day = Math.floor(nowMs / DAY_MS);
    this.#forget(nowMs, day);
    return this.#taken(day);
  }

  /** Releases what was not settled in time, and drops what nobody will ask for again. */
  #forget(nowMs: number, day: number): void {
    for (const { name, reply } of this.#sql.exec<{ name: string; reply: string }>("SELECT name, reply FROM held WHERE expires_at_ms <= ? AND tokens > 0", nowMs).toArray()) {
      // The row stays: should its request be alive after all, it says later what it has used.
      this.#recount(reply, () => { this.#sql.exec("UPDATE held SET tokens = 0 WHERE name = ?", name); });
    }
    this.#sql.exec("DELETE FROM days WHERE day < ?", day);
    this.#sql.exec("DELETE FROM held WHERE expires_at_ms <= ?", nowMs - DAY_MS);
    this.#sql.exec("DELETE FROM replies WHERE known_until_ms <= ? AND name NOT IN (SELECT reply FROM held)", nowMs);
  }

  /** Makes a change to a reply, and the day's count follow it. */
  #recount(reply: string, change: () => void): void {
    const before = this.#counted(reply);
    change();
    this.#sql.exec("UPDATE days SET taken = taken + ? WHERE day = ?", this.#counted(reply) - before, this.#reply(reply)?.day ?? 0);
  }

  /** What a reply counts on its day: the most that a request of it has used, or may yet. */
  #counted(reply: string): number {
    const row = this.#reply(reply);
    return row === null ? 0 : Math.max(0, Math.max(row.spent, this.#held(reply)) - row.earlier);
  }

  #reply(name: string): ReplyRow | null {
    return this.#sql.exec<ReplyRow>("SELECT day, spent, earlier FROM replies WHERE name = ?", name).toArray()[0] ?? null;
  }

  /** Most tokens that a request of the reply has set aside. */
  #held(reply: string): number {
    return this.#sql.exec<{ tokens: number }>("SELECT IFNULL(MAX(tokens), 0) AS tokens FROM held WHERE reply = ?", reply).one().tokens;
  }

  #taken(day: number): number {
    return this.#sql.exec<{ taken: number }>("SELECT taken FROM days WHERE day = ?", day).toArray()[0]?.taken ?? 0;
  }
}
