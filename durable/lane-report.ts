// What an orchestrator tells the directory of itself: room in its KV cache, which experts were lately chosen, what went wrong with shards.
// Owns when it does: once it is up, and every so often while it works, one report at a time, which nothing waits for. Costs the token path nothing: choices are read off
// the counters that routing feeds anyway (metrics-expert-load.ts), in a ring those of all stages (ring-figures.ts). Refuses storage, and patience: whoever tells it limits the call (plan-in-force.ts).

import { DecayedLoad } from "../fleet/decayed-load.ts";
import type { Clock } from "./clock.ts";
import type { LaneReport, ShardFault } from "./directory-record.ts";
import type { LineFault } from "./fault-log.ts";
import type { Limits } from "./limits.ts";

/** Half of a count is left after a minute: loads follow prompts, and the directory looks every half of one. */
const FADING = { windowMs: 60_000, keep: 0.5 } as const;

export interface LaneReportParts {
  readonly shape: { readonly nLayers: number; readonly nExperts: number };
  /** How often each expert was chosen since the model came up, [layer * nExperts + expert]; begins again at 0 after 2^32. */
  readonly choices: () => Uint32Array;
  readonly freeKvPositions: () => number;
  /** Of each object that has lines to shards, of each shard of its plan: clocks differ, and one may be heard late. */
  readonly faults: () => readonly (readonly (readonly LineFault[])[])[];
  /** Brings choices and faults of other objects up to date, as far as they answer soon. Never rejects. */
  readonly hear: () => Promise<void>;
  readonly isWorking: () => boolean;
  /** Hands it over; false where nobody took it. Never rejects. */
  readonly tell: (report: LaneReport) => Promise<boolean>;
  readonly clock: Clock;
  readonly limits: Pick<Limits, "reportMs" | "recentFaults">;
}

export class LaneReports {
  readonly #p: LaneReportParts;
  readonly #load: DecayedLoad;
  readonly #counted: Uint32Array;
  #lastMs = -Infinity;
  /** Of each object. */
  readonly #toldUntilMs: number[] = [];
  #isTelling = false;
  #cancelTimer: (() => void) | null = null;

  constructor(parts: LaneReportParts) {
    this.#p = parts;
    this.#counted = Uint32Array.from(parts.choices());
    this.#load = new DecayedLoad(this.#counted.length, FADING);
  }

  /** There is work: says so, unless it was said just now, and again every so often until there is none. */
  working(): void {
    const { clock, limits } = this.#p;
    if (clock.nowMs() - this.#lastMs >= limits.reportMs) this.#tell();
    this.#cancelTimer ??= clock.after(limits.reportMs, () => {
      this.#cancelTimer = null;
      this.#tell();
      if (this.#p.isWorking()) this.working();
    });
  }

  #tell(): void {
    // Nobody answers the last one: another would wait behind it.
    if (this.#isTelling) return;
    this.#isTelling = true;
    this.#lastMs = this.#p.clock.nowMs();
    void this.#told().finally(() => { this.#isTelling = false; });
  }

  async #told(): Promise<void> {
    const { hear, faults, tell } = this.#p;
    await hear();
    const all = faults();
    const newestMs = all.map((of) => Math.max(-Infinity, ...of.flat().map(({ atMs }) => atMs)));
    if (await tell(this.#report(all))) newestMs.forEach((ms, i) => { this.#toldUntilMs[i] = Math.max(ms, this.#toldUntilMs[i] ?? -Infinity); });
  }

  #report(faults: ReturnType<LaneReportParts["faults"]>): LaneReport {
    const { choices, freeKvPositions, clock, limits, shape: { nExperts, nLayers } } = this.#p;
    const nowMs = clock.nowMs();
    const counts = choices();
    this.#load.add(counts.map((n, i) => n - this.#counted[i]!), nowMs); // u32: over 2^32 it still is the difference
    this.#counted.set(counts);
    const left = this.#load.at(nowMs);
    // What was told is known; of the same millisecond it is told twice, which the directory notices.
    const fresh = faults.flatMap((shards, i) => shards.flatMap((of, shard) => of.flatMap(({ atMs, cause }): ShardFault[] => (atMs >= (this.#toldUntilMs[i] ?? -Infinity) ? [{ atMs, shard, cause }] : []))));
    return {
      freeKvPositions: freeKvPositions(), faults: fresh.sort((a, b) => b.atMs - a.atMs).slice(0, limits.recentFaults),
      expertCounts: Array.from({ length: nLayers }, (_, layer) => Array.from(left.subarray(layer * nExperts, (layer + 1) * nExperts), Math.round)),
    };
  }
}
