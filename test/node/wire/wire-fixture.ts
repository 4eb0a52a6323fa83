// Batches, clients and shards put together for wire tests. Owns no assertion.

import { ShardClient } from "../../../durable/client.ts";
import { SeededRandom } from "../../../durable/clock.ts";
import { InFlightBudget } from "../../../durable/in-flight-budget.ts";
import { LIMITS, type Limits } from "../../../durable/limits.ts";
import { requestLayout } from "../../../durable/protocol.ts";
import type { ShardTransport } from "../../../durable/frame-socket.ts";
import type { StepTerms } from "../../../durable/step-terms.ts";
import { WebSocketExperts } from "../../../durable/websocket-experts.ts";
import { ReplicaChoice } from "../../../durable/replica-choice.ts";
import { ExpertBatchBuilder, PAIR_BYTES } from "../../../model/expert-batch.ts";
import type { ExpertBatch, Experts } from "../../../model/experts.ts";
import { Heap } from "../../../model/heap.ts";
import { activationRowBytes, type ActivationFormat } from "../../../model/kernels.ts";
import { createScalarKernels } from "../../../model/scalar-kernels.ts";
import { makePlan, slicedExperts } from "../../../fleet/plan.ts";
import type { FakeClock } from "./fake-clock.ts";
import { rowWord, sumWords } from "./scripted-shard.ts";
import { sealRequestFrame } from "./whole-frame.ts";

export const HIDDEN = 64;
export const N_EXPERTS = 8;
export const N_SEGMENTS = 2;
const TOP_K = 3;
export const EPOCH = 3;

export const newHeap = (): Heap => new Heap(new WebAssembly.Memory({ initial: 64 }), 1024, 8 << 20);

export function clientFor(clock: FakeClock, transport: ShardTransport | ((nameAttempt: number) => ShardTransport), limits: Limits = LIMITS, budget = new InFlightBudget(limits.inFlightBytes), stale: () => void = () => {}): ShardClient {
  return new ShardClient({
    transport: typeof transport === "function" ? transport : () => transport,
    hello: { protocolVersion: 3, packHash: "ab", epoch: EPOCH, slots: [], strictIsolates: false, donors: [] },
    isolate: "here", limits, clock, random: new SeededRandom(7), budget, stale,
  });
}

/** A request frame of two groups with one token each. */
export function frameOf(layer: number): ArrayBuffer {
  const shape = { nRows: 1, nGroups: 2, nTokens: 2, hidden: HIDDEN, input: HIDDEN, activations: "qa8" as const };
  const at = requestLayout(shape);
  const buffer = new ArrayBuffer(at.frameBytes);
  new Uint32Array(buffer, at.groups).set([1, 1, 2, 1]);
  sealRequestFrame(buffer, shape, layer, 0);
  return buffer;
}

export interface Batches {
  /** A batch of `nTokens` tokens with 3 experts each, chosen by `seed`, in the regions of round 0 or 1. */
  batch(layer: number, nTokens: number, seed: number, round?: 0 | 1): ExpertBatch;
  /** Words where the rows of a batch differ from what its shards compute: none when all is well. */
  wrongWords(batch: ExpertBatch): number;
  /** Overwrites the rows with a pattern no shard computes. */
  clear(batch: ExpertBatch): void;
}

export interface Fixture extends Batches {
  readonly heap: Heap;
  readonly experts: WebSocketExperts;
  readonly clients: readonly ShardClient[];
  readonly budget: InFlightBudget;
}

