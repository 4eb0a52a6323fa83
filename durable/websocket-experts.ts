// Experts on shards: one layer's batch becomes one frame per shard, and the replies become rows of the engine's memory.
// Owns the split of a batch by the plan and the one copy of each reply into place. Refuses retries and sockets (client.ts),
// and any sum of rows: combining is the engine's. docs/protocol.md sections 2 and 3.
// Scratch is allocated once; a step allocates per frame, nothing per expert or row.

import type { ExpertBatch, ExpertRunInfo, Experts } from "../model/experts.ts";
import type { Heap } from "../model/heap.ts";
import { activationRowBytes, type ActivationFormat } from "../model/kernels.ts";
import type { OutgoingFrame, ReplySink, ShardClient, ShardError } from "./client.ts";
import { FRAME_HEADER_BYTES, replyFrameBytes, requestLayout, sealRequest, type FrameHeader } from "./protocol.ts";

/** A frame would exceed the limit: the step has more tokens than maxChunkTokens allows. */
export class FrameSizeError extends Error {
  override readonly name = "FrameSizeError";
}

export interface WebSocketExpertsParts {
  /** One client per shard number of the plan. */
  readonly clients: readonly ShardClient[];
  /** Shard number that holds a slot. */
  readonly shardOf: (layer: number, expert: number, segment: number) => number;
  readonly heap: Heap;
  readonly hidden: number;
  readonly activations: ActivationFormat;
  readonly maxTokens: number;
  readonly frameBytes: number;
}

/** One layer's round: what is outstanding, and where replies go. */
class Round {
  outstanding = 0;
  settled = false;
  bytes = 0;
  readonly frames: OutgoingFrame[] = [];
  readonly clients: ShardClient[] = [];
  readonly promise: Promise<ExpertRunInfo>;
  #resolve!: (info: ExpertRunInfo) => void;
  #reject!: (error: Error) => void;
  constructor() {
    this.promise = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
  }
  arrived(): void {
    if (--this.outstanding > 0 || this.settled) return;
    this.settled = true;
    const retries = this.frames.reduce((sum, frame) => sum + frame.retries, 0);
    this.#resolve({ frames: this.frames.length, bytes: this.bytes, retries });
  }
  fail(error: Error): void {
    if (this.settled) return;
    this.settled = true;
    // Nobody may write into the engine's rows once the step has failed.
    for (let i = 0; i < this.frames.length; i++) this.clients[i]!.withdraw(this.frames[i]!);
    this.#reject(error);
  }
}

export class WebSocketExperts implements Experts {
  readonly #p: WebSocketExpertsParts;
  readonly #rowBytes: number;
  readonly #shardOfGroup: Uint16Array;
  readonly #rowOfToken: Int32Array;
  readonly #nGroups: Uint32Array;
  readonly #nTokens: Uint32Array;
  #steps = 0;
  #lastLayer = -1;

  /** `maxGroups` of one step are nExperts * maxSegments at most; `maxTokens` as the engine's maxChunkTokens. */
  constructor(parts: WebSocketExpertsParts, maxGroups: number) {
    this.#p = parts;
    this.#rowBytes = activationRowBytes(parts.activations, parts.hidden);
    this.#shardOfGroup = new Uint16Array(maxGroups);
    this.#rowOfToken = new Int32Array(parts.maxTokens);
    this.#nGroups = new Uint32Array(parts.clients.length);
    this.#nTokens = new Uint32Array(parts.clients.length);
  }

