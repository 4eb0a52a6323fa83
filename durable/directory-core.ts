// The plan in force of one fleet and how it changes, as a state machine over ports: simulation and Durable Object run this code.
// Owns the transitions of docs/fleet.md ("Epochs"): every state is written before anybody hears of it, so that a directory that dies anywhere goes on where it
// was; every message may come twice or never. Refuses the token path: nobody waits for it, and without it only the plan stands still.
// Method: ElasticMoE (warm beside what serves, switch at a step's end, drain).

import type { FleetPlan } from "../fleet/fleet-plan.ts";
import { within } from "./clock.ts";
import { LanesHeard } from "./directory-lanes.ts";
import type { DirectoryPorts, NextPlans, Prepared } from "./directory-ports.ts";
import { changeStatus, ended, heldBy, summaryOf, type Change, type ChangeState, type PlannedStep, type DirectoryRecord, type FleetStatus, type LaneReport, type Wish } from "./directory-record.ts";

/** A wish that is not begun: there is no plan yet, another change is under way, or nothing would change. */
export class WishConflict extends Error {
  override readonly name = "WishConflict";
}

export class DirectoryCore {
  readonly #ports: DirectoryPorts;
  #record: DirectoryRecord;
  readonly #heard: LanesHeard;
  #pass: Promise<void> | null = null;
  /** Passes in a row that brought nothing. */
  #fruitless = 0;
  #balancedMs = 0;

  constructor(ports: DirectoryPorts) {
    this.#ports = ports;
    this.#record = ports.storage.read();
    this.#heard = new LanesHeard(this.#record.lanes, ports.clock, ports.limits);
  }

  get #now(): number { return this.#ports.clock.nowMs(); }

