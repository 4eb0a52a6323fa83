// Experts on shards: one round of a layer becomes one frame per shard, and the replies become rows of the engine's memory.
// Owns the way of a part's groups into a frame and the one copy of each reply into place. Refuses retries and sockets (client.ts),
// and any sum of rows: combining is the engine's. docs/protocol.md sections 2 and 3.
// A frame is put together in linear memory and leaves it in one copy: a round allocates per frame, nothing per expert, segment or row.

import { NO_FRAMES, type ExpertBatch, type ExpertRunInfo, type Experts, type Placement } from "../model/experts.ts";
import type { Heap } from "../model/heap.ts";
import { activationRowBytes, type ActivationFormat, type Kernels } from "../model/kernels.ts";
import { sleep, type Clock } from "./clock.ts";
import type { OutgoingFrame, ReplySink, ShardClient } from "./client.ts";
import { faultOfPayload, FRAME_HEADER_BYTES, replyFrameBytes, requestLayout, sealRequest, type FrameHeader } from "./protocol.ts";
import type { ShardError } from "./shard-line.ts";

/** A frame would exceed the limit: the step has more tokens than maxChunkTokens allows. */
export class FrameSizeError extends Error {
  override readonly name = "FrameSizeError";
}

export interface WebSocketExpertsParts {
  /** One client per part of the placement, in order. Parts beyond them are somebody else's (MixedExperts). */
  readonly clients: readonly ShardClient[];
  readonly placement: Placement;
  readonly heap: Heap;
  /** Over the heap's memory. */
  readonly kernels: Pick<Kernels, "checksum">;
  readonly hidden: number;
  readonly activations: ActivationFormat;
  readonly maxTokens: number;
  readonly frameBytes: number;
  /** Fewest tokens of a step that are worth two rounds when a shard has a thread of its own. */
  readonly overlapTokens: number;
  readonly clock: Clock;
}

/** One round: what is outstanding. */
class Round {
  outstanding = 0;
  settled = false;
  /** In order of their parts. */
  readonly sent: { readonly part: number; readonly bytes: number; readonly client: ShardClient; readonly frame: OutgoingFrame }[] = [];
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
    let [bytes, retries] = [0, 0];
    for (const { bytes: frameBytes, frame } of this.sent) {
      bytes += frameBytes;
      retries += frame.retries;
    }
    this.#resolve({ frames: this.sent.length, bytes, retries, parts: this.sent.map(({ part, bytes, frame }) => ({ part, bytes, ms: frame.elapsedMs })) });
  }
  fail(error: Error): void {
    if (this.settled) return;
    this.settled = true;
    // Nobody may write into the engine's rows once the step has failed.
    for (const { client, frame } of this.sent) client.withdraw(frame);
    this.#reject(error);
  }
}

/** Where the reply to one part's frame belongs. */
class PartOfRound implements ReplySink {
  readonly #experts: WebSocketExperts;
  readonly #round: Round;
  readonly #batch: ExpertBatch;
  readonly #part: number;
  constructor(experts: WebSocketExperts, round: Round, batch: ExpertBatch, part: number) {
    this.#experts = experts;
    this.#round = round;
    this.#batch = batch;
    this.#part = part;
  }
  reply(header: FrameHeader, buffer: ArrayBuffer): string | null {
    const damage = this.#experts.place(this.#part, this.#batch, header, buffer);
    if (damage === null) this.#round.arrived();
    return damage;
  }
  failed(error: ShardError): void {
    this.#round.fail(error);
  }
}

export class WebSocketExperts implements Experts {
  readonly placement: Placement;
  readonly #p: WebSocketExpertsParts;
  readonly #rowBytes: number;
  readonly #rowOfToken: Int32Array;
  readonly #frame: number;

  /** Allocates one frame in the heap, where requests are put together and replies checked. Throws CapacityError. */
  constructor(parts: WebSocketExpertsParts) {
    this.#p = parts;
    this.placement = parts.placement;
    this.#rowBytes = activationRowBytes(parts.activations, parts.hidden);
    this.#rowOfToken = new Int32Array(parts.maxTokens);
    this.#frame = parts.heap.alloc(parts.frameBytes, "frames");
  }

  /** Gives the frame back. */
  close(): void {
    this.#p.heap.free(this.#frame);
  }

