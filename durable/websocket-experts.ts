// Experts on shards: one round of a layer becomes one frame per shard, and the replies become rows of the engine's memory.
// Owns the way of groups into a frame and the one copy of each reply into place. Refuses retries and sockets (client.ts), who answers in the
// end (expert-round.ts), and any sum of rows: combining is the engine's. docs/protocol.md sections 2 and 3.
// A frame is put together in linear memory and leaves it in one copy: a round allocates per frame, nothing per expert, segment or row.

import { NO_FRAMES, type ExpertBatch, type ExpertRunInfo, type Experts } from "../model/experts.ts";
import { expertInputSize, expertOutputSize, inputRowsPerToken, type ExpertInput, type ModelConfig } from "../model/config.ts";
import type { Heap } from "../model/heap.ts";
import { activationRowBytes, type ActivationFormat, type Kernels } from "../model/kernels.ts";
import { sleep, type Clock } from "./clock.ts";
import type { ShardClient } from "./client.ts";
import { Contender, FrameOfShare, Round, Share, type GroupList, type RoundFrames } from "./expert-round.ts";
import type { Limits } from "./limits.ts";
import type { OutgoingFrame } from "./outgoing-frame.ts";
import { faultOfPayload, FRAME_HEADER_BYTES, replyFrameBytes, requestLayout, sealRequest, type FrameHeader, type RequestShape } from "./protocol.ts";
import type { PartGroups, ReplicaChoice } from "./replica-choice.ts";
import type { StepTerms } from "./step-terms.ts";

/** A frame would exceed the limit: the step has more tokens than maxChunkTokens allows. */
export class FrameSizeError extends Error {
  override readonly name = "FrameSizeError";
}

export interface WebSocketExpertsParts {
  /** One client per part of the placement, in order. Parts beyond them are somebody else's (MixedExperts). */
  readonly clients: readonly ShardClient[];
  readonly placement: ReplicaChoice;
  readonly heap: Heap;
  /** Address of `frameBytes` in the heap, where requests are put together and replies checked. */
  readonly frame: number;
  /** Over the heap's memory. */
  readonly kernels: Pick<Kernels, "checksum">;
  /** What the model's experts read and give. */
  readonly config: ExpertInput & { readonly router: Pick<ModelConfig["router"], "branches"> };
  readonly activations: ActivationFormat;
  readonly maxTokens: number;
  readonly frameBytes: number;
  /** Fewest tokens of a step that are worth two rounds when a shard has a thread of its own. */
  readonly overlapTokens: number;
  readonly clock: Clock;
  readonly limits: Pick<Limits, "degradeAfterMs">;
  /** Of the step under way. Absent: every round waits. */
  readonly terms?: StepTerms;
}

/** Looks at a round's lines within the time after which those who need not wait no longer do. */
const LOOKS = 4;

export class WebSocketExperts implements Experts, RoundFrames {
  readonly placement: ReplicaChoice;
  readonly #p: WebSocketExpertsParts;
  readonly #rowBytes: number;
  /** Sizes that every frame has. */
  readonly #sizes: Pick<RequestShape, "hidden" | "input" | "activations">;
  /** By the number of an activation row of the round, its number in the frame at hand. */
  readonly #numberOfRow: Int32Array; // [maxTokens * rowsPerToken]

  constructor(parts: WebSocketExpertsParts) {
    this.#p = parts;
    this.placement = parts.placement;
    const input = expertInputSize(parts.config);
    this.#sizes = { hidden: expertOutputSize(parts.config), input, activations: parts.activations };
    this.#rowBytes = activationRowBytes(parts.activations, input);
    this.#numberOfRow = new Int32Array(parts.maxTokens * inputRowsPerToken(parts.config));
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
    let nShares = 0;
    for (let part = 0; part < clients.length; part++) if (batch.partStart[part + 1]! > batch.partStart[part]!) nShares++;
    if (nShares === 0) return NO_FRAMES;
    const round = new Round(batch, this.#p.terms?.current ?? null);
    round.outstanding = nShares;
    try {
      for (let part = 0; part < clients.length && !round.settled; part++) {
        const [first, end] = [batch.partStart[part]!, batch.partStart[part + 1]!];
        if (end === first) continue;
        const share = new Share(part, this.nowMs());
        round.shares.push(share);
        if (round.terms?.leavesOut === true && clients[part]!.isAway) {
          // Whoever chose it found no other; it is tried all the same, for the next round.
          clients[part]!.wake();
          share.leaveOut(round);
          continue;
        }
        share.bytes = this.#send(new FrameOfShare(this, round, share, share.original, part, { list: null, first, end }), null);
      }
    } catch (error) {
      round.fail(error instanceof Error ? error : new Error(String(error)));
    }
    if (round.terms !== null) this.#watch(round);
    return round.promise;
  }

  #watch(round: Round): void {
    if (round.settled) return;
    const { clock, limits } = this.#p;
    const cancel = clock.after(limits.degradeAfterMs / LOOKS, () => {
      round.look();
      this.#watch(round);
    });
    round.promise.then(cancel, cancel);
  }

