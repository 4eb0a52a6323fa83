// Routing profiles of a deployment, by name: documents that the Worker has checked (formats/routing-profile.ts), in the SQLite storage of one object of the class Directory that is named for it (env.ts).
// Owns their number and order. Refuses to read them: what a profile says is the Worker's matter.

import type { Limits } from "./limits.ts";

export type StoreReply = { readonly state: "stored" } | { readonly state: "full"; readonly most: number };

export class ProfileStore {
  readonly #sql: SqlStorage;
  readonly #limits: Pick<Limits, "profiles">;

  constructor(storage: DurableObjectStorage, limits: Pick<Limits, "profiles">) {
    this.#sql = storage.sql;
    this.#limits = limits;
    this.#sql.exec("CREATE TABLE IF NOT EXISTS profiles (name TEXT PRIMARY KEY, text TEXT NOT NULL)");
  }

  /** Documents by name, ascending. */
  all(): string[] {
    return this.#sql.exec<{ text: string }>("SELECT text FROM profiles ORDER BY name").toArray().map(({ text }) => text);
  }

  get(name: string): string | null {
    return this.#sql.exec<{ text: string }>("SELECT text FROM profiles WHERE name = ?", name).toArray()[0]?.text ?? null;
  }

  /** Replaces one of the same name. */
  put(name: string, text: string): StoreReply {
    const { profiles: most } = this.#limits;
    const [{ others }] = this.#sql.exec<{ others: number }>("SELECT COUNT(*) AS others FROM profiles WHERE name <> ?", name).toArray() as [{ others: number }];
    if (others >= most) return { state: "full", most };
    this.#sql.exec("INSERT INTO profiles (name, text) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET text = excluded.text", name, text);
    return { state: "stored" };
  }

  /** Whether there was one. */
  delete(name: string): boolean {
    return this.#sql.exec("DELETE FROM profiles WHERE name = ? RETURNING name", name).toArray().length > 0;
  }
}
