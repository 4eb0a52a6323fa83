// Every fault at every layer of every step of a short generation, with and without a replica: one cell, one run over a warm fleet of two shards (world.ts).
// Owns the faults of the matrix, where in a run they strike, what shows that each has happened, and the cells. Refuses chance: up to its fault a cell's run is the
// undisturbed one, frame by frame and by the clock, which the test asserts; and any judgement of what a cell came to (test/node/sim/fault-matrix.test.ts).

import { generate } from "../durable/generate-client.ts";
import type { GenerateEvent, GenerateRequest } from "../durable/generate.ts";
import { PROTOCOL_VERSION } from "../durable/handshake.ts";
import { decodeHeader, type FrameHeader } from "../durable/protocol.ts";
import { Draws } from "./draws.ts";
import { EventLoop } from "./event-loop.ts";
import { flipped, readdressed } from "./faults.ts";
import { SIM_LIMITS } from "./machines.ts";
import { type Arrivals, Link } from "./network.ts";
import type { OrchestratorObject } from "./orchestrator-object.ts";
import { answerOf } from "./requests.ts";
import type { ShardObject } from "./shard-object.ts";
import { VirtualTime } from "./virtual-time.ts";
import { type Grounds, World } from "./world.ts";

export const MATRIX_LAYERS = 3;
/** The prompt's, and one for each token but the last. */
export const MATRIX_STEPS = 9;
const N_SHARDS = 2;
const WARM_MS = 60_000;
const RUN_LIMIT_MS = 30 * 60_000;

export const MATRIX_REQUEST: GenerateRequest = {
  promptIds: [5, 17, 3, 29, 11], maxTokens: MATRIX_STEPS, stopIds: [], logprobs: 2, draftTokens: 0,
  sampling: { temperature: 0.9, topK: 0, typicalP: 1, topP: 1, minP: 0, seed: 7, adjustments: null },
};

/** A frame on its way when the fault strikes. */
interface Struck {
  readonly world: World;
  readonly shard: ShardObject;
  readonly orchestrator: OrchestratorObject;
  readonly bytes: ArrayBuffer;
}

/** What is left to see of a fault. */
interface Traces {
  readonly shard: ShardObject;
  readonly orchestrator: OrchestratorObject;
  /** Faults that the shard or the store said they met. */
  readonly met: readonly string[];
  /** Refusals by their code, and other replies, that reached an orchestrator after the strike. */
  readonly refusals: readonly number[];
  /** From the strike to the end of the answer. */
  readonly afterMs: number;
  /** Frames sent again, or to another. */
  readonly again: number;
  /** Ids that came along with a request that went on. */
  readonly resumedWith: number | null;
  readonly replicas: number;
}

interface MatrixFault {
  /** Strikes when the request leaves, or when its reply does. Returns what arrives in its place; null: the frame itself. */
  readonly at: "request" | "reply";
  strike(of: Struck): Arrivals | null;
  /** What shows that it has happened; null where all of it does. */
  unseen(of: Traces): string | null;
}

/** Acts in a turn of its own, before anything else can happen. */
const now = (act: (of: Struck) => void) => (of: Struck): null => {
  of.world.time.after(0, () => act(of));
  return null;
};
const restarted = ({ shard }: Traces): string | null => (shard.lives === 2 ? null : `the shard has had ${shard.lives} isolates; expected 2`);
const saw = (word: string) => ({ met }: Traces): string | null => (met.includes(word) ? null : `nobody met "${word}", only ${met.join(", ") || "nothing"}`);
const first = { whole: (from: number): number => from };
/** The last byte, so that it is the payload's. */
const last = { whole: (_from: number, to: number): number => to };
const both = (...checks: readonly ((of: Traces) => string | null)[]) => (of: Traces): string | null => checks.map((check) => check(of)).find((found) => found !== null) ?? null;
const repeated = ({ again }: Traces): string | null => (again > 0 ? null : "no frame was sent again");

