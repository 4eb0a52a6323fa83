// The weights a shard has read, in its object's SQLite database: extents by their hash, in rows below the platform's 2 MB (2026-11).
// Owns the table. Refuses to say what belongs in it (weight-keeper.ts) and to vouch for what it gives: whoever reads checks the hash.
// Methods throw what the database throws; an extent of which a row is missing counts as absent.

import type { Limits } from "./limits.ts";
import type { ExtentCache } from "./shard-host.ts";

export class SqlWeightCache implements ExtentCache {
  readonly #storage: DurableObjectStorage;
  readonly #limits: () => Pick<Limits, "cacheRowBytes">;
  #hasTable = false;

  constructor(storage: DurableObjectStorage, limits: () => Pick<Limits, "cacheRowBytes">) {
    this.#storage = storage;
    this.#limits = limits;
  }

  /** Made at first use: most objects that come up adopt their weights and never look here. */
  get #sql(): SqlStorage {
    if (!this.#hasTable) {
      this.#storage.sql.exec("CREATE TABLE IF NOT EXISTS weight_rows (hash TEXT NOT NULL, row INTEGER NOT NULL, bytes BLOB NOT NULL, PRIMARY KEY (hash, row))");
      this.#hasTable = true;
    }
    return this.#storage.sql;
  }

  list(): string[] {
    return this.#sql.exec<{ hash: string }>("SELECT DISTINCT hash FROM weight_rows").toArray().map(({ hash }) => hash);
  }

  read(hash: string, bytes: number): Uint8Array<ArrayBuffer> | null {
    const out = new Uint8Array(bytes);
    let at = 0;
    for (const row of this.#sql.exec<{ bytes: ArrayBuffer }>("SELECT bytes FROM weight_rows WHERE hash = ? ORDER BY row", hash)) {
      if (at + row.bytes.byteLength > bytes) return null;
      out.set(new Uint8Array(row.bytes), at);
      at += row.bytes.byteLength;
    }
    return at === bytes ? out : null;
  }

  /** All rows or none. */
  write(hash: string, bytes: Uint8Array): void {
    const { cacheRowBytes } = this.#limits();
    this.#storage.transactionSync(() => {
      this.remove(hash);
      for (let at = 0, row = 0; at < bytes.length; at += cacheRowBytes, row++) {
        this.#sql.exec("INSERT INTO weight_rows (hash, row, bytes) VALUES (?, ?, ?)", hash, row, bytes.slice(at, at + cacheRowBytes).buffer as ArrayBuffer);
      }
    });
  }

  remove(hash: string): void {
    this.#sql.exec("DELETE FROM weight_rows WHERE hash = ?", hash);
  }
}