  depart(): Promise<void> | undefined {
    return this.#elsewhere ? sleep(this.#p.clock, 0) : undefined;
  }

  get hasReplicas(): boolean { return this.placement.hasReplicas; }
  nowMs(): number { return this.#p.clock.nowMs(); }

  move(of: FrameOfShare, lost: OutgoingFrame): boolean {
    const { clients } = this.#p;
    const others = this.#others(of, (part) => {
      const client = clients[part]!;
      if (client.state === "open") return true;
      // The frame waits for its own line meanwhile, and asks again whenever that fails.
      client.wake();
      return false;
    });
    if (others === null) return false;
    of.contender.done(of);
    if (lost.tries.attempts > 0) of.round.moved++;
    this.#sendAll(of, of.contender, others, lost);
    return true;
  }

  hedge(of: FrameOfShare): "sent" | "busy" | "nobody" {
    const { clients } = this.#p;
    const others = this.#othersOfAll(of.contender, (part) => clients[part]!.hasRoom);
    if (others === null) return this.#othersOfAll(of.contender, () => true) === null ? "nobody" : "busy";
    const bytes = others.reduce((sum, { groups }) => sum + this.#sizeOf(of.round.batch, listed(groups)).allBytes, 0);
    if (!clients[of.part]!.budgetHasRoom(bytes)) return "busy";
    const contender = new Contender();
    of.share.hedge = contender;
    of.round.hedges++;
    this.#sendAll(of, contender, others, null);
    return "sent";
  }

  #others({ part, groups: { list, first, end }, round: { batch } }: FrameOfShare, mayTake: (part: number) => boolean): PartGroups[] | null {
    const all = list === null ? Array.from({ length: end - first }, (_, i) => first + i) : Array.from(list);
    return this.placement.regroup(batch, all, part, mayTake);
  }

  /** The same for every frame that a contender waits for: one that was moved may have become several. Whoever has one of them is asked for another only where nobody else can be. */
  #othersOfAll({ waiting }: Contender, mayTake: (part: number) => boolean): PartGroups[] | null {
    const asked = new Set(waiting.map(({ part }) => part));
    const groups = new Map<number, number[]>();
    for (const frame of waiting) {
      const others = this.#others(frame, (part) => !asked.has(part) && mayTake(part)) ?? this.#others(frame, mayTake);
      if (others === null) return null;
      for (const { part, groups: more } of others) groups.set(part, [...groups.get(part) ?? [], ...more]);
    }
    return [...groups].map(([part, all]) => ({ part, groups: Uint32Array.from(all).sort() })).sort((a, b) => a.part - b.part);
  }

  /** As frames of their own. One that fails at once ends the contender, and then the others stay here. */
  #sendAll({ round, share }: FrameOfShare, contender: Contender, others: readonly PartGroups[], lost: OutgoingFrame | null): void {
    const frames = others.map(({ part, groups }) => new FrameOfShare(this, round, share, contender, part, listed(groups)));
    for (const frame of frames) {
      if (round.settled || contender.isOut) return;
      this.#send(frame, lost);
    }
  }

  /** Numbers the rows of some groups; what their frame takes. */
  #sizeOf(batch: ExpertBatch, { list, first, end }: GroupList): { nRows: number; nTokens: number; replyBytes: number; allBytes: number } {
    const nRows = this.#numberRows(batch, { list, first, end });
    let nTokens = 0;
    for (let i = first; i < end; i++) {
      const g = list === null ? i : list[i]!;
      nTokens += batch.groupStart[g + 1]! - batch.groupStart[g]!;
    }
    const requestBytes = requestLayout({ nRows, nGroups: end - first, nTokens, ...this.#sizes }).frameBytes;
    const replyBytes = replyFrameBytes(nTokens, this.#sizes.hidden);
    return { nRows, nTokens, replyBytes, allBytes: requestBytes + replyBytes };
  }

  /** Puts a frame together and hands it over, as the next attempt after `lost` if that is given. Returns its bytes both ways. */
  #send(sink: FrameOfShare, lost: OutgoingFrame | null): number {
    const { clients, heap, kernels, frameBytes, frame } = this.#p;
    const { batch } = sink.round;
    const { list, first, end } = sink.groups;
    const client = clients[sink.part]!;
    const { nRows, nTokens, replyBytes, allBytes } = this.#sizeOf(batch, sink.groups);
    const shape = { nRows, nGroups: end - first, nTokens, ...this.#sizes };
    const at = requestLayout(shape);
    if (Math.max(at.frameBytes, replyBytes) > frameBytes || nRows > 0xffff) {
      throw new FrameSizeError(
        `Layer ${batch.layer} needs a frame of ${Math.max(at.frameBytes, replyBytes)} bytes for ${nTokens} expert rows of ${batch.nTokens} tokens on shard ${client.name}; ${frameBytes} is the limit.`);
    }
    const { u16, u32 } = heap;
    this.#copyActivations(heap.u8, frame + at.activations, batch);
    // The padding behind both lists is part of the payload and must be zero.
    u32.fill(0, (frame + at.tokens - 16) / 4, (frame + at.tokens) / 4);
    u32.fill(0, (frame + at.frameBytes - 16) / 4, (frame + at.frameBytes) / 4);
    let [word, half] = [(frame + at.groups) / 4, (frame + at.tokens) / 2];
    for (let i = first; i < end; i++) {
      const g = list === null ? i : list[i]!;
      const [from, to] = [batch.groupStart[g]!, batch.groupStart[g + 1]!];
      u32[word++] = batch.groupExpert[g]! | (batch.groupSegment[g]! << 16);
      u32[word++] = to - from;
      for (let t = from; t < to; t++) u16[half++] = this.#numberOfRow[batch.groupTokens[t]! * batch.rowsPerToken + batch.groupInput[g]!]!;
    }
    sealRequest(u32, frame / 4, shape, at.frameBytes, batch.layer, batch.step, kernels.checksum(frame + FRAME_HEADER_BYTES, at.frameBytes - FRAME_HEADER_BYTES));
    const buffer = heap.u8.buffer.slice(frame, frame + at.frameBytes);
    const outgoing = client.submit(buffer, { layer: batch.layer, nGroups: shape.nGroups, nTokens, hidden: this.#sizes.hidden }, sink, lost);
    sink.round.handed(sink.contender, client, outgoing, allBytes);
    return allBytes;
  }

  /** Numbers the activation rows of some groups, ascending, in #numberOfRow (-1 = not needed); returns how many. */
  #numberRows(batch: ExpertBatch, { list, first, end }: GroupList): number {
    const numberOf = this.#numberOfRow;
    const nAll = batch.nTokens * batch.rowsPerToken;
    numberOf.fill(-1, 0, nAll);
    for (let i = first; i < end; i++) {
      const g = list === null ? i : list[i]!;
      for (let t = batch.groupStart[g]!; t < batch.groupStart[g + 1]!; t++) numberOf[batch.groupTokens[t]! * batch.rowsPerToken + batch.groupInput[g]!] = 0;
    }
    let nRows = 0;
    for (let row = 0; row < nAll; row++) if (numberOf[row] === 0) numberOf[row] = nRows++;
    return nRows;
  }

  /** The numbered rows to address `to`; neighbours in one piece. */
  #copyActivations(u8: Uint8Array, to: number, batch: ExpertBatch): void {
    const { activations, activationStride: stride } = batch;
    const [numberOf, rowBytes, nAll] = [this.#numberOfRow, this.#rowBytes, batch.nTokens * batch.rowsPerToken];
    for (let row = 0; row < nAll; row++) {
      if (numberOf[row]! < 0) continue;
      const first = row;
      if (stride === rowBytes) while (row + 1 < nAll && numberOf[row + 1]! >= 0) row++;
      const from = activations + first * stride;
      const bytes = (row - first + 1) * rowBytes;
      u8.copyWithin(to, from, from + bytes);
      to += bytes;
    }
  }

  /**
   * Takes a reply: one copy into linear memory, where its checksum is quick to find, and from there to its groups' places, neighbours in
   * one piece. Bytes, not floats: a float copy may change the bits of a NaN. Returns what is wrong with it, and moves nothing then.
   */
  place(batch: ExpertBatch, { list, first, end }: GroupList, header: FrameHeader, reply: ArrayBuffer): string | null {
    const { heap, kernels, frame } = this.#p;
    const { hidden } = this.#sizes;
    const { groupStart, groupRow } = batch;
    const u8 = heap.u8;
    const payload = frame + FRAME_HEADER_BYTES;
    u8.set(new Uint8Array(reply), frame);
    const damage = faultOfPayload(header, kernels.checksum(payload, header.payloadBytes));
    if (damage !== null) return damage;
    for (let i = first, from = payload; i < end;) {
      let g = list === null ? i : list[i]!;
      const row = groupRow[g]!;
      let nRows = 0;
      do {
        nRows += groupStart[g + 1]! - groupStart[g]!;
        if (++i < end) g = list === null ? i : list[i]!;
      } while (i < end && groupRow[g] === row + nRows);
      const bytes = nRows * hidden * 4;
      u8.copyWithin(batch.rows + row * hidden * 4, from, from + bytes);
      from += bytes;
    }
    return null;
  }
}

const listed = (list: Uint32Array): GroupList => ({ list, first: 0, end: list.length });
