// What serving a pack takes of memory, before anything is started: the trunk's isolate, the largest shard's, and what one process holds. Owns the
// sentences that refuse. Local processes have no limit but that of a WebAssembly memory, 4 GiB; `--isolate-mib` lifts ours up to it.
// The sums are durable/memory-plan.ts's, which also admits loads.

import { tenantBytes } from "../durable/isolate.ts";
import { LIMITS, type Limits } from "../durable/limits.ts";
import { kvBytes, maxSegmentsOf, orchestratorMemory, pageBytes, plannedBytes, shardMemory, type PlannedPack } from "../durable/memory-plan.ts";
import { maxChunkTokens } from "../durable/protocol.ts";
import { expertTable, makePlan, type PlannedRange } from "../fleet/plan.ts";
import { MAX_ROUNDS } from "../model/experts.ts";
import { KV_BLOCK } from "../model/kernels.ts";
import { wholeModel } from "../model/stage-span.ts";
import { RESERVED_BYTES } from "../model/wasm-kernels.ts";
import { heldStages, scriptsOf, type HeldClass } from "./fleet-scripts.ts";
import { holdersOf, scriptsOfLayout, type ServeLayout } from "./serve-layout.ts";

const MIB = 1024 * 1024;
/** The most `--isolate-mib` can ask for. */
export const MOST_ISOLATE_MIB = Math.floor(LIMITS.memoryMaximumBytes / MIB);

export interface ServeMemory {
  /** The orchestrator, or the largest stage of a ring: its part of the trunk, working memory, and the KV cache of one request of the whole context. */
  readonly trunkBytes: number;
  readonly shardBytes: readonly number[];
  /** The largest WebAssembly memory of each process: objects of one script share one. */
  readonly processBytes: readonly number[];
  /** The least that `--isolate-mib` must say for every object to fit. */
  readonly isolateMib: number;
}

export function serveMemory(pack: PlannedPack & { readonly contextLength: number }, layout: ServeLayout): ServeMemory {
  const { processes, lanes = 1 } = layout;
  const { config } = pack;
  const roundTokens = maxChunkTokens(config, maxSegmentsOf(pack), pack.activations);
  const scripts = scriptsOfLayout(layout, "");
  const stages = layout.stages ?? [{ ...wholeModel(config), slots: [] }];
  // Shards in other isolates allow steps of two rounds; the stages of a ring overlap without.
  const stepTokens = stages.length === 1 && scripts.length > 0 ? Math.min(LIMITS.chunkTokens, MAX_ROUNDS * roundTokens) : roundTokens;
  const stageBytes = stages.map(({ slots: ranges, ...span }) => {
    const kv = stages.length === 1 ? kvBytes(pack, pack.contextLength) : Math.ceil(pack.contextLength / KV_BLOCK) * pageBytes(pack, span.layers[1] - span.layers[0]);
    return plannedBytes(orchestratorMemory(pack, { stepTokens, roundTokens, ranges, span }, LIMITS)) + kv;
  });
  const held = layout.slots ?? evenSlots(pack, layout);
  const shardBytes = held.map((slots) => (slots.length === 0 ? 0 : plannedBytes(shardMemory(pack, slots, LIMITS))));

  // Objects of one script share an isolate here, and with it a memory; -1 is the edge's.
  const isolates = new Map<number, { readonly process: number; bytes: number }>([[-1, { process: 0, bytes: RESERVED_BYTES }]]);
  const hold = (what: HeldClass, n: number, bytes: number): void => {
    const of = scriptsOf(scripts, what);
    const script = of.length === 0 ? -1 : scripts.indexOf(of[n % of.length]!);
    const isolate = isolates.get(script) ?? { process: scripts[script]!.process, bytes: RESERVED_BYTES };
    isolate.bytes += bytes;
    isolates.set(script, isolate);
  };
  isolates.get(-1)!.bytes += lanes * stageBytes[0]!;
  shardBytes.forEach((bytes, shard) => hold("ExpertShard", shard, bytes));
  for (let n = 0; n < heldStages({ nStages: stages.length, lanes }); n++) hold("Stage", n, stageBytes[1 + (n % (stages.length - 1))]!);
  const processBytes = Array.from({ length: processes }, (_, number) => Math.max(RESERVED_BYTES, ...[...isolates.values()].filter(({ process }) => process === number).map(({ bytes }) => bytes)));
  const trunkBytes = Math.max(...stageBytes);
  return { trunkBytes, shardBytes, processBytes, isolateMib: Math.ceil((Math.max(trunkBytes, ...shardBytes) + LIMITS.inFlightBytes) / MIB) };
}

