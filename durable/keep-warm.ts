// Keeps the memory of a fleet nobody asks anything: an orchestrator's alarm, more often than the platform hibernates (10 s, 2026-11), has each shard of the
// plan in force, and each further stage of the ring, say that it is ready. One alarm and a call for each costs less than an alarm in every object (fleet/prices.ts).
// Owns when to go on: what is not called forgets by itself, so shards of a retired epoch or another revision are not kept, and nothing is when KEEP_WARM is off.
// Refuses the token path: shards that were asked anything meanwhile are passed over, and nothing waits for a call.

import type { Clock } from "./clock.ts";
import type { Limits } from "./limits.ts";

/** `shards`: for as long as the orchestrator has its model; `all`: the orchestrator brings its model up again, too, where it has lost it. */
export type KeepWarmMode = "off" | "shards" | "all";

export function keepWarmMode({ KEEP_WARM = "off" }: { readonly KEEP_WARM?: string }): KeepWarmMode {
  if (KEEP_WARM !== "off" && KEEP_WARM !== "" && KEEP_WARM !== "shards" && KEEP_WARM !== "all") throw new RangeError(`The variable KEEP_WARM is "${KEEP_WARM}"; expected "off", "shards" or "all".`);
  return KEEP_WARM === "" ? "off" : KEEP_WARM;
}

/** Another object that is kept. */
export interface KeptObject {
  readonly name: string;
  /** Grows with whatever else it is asked. */
  readonly asked: number;
  touch(): Promise<unknown>;
}

export interface KeepWarmPorts {
  readonly mode: () => KeepWarmMode;
  readonly clock: Clock;
  readonly limits: Pick<Limits, "keepWarmMs" | "keepWarmCheckMs" | "keepWarmRestMs" | "loadRetryMs">;
  /** Sets the object's alarm for it. */
  readonly wake: (atMs: number) => void;
  /** What is served now, and what must be kept for it; null where nothing is. */
  readonly served: () => { readonly packHash: string; readonly objects: readonly KeptObject[] } | null;
  /** Begins to bring the model up; `started` follows when it is there. */
  readonly bringUp: () => Promise<unknown>;
  /** Whether the store has this revision still; true where it does not say. */
  readonly isCurrent: (packHash: string) => Promise<boolean>;
}

export class KeepWarm {
  readonly #p: KeepWarmPorts;
  #checkedMs = 0;
  /** What each object had been asked at the last look. */
  #asked: ReadonlyMap<string, number> = new Map();

  constructor(ports: KeepWarmPorts) {
    this.#p = ports;
  }

  /** The model is up. */
  started(): void {
    const { mode, clock, limits } = this.#p;
    if (mode() === "off") return;
    this.#checkedMs = clock.nowMs();
    this.#wake(limits.keepWarmMs);
  }

  /** The alarm went off. Never rejects: the platform would repeat it. */
  async due(): Promise<void> {
    const { mode, clock, limits, served, bringUp, isCurrent } = this.#p;
    if (mode() === "off") return;
    const model = served();
    if (model === null) {
      if (mode() !== "all") return;
      // A pack that cannot be loaded must not be read over and over.
      this.#wake(limits.loadRetryMs);
      await bringUp().catch(() => undefined);
      return;
    }
    this.#wake(limits.keepWarmMs);
    if (clock.nowMs() - this.#checkedMs >= limits.keepWarmCheckMs) {
      this.#checkedMs = clock.nowMs();
      // Left alone for so long the object forgets, and the next one finds the revision that is current then.
      if (!(await isCurrent(model.packHash).catch(() => true))) return this.#wake(limits.keepWarmRestMs);
    }
    const quiet = model.objects.filter(({ name, asked }) => this.#asked.get(name) === undefined || this.#asked.get(name) === asked);
    this.#asked = new Map(model.objects.map(({ name, asked }) => [name, asked]));
    await Promise.allSettled(quiet.map((object) => object.touch()));
  }

  #wake(inMs: number): void {
    this.#p.wake(this.#p.clock.nowMs() + inMs);
  }
}
