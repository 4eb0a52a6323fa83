// A fleet around a directory for tests: shards, orchestrators and a network that loses, repeats and delays, over a clock of the test's own. The directory may die at
// any write of its storage, before or after it took hold, and comes back by its alarm. Owns the laws that must hold at every moment (`violations`). Refuses weights and frames.

import type { AdoptReply } from "../../../durable/adoption.ts";
import { SeededRandom, within, type Clock } from "../../../durable/clock.ts";
import { DirectoryCore } from "../../../durable/directory-core.ts";
import type { Balance, DirectoryPorts, DirectoryStorage, Prepared } from "../../../durable/directory-ports.ts";
import { EMPTY_RECORD, heldBy, type DirectoryRecord, type Wish } from "../../../durable/directory-record.ts";
import { LIMITS } from "../../../durable/limits.ts";
import type { FleetPlan } from "../../../fleet/fleet-plan.ts";

interface Timer {
  readonly at: number;
  readonly order: number;
  readonly fire: () => void;
}

/** Fires timers in order of time, each with the promises it settles. No turn of the event loop is waited for: nothing here leaves the microtasks. */
export class WorldClock implements Clock {
  #now = 1_000_000;
  #order = 0;
  #timers: Timer[] = [];
  nowMs(): number { return this.#now; }
  after(delayMs: number, fire: () => void): () => void {
    const timer = { at: this.#now + delayMs, order: this.#order++, fire };
    this.#timers.push(timer);
    return () => { this.#timers = this.#timers.filter((other) => other !== timer); };
  }
  async runUntil(isDone: () => boolean, limitMs: number): Promise<boolean> {
    const end = this.#now + limitMs;
    for (;;) {
      for (let i = 0; i < 30; i++) await Promise.resolve();
      if (isDone()) return true;
      const next = this.#timers.reduce<Timer | null>((best, t) => (best === null || t.at < best.at || (t.at === best.at && t.order < best.order) ? t : best), null);
      if (next === null || next.at > end) return false;
      this.#timers = this.#timers.filter((other) => other !== next);
      this.#now = next.at;
      next.fire();
    }
  }
}

const SEGMENTS = 12;
/** Segments dealt out to some of `length` shards; the others rest. */
export const planOver = (holders: readonly number[], length = Math.max(...holders) + 1): FleetPlan => ({
  version: 1, packId: "p", packHash: "0".repeat(64), fleet: "f", epoch: 1, lanes: 1, jurisdiction: null,
  stages: [{ embeddingRows: [0, 1], layers: [0, 1], headRows: [0, 1], slots: [] }],
  shards: Array.from({ length }, (_, shard) => ({
    region: null,
    slots: Array.from({ length: SEGMENTS }, (_, expert) => expert).filter((expert) => holders[expert % holders.length] === shard).map((expert) => ({ layer: 0, expert, segments: [0, 1] as const })),
  })),
});

class Died extends Error {}

interface Shard {
  hellos: Map<number, string>;
  retiredBelow: number;
  fetched: number;
  held: Set<number>;
  /** Asks until a load is done. */
  loads: Map<number, number>;
}

interface Orchestrator {
  readonly name: string;
  plan: FleetPlan;
  /** `serving`: it takes steps by its plan. `away`: it does not answer. */
  state: "serving" | "away";
}

export interface Faults {
  /** Chances of each message. */
  readonly loseRequest?: number;
  readonly loseReply?: number;
  readonly repeat?: number;
  /** Chance that a shard or an orchestrator refuses for now. */
  readonly refuse?: number;
  readonly delayMs?: number;
  /** The first messages of this kind ("prepare", "adopt", "retire", "release", "fetched") meet with: */
  readonly script?: Readonly<Record<string, readonly ("lose-request" | "lose-reply" | "repeat" | "refuse" | "throw")[]>>;
  /** Shards that never take a new plan, for want of memory. */
  readonly full?: readonly number[];
  /** Shards that never answer. */
  readonly dead?: readonly number[];
}

export class World {
  readonly clock = new WorldClock();
  readonly #random: SeededRandom;
  readonly #faults: Faults;
  readonly #script: Map<string, ("lose-request" | "lose-reply" | "repeat" | "refuse" | "throw")[]>;
  readonly shards = new Map<number, Shard>();
  readonly orchestrators: Orchestrator[];
  readonly violations: string[] = [];
  readonly #dieAt: readonly { readonly write: number; readonly taken: boolean }[];
  #stored: string = JSON.stringify(EMPTY_RECORD);
  #alarm: (() => void) | null = null;
  #core: DirectoryCore | null = null;
  #life = 0;
  nWrites = 0;
  readonly nMessages: Record<string, number> = {};
  readonly #given = new Map<number, string>();
  balance: Balance | null = null;

  constructor(initial: FleetPlan, { seed = 1, nOrchestrators = 2, faults = {}, dieAt = [] }: { seed?: number; nOrchestrators?: number; faults?: Faults; dieAt?: readonly { write: number; taken: boolean }[] }) {
    this.#random = new SeededRandom(seed);
    this.#faults = faults;
    this.#script = new Map(Object.entries(faults.script ?? {}).map(([kind, list]) => [kind, [...list]]));
    this.#dieAt = dieAt;
    for (const shard of heldBy(initial)) this.#shard(shard).hellos.set(initial.epoch, JSON.stringify(initial.shards[shard]!.slots));
    this.orchestrators = Array.from({ length: nOrchestrators }, (_, i) => ({ name: `o${i}`, plan: initial, state: "serving" as const }));
  }

  /** From now on, as `script`. */
  meets(kind: string, faults: readonly ("lose-request" | "throw")[]): void { this.#script.set(kind, [...faults]); }

  get stored(): DirectoryRecord { return JSON.parse(this.#stored) as DirectoryRecord; }
  #law(holds: boolean, words: string): void { if (!holds) this.violations.push(`at ${this.clock.nowMs() - 1_000_000} ms: ${words}`); }

  #shard(number: number): Shard {
    const shard = this.shards.get(number) ?? { hellos: new Map(), retiredBelow: 0, fetched: 0, held: new Set(), loads: new Map() };
    this.shards.set(number, shard);
    return shard;
  }

  /** The directory as it lives now; made from storage where it does not. */
  directory(): DirectoryCore {
    this.#core ??= this.#start();
    return this.#core;
  }

  #start(): DirectoryCore {
    const life = ++this.#life;
    const alive = (): void => { if (life !== this.#life) throw new Died("the directory died"); };
    const storage: DirectoryStorage = {
      read: () => this.stored,
      write: (record, wakeAtMs) => {
        alive();
        const death = this.#dieAt.find(({ write }) => write === this.nWrites);
        this.nWrites++;
        if (death === undefined || death.taken) {
          this.#watch(this.stored, record);
          this.#stored = JSON.stringify(record);
          this.#setAlarm(wakeAtMs);
        }
        if (death === undefined) return;
        this.#die();
        throw new Died("the directory died at a write");
      },
      wake: (atMs) => { if (life === this.#life) this.#setAlarm(atMs); },
    };
    const ports: DirectoryPorts = {
      storage, clock: this.clock, random: this.#random, limits: LIMITS, balance: this.balance,
      planner: { next: async (_, { plan }: Wish) => ({ reason: "a given plan", steps: [{ plan: plan!, bytes: 7 }] }) },
      shards: {
        fetched: (_, shard) => this.#call("fetched", shard, life, () => this.#shard(shard).fetched),
        prepare: (_, to, shard) => this.#call("prepare", shard, life, () => this.#prepare(to, shard), (message): Prepared => ({ state: "refused", retryable: true, message })),
        retire: (_, shard, below) => this.#call("retire", shard, life, () => this.#retire(shard, below)),
        release: (from, to, shard) => this.#call("release", shard, life, () => {
          this.#law(this.stored.plan?.epoch !== to.epoch, `shard ${shard} was told to release the plan in force`);
          if (from.shards[shard]?.slots.length) this.#shard(shard).hellos.set(to.epoch, "[]");
          else this.#retire(shard, to.epoch + 1);
        }),
      },
      orchestrators: {
        adopt: (name, plan) => this.#call("adopt", null, life, () => this.#adopt(name, plan), (message): AdoptReply => ({ state: "refused", epoch: this.#named(name).plan.epoch, message }), () => this.#named(name).state === "away"),
      },
    };
    return new DirectoryCore(ports);
  }

  #die(): void {
    this.#life++;
    this.#core = null;
  }

  #named(name: string): Orchestrator { return this.orchestrators.find((of) => of.name === name)!; }

  #setAlarm(atMs: number | null): void {
    this.#alarm?.();
    this.#alarm = atMs === null ? null : this.clock.after(Math.max(0, atMs - this.clock.nowMs()), () => {
      this.#alarm = null;
      // An alarm whose handler fails is called again.
      const again = (): void => { this.#alarm ??= this.clock.after(2_000, () => { this.#alarm = null; fire(); }); };
      const fire = (): void => {
        try {
          void this.directory().tick().catch(again);
        } catch {
          again();
        }
      };
      fire();
    });
  }

  /** A message and its answer, with what the network does to them. */
  #call<T>(kind: string, shard: number | null, life: number, run: () => T, refusal?: (message: string) => T, isAway: () => boolean = () => false): Promise<T> {
    if (life !== this.#life) return Promise.reject(new Died("the directory died"));
    const of = this.#faults;
    this.nMessages[kind] = (this.nMessages[kind] ?? 0) + 1;
    const chance = (p = 0): boolean => this.#random.next() < p;
    const scripted = this.#script.get(kind)?.shift();
    const delay = (): number => 1 + Math.floor(this.#random.next() * (of.delayMs ?? 20));
    return new Promise<T>((resolve, reject) => {
      const settle = (act: () => void): void => void this.clock.after(delay(), () => { if (life === this.#life) act(); });
      if (scripted === "throw") return settle(() => reject(new Error("the network is down")));
      if ((shard !== null && of.dead?.includes(shard)) || scripted === "lose-request" || chance(of.loseRequest)) return;
      this.clock.after(delay(), () => {
        if (isAway()) return;
        if (refusal !== undefined && (scripted === "refuse" || chance(of.refuse))) return settle(() => resolve(refusal("not now")));
        let answer: T;
        try {
          answer = run();
        } catch {
          return; // it died of this very message
        }
        if (scripted === "repeat" || chance(of.repeat)) void this.clock.after(5 * delay() * (of.delayMs ?? 20), () => {
          try { run(); } catch { /* as above */ }
        });
        if (scripted === "lose-reply" || chance(of.loseReply)) return;
        settle(() => resolve(answer));
      });
    });
  }

  #prepare(plan: FleetPlan, number: number): Prepared {
    const shard = this.#shard(number);
    const slots = JSON.stringify(plan.shards[number]!.slots);
    this.#given.set(plan.epoch, this.#given.get(plan.epoch) ?? JSON.stringify(plan));
    this.#law(this.#given.get(plan.epoch) === JSON.stringify(plan), `epoch ${plan.epoch} was given twice`);
    if (plan.epoch < shard.retiredBelow) return { state: "refused", retryable: false, message: `epoch ${plan.epoch} is over` };
    if (this.#faults.full?.includes(number)) return { state: "refused", retryable: false, message: "90 MiB do not fit 80 MiB" };
    if (shard.hellos.get(plan.epoch) === slots) return { state: "ready", fetchedBytes: shard.fetched };
    const asked = (shard.loads.get(plan.epoch) ?? 0) + 1;
    shard.loads.set(plan.epoch, asked);
    if (asked < 3) return { state: "loading" };
    shard.hellos.set(plan.epoch, slots);
    shard.fetched += plan.shards[number]!.slots.filter(({ expert }) => !shard.held.has(expert)).length;
    for (const { expert } of plan.shards[number]!.slots) shard.held.add(expert);
    return { state: "ready", fetchedBytes: shard.fetched };
  }

  #retire(number: number, below: number): void {
    for (const { name, plan, state } of this.orchestrators) this.#law(state !== "serving" || plan.epoch >= below || !plan.shards[number]?.slots.length, `shard ${number} retired all below ${below} while ${name} serves by ${plan.epoch}`);
    const shard = this.#shard(number);
    shard.retiredBelow = Math.max(shard.retiredBelow, below);
    for (const epoch of shard.hellos.keys()) if (epoch < below) shard.hellos.delete(epoch);
  }

  #adopt(name: string, plan: FleetPlan): AdoptReply {
    const orchestrator = this.#named(name);
    this.#law((this.stored.plan?.epoch ?? 0) >= plan.epoch, `${name} was told of epoch ${plan.epoch}, and epoch ${this.stored.plan?.epoch} was in force`);
    if (plan.epoch > orchestrator.plan.epoch) orchestrator.plan = plan;
    return { state: "adopted", epoch: orchestrator.plan.epoch };
  }

  /** What is written next to what was: the plan in force is one of two, and rises by a change that was warm. */
  #watch(before: DirectoryRecord, after: DirectoryRecord): void {
    if (before.plan === null || after.plan === null || before.plan.epoch === after.plan.epoch) return;
    this.#law(before.change?.state === "warming" && after.plan.epoch === before.change.to.epoch, `the plan went from epoch ${before.plan.epoch} to ${after.plan.epoch} in state ${before.change?.state}`);
    for (const shard of heldBy(after.plan)) this.#law(this.#shard(shard).hellos.get(after.plan.epoch) === JSON.stringify(after.plan.shards[shard]!.slots), `epoch ${after.plan.epoch} was committed before shard ${shard} was warm`);
  }

  /** One step of every orchestrator: each shard of its plan must serve the plan's epoch. */
  step(): void {
    for (const { name, plan, state } of this.orchestrators) {
      if (state !== "serving") continue;
      for (const shard of heldBy(plan)) this.#law(this.#shard(shard).hellos.has(plan.epoch), `a step of ${name} by epoch ${plan.epoch} found shard ${shard} without it`);
    }
  }

  /** Registers until it is answered, then serves. */
  async comeUp(orchestrator: Orchestrator): Promise<void> {
    for (;;) {
      try {
        const plan = await within(this.clock, 3_000, this.#call("register", null, this.#lifeNow(), () => this.directory().register(orchestrator.name, orchestrator.plan)), "no answer");
        if (plan.epoch > orchestrator.plan.epoch) orchestrator.plan = plan;
        orchestrator.state = "serving";
        return;
      } catch {
        await new Promise<void>((resolve) => void this.clock.after(1_000, resolve));
      }
    }
  }

  #lifeNow(): number {
    this.directory();
    return this.#life;
  }

  /** Signs of life and steps, for as long as the test runs. */
  live(): void {
    const beat = (): void => {
      this.step();
      for (const { name, plan, state } of this.orchestrators) {
        if (state !== "serving") continue;
        const life = this.#lifeNow();
        void this.#call("register", null, life, () => this.directory().register(name, plan)).catch(() => undefined);
      }
      this.clock.after(10_000, beat);
    };
    const stepping = (): void => {
      this.step();
      this.clock.after(1_000, stepping);
    };
    this.clock.after(10_000, beat);
    this.clock.after(1_000, stepping);
  }

  /** Nothing is under way, everybody goes by the plan in force, and no shard holds another. */
  get isSteady(): boolean {
    const { plan, change } = this.stored;
    return change === null && plan !== null && this.orchestrators.every((of) => of.state === "away" || of.plan.epoch === plan.epoch);
  }

  /** Where every shard could be told: it holds exactly what the plan in force gives it. */
  leftovers(): string[] {
    const plan = this.stored.plan!;
    return [...this.shards].flatMap(([number, { hellos }]) => [...hellos].flatMap(([epoch, slots]) => (slots === "[]" || (epoch === plan.epoch && slots === JSON.stringify(plan.shards[number]?.slots)) ? [] : [`shard ${number} still holds ${slots} of epoch ${epoch}`])));
  }
}
