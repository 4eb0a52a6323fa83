// One round of a layer over shards, and what is outstanding of it: the share of each part, and the frames that try to bring it in.
// Owns the ends: a share ends with the first complete answer, be it the frame's own, a hedge's, or what took the place of a lost one, or is left out where the
// step's terms say so; the round with its last share or its first failure, and then nothing is written any more. Refuses frames' bytes and rows (websocket-experts.ts).

import type { ExpertBatch, ExpertRunInfo } from "../model/experts.ts";
import type { ShardClient } from "./client.ts";
import type { OtherHolders, OutgoingFrame, ReplySink } from "./outgoing-frame.ts";
import type { FrameHeader } from "./protocol.ts";
import { AwayError, type ShardError } from "./shard-error.ts";
import type { Terms } from "./step-terms.ts";

/** Numbers of a batch's groups: those of `list`, or, where that is null, [first, end). */
export interface GroupList {
  readonly list: Uint32Array | null;
  readonly first: number;
  readonly end: number;
}

/** Whoever puts frames together and takes them apart. */
export interface RoundFrames {
  readonly hasReplicas: boolean;
  nowMs(): number;
  place(batch: ExpertBatch, groups: GroupList, header: FrameHeader, reply: ArrayBuffer): string | null;
  /** Sends groups of a lost frame to other holders whose lines are open. False, and nothing is sent, where some group has none. */
  move(of: FrameOfShare, lost: OutgoingFrame): boolean;
  /** Sends groups of a late frame to other holders too, and those of all frames that its contender still waits for: a contender brings in all that is missing of a share. */
  hedge(of: FrameOfShare): "sent" | "busy" | "nobody";
}

export class Round {
  readonly batch: ExpertBatch;
  readonly shares: Share[] = [];
  /** Shares that are not in yet; counted before the first frame is sent, so that a reply cannot end the round early. */
  outstanding = 0;
  settled = false;
  hedges = 0;
  moved = 0;
  /** Null: its frames wait as long as an outage may last. */
  readonly terms: Terms | null;
  readonly #missing: number[] = [];
  readonly #sent: { readonly bytes: number; readonly client: ShardClient; readonly frame: OutgoingFrame }[] = [];
  readonly promise: Promise<ExpertRunInfo>;
  #resolve!: (info: ExpertRunInfo) => void;
  #reject!: (error: Error) => void;

  constructor(batch: ExpertBatch, terms: Terms | null = null) {
    this.batch = batch;
    this.terms = terms;
    this.promise = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
  }

  /** A frame was handed over; all may be over meanwhile. */
  handed(contender: Contender, client: ShardClient, frame: OutgoingFrame, bytes: number): void {
    this.#sent.push({ bytes, client, frame });
    contender.add(client, frame);
    if (this.settled || contender.isOut) client.withdraw(frame);
  }