/** Of each shard, where the experts are spread evenly. */
function evenSlots(pack: PlannedPack, layout: ServeLayout): PlannedRange[][] {
  const { slots } = makePlan(expertTable(pack), layout.shards);
  return slots.map((_, shard) => slots.flatMap((own, first) => (holdersOf(layout, first).includes(shard) ? own : [])));
}

const mib = (bytes: number): string => `${(bytes / MIB).toFixed(1)} MiB`;

/**
 * Throws when an object of the pack would not fit its isolate or a process its memory; the sentence says what is needed, what there is, and which
 * option helps. `isolateMib` null: production's.
 */
export function requireServeMemory(pack: PlannedPack & { readonly contextLength: number }, layout: ServeLayout, isolateMib: number | null): void {
  const limits: Limits = isolateMib === null ? LIMITS : { ...LIMITS, isolateBytes: isolateMib * MIB };
  const needed = serveMemory(pack, layout);
  const largestShard = Math.max(0, ...needed.shardBytes);
  const most = LIMITS.memoryMaximumBytes;
  const what = `The trunk of pack ${pack.id} takes ${mib(needed.trunkBytes)} with what running it needs`;
  if (needed.trunkBytes + RESERVED_BYTES > most) {
    throw new Error(`${what}, but a WebAssembly memory ends at 4 GiB (${mib(most)} usable), and ${layout.stages === undefined ? "without a --plan that cuts it into stages it lies in one" : "the plan gives a stage more"}. Pack it with fewer bits (--quant q8 or q4), or a shorter --context.`);
  }
  const crowded = needed.processBytes.findIndex((bytes) => bytes > most);
  if (crowded >= 0) {
    const experts = needed.shardBytes.reduce((sum, bytes) => sum + bytes, 0);
    const processes = 1 + Math.ceil(experts / (most * 0.9));
    throw new Error(`Process ${crowded + 1} of ${layout.processes} would hold ${mib(needed.processBytes[crowded]!)} of pack ${pack.id} (its trunk ${mib(needed.trunkBytes)}, all its experts ${mib(experts)}), `
      + `but a WebAssembly memory ends at 4 GiB, and all objects of a script in a process share one. Spread the shards: --processes ${processes} --shards ${Math.max(layout.shards, processes - 1)}, or more of both.`);
  }
  const room = tenantBytes(limits);
  if (needed.trunkBytes <= room && largestShard <= room) return;
  const has = isolateMib === null
    ? `an isolate has ${mib(room)} for an object: ${mib(limits.isolateBytes)} of the 128 MB that Cloudflare gives it, less ${mib(limits.inFlightBytes)} for frames in flight`
    : `--isolate-mib ${isolateMib} leaves ${mib(room)} for an object, after ${mib(limits.inFlightBytes)} for frames in flight`;
  const also = largestShard > room ? `, and the largest of ${layout.shards} shards ${mib(largestShard)}` : "";
  const smaller = largestShard > tenantBytes(LIMITS) ? " More --shards make each of them smaller." : "";
  const stages = needed.trunkBytes > room && layout.stages === undefined ? " A plan cuts the trunk into stages: `workers-moe plan <pack> --out plan.json`, then --plan plan.json." : "";
  throw new Error(`${needed.trunkBytes > room ? what : `The largest of ${layout.shards} shards of pack ${pack.id} takes ${mib(largestShard)} with what running it needs`}${needed.trunkBytes > room ? also : ""}; `
    + `${has}. On this machine alone the limit can be lifted: --isolate-mib ${needed.isolateMib}.${smaller}${stages}`);
}

/** The line that `serve` prints where the limit is lifted. */
export function liftedNotice(pack: PlannedPack & { readonly contextLength: number }, layout: ServeLayout, isolateMib: number): string {
  const { trunkBytes, shardBytes } = serveMemory(pack, layout);
  return `Isolates of ${isolateMib} MiB, on this machine only: Cloudflare would allow ${mib(tenantBytes(LIMITS))} for an object; here the trunk takes ${mib(trunkBytes)}, the largest shard ${mib(Math.max(0, ...shardBytes))}.`;
}