/** Each slot is on `nReplicas` of the shards: those after its first one, round in a ring. */
export function fixture(clock: FakeClock, transports: readonly ShardTransport[], activations: ActivationFormat = "qa8", limits: Limits = LIMITS, nReplicas = 1, terms?: StepTerms): Fixture {
  const heap = newHeap();
  const table = [];
  for (let layer = 0; layer < 4; layer++) for (let expert = 0; expert < N_EXPERTS; expert++) table.push({ layer, expert, segmentBytes: [100, 90] });
  const plan = makePlan(table, transports.length, slicedExperts, EPOCH);
  const budget = new InFlightBudget(limits.inFlightBytes);
  const clients = transports.map((transport) => clientFor(clock, transport, limits, budget));
  const maxTokens = 256;
  const slots = plan.slots.map((_, shard) => Array.from({ length: nReplicas }, (_, back) => plan.slots[(shard - back + transports.length) % transports.length]!).flat());
  const placement = new ReplicaChoice(slots, clients);
  const experts = new WebSocketExperts({ clients, placement, heap, frame: heap.alloc(limits.frameBytes, "frames"), config: { hiddenSize: HIDDEN, router: {} }, activations, maxTokens, frameBytes: limits.frameBytes, overlapTokens: 64, clock, limits, ...(terms === undefined ? {} : { terms }), kernels: createScalarKernels(heap.memory) });
  return { heap, experts, clients, budget, ...batchMaker(heap, experts, activations) };
}

/** Batches for `experts`, two of everything: as many rounds may overlap. */
export function batchMaker(heap: Heap, experts: Pick<Experts, "placement">, activations: ActivationFormat): Batches {
  const maxTokens = 256;
  const rowBytes = activationRowBytes(activations, HIDDEN);
  const shape = { maxTokens, topK: TOP_K, nExperts: N_EXPERTS, maxSegments: N_SEGMENTS, hidden: HIDDEN, rowsPerToken: 1, expertsPerRow: N_EXPERTS, expertsPerBranch: N_EXPERTS };
  const regions = [0, 1].map(() => ({
    builder: new ExpertBatchBuilder(heap, shape, experts), acts: heap.alloc(maxTokens * rowBytes, "activations"),
    ids: heap.alloc(maxTokens * TOP_K * 4, "ids"), pairs: heap.alloc(maxTokens * TOP_K * PAIR_BYTES, "pairs"),
    rows: heap.alloc(maxTokens * TOP_K * N_SEGMENTS * HIDDEN * 4, "rows"),
  }));
  const nRowsOf = (batch: ExpertBatch): number => batch.groupStart[batch.nGroups]!;
  return {
    batch(layer, nTokens, seed, round = 0) {
      const { builder, acts, ids, pairs, rows } = regions[round]!;
      const random = new SeededRandom(seed);
      for (let i = 0; i < (nTokens * rowBytes) / 4; i++) heap.u32[acts / 4 + i] = Math.floor(random.next() * 4294967296);
      for (let t = 0; t < nTokens; t++) {
        const chosen = new Set<number>();
        while (chosen.size < TOP_K) chosen.add(Math.floor(random.next() * N_EXPERTS));
        heap.u32.set([...chosen], ids / 4 + t * TOP_K);
      }
      // Weights play no part: the ids stand in for them.
      return builder.build(layer, 0, nTokens, ids, ids, new Array<number>(N_EXPERTS).fill(N_SEGMENTS), acts, rowBytes, rows, pairs).batch;
    },
    wrongWords(batch) {
      let wrong = 0;
      for (let g = 0; g < batch.nGroups; g++) {
        for (let i = batch.groupStart[g]!; i < batch.groupStart[g + 1]!; i++) {
          const sum = sumWords(heap.u32, (batch.activations + batch.groupTokens[i]! * rowBytes) / 4, rowBytes / 4);
          const at = batch.rows / 4 + (batch.groupRow[g]! + i - batch.groupStart[g]!) * HIDDEN;
          for (let w = 0; w < HIDDEN; w++) if (heap.u32[at + w] !== rowWord(batch.layer, batch.groupExpert[g]!, batch.groupSegment[g]!, sum, w)) wrong++;
        }
      }
      return wrong;
    },
    clear: (batch) => void heap.u32.fill(0xdeadbeef, batch.rows / 4, batch.rows / 4 + nRowsOf(batch) * HIDDEN),
  };
}
