// How an orchestrator goes from one plan to the next while it serves: connect the new lines, keep the plan, switch between two steps, end the old ones.
// Owns `adopt` and what follows when a shard says that an epoch is over. Refuses plans it cannot serve, with the reason; the old one stays in force then.
// docs/protocol.md section 3.

import type { FleetPlan } from "../fleet/fleet-plan.ts";
import type { PlannedRange } from "../fleet/plan.ts";
import type { Experts } from "../model/experts.ts";
import type { AdoptReply } from "./adoption.ts";
import type { ShardClient } from "./client.ts";
import { EpochExperts, type Epoch } from "./epoch-experts.ts";
import { fanOutOf, type FanOut, type LineParts } from "./epoch-lines.ts";
import { isOf, type PlanInForce } from "./plan-in-force.ts";

export interface EpochSwitchParts {
  readonly lines: LineParts;
  /** Null: nobody asks for another plan, and none is kept. */
  readonly plans: PlanInForce | null;
  /** Experts behind the lines of a plan, for the one engine that all epochs share. */
  readonly expertsOf: (fanOut: FanOut) => Experts;
  /** What the orchestrator computes itself, in every epoch: at most this. */
  readonly ownSlots: readonly PlannedRange[];
  /** Steps go by these lines now. */
  readonly switched: (fanOut: FanOut) => void;
}

interface LiveEpoch extends Epoch {
  readonly fanOut: FanOut;
}

export class EpochSwitch {
  readonly experts: EpochExperts<LiveEpoch>;
  readonly #p: EpochSwitchParts;
  #endedLoads = 0;
  #last: Promise<unknown> = Promise.resolve();
  #asking: Promise<void> | null = null;

  /** `first`: connected. */
  constructor(parts: EpochSwitchParts, first: FanOut) {
    this.#p = parts;
    this.experts = new EpochExperts(this.#epochOf(first));
  }

  get plan(): FleetPlan { return this.experts.current.fanOut.plan; }
  get clients(): readonly ShardClient[] { return this.experts.current.fanOut.clients; }
  /** How often shards have read weights, in all epochs. */
  get loads(): number { return this.#endedLoads + loadsOf(this.clients); }

  /** Never rejects; one after the other. */
  adopt(plan: FleetPlan): Promise<AdoptReply> {
    const adopted = this.#last.then(() => this.#adopt(plan));
    this.#last = adopted;
    return adopted;
  }

  /** A shard has ended the epoch in force, so there is a newer one: the directory knows it. */
  stale(): void {
    const { plans } = this.#p;
    if (plans === null) return;
    this.#asking ??= plans.asked(this.plan).then(async (plan) => {
      if (plan !== null) await this.adopt(plan);
      this.#asking = null;
    });
  }

  /** Does a step in one epoch. One that fails because its epoch is over is done again, once, if a newer plan has come into force; whoever watches it must expect that (step-trace.ts). */
  async step<T>(run: () => Promise<T>): Promise<T> {
    const { epoch } = this.plan;
    try {
      return await this.experts.during(run);
    } catch (cause) {
      if (this.#asking !== null) await this.#asking;
      if (this.plan.epoch === epoch) throw cause;
      return this.experts.during(run);
    }
  }

  async #adopt(plan: FleetPlan): Promise<AdoptReply> {
    const { lines, plans, switched } = this.#p;
    const inForce = this.plan;
    const refused = (message: string): AdoptReply => ({ state: "refused", epoch: inForce.epoch, message });
    if (!isOf(plan, inForce)) {
      return refused(`The plan is of pack ${plan.packId} (${plan.packHash.slice(0, 12)}) in fleet ${plan.fleet}; this orchestrator serves ${inForce.packId} (${inForce.packHash.slice(0, 12)}) in fleet ${inForce.fleet}.`);
    }
    if (plan.epoch <= inForce.epoch) return { state: "adopted", epoch: inForce.epoch };
    const unlike = this.#unlike(plan, inForce);
    if (unlike !== null) return refused(unlike);
    let fanOut: FanOut;
    try {
      fanOut = fanOutOf({ ...lines, stale: () => this.stale() }, plan, this.experts.current.fanOut);
    } catch (cause) {
      return refused(`The plan of epoch ${plan.epoch} does not fit the pack: ${messageOf(cause)}`);
    }
    try {
      await fanOut.connect();
      await plans?.keep(plan);
    } catch (cause) {
      fanOut.close("its plan was not adopted");
      return refused(`The shards of epoch ${plan.epoch} could not be reached, or the plan not be kept: ${messageOf(cause)}`);
    }
    const ended = this.clients;
    await this.experts.switchTo(this.#epochOf(fanOut));
    this.#endedLoads += loadsOf(ended);
    switched(fanOut);
    return { state: "adopted", epoch: plan.epoch };
  }

  /** What this orchestrator would have to be anew for the plan; null where nothing. */
  #unlike(plan: FleetPlan, inForce: FleetPlan): string | null {
    if (spansOf(plan) !== spansOf(inForce)) return `The plan cuts the model into stages ${spansOf(plan)}, and this ring into ${spansOf(inForce)}: another ring is other orchestrators.`;
    const held = new Set(this.#p.ownSlots.flatMap(segmentsOf));
    const missing = plan.stages[this.#p.lines.stage]!.slots.flatMap(segmentsOf).find((segment) => !held.has(segment));
    return missing === undefined ? null : `The plan gives stage ${this.#p.lines.stage} ${missing} to compute itself, which it does not hold.`;
  }

  #epochOf(fanOut: FanOut): LiveEpoch {
    return { fanOut, experts: this.#p.expertsOf(fanOut), finish: () => fanOut.finish() };
  }
}

/** Embedding rows, layers and head rows of each stage, in words. */
const spansOf = ({ stages }: FleetPlan): string =>
  stages.map(({ embeddingRows, layers, headRows }) => `[${[embeddingRows, layers, headRows].map(([from, to]) => `${from} to ${to}`).join(", ")}]`).join(" ");

const loadsOf = (clients: readonly ShardClient[]): number => clients.reduce((sum, { loads }) => sum + loads, 0);
const messageOf = (cause: unknown): string => (cause instanceof Error ? cause.message : String(cause));
const segmentsOf = ({ layer, expert, segments: [first, end] }: PlannedRange): string[] =>
  Array.from({ length: end - first }, (_, i) => `segment ${first + i} of expert ${expert} in layer ${layer}`);
