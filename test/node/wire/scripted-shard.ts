// A shard for wire tests that answers by a script: rightly, late, twice, damaged, out of order, or not at all.
// Owns the misbehaviour. Its rows are a pure function of the request, over all 32 bits, so that a copy that changes a bit shows.
// Implements ShardTransport of durable/frame-socket.ts.

import type { FrameSocket, ShardTransport, SocketHandlers } from "../../../durable/frame-socket.ts";
import type { Hello, Welcome } from "../../../durable/handshake.ts";
import { activationRowBytes } from "../../../model/kernels.ts";
import { addressFrame, encodeRefusal, FRAME_HEADER_BYTES, replyFrameBytes, type FrameHeader, type FrameRefusal } from "../../../durable/protocol.ts";
import type { FakeClock } from "./fake-clock.ts";
import { decodeFrame, requestViews, sealReplyFrame } from "./whole-frame.ts";

export type Action =
  | "answer" | "drop" | "duplicate" | "hold" | "corrupt-payload" | "corrupt-header" | "truncate" | "stale-epoch" | "other-connection"
  | "wrong-shape" | "close" | "close-after-answer" | { readonly slowMs: number } | { readonly refuse: FrameRefusal } | { readonly afterMs: number; readonly then: Action };

export type ConnectAction = "ready" | "loading" | "throw" | "hang" | "open-throws" | "open-closes" | "shared" | "refuse" | "refuse-for-good" | "retired";

/** Word i of the row for (layer, expert, segment) of an activation row. */
export function rowWord(layer: number, expert: number, segment: number, activationSum: number, i: number): number {
  let h = Math.imul(activationSum ^ (layer * 31 + expert * 7 + segment), 0x9e3779b1) ^ Math.imul(i + 1, 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 15), 0x2c1b3c6d);
  return (h ^ (h >>> 13)) >>> 0;
}

export const sumWords = (words: Uint32Array, from: number, count: number): number => {
  let sum = 0;
  for (let i = 0; i < count; i++) sum = Math.imul(sum ^ words[from + i]!, 0x01000193);
  return sum >>> 0;
};

export function answer(buffer: ArrayBuffer, header: FrameHeader): ArrayBuffer {
  const { activations, groups, tokens } = requestViews(buffer, header);
  const words = new Uint32Array(buffer, activations.byteOffset, activations.byteLength / 4);
  const rowWords = activationRowBytes(header.activations, header.hidden) / 4;
  const reply = new ArrayBuffer(replyFrameBytes(header.nTokens, header.hidden));
  const out = new Uint32Array(reply, FRAME_HEADER_BYTES);
  for (let g = 0, row = 0; g < header.nGroups; g++) {
    for (let n = 0; n < groups[2 * g + 1]!; n++, row++) {
      const sum = sumWords(words, tokens[row]! * rowWords, rowWords);
      for (let i = 0; i < header.hidden; i++) out[row * header.hidden + i] = rowWord(header.layer, groups[2 * g]! & 0xffff, groups[2 * g]! >>> 16, sum, i);
    }
  }
  sealReplyFrame(reply, header, 0);
  return reply;
}

export class ScriptedShard implements ShardTransport {
  readonly name: string;
  /** What it says of where it lives. */
  isolate = "here";
  readonly frames: FrameHeader[] = [];
  readonly hellos: Hello[] = [];
  opened = 0;
  /** Until then nobody is there to prepare. */
  downUntilMs = 0;
  /** How long a socket takes from now on. */
  opensAfterMs = 0;
  live: SocketHandlers | null = null;
  inFlight = 0;
  mostInFlight = 0;
  readonly #clock: FakeClock;
  readonly #script: Action[];
  readonly #connects: ConnectAction[];
  #connection = 100;
  readonly #sent: { readonly bytes: ArrayBuffer; readonly copy: ArrayBuffer }[] = [];
  #held: ArrayBuffer[] = [];

  /** What comes after the scripts is "answer" and "ready". */
  constructor(clock: FakeClock, name = "shard-0", script: readonly Action[] = [], connects: readonly ConnectAction[] = []) {
    this.#clock = clock;
    this.name = name;
    this.#script = [...script];
    this.#connects = [...connects];
  }

  /** True when no sent buffer was changed afterwards: a runtime may read it as late as it likes. */
  get sentUnchanged(): boolean {
    return this.#sent.every(({ bytes, copy }) => Buffer.compare(new Uint8Array(bytes), new Uint8Array(copy)) === 0);
  }

  /** What becomes of the next frames, whatever was to come of them. */
  nextFrames(...actions: readonly Action[]): void {
    this.#script.splice(0, Infinity, ...actions);
  }