  /** True when some shard may compute while this isolate does. */
  get #elsewhere(): boolean {
    return this.#p.clients.some((client) => client.elsewhere);
  }

  get overlapTokens(): number {
    return this.#elsewhere ? this.#p.overlapTokens : Infinity;
  }

  /** Rejects with ShardError (every attempt of a frame failed) or FrameSizeError; nothing is written afterwards. */
  run(_layer: number, batch: ExpertBatch): Promise<ExpertRunInfo> | ExpertRunInfo {
    const { clients } = this.#p;
    const round = new Round();
    // All frames are counted before the first is sent, so that a reply cannot end the round early.
    for (let part = 0; part < clients.length; part++) if (batch.partStart[part + 1]! > batch.partStart[part]!) round.outstanding++;
    if (round.outstanding === 0) return NO_FRAMES;
    try {
      for (let part = 0; part < clients.length && !round.settled; part++) {
        if (batch.partStart[part + 1]! > batch.partStart[part]!) this.#sendTo(part, batch, round);
      }
    } catch (error) {
      round.fail(error instanceof Error ? error : new Error(String(error)));
    }
    return round.promise;
  }

  depart(): Promise<void> | undefined {
    return this.#elsewhere ? sleep(this.#p.clock, 0) : undefined;
  }

  #sendTo(part: number, batch: ExpertBatch, round: Round): void {
    const { clients, heap, kernels, hidden, activations, frameBytes } = this.#p;
    const client = clients[part]!;
    const [firstGroup, endGroup] = [batch.partStart[part]!, batch.partStart[part + 1]!];
    const [firstToken, endToken] = [batch.groupStart[firstGroup]!, batch.groupStart[endGroup]!];
    const nRows = this.#numberRows(batch, firstToken, endToken);
    const shape = { nRows, nGroups: endGroup - firstGroup, nTokens: endToken - firstToken, hidden, activations };
    const at = requestLayout(shape);
    const replyBytes = replyFrameBytes(shape.nTokens, hidden);
    if (Math.max(at.frameBytes, replyBytes) > frameBytes || nRows > 0xffff) {
      throw new FrameSizeError(
        `Layer ${batch.layer} needs a frame of ${Math.max(at.frameBytes, replyBytes)} bytes for ${shape.nTokens} expert rows of ${batch.nTokens} tokens on shard ${client.name}; ${frameBytes} is the limit.`);
    }
    const { u16, u32 } = heap;
    const frame = this.#frame;
    this.#copyActivations(heap.u8, frame + at.activations, batch);
    // The padding behind both lists is part of the payload and must be zero.
    u32.fill(0, (frame + at.tokens - 16) / 4, (frame + at.tokens) / 4);
    u32.fill(0, (frame + at.frameBytes - 16) / 4, (frame + at.frameBytes) / 4);
    for (let g = firstGroup, word = (frame + at.groups) / 4; g < endGroup; g++) {
      u32[word++] = batch.groupExpert[g]! | (batch.groupSegment[g]! << 16);
      u32[word++] = batch.groupStart[g + 1]! - batch.groupStart[g]!;
    }
    for (let i = firstToken, half = (frame + at.tokens) / 2; i < endToken; i++) u16[half++] = this.#rowOfToken[batch.groupTokens[i]!]!;
    sealRequest(u32, frame / 4, shape, at.frameBytes, batch.layer, batch.step, kernels.checksum(frame + FRAME_HEADER_BYTES, at.frameBytes - FRAME_HEADER_BYTES));
    const buffer = heap.u8.buffer.slice(frame, frame + at.frameBytes);
    const outgoing = client.submit(buffer, { layer: batch.layer, nGroups: shape.nGroups, nTokens: shape.nTokens, hidden }, new PartOfRound(this, round, batch, part));
    round.sent.push({ part, bytes: at.frameBytes + replyBytes, client, frame: outgoing });
  }

  /** Numbers the tokens of groupTokens[from..to), ascending, in #rowOfToken (-1 = not needed); returns how many. */
  #numberRows(batch: ExpertBatch, from: number, to: number): number {
    const rowOf = this.#rowOfToken;
    rowOf.fill(-1, 0, batch.nTokens);
    for (let i = from; i < to; i++) rowOf[batch.groupTokens[i]!] = 0;
    let nRows = 0;
    for (let token = 0; token < batch.nTokens; token++) if (rowOf[token] === 0) rowOf[token] = nRows++;
    return nRows;
  }

  /** Rows of the numbered tokens to address `to`; neighbours in one piece. */
  #copyActivations(u8: Uint8Array, to: number, batch: ExpertBatch): void {
    const { activations, activationStride: stride } = batch;
    const [rowOf, rowBytes] = [this.#rowOfToken, this.#rowBytes];
    for (let token = 0; token < batch.nTokens; token++) {
      if (rowOf[token]! < 0) continue;
      const first = token;
      if (stride === rowBytes) while (token + 1 < batch.nTokens && rowOf[token + 1]! >= 0) token++;
      const from = activations + first * stride;
      const bytes = (token - first + 1) * rowBytes;
      u8.copyWithin(to, from, from + bytes);
      to += bytes;
    }
  }

  /**
   * Takes a reply: one copy into linear memory, where its checksum is quick to find, and from there to its groups' places, neighbours in
   * one piece. Bytes, not floats: a float copy may change the bits of a NaN. Returns what is wrong with it, and moves nothing then.
   */
  place(part: number, batch: ExpertBatch, header: FrameHeader, reply: ArrayBuffer): string | null {
    const { heap, kernels, hidden } = this.#p;
    const { groupStart, groupRow } = batch;
    const u8 = heap.u8;
    const payload = this.#frame + FRAME_HEADER_BYTES;
    u8.set(new Uint8Array(reply), this.#frame);
    const damage = faultOfPayload(header, kernels.checksum(payload, header.payloadBytes));
    if (damage !== null) return damage;
    const end = batch.partStart[part + 1]!;
    for (let g = batch.partStart[part]!, from = payload; g < end;) {
      const row = groupRow[g]!;
      let nRows = 0;
      do nRows += groupStart[g + 1]! - groupStart[g]!; while (++g < end && groupRow[g] === row + nRows);
      const bytes = nRows * hidden * 4;
      u8.copyWithin(batch.rows + row * hidden * 4, from, from + bytes);
      from += bytes;
    }
    return null;
  }
}
