// What a directory has heard of its orchestrators since its object came up: when, and what they last reported of themselves.
// Owns how long that counts. Refuses to outlive the object: who there is and by which plan they go is the record's (directory-record.ts).

import type { Clock } from "./clock.ts";
import type { FleetStatus, Lane, LaneReport, LayerLoad } from "./directory-record.ts";
import type { Limits } from "./limits.ts";

export class LanesHeard {
  readonly #clock: Clock;
  readonly #limits: Pick<Limits, "reportKeepMs">;
  readonly #seenMs = new Map<string, number>();
  readonly #reports = new Map<string, { readonly atMs: number; readonly report: LaneReport }>();

  /** A new object takes all it knows for alive. */
  constructor(lanes: readonly Lane[], clock: Clock, limits: Pick<Limits, "reportKeepMs">) {
    this.#clock = clock;
    this.#limits = limits;
    for (const { name } of lanes) this.seen(name);
  }

  seen(name: string): void { this.#seenMs.set(name, this.#clock.nowMs()); }
  seenMs(name: string): number { return this.#seenMs.get(name) ?? 0; }

  reported(name: string, report: LaneReport): void {
    this.#reports.set(name, { atMs: this.#clock.nowMs(), report });
  }

  forget(name: string): void {
    this.#seenMs.delete(name);
    this.#reports.delete(name);
  }

  /** Of those who said something lately: a load that is over is no reason to move anything. */
  get expertCounts(): LaneReport["expertCounts"][] {
    const nowMs = this.#clock.nowMs();
    return [...this.#reports.values()].flatMap(({ atMs, report }) => (nowMs - atMs < this.#limits.reportKeepMs ? [report.expertCounts] : []));
  }

  statusOf(lanes: readonly Lane[]): FleetStatus["lanes"] {
    return lanes.map((lane) => {
      const heard = this.#reports.get(lane.name);
      return { ...lane, seenMs: this.seenMs(lane.name), reportedMs: heard?.atMs ?? null, freeKvPositions: heard?.report.freeKvPositions ?? null };
    });
  }

  /** Of each layer that was asked lately, all orchestrators together. */
  get load(): LayerLoad[] {
    const counts = this.expertCounts;
    return Array.from({ length: Math.max(0, ...counts.map(({ length }) => length)) }, (_, layer) => layer).flatMap((layer) => {
      const experts = Array.from({ length: Math.max(0, ...counts.map((of) => of[layer]?.length ?? 0)) }, (_, expert) => counts.reduce((sum, of) => sum + (of[layer]?.[expert] ?? 0), 0));
      const choices = experts.reduce((sum, n) => sum + n, 0);
      if (choices === 0) return [];
      const most = Math.max(...experts);
      return [{ layer, choices, busiest: experts.indexOf(most), timesMean: (most * experts.length) / choices }];
    });
  }
}
