// One answer on its way from the orchestrator to its reader: the body of POST /generate over a link. Owns its order, its chunks, which know nothing of lines, and
// how it breaks. Refuses to know what the events mean.

import type { GenerateEvent } from "../durable/generate.ts";
import type { Link } from "./network.ts";
import type { VirtualTime } from "./virtual-time.ts";

const encoder = new TextEncoder();

export class EventStream {
  readonly #time: VirtualTime;
  readonly #link: Link;
  readonly #chunkBytes: number;
  readonly #chunks: Uint8Array[] = [];
  #waiting: { resolve(result: { done: boolean; value?: Uint8Array }): void; reject(error: Error): void } | null = null;
  #broken = false;
  #ended = false;
  #lastArrivalMs = 0;
  onCancel: () => void = () => {};
  onEnd: () => void = () => {};

  constructor(time: VirtualTime, link: Link, chunkBytes: number) {
    this.#time = time;
    this.#link = link;
    this.#chunkBytes = chunkBytes;
  }

  emit(event: GenerateEvent): void {
    const line = encoder.encode(`${JSON.stringify(event)}\n`);
    const isLast = event.type === "end" || event.type === "error";
    this.#carry(() => {
      for (let at = 0; at < line.length; at += this.#chunkBytes) this.#chunks.push(line.subarray(at, at + this.#chunkBytes));
      if (isLast) this.#ended = true;
    });
    if (isLast) this.onEnd();
  }

  breakOff(): void {
    const wasBroken = this.#broken;
    this.#broken = true;
    if (!wasBroken) this.#time.after(this.#link.latencyMs(), () => {
      this.#waiting?.reject(new Error("Network connection lost."));
      this.#waiting = null;
    });
    // The platform cancels the far end's stream when it notices.
    this.#time.after(this.#link.latencyMs(), () => this.onCancel());
  }

  /** Its reader has aborted the call: what it waits for never comes. */
  abandon(): void {
    this.#broken = true;
    this.#waiting?.reject(new Error("The call was aborted."));
    this.#waiting = null;
  }

  #carry(arrive: () => void): void {
    const nowMs = this.#time.nowMs();
    this.#lastArrivalMs = Math.max(this.#lastArrivalMs, nowMs + this.#link.latencyMs());
    this.#time.after(this.#lastArrivalMs - nowMs, () => {
      if (this.#broken) return;
      arrive();
      this.#pass();
    });
  }

  #pass(): void {
    const waiting = this.#waiting;
    if (waiting === null) return;
    const chunk = this.#chunks.shift();
    if (chunk === undefined && !this.#ended) return;
    this.#waiting = null;
    waiting.resolve(chunk === undefined ? { done: true } : { done: false, value: chunk });
  }

  /** As a reader of the body. */
  read(): Promise<{ done: boolean; value?: Uint8Array }> {
    if (this.#broken && this.#chunks.length === 0) return Promise.reject(new Error("Network connection lost."));
    return new Promise((resolve, reject) => {
      this.#waiting = { resolve, reject };
      this.#pass();
    });
  }

  async cancel(): Promise<void> {
    this.#broken = true;
    this.#time.after(this.#link.latencyMs(), () => this.onCancel());
  }
}