  /** The plan in force in full; null before the first orchestrator registered. */
  get plan(): FleetPlan | null { return this.#record.plan; }

  /**
   * An orchestrator says that it is there, and with which plan; it is given the plan in force, which is its own where there is none. Repeated as a sign of life.
   * Throws RangeError where the plan is of another fleet.
   */
  register(orchestrator: string, initial: FleetPlan, report: LaneReport | null = null): FleetPlan {
    const { plan, lanes, lastEpoch } = this.#record;
    if (plan !== null && (plan.packHash !== initial.packHash || plan.fleet !== initial.fleet)) {
      throw new RangeError(`The orchestrator ${orchestrator} came with a plan of the fleet "${initial.fleet}" and pack ${initial.packHash}; this directory is of the fleet "${plan.fleet}" and pack ${plan.packHash}.`);
    }
    const known = lanes.find(({ name }) => name === orchestrator);
    if (known === undefined && lanes.length >= this.#ports.limits.knownLanes) throw new RangeError(`The fleet has ${lanes.length} orchestrators, and ${orchestrator} would be one more; ${this.#ports.limits.knownLanes} are expected at most.`);
    this.#heard.seen(orchestrator);
    const lane = { name: orchestrator, epoch: initial.epoch };
    const next = { ...this.#record, lanes: known === undefined ? [...lanes, lane] : lanes.map((other) => (other === known ? lane : other)) };
    // A plan this directory never gave was given by one before it, which lost its storage: shards may have retired all before it.
    if (plan === null || initial.epoch > lastEpoch) this.#write({ ...next, plan: initial, lastEpoch: initial.epoch, change: null });
    else if (known?.epoch !== lane.epoch) this.#write(next);
    if (report !== null) this.#noteReport(orchestrator, report);
    if (this.#record.lanes.some(({ epoch }) => epoch < this.#record.plan!.epoch)) this.#soon();
    return this.#record.plan!;
  }

  #noteReport(orchestrator: string, report: LaneReport): void {
    this.#heard.reported(orchestrator, report);
    const known = new Set(this.#record.faults.map((fault) => JSON.stringify(fault)));
    // A report that comes twice says the same.
    const fresh = report.faults.map(({ atMs, shard, cause }) => ({ atMs, shard, cause })).filter((fault) => !known.has(JSON.stringify(fault)));
    if (fresh.length === 0) return;
    const faults = [...this.#record.faults, ...fresh].sort((a, b) => b.atMs - a.atMs).slice(0, this.#ports.limits.recentFaults);
    this.#write({ ...this.#record, faults });
  }

  /** Begins a change. Throws WishConflict, or RangeError with the numbers where the wish is impossible. One change at a time: a second one is refused. */
  async desire(wish: Wish): Promise<FleetStatus> {
    const from = this.#free();
    const next = await this.#ports.planner.next(from, wish);
    if (this.#free() !== from) throw new WishConflict("The plan changed while the next one was computed; ask again.");
    if (next.steps.length === 0) throw new WishConflict(`The plan in force (epoch ${from.epoch}) is already as wished; nothing was changed.`);
    this.#begin(from, next);
    return this.status();
  }

  /** The plan from which a change may start. */
  #free(): FleetPlan {
    const { plan, change } = this.#record;
    if (change !== null) throw new WishConflict(`A change is under way: to epoch ${change.to.epoch} (${change.reason}), ${change.state}. One change at a time; ask again when it has ended.`);
    if (plan === null) throw new WishConflict("The fleet has no plan yet: its first orchestrator brings one when it wakes (GET /health wakes it).");
    return plan;
  }

  #begin(from: FleetPlan, { reason, steps }: NextPlans): void {
    const numbered = steps.map((step, i) => ({ ...step, plan: { ...step.plan, epoch: this.#record.lastEpoch + 1 + i } }));
    const [first, ...rest] = numbered;
    if (first === undefined) return;
    this.#write({ ...this.#record, lastEpoch: numbered.at(-1)!.plan.epoch, change: this.#changeTo(from, first, rest, reason) });
    this.#soon();
  }

  #changeTo(from: FleetPlan, { plan, bytes }: PlannedStep, rest: readonly PlannedStep[], reason: string): Change {
    return { from, to: plan, rest, reason, plannedBytes: bytes, state: "planned", sinceMs: { planned: this.#now }, done: [], fetchedBefore: {}, movedBytes: {}, retries: 0, message: null };
  }

  status(): FleetStatus {
    const { plan, change, history, lanes, faults } = this.#record;
    return {
      plan: plan === null ? null : summaryOf(plan), change: change === null ? null : changeStatus(change), history, faults,
      lanes: this.#heard.statusOf(lanes), load: this.#heard.load,
    };
  }

  /** Does what can be done now and says when to be called again. Whoever comes while it runs waits for the same pass. */
  tick(): Promise<void> {
    this.#pass ??= this.#work().finally(() => {
      this.#pass = null;
      this.#ports.storage.wake(this.#nextWakeMs());
    });
    return this.#pass;
  }

  #nextWakeMs(): number | null {
    const { directoryPauseMs, directoryPauseMostMs, replicaTickMs } = this.#ports.limits;
    if (!hasWork(this.#record)) return this.#ports.balance !== null && this.#record.plan !== null ? this.#now + replicaTickMs : null;
    const pauseMs = Math.min(directoryPauseMostMs, directoryPauseMs * 2 ** Math.min(this.#fruitless, 10));
    return this.#now + Math.ceil(pauseMs * (0.5 + this.#ports.random.next() / 2));
  }

  #soon(): void {
    this.#fruitless = 0;
    this.#ports.storage.wake(this.#now);
  }

  /** The alarm set with each write is what brings a dead directory back; a pass that ends well sets a nearer one. */
  #write(record: DirectoryRecord): void {
    const { directoryPauseMostMs, replicaTickMs } = this.#ports.limits;
    const wakeAtMs = hasWork(record) ? this.#now + directoryPauseMostMs : this.#ports.balance !== null && record.plan !== null ? this.#now + replicaTickMs : null;
    this.#ports.storage.write(record, wakeAtMs);
    this.#record = record;
  }

  async #work(): Promise<void> {
    for (;;) {
      const before = this.#record;
      await this.#stepOn();
      this.#fruitless = isFurther(before, this.#record) ? 0 : this.#fruitless + 1;
      // The rest of a state waits for others, and for them there is the alarm.
      if (this.#record.change === null || this.#record.change.state === before.change?.state) return;
    }
  }

  async #stepOn(): Promise<void> {
    const { change } = this.#record;
    if (change === null) {
      await this.#flip();
      return this.#balance();
    }
    switch (change.state) {
      case "planned": return this.#measure(change);
      case "warming": return this.#warm(change);
      case "committed": return this.#enter(change, "flipping");
      case "flipping": {
        if (await this.#flip()) this.#enter(this.#current(change), "draining");
        return;
      }
      case "draining": {
        // One that was forgotten may be back.
        if (await this.#flip() && this.#now - change.sinceMs.draining! >= this.#ports.limits.planDrainMs) this.#enter(this.#current(change), "retired");
        return;
      }
      case "retired": {
        // One that comes back with an old plan only now was without shards anyway; it is told beside the shards.
        await Promise.all([this.#flip(), this.#tellAll(change, (shard) => this.#ports.shards.retire(change.to, shard, change.to.epoch))]);
        return;
      }
      case "abandoned": return this.#tellAll(change, (shard) => this.#ports.shards.release(change.from, change.to, shard));
    }
  }

  /** The change as it is now; what was asked for one may be answered when another is under way. */
  #current(change: Change): Change | null {
    const now = this.#record.change;
    return now !== null && now.to.epoch === change.to.epoch && now.state === change.state ? now : null;
  }

  #enter(change: Change | null, state: ChangeState, message: string | null = null): void {
    if (change === null) return;
    const next: Change = { ...change, state, sinceMs: { ...change.sinceMs, [state]: this.#now }, done: [], message };
    this.#write({ ...this.#record, change: next, ...(state === "committed" ? { plan: change.to } : {}) });
  }

  /** Notes what was learned while a state lasts. */
  #note(change: Change, more: Partial<Change>): void {
    if (Object.entries(more).some(([key, value]) => JSON.stringify(change[key as keyof Change]) !== JSON.stringify(value))) this.#write({ ...this.#record, change: { ...change, ...more } });
  }

  /** Asks every shard what it has fetched so far; of one that says nothing the bytes are not counted. */
  async #measure(asked: Change): Promise<void> {
    const { shards, clock, limits } = this.#ports;
    const held = heldBy(asked.to);
    const found = await Promise.all(held.map((shard) => within(clock, limits.prepareDeadlineMs, shards.fetched(asked.to, shard), "").then((bytes) => [[shard, bytes] as const], () => [])));
    const change = this.#current(asked);
    if (change !== null) this.#enter({ ...change, fetchedBefore: Object.fromEntries(found.flat()) }, "warming");
  }

  async #warm(asked: Change): Promise<void> {
    const { shards, clock, limits } = this.#ports;
    const open = heldBy(asked.to).filter((shard) => !asked.done.includes(shard));
    const answers = await Promise.all(open.map((shard) => within(clock, limits.prepareDeadlineMs, shards.prepare(asked.from, asked.to, shard), `it did not answer in ${limits.prepareDeadlineMs} ms`).catch(failure)));
    const change = this.#current(asked);
    if (change === null) return;
    const waits: string[] = [];
    let retries = change.retries;
    const done = [...change.done];
    const movedBytes = { ...change.movedBytes };
    for (const [i, answer] of answers.entries()) {
      const shard = open[i]!;
      if (answer.state === "ready") {
        done.push(shard);
        const before = change.fetchedBefore[shard];
        // An object that came up anew counts from nothing.
        if (before !== undefined) movedBytes[shard] = answer.fetchedBytes < before ? answer.fetchedBytes : answer.fetchedBytes - before;
        continue;
      }
      if (answer.state === "refused" && !answer.retryable) return this.#enter({ ...change, movedBytes }, "abandoned", `Shard ${shard} cannot hold its part of epoch ${change.to.epoch}: ${answer.message}`);
      if (answer.state === "refused") retries++;
      waits.push(`shard ${shard} ${answer.state === "loading" ? "is loading" : `refuses: ${answer.message}`}`);
    }
    const warmed = { ...change, done, movedBytes, retries };
    if (waits.length === 0) return this.#enter(warmed, "committed");
    const message = `${waits.length} of ${heldBy(change.to).length} shards are not warm: ${waits[0]}.`;
    if (this.#now - change.sinceMs.warming! >= limits.planWarmMs) return this.#enter(warmed, "abandoned", `After ${limits.planWarmMs} ms ${message}`);
    this.#note(change, { done, movedBytes, retries, message });
  }

  /** Hands the plan in force to every orchestrator that goes by an older one, and forgets those that are gone. True when none is left. */
  async #flip(): Promise<boolean> {
    const { orchestrators, clock, limits } = this.#ports;
    const { plan, lanes } = this.#record;
    if (plan === null) return true;
    const behind = lanes.filter(({ epoch }) => epoch < plan.epoch);
    const replies = await Promise.all(behind.map(({ name }) => within(clock, limits.adoptDeadlineMs, orchestrators.adopt(name, plan), `it did not answer in ${limits.adoptDeadlineMs} ms`)
      .catch((cause: unknown) => ({ state: "refused" as const, epoch: 0, message: cause instanceof Error ? cause.message : String(cause) }))));
    let next = this.#record.lanes;
    let nFailed = 0;
    let message: string | null = null;
    for (const [i, reply] of replies.entries()) {
      const { name } = behind[i]!;
      // Epoch 0 is of one without a model: it will register before it has one.
      if (reply.epoch > 0) this.#heard.seen(name);
      if (reply.state === "adopted") {
        next = next.map((lane) => (lane.name === name ? { name, epoch: Math.max(lane.epoch, reply.epoch) } : lane));
        continue;
      }
      nFailed++;
      message = `The orchestrator ${name} has not adopted epoch ${plan.epoch}: ${reply.message}`;
      // It need not call while all is well: silence counts from when it was first asked.
      const sinceMs = Math.max(this.#heard.seenMs(name), this.#record.change?.sinceMs.flipping ?? 0);
      if (this.#now - sinceMs < limits.laneLeaseMs) continue;
      next = next.filter((lane) => lane.name !== name);
      this.#heard.forget(name);
    }
    const { change } = this.#record;
    const noted = change === null || behind.length === 0 ? change : { ...change, retries: change.retries + nFailed, message };
    if (JSON.stringify([next, noted?.retries, noted?.message]) !== JSON.stringify([this.#record.lanes, change?.retries, change?.message])) this.#write({ ...this.#record, lanes: next, change: noted });
    return !this.#record.lanes.some(({ epoch }) => epoch < this.#record.plan!.epoch);
  }

  /** Tells every shard of either plan, each until it has answered, for a while; then the change has ended. */
  async #tellAll(asked: Change, tell: (shard: number) => Promise<void>): Promise<void> {
    const { clock, limits } = this.#ports;
    const open = [...new Set([...heldBy(asked.from), ...heldBy(asked.to), ...untoldWithin(this.#record, asked)])].filter((shard) => !asked.done.includes(shard));
    const causes = await Promise.all(open.map((shard) => within(clock, limits.prepareDeadlineMs, tell(shard), `it did not answer in ${limits.prepareDeadlineMs} ms`).then(() => null, (cause: unknown) => (cause instanceof Error ? cause.message : String(cause)))));
    const change = this.#current(asked);
    if (change === null) return;
    const failed = open.filter((_, i) => causes[i] !== null);
    const done = [...change.done, ...open.filter((_, i) => causes[i] === null)];
    const retries = change.retries + failed.length;
    const saying = failed.length === 0 ? null : `Shard${failed.length === 1 ? "" : "s"} ${failed.join(", ")} could not be told to let go: ${causes.find((cause) => cause !== null)!}.`;
    const message = change.state === "abandoned" ? change.message : saying;
    if (failed.length > 0 && this.#now - change.sinceMs[change.state]! < limits.planRetireMs) return this.#note(change, { done, retries, message });
    const untold = [...this.#record.untold.filter((shard) => !done.includes(shard)), ...failed.filter((shard) => !this.#record.untold.includes(shard))];
    const history = [ended({ ...change, retries, message }, this.#now), ...this.#record.history].slice(0, limits.pastChanges);
    const [next, ...rest] = change.state === "abandoned" ? [] : change.rest;
    this.#write({ ...this.#record, change: next === undefined ? null : this.#changeTo(change.to, next, rest, change.reason), history, untold });
  }

  /** Lets the load decide, where that is switched on. */
  async #balance(): Promise<void> {
    const { plan } = this.#record;
    const { balance } = this.#ports;
    if (balance === null || plan === null || this.#now - this.#balancedMs < this.#ports.limits.replicaTickMs) return;
    this.#balancedMs = this.#now;
    const next = await balance(plan, this.#heard.expertCounts, this.#now, this.#record.history[0]?.endedMs ?? null);
    if (next !== null && this.#record.plan === plan && this.#record.change === null) this.#begin(plan, next);
  }
}

/** Whether somebody is still to be told something. */
const hasWork = ({ plan, change, lanes }: DirectoryRecord): boolean => change !== null || (plan !== null && lanes.some(({ epoch }) => epoch < plan.epoch));

/** Shards that an earlier change could not tell, and that nobody else would tell now. A plan given later may not know their numbers. */
const untoldWithin = ({ untold }: DirectoryRecord, { to, state }: Change): number[] => (state === "abandoned" ? [] : untold.filter((shard) => shard < to.shards.length));

const isFurther = (before: DirectoryRecord, now: DirectoryRecord): boolean =>
  before.change?.to.epoch !== now.change?.to.epoch || before.change?.state !== now.change?.state || (before.change?.done.length ?? 0) < (now.change?.done.length ?? 0) || before.lanes !== now.lanes;

const failure = (cause: unknown): Prepared => ({ state: "refused", retryable: true, message: cause instanceof Error ? cause.message : String(cause) });
