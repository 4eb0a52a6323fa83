// Answers of GET /v1/fleet in states that a small deployment hardly reaches: several regions and lanes, a change that waits or was abandoned, faults.
// Owns these records, typed as the API's own. Refuses to be served: tests put them in the place of real answers.

import type { FleetReply } from "../../worker/wire-types.ts";

type Region = FleetReply["regions"][number];
type Directory = NonNullable<Region["directory"]>;
type Status = NonNullable<Region["lanes"][number]["status"]>;
type Shard = Status["shards"][number];
type Past = Directory["history"][number];

const MIB = 1024 ** 2;
/** What a shard's memory was filled from. */
const READ: NonNullable<Shard["read"]> = { moved: { memory: 0, cache: 0, donors: 41.5 * MIB, store: 20 * MIB }, loadMs: 1_240 };

/** The clock of these answers. */
export const NOW_MS = Date.UTC(2026, 10, 22, 12);

export const shard = (number: number, more: Partial<Shard> = {}): Shard => ({
  name: `big/0123456789ab/main/${number}@weur`, state: "open", warmth: "active", read: READ, weightBytes: 61.5 * MIB, experts: 128, region: "weur", loadedBytes: 0, totalBytes: 0,
  frames: 4_000 + 37 * number, bytes: (90 + number) * MIB, retries: 0, hedges: 0, lastFault: null, ...more,
});

export const status = (shards: readonly Shard[], more: Partial<Status> = {}): Status => ({
  status: "ready", loaded: 1, message: null, pack: { id: "big", hash: "0123456789ab".padEnd(64, "0"), contextLength: 8_192 }, epoch: 7,
  isolate: { limitBytes: 82 * MIB, usedBytes: 61 * MIB, account: { weights: 40 * MIB, "kv cache": 18 * MIB, frames: 3 * MIB }, objects: ["orchestrator big"], kernels: "relaxed-i16" },
  generations: { active: 5, queued: 2, cancelled: 1 }, drafts: { tokens: 812, held: 530 }, shards, read: READ, stages: [], ...more,
});

const change: Past = {
  epoch: 7, outcome: "steady", reason: "4 shards", shards: [6, 4], plannedBytes: 120 * MIB, movedBytes: 120 * MIB, retries: 0, endedMs: NOW_MS - 3_600_000, message: null,
  sinceMs: { planned: NOW_MS - 3_640_000, warming: NOW_MS - 3_639_700, committed: NOW_MS - 3_602_000, flipping: NOW_MS - 3_601_990, draining: NOW_MS - 3_601_400, retired: NOW_MS - 3_600_400 },
};
export const steady = change;

export const abandoned: Past = {
  ...change, epoch: 8, outcome: "abandoned", reason: "12 shards, 2 of each expert", shards: [4, 12], plannedBytes: 492 * MIB, movedBytes: 41 * MIB, retries: 3, endedMs: NOW_MS - 64_000,
  message: "Shard 9 cannot hold its part of epoch 8: 61.5 MiB of weights do not fit the 48.0 MiB that are left of this isolate.",
  sinceMs: { planned: NOW_MS - 75_000, warming: NOW_MS - 74_500, abandoned: NOW_MS - 66_000 },
};

/** Two of six shards wait. */
export const warming: NonNullable<Directory["change"]> = {
  epoch: 9, fromEpoch: 7, state: "warming", stepsLeft: 1, reason: "6 shards", shards: [4, 6], plannedBytes: 164 * MIB, movedBytes: 61.5 * MIB, retries: 1,
  sinceMs: { planned: NOW_MS - 12_300, warming: NOW_MS - 11_900 }, message: "2 of 6 shards are not warm: shard 4 is loading.",
};

export const directory = (more: Partial<Directory> = {}): Directory => ({
  plan: {
    epoch: 7, packHash: "0123456789ab".padEnd(64, "0"), fleet: "main", lanes: 2, stages: 1, jurisdiction: null, copies: [1, 3],
    shards: [...[12, 0, 128, 4].map((shared) => ({ segments: 128, shared, region: "weur" })), { segments: 0, shared: 0, region: "weur" }, { segments: 0, shared: 0, region: "weur" }],
  },
  change: null, history: [], load: [{ layer: 3, choices: 9_120, busiest: 41, timesMean: 2.61 }, { layer: 4, choices: 9_118, busiest: 7, timesMean: 1.9 }], faults: [],
  lanes: [
    { name: "big@weur", epoch: 7, seenMs: NOW_MS - 4_000, reportedMs: NOW_MS - 4_000, freeKvPositions: 21_504 },
    { name: "big@weur.1", epoch: 6, seenMs: NOW_MS - 61_000, reportedMs: null, freeKvPositions: null },
  ],
  ...more,
});

/** In western Europe two lanes over four shards; in eastern North America nobody answers. */
export function fleetReply(more: Partial<Directory> | null = {}, shards: readonly Shard[] = [0, 1, 2, 3].map((number) => shard(number))): FleetReply {
  const first = status(shards);
  const owner = more === null ? null : directory(more);
  return {
    ...first, directory: owner,
    regions: [
      { region: "weur", directory: owner, lanes: [{ lane: 0, name: "big@weur", status: first }, { lane: 1, name: "big@weur.1", status: null }] },
      { region: "enam", directory: null, lanes: [{ lane: 0, name: "big@enam", status: null }] },
    ],
    roundTrips: [
      { from: "edge", to: "weur", ms: 11.6, ageMs: 3_000 }, { from: "edge", to: "enam", ms: 84, ageMs: 3_000 },
      { from: "weur", to: "enam", ms: 79.2, ageMs: 41_000 }, { from: "enam", to: "weur", ms: 80.9, ageMs: 310_000 },
    ],
  };
}

export const faults: Directory["faults"] = [
  { atMs: NOW_MS - 5_000, shard: 2, cause: "no answer in 1840 ms" }, { atMs: NOW_MS - 5_200, shard: 2, cause: "The socket closed with code 1006 (WebSocket disconnected without sending Close frame.)." },
  ...[1, 2, 3, 4, 5].map((minutes) => ({ atMs: NOW_MS - minutes * 60_000, shard: minutes % 4, cause: "the reply's checksum does not match its rows" })),
];
