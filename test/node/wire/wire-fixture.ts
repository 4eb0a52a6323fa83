// Batches, clients and shards put together for wire tests. Owns no assertion.

import { InFlightBudget, ShardClient, type ShardTransport } from "../../../durable/client.ts";
import { SeededRandom } from "../../../durable/clock.ts";
import { LIMITS, type Limits } from "../../../durable/limits.ts";
import { WebSocketExperts } from "../../../durable/websocket-experts.ts";
import type { ExpertBatch } from "../../../model/experts.ts";
import { Heap } from "../../../model/heap.ts";
import { activationRowBytes, type ActivationFormat } from "../../../model/kernels.ts";
import { makePlan, slicedExperts } from "../../../fleet/plan.ts";
import type { FakeClock } from "./fake-clock.ts";
import { rowWord, sumWords } from "./scripted-shard.ts";

export const HIDDEN = 64;
export const N_EXPERTS = 8;
export const N_SEGMENTS = 2;
export const EPOCH = 3;

export const newHeap = (): Heap => new Heap(new WebAssembly.Memory({ initial: 64 }), 1024, 4 << 20);

export function clientFor(clock: FakeClock, transport: ShardTransport | ((nameAttempt: number) => ShardTransport), limits: Limits = LIMITS, budget = new InFlightBudget(limits.inFlightBytes)): ShardClient {
  return new ShardClient({
    transport: typeof transport === "function" ? transport : () => transport,
    hello: { protocolVersion: 1, packHash: "ab", epoch: EPOCH, slots: [], strictIsolates: false },
    limits, clock, random: new SeededRandom(7), budget,
  });
}

export interface Fixture {
  readonly heap: Heap;
  readonly experts: WebSocketExperts;
  readonly clients: readonly ShardClient[];
  readonly budget: InFlightBudget;
  /** A batch of `nTokens` tokens with 3 experts each, chosen by `seed`. */
  batch(layer: number, nTokens: number, seed: number): ExpertBatch;
  /** Words where the rows of a batch differ from what its shards compute: none when all is well. */
  wrongWords(batch: ExpertBatch): number;
  /** Overwrites the rows with a pattern no shard computes. */
  clear(batch: ExpertBatch): void;
}

export function fixture(clock: FakeClock, transports: readonly ShardTransport[], activations: ActivationFormat = "qa8", limits: Limits = LIMITS): Fixture {
  const heap = newHeap();
  const table = [];
  for (let layer = 0; layer < 4; layer++) for (let expert = 0; expert < N_EXPERTS; expert++) table.push({ layer, expert, segmentBytes: [100, 90] });
  const plan = makePlan(table, transports.length, slicedExperts, EPOCH);
  const budget = new InFlightBudget(limits.inFlightBytes);
  const clients = transports.map((transport) => clientFor(clock, transport, limits, budget));
  const maxTokens = 256;
  const experts = new WebSocketExperts({ clients, shardOf: plan.shardOf, heap, hidden: HIDDEN, activations, maxTokens, frameBytes: limits.frameBytes }, N_EXPERTS * N_SEGMENTS);
  const rowBytes = activationRowBytes(activations, HIDDEN);
  const acts = heap.alloc(maxTokens * rowBytes, "activations");
  const rows = heap.alloc(maxTokens * 3 * N_SEGMENTS * HIDDEN * 4, "rows");
  const nRowsOf = (batch: ExpertBatch): number => batch.groupStart[batch.nGroups]!;
  return {
    heap, experts, clients, budget,
    batch(layer, nTokens, seed) {
      const random = new SeededRandom(seed);
      for (let i = 0; i < (nTokens * rowBytes) / 4; i++) heap.u32[acts / 4 + i] = Math.floor(random.next() * 4294967296);
      const lists: number[][] = Array.from({ length: N_EXPERTS }, () => []);
      for (let t = 0; t < nTokens; t++) {
        const chosen = new Set<number>();
        while (chosen.size < 3) chosen.add(Math.floor(random.next() * N_EXPERTS));
        for (const expert of chosen) lists[expert]!.push(t);
      }
      const [experts, segments, start, tokens]: number[][] = [[], [], [0], []];
      lists.forEach((list, expert) => {
        for (let segment = 0; segment < N_SEGMENTS && list.length > 0; segment++) {
          experts!.push(expert);
          segments!.push(segment);
          tokens!.push(...list);
          start!.push(tokens!.length);
        }
      });
      return {
        layer, nTokens, activations: acts, activationStride: rowBytes, nGroups: experts!.length,
        groupExpert: Uint32Array.from(experts!), groupSegment: Uint32Array.from(segments!), groupStart: Uint32Array.from(start!), groupTokens: Uint32Array.from(tokens!), rows,
      };
    },
    wrongWords(batch) {
      let wrong = 0;
      for (let g = 0; g < batch.nGroups; g++) {
        for (let row = batch.groupStart[g]!; row < batch.groupStart[g + 1]!; row++) {
          const sum = sumWords(heap.u32, (acts + batch.groupTokens[row]! * rowBytes) / 4, rowBytes / 4);
          for (let i = 0; i < HIDDEN; i++)
            if (heap.u32[rows / 4 + row * HIDDEN + i] !== rowWord(batch.layer, batch.groupExpert[g]!, batch.groupSegment[g]!, sum, i)) wrong++;
        }
      }
      return wrong;
    },
    clear: (batch) => void heap.u32.fill(0xdeadbeef, rows / 4, rows / 4 + nRowsOf(batch) * HIDDEN),
  };
}
