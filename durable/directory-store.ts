// A directory's record in its object's SQLite storage. Owns the rows: the record without its plans as one value, and each plan by its epoch, written once, in pieces
// that fit a row (2 MB, 2026-11). Writes and the alarm they set are one transaction of the platform: nothing is awaited between them.
// Refuses to know what the record means (directory-core.ts).

import type { FleetPlan } from "../fleet/fleet-plan.ts";
import { EMPTY_RECORD, type Change, type DirectoryRecord } from "./directory-record.ts";
import type { DirectoryStorage } from "./directory-ports.ts";

const PIECE_CHARS = 500_000;
const RECORD = "record";

/** Plans are named by their epoch. */
type StoredRecord = Omit<DirectoryRecord, "plan" | "change"> & { readonly plan: number | null; readonly change: StoredChange | null };
type StoredChange = Omit<Change, "from" | "to" | "rest"> & { readonly from: number; readonly to: number; readonly rest: readonly { readonly plan: number; readonly bytes: number }[] };

export class DirectoryStore implements DirectoryStorage {
  readonly #storage: DurableObjectStorage;
  readonly #written = new Set<number>();

  constructor(storage: DurableObjectStorage) {
    this.#storage = storage;
    storage.sql.exec("CREATE TABLE IF NOT EXISTS plans (epoch INTEGER, piece INTEGER, text TEXT NOT NULL, PRIMARY KEY (epoch, piece))");
    for (const { epoch } of storage.sql.exec<{ epoch: number }>("SELECT DISTINCT epoch FROM plans")) this.#written.add(epoch);
  }

  read(): DirectoryRecord {
    const found = this.#storage.kv.get<StoredRecord>(RECORD);
    if (found === undefined) return EMPTY_RECORD;
    // Fields that an older version did not write.
    const stored: StoredRecord = { ...EMPTY_RECORD, ...found };
    const plan = stored.plan === null ? null : this.#plan(stored.plan);
    if (stored.change === null) return { ...stored, plan, change: null };
    const { from, to, rest } = stored.change;
    return { ...stored, plan, change: { ...stored.change, from: this.#plan(from), to: this.#plan(to), rest: rest.map((step) => ({ ...step, plan: this.#plan(step.plan) })) } };
  }

  #plan(epoch: number): FleetPlan {
    const pieces = this.#storage.sql.exec<{ text: string }>("SELECT text FROM plans WHERE epoch = ? ORDER BY piece", epoch).toArray();
    return JSON.parse(pieces.map(({ text }) => text).join("")) as FleetPlan;
  }

  write(record: DirectoryRecord, wakeAtMs: number | null): void {
    const { plan, change } = record;
    this.#storage.transactionSync(() => {
      const needed = new Map([plan, change?.from, change?.to, ...(change?.rest.map((step) => step.plan) ?? [])].flatMap((of) => (of === null || of === undefined ? [] : [[of.epoch, of] as const])));
      for (const [epoch, of] of needed) if (!this.#written.has(epoch)) this.#writePlan(epoch, JSON.stringify(of));
      for (const epoch of this.#written) if (!needed.has(epoch)) this.#storage.sql.exec("DELETE FROM plans WHERE epoch = ?", epoch);
      this.#storage.kv.put<StoredRecord>(RECORD, { ...record, plan: plan?.epoch ?? null, change: change === null ? null : stored(change) });
      this.#written.clear();
      for (const epoch of needed.keys()) this.#written.add(epoch);
    });
    this.wake(wakeAtMs);
  }

  #writePlan(epoch: number, text: string): void {
    for (let piece = 0; piece * PIECE_CHARS < text.length; piece++) {
      this.#storage.sql.exec("INSERT INTO plans (epoch, piece, text) VALUES (?, ?, ?)", epoch, piece, text.slice(piece * PIECE_CHARS, (piece + 1) * PIECE_CHARS));
    }
  }

  /** Not waited for: what is sent after it leaves when it is written, and a failed write ends the object, whose next one reads what was written before. */
  wake(atMs: number | null): void {
    void (atMs === null ? this.#storage.deleteAlarm() : this.#storage.setAlarm(atMs));
  }
}

const stored = (change: Change): StoredChange => ({ ...change, from: change.from.epoch, to: change.to.epoch, rest: change.rest.map(({ plan, bytes }) => ({ plan: plan.epoch, bytes })) });
