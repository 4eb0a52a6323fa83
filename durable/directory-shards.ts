// The directory's way to shard objects: warming beside what they serve, with donors, and letting go. Owns whom it asks under which name.
// Refuses to repeat a call or to wait for one (directory-core.ts).

import type { FleetPlan } from "../fleet/fleet-plan.ts";
import { movesOf, type ShardMoves } from "../fleet/min-move.ts";
import type { DirectoryShards, Prepared } from "./directory-ports.ts";
import { packTable } from "./directory-planner.ts";
import { shardNamespace, strictIsolates, type DurableEnv } from "./env.ts";
import { PROTOCOL_VERSION, type Donor, type MovedBytes, type ShardReport, type SlotRange, type Welcome } from "./handshake.ts";
import { LIMITS } from "./limits.ts";
import { hintOf, withinJurisdiction } from "./places.ts";
import { plain } from "./rpc-result.ts";
import type { ExpertShard } from "./shard.ts";
import { shardName } from "./shard-transport.ts";

export class ShardObjects implements DirectoryShards {
  readonly #env: DurableEnv;
  /** Which of its names each shard answers to: the first, unless that one landed in a shared isolate (strict mode). */
  readonly #attempts = new Map<number, number>();
  #moves: { readonly epochs: string; readonly shards: readonly ShardMoves[] } | null = null;

  constructor(env: DurableEnv) {
    this.#env = env;
  }

  async fetched(plan: FleetPlan, shard: number): Promise<number> {
    return fetchedBytes(plain<ShardReport>(await this.#stub(plan, shard).report()).moved);
  }

  async prepare(from: FleetPlan, to: FleetPlan, shard: number): Promise<Prepared> {
    const donors = (await this.#movesTo(shard, from, to)).map((donor): Donor => ({ ...donor, name: this.#nameOf(from, donor.shard) }));
    const welcome = await this.#greet(to, shard, to.shards[shard]!.slots, donors);
    if (welcome.state === "loading") return { state: "loading" };
    if (welcome.state === "ready") return { state: "ready", fetchedBytes: await this.fetched(to, shard) };
    if (welcome.code !== "isolate-shared") return welcome;
    const attempt = (this.#attempts.get(shard) ?? 0) + 1;
    if (attempt >= LIMITS.shardNames) return { ...welcome, retryable: false, message: `${welcome.message} So it was under ${LIMITS.shardNames} names; a script for each shard (docs/deploy.md) keeps them apart.` };
    this.#attempts.set(shard, attempt);
    return welcome;
  }

  /** Who holds now what a shard must load. Compared once for a change, whichever shard is asked. */
  async #movesTo(shard: number, from: FleetPlan, to: FleetPlan): Promise<ShardMoves["donors"]> {
    if (this.#moves?.epochs !== `${from.epoch} ${to.epoch}`) {
      const { shards } = movesOf(from, to, await packTable(this.#env, to.packHash));
      this.#moves = { epochs: `${from.epoch} ${to.epoch}`, shards };
    }
    return this.#moves.shards.find((of) => of.shard === shard)?.donors ?? [];
  }

  async retire(plan: FleetPlan, shard: number, below: number): Promise<void> {
    await this.#stub(plan, shard).retire({ packHash: plan.packHash, below });
  }

  /** One that holds nothing of the plan in force is empty again; another is told that the new epoch asks nothing of it. */
  async release(from: FleetPlan, to: FleetPlan, shard: number): Promise<void> {
    if ((from.shards[shard]?.slots ?? []).length === 0) return this.retire(to, shard, to.epoch + 1);
    const welcome = await this.#greet(to, shard, [], []);
    if (welcome.state !== "ready") throw new Error(welcome.state === "refused" ? welcome.message : "it is still loading");
  }

  async #greet(plan: FleetPlan, shard: number, slots: readonly SlotRange[], donors: readonly Donor[]): Promise<Welcome> {
    return plain(await this.#stub(plan, shard).prepare({ protocolVersion: PROTOCOL_VERSION, packHash: plan.packHash, epoch: plan.epoch, slots, strictIsolates: strictIsolates(this.#env), donors }));
  }

  #nameOf(plan: FleetPlan, shard: number): string {
    return shardName(plan, shard, plan.shards[shard]!.region, this.#attempts.get(shard) ?? 0);
  }

  #stub(plan: FleetPlan, shard: number): DurableObjectStub<ExpertShard> {
    const { region } = plan.shards[shard]!;
    const namespace = shardNamespace(this.#env, shard);
    return withinJurisdiction(namespace, plan.jurisdiction).getByName(this.#nameOf(plan, shard), hintOf(region));
  }
}

/** From wherever: a shard that finds its weights in the isolate's memory has them as much as one that read them. */
const fetchedBytes = ({ memory, cache, donors, store }: MovedBytes): number => memory + cache + donors + store;