export const MATRIX_FAULTS = {
  "killed": { at: "request", strike: now(({ shard }) => shard.kill()), unseen: both(restarted, repeated, ({ shard: { moved } }) => (moved.cache > 0 && moved.store === 0 ? null : `it fetched ${JSON.stringify(moved)}; expected its own cache`)) },
  "hung": {
    at: "request", strike: now(({ shard }) => shard.loop.occupy(10_000)),
    // Without a replica everybody waits for it.
    unseen: ({ afterMs, again, replicas }) => (again > 0 && (replicas > 1 || afterMs >= 10_000) ? null : `${again} frames were sent again, and the answer took ${afterMs} ms`),
  },
  "slow": {
    at: "request", strike: now(({ shard }) => { shard.slow = { ms: 700, frames: 1 }; }),
    unseen: ({ shard, afterMs, replicas }) => (shard.slow.frames <= 0 && (replicas > 1 || afterMs >= 700) ? null : `${shard.slow.frames} frames are still to be slow, and the answer took ${afterMs} ms`),
  },
  "evicted": { at: "request", strike: now(({ shard }) => { if (!shard.evict()) throw new Error("The object was not idle."); }), unseen: ({ shard }) => (shard.lives === 1 && shard.objects === 2 ? null : `object ${shard.objects} of isolate ${shard.lives}`) },
  "memory reset": {
    at: "reply",
    strike: ({ shard, world }) => {
      shard.prepareFaults.push("reset");
      world.time.after(0, () => shard.kill());
      return [];
    },
    unseen: both(restarted, saw("prepare met a reset")),
  },
  "overloaded": { at: "request", strike: now(({ shard }) => { shard.prepareFaults.push("overloaded"); shard.breakSockets(true, true); }), unseen: both(saw("prepare overloaded"), repeated) },
  "wrong epoch": {
    at: "request",
    strike: ({ bytes }) => [{ bytes: readdressed(bytes, { epoch: headerOf(bytes).epoch + 1 }), laterMs: 0 }],
    unseen: both(repeated, ({ refusals }) => (refusals.length === 1 ? null : `${refusals.length} refusals came; expected one`)),
  },
  "wrong revision": { at: "request", strike: now(({ shard }) => { shard.prepareFaults.push("wrong-revision"); shard.breakSockets(true, true); }), unseen: both(saw("prepare found another revision"), repeated) },
  "request damaged": { at: "request", strike: ({ bytes }) => [{ bytes: flipped(bytes, last), laterMs: 0 }], unseen: repeated },
  "reply damaged": { at: "reply", strike: ({ bytes }) => [{ bytes: flipped(bytes, last), laterMs: 0 }], unseen: repeated },
  "header damaged": { at: "reply", strike: ({ bytes }) => [{ bytes: flipped(bytes, first), laterMs: 0 }], unseen: repeated },
  "socket died silently": { at: "request", strike: now(({ shard }) => shard.breakSockets(false, false)), unseen: both(repeated, ({ afterMs, replicas }) => (replicas > 1 || afterMs >= SIM_LIMITS.deadlineFloorMs ? null : `the answer took ${afterMs} ms`)) },
  "cache lost": { at: "request", strike: now(({ shard }) => { shard.kill(); shard.disk.lose(); }), unseen: both(restarted, ({ shard: { moved } }) => (moved.store > 0 && moved.cache === 0 ? null : `it fetched ${JSON.stringify(moved)}; expected the store`)) },
  "store answered 5xx": { at: "request", strike: now(({ shard, world }) => { shard.kill(); shard.disk.lose(); world.store.faults.push("5xx"); }), unseen: both(restarted, saw("5xx")) },
  "store slow": { at: "request", strike: now(({ shard, world }) => { shard.kill(); shard.disk.lose(); world.store.faults.push("slow", "slow"); }), unseen: both(restarted, saw("slow")) },
  "orchestrator restarted": {
    at: "request", strike: now(({ orchestrator }) => orchestrator.kill()),
    unseen: ({ orchestrator, resumedWith }) => (orchestrator.lives === 2 && resumedWith !== null ? null : `${orchestrator.lives} orchestrators, resumed with ${resumedWith} tokens`),
  },
} as const satisfies Readonly<Record<string, MatrixFault>>;

export type MatrixFaultName = keyof typeof MATRIX_FAULTS;
export const MATRIX_FAULT_NAMES = Object.keys(MATRIX_FAULTS) as MatrixFaultName[];

export interface Cell {
  readonly fault: MatrixFaultName;
  readonly layer: number;
  readonly step: number;
  /** Holders of each segment. */
  readonly replicas: 1 | 2;
}

const upTo = (count: number): number[] => Array.from({ length: count }, (_, i) => i);
export const CELLS: readonly Cell[] = MATRIX_FAULT_NAMES.flatMap((fault) => upTo(MATRIX_LAYERS).flatMap((layer) => upTo(MATRIX_STEPS).flatMap((step) => ([1, 2] as const).map((replicas) => ({ fault, layer, step, replicas })))));

/** A frame as an orchestrator sent it: where in the generation, to whom, and when. */
export interface SentFrame {
  readonly step: number;
  readonly layer: number;
  readonly shard: number;
  readonly attempt: number;
  readonly atMs: number;
}

export interface CellReport {
  readonly answer: readonly string[];
  /** How the answer ended, where it is an error. */
  readonly error: string | null;
  readonly frames: readonly SentFrame[];
  /** Of `frames`, how many had left when the fault struck, its own included; null where it did not. */
  readonly struckAfter: number | null;
  /** Tokens that the reader had by then, and those a new orchestrator was told. */
  readonly tokensBefore: number;
  readonly resumedWith: number | null;
  /** What should show that the fault has happened and does not. */
  readonly unseen: string | null;
  /** Stuck, held or leaked. */
  readonly problem: string | null;
}

function headerOf(bytes: ArrayBuffer): FrameHeader {
  const decoded = decodeHeader(bytes);
  if (!decoded.ok) throw new Error(decoded.message);
  return decoded.header;
}

