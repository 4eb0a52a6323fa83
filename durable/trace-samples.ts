// Routing of a share of the generations, kept for whoever asks (GET /v1/traces, `workers-moe trace`): what real traffic does to the experts.
// Owns the choice of generations and a bounded memory: the oldest tokens go first. Refuses text and token ids, and every influence on
// what is said: a sample reads what the router chose.

import { traceHeaderBytes, traceRecords, type TraceHeader } from "../formats/trace.ts";
import type { Random } from "./clock.ts";
import type { Limits } from "./limits.ts";
import type { TokenRoute } from "./step-trace.ts";

/** Records of one generation's part of a step. */
interface Kept {
  readonly request: number;
  readonly bytes: Uint8Array<ArrayBuffer>;
}

/** Share of the generations whose routing is kept. */
export function traceShare({ TRACE_SHARE: text = "0" }: { readonly TRACE_SHARE?: string }): number {
  const share = Number(text);
  if (text.trim() === "" || !(share >= 0 && share <= 1)) throw new RangeError(`The variable TRACE_SHARE is "${text}"; expected a number from 0 to 1, such as "0.01".`);
  return share;
}

export class TraceSamples {
  readonly header: TraceHeader;
  readonly #share: number;
  readonly #random: Random;
  readonly #limitBytes: number;
  #kept: Kept[] = [];
  #usedBytes = 0;
  #nextRequest = 0;

  /** `share` of the generations, 0 to 1. */
  constructor(header: TraceHeader, share: number, random: Random, limits: Pick<Limits, "traceBytes">) {
    this.header = header;
    this.#share = share;
    this.#random = random;
    this.#limitBytes = limits.traceBytes;
  }

  /** The number of a generation that is kept, or null. */
  draw(): number | null {
    return this.#random.next() < this.#share ? this.#nextRequest++ : null;
  }

  /** Keeps tokens of one step. */
  add(request: number, routes: readonly { readonly position: number; readonly route: TokenRoute }[]): void {
    const { moeLayers } = this.header;
    const bytes = traceRecords(this.header, routes.flatMap(({ position, route }) =>
      route.experts.map((ids, i) => ({ request, token: position, layer: moeLayers[i]!, ids, weights: route.weights[i]! }))));
    if (bytes.length === 0 || bytes.length > this.#limitBytes) return;
    this.#kept.push({ request, bytes });
    this.#usedBytes += bytes.length;
    let gone = 0;
    while (this.#usedBytes > this.#limitBytes) this.#usedBytes -= this.#kept[gone++]!.bytes.length;
    if (gone > 0) this.#kept = this.#kept.slice(gone);
  }

  /** What is kept, as a trace file, oldest first. */
  file(): Uint8Array<ArrayBuffer> {
    const head = traceHeaderBytes(this.header);
    const file = new Uint8Array(head.length + this.#usedBytes);
    file.set(head);
    let at = head.length;
    for (const { bytes } of this.#kept) {
      file.set(bytes, at);
      at += bytes.length;
    }
    return file;
  }
}
