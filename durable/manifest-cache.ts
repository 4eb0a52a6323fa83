// The manifest an object last went by, in its SQLite database, so that one whose store is gone or slow still starts.
// Owns its table: one revision, in rows below the platform's 2 MB (2026-11). Refuses to vouch for what it gives: whoever reads checks the hash
// (opened-packs.ts), and to say which revision is current, which is the store's to say. Methods throw what the database throws.

import type { Limits } from "./limits.ts";

export interface ManifestCache {
  /** Bytes of a manifest.json with the hash they had when they were written; null where there are none. */
  read(): { readonly packHash: string; readonly bytes: Uint8Array<ArrayBuffer> } | null;
  /** In the place of what was there. */
  write(packHash: string, bytes: Uint8Array): void;
}

export class SqlManifestCache implements ManifestCache {
  readonly #storage: DurableObjectStorage;
  readonly #limits: Pick<Limits, "cacheRowBytes">;

  constructor(storage: DurableObjectStorage, limits: Pick<Limits, "cacheRowBytes">) {
    this.#storage = storage;
    this.#limits = limits;
  }

  /** Made at each use, since uses are rare. */
  get #sql(): SqlStorage {
    this.#storage.sql.exec("CREATE TABLE IF NOT EXISTS manifest_rows (hash TEXT NOT NULL, row INTEGER PRIMARY KEY, bytes BLOB NOT NULL)");
    return this.#storage.sql;
  }

  read(): { readonly packHash: string; readonly bytes: Uint8Array<ArrayBuffer> } | null {
    const rows = this.#sql.exec<{ hash: string; bytes: ArrayBuffer }>("SELECT hash, bytes FROM manifest_rows ORDER BY row").toArray();
    if (rows.length === 0) return null;
    const bytes = new Uint8Array(rows.reduce((sum, row) => sum + row.bytes.byteLength, 0));
    rows.reduce((at, row) => {
      bytes.set(new Uint8Array(row.bytes), at);
      return at + row.bytes.byteLength;
    }, 0);
    return { packHash: rows[0]!.hash, bytes };
  }

  write(packHash: string, bytes: Uint8Array): void {
    const { cacheRowBytes } = this.#limits;
    this.#storage.transactionSync(() => {
      this.#sql.exec("DELETE FROM manifest_rows");
      for (let at = 0, row = 0; at < bytes.length; at += cacheRowBytes, row++) {
        this.#sql.exec("INSERT INTO manifest_rows (hash, row, bytes) VALUES (?, ?, ?)", packHash, row, bytes.slice(at, at + cacheRowBytes).buffer as ArrayBuffer);
      }
    });
  }
}