/** One run; without a fault, the undisturbed one. */
export async function runCell(grounds: Grounds, replicas: 1 | 2, cell: Cell | null): Promise<CellReport> {
  const time = new VirtualTime();
  const network = new Draws(1, 3);
  const plan = grounds.plans.plan({ nShards: N_SHARDS, sliced: false, replicas, epoch: 1 });
  const world = new World(grounds, {
    seed: 1, time, network, plan, nShards: N_SHARDS, nLanes: 1, strict: null, stale: [], roundTokens: 30, overlapTokens: Infinity, budgetBytes: 64 * 1024, planted: {},
  });
  const [orchestrator] = world.lanes as [OrchestratorObject];
  await warmed(world, network, plan);

  const fault: MatrixFault | null = cell === null ? null : MATRIX_FAULTS[cell.fault];
  const frames: SentFrame[] = [];
  const met: string[] = [];
  const refusals: number[] = [];
  const events: GenerateEvent[] = [];
  const strikes: { readonly shard: ShardObject; readonly atMs: number; readonly frames: number; readonly tokens: number }[] = [];
  let resumedWith: number | null = null;
  let done = false;
  let failed: unknown = null;
  const tokens = (): number => events.filter(({ type }) => type === "token").length;
  const isHere = ({ step, layer }: FrameHeader): boolean => cell !== null && strikes.length === 0 && step === cell.step + 1 && layer === cell.layer;
  const strike = (shard: ShardObject, bytes: ArrayBuffer): Arrivals | null => {
    strikes.push({ shard, atMs: time.nowMs(), frames: frames.length, tokens: tokens() });
    shard.onFault = (name) => void met.push(name);
    world.store.onFault = (name) => void met.push(name);
    return fault!.strike({ world, shard, orchestrator, bytes });
  };
  world.tamper = {
    request: (bytes, socket) => {
      const header = headerOf(bytes);
      const shard = world.shardOf(socket);
      frames.push({ step: header.step - 1, layer: header.layer, shard: shard.number, attempt: header.attempt, atMs: time.nowMs() });
      return fault?.at === "request" && isHere(header) ? strike(shard, bytes) : null;
    },
    reply: (bytes, socket) => {
      const header = headerOf(bytes);
      if (strikes.length > 0 && header.kind === "refusal") refusals.push(header.value);
      return fault?.at === "reply" && isHere(header) ? strike(world.shardOf(socket), bytes) : null;
    },
  };
  const target = {
    fetch: (input: string, init: RequestInit): Promise<Response> => {
      const { emittedIds } = JSON.parse(init.body as string) as GenerateRequest;
      if (strikes.length > 0 && !done) resumedWith = emittedIds?.length ?? 0;
      return orchestrator.fetch(input, init);
    },
  };
  const read = async (request: GenerateRequest, to: GenerateEvent[]): Promise<void> => {
    for await (const event of generate(target, request, { clock: new EventLoop(time).clock, limits: SIM_LIMITS })) to.push(event);
  };
  time.after(0, () => void read(MATRIX_REQUEST, events).catch((error: unknown) => { failed = error; }).finally(() => { done = true; }));
  const { kind } = await time.run(() => done, RUN_LIMIT_MS);
  const endMs = time.nowMs();
  const answerFrames = frames.splice(0);
  // Somebody asks again, and whoever a replica stood in for comes back.
  const after: GenerateEvent[] = [];
  time.after(0, () => void read({ ...MATRIX_REQUEST, maxTokens: 1 }, after));
  await time.run(() => false, WARM_MS);
  const [of] = strikes;
  const unseen = of === undefined || fault === null ? null : fault.unseen({
    shard: of.shard, orchestrator, met, refusals, afterMs: endMs - of.atMs, resumedWith, replicas,
    again: answerFrames.slice(of.frames).filter(({ step, layer, attempt }) => attempt > 0 || (step === cell!.step && layer === cell!.layer)).length,
  });
  const held = world.held();
  const leak = world.end();
  const end = events.at(-1);
  return {
    answer: answerOf(events), error: end?.type === "error" ? `${end.code}: ${end.message}` : null, frames: answerFrames, unseen, resumedWith,
    struckAfter: of?.frames ?? null, tokensBefore: of?.tokens ?? 0,
    problem: kind !== "done" ? `the reader's run ended as ${kind}` : failed !== null ? `the reader met ${String(failed)}` : answerOf(after).join() !== answerOf(events).slice(0, 1).concat(`end length null ${MATRIX_REQUEST.promptIds.length} 1`).join() ? `who asked again got ${answerOf(after).join("; ")}` : held ?? leak,
  };
}

/** Both shards serve, and have their weights on disk, before anybody asks. */
async function warmed(world: World, network: Draws, plan: Parameters<Grounds["plans"]["moves"]>[0]): Promise<void> {
  const { time, shards } = world;
  const near = new EventLoop(time);
  const link = new Link(time, network);
  shards.forEach((shard, number) => {
    const hello = { protocolVersion: PROTOCOL_VERSION, packHash: plan.packHash, epoch: plan.epoch, slots: plan.shards[number]!.slots, strictIsolates: false, donors: [] };
    void shard.control(near, link, (core) => core.prepare(hello));
  });
  await time.run(() => false, WARM_MS);
}
