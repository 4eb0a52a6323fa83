// What the fleet view shows of one region, drawn together from GET /v1/fleet: the plan's shards with what its orchestrators say of them, summed over those.
// Owns the words for a shard's state and the frames per second of the last minute. Refuses the DOM.

import type { FleetReply, ShardStatus } from "../worker/wire-types.ts";

type Region = FleetReply["regions"][number];
type Directory = NonNullable<FleetReply["directory"]>;
export type Lane = Region["lanes"][number];
export type LaneReport = Directory["lanes"][number];

/** How long the load is remembered: polls, one a second. */
export const SAMPLES_KEPT = 60;

/** How warm it is in the server's words; `at rest`: the plan gives it nothing; `away`: its line broke and is being opened again. */
export type ShardState = ShardStatus["warmth"] | "at rest" | "away";

export interface ShardSight extends Pick<ShardStatus, "region" | "experts" | "weightBytes" | "loadedBytes" | "totalBytes" | "frames" | "bytes" | "retries" | "hedges" | "lastFault" | "read"> {
  readonly number: number;
  readonly state: ShardState;
  /** Parts of experts in it, and how many of them another shard holds too; null where nobody knows the plan. */
  readonly segments: number | null;
  readonly shared: number;
  /** Frames per second, the latest last. */
  readonly load: readonly number[];
}

export interface FleetSight {
  /** Null where the platform chose. */
  readonly region: string | null;
  readonly directory: Directory | null;
  readonly lanes: readonly Lane[];
  readonly shards: readonly ShardSight[];
  readonly limitBytes: number | null;
}

/** "demo/cbc8e82eacd4/main/0", of a fleet "main", is shard 0, whatever follows. */
const numberIn = (name: string, i: number): number => Number(/\/(\d+)(?:[@~][^/]*)?$/.exec(name)?.[1] ?? i);

/** Several orchestrators see a shard each by a line of its own: what needs patience counts before what is well. */
const STATES: readonly ShardState[] = ["away", "loading", "active", "linger", "closed", "cold"];

const sum = (of: readonly ShardStatus[], field: "frames" | "bytes" | "retries" | "hedges"): number => of.reduce((total, shard) => total + shard[field], 0);

function stateOf(lines: readonly ShardStatus[], segments: number | null): ShardState {
  if (segments === 0 && !lines.some(({ state }) => state === "open")) return "at rest";
  const states: ShardState[] = lines.map(({ state, warmth }) => (state === "closed" ? "away" : warmth));
  return STATES.find((state) => states.includes(state)) ?? "cold";
}

/** Remembers the counts of the answer before, whose difference is the load. */
export class FleetWatch {
  #atMs: number | null = null;
  readonly #frames = new Map<number, number>();
  readonly #load = new Map<number, number[]>();

  /** One region's part of an answer that came at `atMs`. */
  see(reply: FleetReply, region: Region, atMs: number): FleetSight {
    const statuses = region.lanes.flatMap(({ status }) => (status === null ? [] : [status]));
    const plan = region.directory?.plan ?? null;
    const seen = new Map<number, ShardStatus[]>();
    for (const { shards } of statuses) shards.forEach((shard, i) => seen.set(numberIn(shard.name, i), [...(seen.get(numberIn(shard.name, i)) ?? []), shard]));
    const numbers = [...new Set([...seen.keys(), ...(plan?.shards.keys() ?? [])])].sort((a, b) => a - b);
    const seconds = this.#atMs === null ? 0 : (atMs - this.#atMs) / 1000;
    this.#atMs = atMs;
    const shards = numbers.map((number): ShardSight => {
      const lines = seen.get(number) ?? [];
      const planned = plan?.shards[number];
      const load = this.#note(number, sum(lines, "frames"), seconds);
      const widest = lines.toSorted((a, b) => b.totalBytes - b.loadedBytes - (a.totalBytes - a.loadedBytes))[0];
      return {
        number, load, state: stateOf(lines, planned?.segments ?? null), region: planned?.region ?? widest?.region ?? null,
        segments: planned?.segments ?? null, shared: planned?.shared ?? 0, experts: widest?.experts ?? 0, weightBytes: widest?.weightBytes ?? 0,
        loadedBytes: widest?.loadedBytes ?? 0, totalBytes: widest?.totalBytes ?? 0,
        frames: sum(lines, "frames"), bytes: sum(lines, "bytes"), retries: sum(lines, "retries"), hedges: sum(lines, "hedges"),
        lastFault: lines.find(({ lastFault }) => lastFault !== null)?.lastFault ?? null,
        read: widest?.read ?? null,
      };
    });
    return { region: region.region, directory: region.directory, lanes: region.lanes, shards, limitBytes: (statuses[0] ?? reply).isolate?.limitBytes ?? null };
  }

  #note(shard: number, frames: number, seconds: number): number[] {
    const before = this.#frames.get(shard);
    this.#frames.set(shard, frames);
    // A line that was opened anew counts from nothing.
    const rate = before === undefined || seconds === 0 ? 0 : (frames < before ? frames : frames - before) / seconds;
    const load = [...(this.#load.get(shard) ?? []), rate].slice(-SAMPLES_KEPT);
    this.#load.set(shard, load);
    return load;
  }
}
