// One round of a layer over shards, and what is outstanding of it: the share of each part, and the frames that try to bring it in.
// Owns the ends: a share ends with the first complete answer, be it the frame's own, a hedge's, or what took the place of a lost one; the round
// with its last share or its first failure, and then nothing is written any more. Refuses frames' bytes and rows (websocket-experts.ts).

import type { ExpertBatch, ExpertRunInfo } from "../model/experts.ts";
import type { OtherHolders, OutgoingFrame, ReplySink, ShardClient } from "./client.ts";
import type { FrameHeader } from "./protocol.ts";
import type { ShardError } from "./shard-line.ts";

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
  /** Sends groups of a late frame to other holders too. */
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
  readonly #sent: { readonly bytes: number; readonly client: ShardClient; readonly frame: OutgoingFrame }[] = [];
  readonly promise: Promise<ExpertRunInfo>;
  #resolve!: (info: ExpertRunInfo) => void;
  #reject!: (error: Error) => void;

  constructor(batch: ExpertBatch) {
    this.batch = batch;
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
    this.#resolve({ frames: this.shares.length, bytes, retries, hedges: this.hedges, parts: this.shares.map(({ part, bytes, elapsedMs }) => ({ part, bytes, ms: elapsedMs })) });
  }

  fail(error: Error): void {
    if (this.settled) return;
    this.settled = true;
    // Nobody may write into the engine's rows once the step has failed.
    for (const { client, frame } of this.#sent) client.withdraw(frame);
    this.#reject(error);
  }
}

/** Frames that together would bring in a share; all of its groups, each in one of them. */
export class Contender {
  /** Of its frames, those that are not in yet. */
  left = 1;
  isOut = false;
  readonly #frames: { readonly client: ShardClient; readonly frame: OutgoingFrame }[] = [];

  add(client: ShardClient, frame: OutgoingFrame): void {
    this.#frames.push({ client, frame });
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
  readonly original = new Contender();
  hedge: Contender | null = null;

  constructor(part: number, startedAtMs: number) {
    this.part = part;
    this.startedAtMs = startedAtMs;
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
  }

  get #isOver(): boolean { return this.round.settled || this.share.isIn || this.contender.isOut; }

  reply(header: FrameHeader, buffer: ArrayBuffer): string | null {
    if (this.#isOver) return null;
    const { round, share, contender } = this;
    const damage = this.#frames.place(round.batch, this.groups, header, buffer);
    if (damage !== null || --contender.left > 0) return damage;
    share.isIn = true;
    share.elapsedMs = this.#frames.nowMs() - share.startedAtMs;
    (contender === share.original ? share.hedge : share.original)?.withdraw();
    round.arrived();
    return null;
  }

  failed(error: ShardError): void {
    if (this.#isOver) return;
    if (this.#hasOther) this.contender.withdraw();
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