  /** What comes of the next connections. */
  nextConnects(...connects: readonly ConnectAction[]): void {
    this.#connects.push(...connects);
  }

  async prepare(hello: Hello): Promise<Welcome> {
    this.hellos.push(hello);
    if (this.#clock.nowMs() < this.downUntilMs) throw new Error("the object was reset");
    const action = this.#connects[0] ?? "ready";
    if (action !== "open-throws" && action !== "open-closes") this.#connects.shift();
    switch (action) {
      case "throw": throw new Error("the object was reset");
      case "hang": return new Promise(() => {});
      case "loading": return { state: "loading", loadedBytes: 10, totalBytes: 40, retryAfterMs: 250 };
      case "shared": return { state: "refused", code: "isolate-shared", retryable: true, message: "shard-9 lives here." };
      case "refuse": return { state: "refused", code: "load-failed", retryable: true, message: "the store said 503." };
      case "retired": return { state: "refused", code: "retired", retryable: false, message: "that epoch is over." };
      case "refuse-for-good": return { state: "refused", code: "pack-hash", retryable: false, message: "another pack." };
      default: return { state: "ready", connection: ++this.#connection, isolate: this.isolate, hasRead: false };
    }
  }

  async open(connection: number, handlers: SocketHandlers): Promise<FrameSocket> {
    const action = this.#connects[0];
    if (action === "open-throws") {
      this.#connects.shift();
      throw new Error("no upgrade");
    }
    if (this.opensAfterMs > 0) await new Promise<void>((resolve) => void this.#clock.after(this.opensAfterMs, resolve));
    this.opened++;
    this.live = handlers;
    this.#held = [];
    this.inFlight = 0;
    if (action === "open-closes") {
      this.#connects.shift();
      handlers.closed("1006");
    }
    return {
      send: (bytes) => {
        this.#sent.push({ bytes, copy: bytes.slice(0) });
        // A closed socket takes what it is given and says nothing.
        if (action !== "open-closes") this.#received(bytes.slice(0), connection, handlers);
      },
      close: () => { if (this.live === handlers) this.live = null; },
    };
  }

  #received(bytes: ArrayBuffer, connection: number, handlers: SocketHandlers): void {
    const decoded = decodeFrame(bytes);
    if (!decoded.ok) throw new Error(`The client sent a bad frame: ${decoded.message}`);
    if (decoded.header.connection !== connection) throw new Error("The client sent another connection's frame.");
    const { header } = decoded;
    this.frames.push(header);
    this.mostInFlight = Math.max(this.mostInFlight, ++this.inFlight);
    const next = this.#script.shift() ?? "answer";
    const [action, pauseMs] = typeof next === "object" && "afterMs" in next ? [next.then, next.afterMs] : [next, 0];
    const later = (delayMs: number, act: () => void): void => void this.#clock.after(pauseMs + delayMs, act);
    const say = (reply: ArrayBuffer): void => {
      this.inFlight--;
      handlers.message(reply);
    };
    const reply = answer(bytes, header);
    const change = (edit: (words: Uint32Array) => void): ArrayBuffer => {
      edit(new Uint32Array(reply));
      return reply;
    };
    if (typeof action === "object") {
      if ("afterMs" in action) throw new Error("A script waits twice for one answer.");
      if ("slowMs" in action) return later(action.slowMs, () => say(reply));
      return later(0, () => say(encodeRefusal(header, action.refuse, `scripted ${action.refuse}`, 100)));
    }
    switch (action) {
      case "drop": return;
      case "answer": return later(0, () => say(reply));
      case "duplicate": return later(0, () => { say(reply); say(reply.slice(0)); });
      case "hold": this.#held.push(reply); return later(50, () => { for (const held of this.#held.splice(0).reverse()) say(held); });
      case "corrupt-payload": return later(0, () => say(change((w) => { w[20]! ^= 0x400; })));
      case "corrupt-header": return later(0, () => say(change((w) => { w[7]! ^= 1; })));
      case "truncate": return later(0, () => say(reply.slice(0, reply.byteLength - 16)));
      case "stale-epoch": return later(0, () => { addressFrame(reply, header.connection, header.frame, header.epoch - 1, header.attempt); say(reply); });
      case "other-connection": return later(0, () => { addressFrame(reply, header.connection + 1, header.frame, header.epoch, header.attempt); say(reply); });
      case "wrong-shape": return later(0, () => { const other = new ArrayBuffer(replyFrameBytes(header.nTokens + 1, header.hidden)); sealReplyFrame(other, { ...header, nTokens: header.nTokens + 1 }, 0); say(other); });
      case "close": return later(0, () => handlers.closed("1006"));
      case "close-after-answer": return later(0, () => { say(reply); handlers.closed("1006"); });
    }
  }
}