  arrived(): void {
    if (--this.outstanding > 0 || this.settled) return;
    this.settled = true;
    let [bytes, retries] = [0, this.moved];
    for (const { bytes: frameBytes, frame } of this.#sent) {
      bytes += frameBytes;
      retries += frame.retries;
    }
    const computed = this.shares.filter(({ isLeftOut }) => !isLeftOut);
    this.#resolve({ frames: computed.length, bytes, retries, hedges: this.hedges, parts: computed.map(({ part, bytes, elapsedMs }) => ({ part, bytes, ms: elapsedMs })),
      ...(this.#missing.length === 0 ? {} : { missing: this.#missing }) });
  }

  /** Nobody computes these groups. */
  leaveOut(groups: readonly number[]): void {
    this.#missing.push(...groups);
    this.arrived();
  }

  /** Ends what waits for shards that are away, as the terms say. */
  look(): void {
    for (const share of this.shares) {
      if (this.settled || share.isIn) continue;
      const away = share.away;
      if (away === null) continue;
      if (this.terms?.leavesOut === true) share.leaveOut(this);
      else this.fail(new AwayError(away, true, `Shard ${away} is away, and a step with generations that do not wait for it was ended.`));
    }
  }

  fail(error: Error): void {
    if (this.settled) return;
    this.settled = true;
    // Nobody may write into the engine's rows once the step has failed.
    for (const { client, frame } of this.#sent) client.withdraw(frame);
    this.#reject(error);
  }
}

/** Frames that together would bring in a share: all of its groups that were missing when it began, each in one of them. */
export class Contender {
  isOut = false;
  /** Of its frames, those that are not in yet; all of them, before the first is sent. */
  readonly waiting: FrameOfShare[] = [];
  readonly #frames: { readonly client: ShardClient; readonly frame: OutgoingFrame }[] = [];

  /** It waits for this frame no more: its reply is in, or others have it. */
  done(frame: FrameOfShare): void {
    const at = this.waiting.indexOf(frame);
    if (at >= 0) this.waiting.splice(at, 1);
  }

  add(client: ShardClient, frame: OutgoingFrame): void {
    this.#frames.push({ client, frame });
  }

  /** A shard that one of its frames waits for in vain; null where none does. */
  get away(): string | null {
    return this.#frames.find(({ client, frame }) => client.isStuck(frame))?.client.name ?? null;
  }

  /** It tries no more, and its frames touch nobody. */
  withdraw(): void {
    this.isOut = true;
    for (const { client, frame } of this.#frames) client.withdraw(frame);
  }
}

/** What one part was to compute in a round. */
export class Share {
  readonly part: number;
  readonly startedAtMs: number;
  /** Of its first frame, both ways. */
  bytes = 0;
  elapsedMs = 0;
  isIn = false;
  isLeftOut = false;
  readonly original = new Contender();
  hedge: Contender | null = null;

  constructor(part: number, startedAtMs: number) {
    this.part = part;
    this.startedAtMs = startedAtMs;
  }

  /** The shard for which all who try wait in vain; null where somebody may yet answer. */
  get away(): string | null {
    const trying = [this.original, this.hedge].filter((contender) => contender !== null && !contender.isOut);
    const away = trying.map((contender) => contender!.away);
    return away.length === 0 || away.includes(null) ? null : away[0]!;
  }

  leaveOut(round: Round): void {
    this.isIn = this.isLeftOut = true;
    this.original.withdraw();
    this.hedge?.withdraw();
    const [first, end] = [round.batch.partStart[this.part]!, round.batch.partStart[this.part + 1]!];
    round.leaveOut(Array.from({ length: end - first }, (_, i) => first + i));
  }
}

/** Where the reply to one frame belongs. */
export class FrameOfShare implements ReplySink, OtherHolders {
  readonly round: Round;
  readonly share: Share;
  readonly contender: Contender;
  /** Who got the frame. */
  readonly part: number;
  readonly groups: GroupList;
  readonly elsewhere: OtherHolders | null;
  readonly #frames: RoundFrames;

  constructor(frames: RoundFrames, round: Round, share: Share, contender: Contender, part: number, groups: GroupList) {
    this.#frames = frames;
    this.round = round;
    this.share = share;
    this.contender = contender;
    this.part = part;
    this.groups = groups;
    this.elsewhere = frames.hasReplicas ? this : null;
    contender.waiting.push(this);
  }

  get #isOver(): boolean { return this.round.settled || this.share.isIn || this.contender.isOut; }

  reply(header: FrameHeader, buffer: ArrayBuffer): string | null {
    if (this.#isOver) return null;
    const { round, share, contender } = this;
    const damage = this.#frames.place(round.batch, this.groups, header, buffer);
    if (damage !== null) return damage;
    contender.done(this);
    if (contender.waiting.length > 0) return null;
    share.isIn = true;
    share.elapsedMs = this.#frames.nowMs() - share.startedAtMs;
    (contender === share.original ? share.hedge : share.original)?.withdraw();
    round.arrived();
    return null;
  }

  failed(error: ShardError): void {
    if (this.#isOver) return;
    if (this.#hasOther) this.contender.withdraw();
    else if (this.round.terms?.leavesOut === true) this.share.leaveOut(this.round);
    else this.round.fail(error);
  }

  moved(frame: OutgoingFrame): boolean {
    // Of a share that two try for, each keeps to its own way: whichever comes back first has it.
    return this.#isOver || (!this.#hasOther && this.#frames.move(this, frame));
  }

  late(): "sent" | "busy" | "nobody" {
    // One hedge for a share: what a hedge waits for is late for everybody.
    return this.#isOver || this.share.hedge !== null ? "nobody" : this.#frames.hedge(this);
  }

  /** Another contender tries for the share. */
  get #hasOther(): boolean {
    const { share, contender } = this;
    const other = contender === share.original ? share.hedge : share.original;
    return other !== null && !other.isOut;
  }
}