  /** Rejects with ShardError (every attempt of a frame failed) or FrameSizeError; nothing is written afterwards. */
  run(layer: number, batch: ExpertBatch): Promise<ExpertRunInfo> {
    const { clients, shardOf } = this.#p;
    if (layer <= this.#lastLayer) this.#steps++;
    this.#lastLayer = layer;
    this.#nGroups.fill(0);
    this.#nTokens.fill(0);
    for (let g = 0; g < batch.nGroups; g++) {
      const shard = shardOf(layer, batch.groupExpert[g]!, batch.groupSegment[g]!);
      this.#shardOfGroup[g] = shard;
      this.#nGroups[shard]!++;
      this.#nTokens[shard]! += batch.groupStart[g + 1]! - batch.groupStart[g]!;
    }
    const round = new Round();
    try {
      // All frames are counted before the first is sent, so that a reply cannot end the round early.
      for (let shard = 0; shard < clients.length; shard++) if (this.#nGroups[shard]! > 0) round.outstanding++;
      for (let shard = 0; shard < clients.length && !round.settled; shard++) {
        if (this.#nGroups[shard]! > 0) this.#sendTo(shard, batch, round);
      }
    } catch (error) {
      round.fail(error instanceof Error ? error : new Error(String(error)));
    }
    return round.promise;
  }

  #sendTo(shard: number, batch: ExpertBatch, round: Round): void {
    const { clients, heap, hidden, activations, frameBytes } = this.#p;
    const nRows = this.#numberRows(shard, batch);
    const shape = { nRows, nGroups: this.#nGroups[shard]!, nTokens: this.#nTokens[shard]!, hidden, activations };
    const at = requestLayout(shape);
    const replyBytes = replyFrameBytes(shape.nTokens, hidden);
    if (Math.max(at.frameBytes, replyBytes) > frameBytes || nRows > 0xffff) {
      throw new FrameSizeError(
        `Layer ${batch.layer} needs a frame of ${Math.max(at.frameBytes, replyBytes)} bytes for ${shape.nTokens} expert rows of ${batch.nTokens} tokens on shard ${clients[shard]!.name}; ${frameBytes} is the limit.`);
    }
    const buffer = new ArrayBuffer(at.frameBytes);
    this.#copyActivations(new Uint32Array(buffer, at.activations, (at.groups - at.activations) / 4), heap.u32, batch);
    const groups = new Uint32Array(buffer, at.groups, shape.nGroups * 2);
    const tokens = new Uint16Array(buffer, at.tokens, shape.nTokens);
    for (let g = 0, group = 0, token = 0; g < batch.nGroups; g++) {
      if (this.#shardOfGroup[g] !== shard) continue;
      const [from, to] = [batch.groupStart[g]!, batch.groupStart[g + 1]!];
      groups[group++] = batch.groupExpert[g]! | (batch.groupSegment[g]! << 16);
      groups[group++] = to - from;
      for (let i = from; i < to; i++) tokens[token++] = this.#rowOfToken[batch.groupTokens[i]!]!;
    }
    sealRequest(buffer, shape, batch.layer, this.#steps);
    round.bytes += buffer.byteLength + replyBytes;
    const sink: ReplySink = {
      reply: (_header: FrameHeader, reply: ArrayBuffer) => {
        this.#place(shard, batch, reply);
        round.arrived();
      },
      failed: (error: ShardError) => round.fail(error),
    };
    round.clients.push(clients[shard]!);
    round.frames.push(clients[shard]!.submit(buffer, { layer: batch.layer, nGroups: shape.nGroups, nTokens: shape.nTokens, hidden }, sink));
  }

  /** Numbers the tokens this shard needs, ascending, in #rowOfToken (-1 = not needed); returns how many. */
  #numberRows(shard: number, batch: ExpertBatch): number {
    const rowOf = this.#rowOfToken;
    rowOf.fill(-1, 0, batch.nTokens);
    for (let g = 0; g < batch.nGroups; g++) {
      if (this.#shardOfGroup[g] !== shard) continue;
      for (let i = batch.groupStart[g]!; i < batch.groupStart[g + 1]!; i++) rowOf[batch.groupTokens[i]!] = 0;
    }
    let nRows = 0;
    for (let token = 0; token < batch.nTokens; token++) if (rowOf[token] === 0) rowOf[token] = nRows++;
    return nRows;
  }

  /** Rows are copied as words: a float copy may change the bits of a NaN. */
  #copyActivations(out: Uint32Array, heap: Uint32Array, batch: ExpertBatch): void {
    const rowWords = this.#rowBytes / 4;
    for (let token = 0, to = 0; token < batch.nTokens; token++) {
      if (this.#rowOfToken[token]! < 0) continue;
      const from = (batch.activations + token * batch.activationStride) / 4;
      for (let i = 0; i < rowWords; i++) out[to++] = heap[from + i]!;
    }
  }

  /** Copies a reply's rows to their groups' places. The split is found again: other rounds never overlap this one (Experts' contract). */
  #place(shard: number, batch: ExpertBatch, reply: ArrayBuffer): void {
    const { heap, hidden } = this.#p;
    const rows = new Uint32Array(reply, FRAME_HEADER_BYTES);
    const out = heap.u32;
    for (let g = 0, from = 0; g < batch.nGroups; g++) {
      if (this.#shardOfGroup[g] !== shard) continue;
      const words = (batch.groupStart[g + 1]! - batch.groupStart[g]!) * hidden;
      const to = batch.rows / 4 + batch.groupStart[g]! * hidden;
      for (let i = 0; i < words; i++) out[to + i] = rows[from + i]!;
      from += words;
    }
  }
}
