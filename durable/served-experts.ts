// The experts one shard holds, ready to answer frames: the slots of each epoch it serves, regions for rows, one runner.
// Owns the way from a request frame's payload to a reply frame. Refuses sockets and loading (shard.ts), and to add rows up.
// A reply is a pure function of slot bytes and request payload. docs/protocol.md section 2.

import type { PackManifest } from "../formats/manifest.ts";
import { expertInputSize, expertOutputSize } from "../model/config.ts";
import { activationRowBytes, formatCode } from "../model/kernels.ts";
import { ExpertRunner, type SegmentLookup, type SegmentWeights } from "../model/local-experts.ts";
import type { SlotRange } from "./handshake.ts";
import type { Tenant } from "./isolate.ts";
import { frameTokens, maxSlotWidth, slotsOf } from "./memory-plan.ts";
import { faultOfLists, faultOfPayload, FRAME_HEADER_BYTES, replyFrameBytes, requestLayout, sealReply, type FrameHeader } from "./protocol.ts";

/** Slots whose blobs the tenant holds, by number: asked for every group of every frame. */
export function bindSlots(tenant: Tenant, manifest: PackManifest, ranges: readonly SlotRange[]): SegmentLookup {
  const { nLayers, nExperts } = manifest.config;
  const table: SegmentWeights[][] = Array.from({ length: nLayers * nExperts }, () => []);
  for (const { layer, expert, segment, of } of slotsOf(manifest, ranges)) {
    const { start, end, hash } = of.segments[segment]!;
    table[layer * nExperts + expert]![segment] = { ptr: tenant.ptrOf(hash), width: end - start, gateUp: formatCode(of.gateUp), down: formatCode(of.down) };
  }
  return (layer, expert, segment) => (expert < nExperts ? table[layer * nExperts + expert]?.[segment] : undefined);
}

/** Slots to serve under the number of their epoch. */
export interface EpochSlots {
  readonly epoch: number;
  readonly slots: readonly SlotRange[];
}

/** Why a request is refused. */
export interface FrameFault {
  readonly code: "bad-frame" | "bad-checksum" | "wrong-epoch" | "unknown-slot";
  readonly message: string;
}

/** Calls per batch size that make the engine compile a kernel with its optimising tier before the first request. */
const WARM_CALLS = 24;

/** Formats of weights whose kernels were warmed: once for an isolate, whoever comes and goes in it. */
const warmed = new WeakMap<object, Set<string>>();

export class ServedExperts {
  readonly #tenant: Tenant;
  readonly #manifest: PackManifest;
  readonly #runner: ExpertRunner;
  readonly #lookups: ReadonlyMap<number, SegmentLookup>;
  readonly #warmUp: SegmentWeights | undefined;
  readonly #rowBytes: number;
  readonly #request: number;
  readonly #reply: number;

  /** The blobs must be held by the tenant. Throws CapacityError when the regions do not fit. */
  constructor(tenant: Tenant, manifest: PackManifest, epochs: readonly EpochSlots[]) {
    const ranges = epochs.flatMap(({ slots }) => slots);
    const { limits, kernels } = tenant.isolate;
    this.#tenant = tenant;
    this.#manifest = manifest;
    this.#rowBytes = activationRowBytes(manifest.activations, expertInputSize(manifest.config));
    this.#lookups = new Map(epochs.map(({ epoch, slots }) => [epoch, bindSlots(tenant, manifest, slots)]));
    const first = epochs.find(({ slots }) => slots.length > 0);
    const [slot] = first?.slots ?? [];
    this.#warmUp = first === undefined || slot === undefined ? undefined : this.#lookups.get(first.epoch)!(slot.layer, slot.expert, slot.segments[0]);
    this.#runner = new ExpertRunner(kernels, tenant.heap, manifest.config, maxSlotWidth(manifest, ranges), frameTokens(manifest, limits));
    this.#request = tenant.heap.alloc(limits.frameBytes, "frames");
    this.#reply = tenant.heap.alloc(limits.frameBytes, "frames");
  }

  /** Gives the regions back; the blobs stay with the tenant. */
  close(): void {
    this.#runner.close();
    this.#tenant.heap.free(this.#request);
    this.#tenant.heap.free(this.#reply);
  }

  /**
   * The reply frame to a request whose header is valid, or why there is none. One copy brings the frame into linear memory, where it is
   * checked and computed on; one takes the reply out. `nowMs` brackets the computation for the frame's compute time.
   */
  answer(header: FrameHeader, request: ArrayBuffer, nowMs: () => number): ArrayBuffer | FrameFault {
    const startMs = nowMs();
    const lookup = this.#lookups.get(header.epoch);
    if (lookup === undefined) return { code: "wrong-epoch", message: `The frame is of epoch ${header.epoch}; this shard serves ${[...this.#lookups.keys()].join(", ")}.` };
    const { heap, isolate: { kernels, limits } } = this.#tenant;
    const { config, activations } = this.#manifest;
    const [input, output] = [expertInputSize(config), expertOutputSize(config)];
    if (header.hidden !== output || header.input !== input || header.activations !== activations) {
      const rows = (numbers: number, hidden: number): string => (numbers === hidden ? `rows of ${hidden}` : `rows of ${numbers} for outputs of ${hidden}`);
      return { code: "bad-frame", message: `The frame has ${rows(header.input, header.hidden)} in ${header.activations}; pack ${this.#manifest.id} has ${input === output ? input : rows(input, output)} in ${activations}.` };
    }
    const replyBytes = replyFrameBytes(header.nTokens, header.hidden);
    if (replyBytes > limits.frameBytes) {
      return { code: "bad-frame", message: `The reply of ${header.nTokens} rows would have ${replyBytes} bytes; ${limits.frameBytes} is the limit.` };
    }
    heap.u8.set(new Uint8Array(request), this.#request);
    const damage = faultOfPayload(header, kernels.checksum(this.#request + FRAME_HEADER_BYTES, header.payloadBytes));
    if (damage !== null) return { code: "bad-checksum", message: damage };
    const at = requestLayout(header);
    const { u16, u32 } = heap;
    const [groups, tokens] = [(this.#request + at.groups) / 4, (this.#request + at.tokens) / 2];
    const fault = faultOfLists(header, u32, groups, u16, tokens);
    if (fault !== null) return { code: "bad-frame", message: fault };
    for (let g = groups; g < groups + 2 * header.nGroups; g += 2) {
      if (lookup(header.layer, u32[g]! & 0xffff, u32[g]! >>> 16) !== undefined) continue;
      return { code: "unknown-slot", message: `Layer ${header.layer}, expert ${u32[g]! & 0xffff}, segment ${u32[g]! >>> 16} is not held here in epoch ${header.epoch}.` };
    }
    const rowBytes = header.hidden * 4;
    for (let g = groups, token = tokens, row = this.#reply + FRAME_HEADER_BYTES; g < groups + 2 * header.nGroups; g += 2) {
      const count = u32[g + 1]!;
      this.#runner.runGroup(lookup(header.layer, u32[g]! & 0xffff, u32[g]! >>> 16)!, u16, token, token + count, this.#request + at.activations, this.#rowBytes, row);
      token += count;
      row += count * rowBytes;
    }
    // The payload ends at a multiple of 16: what lies behind the last row is part of it.
    heap.u8.fill(0, this.#reply + FRAME_HEADER_BYTES + header.nTokens * rowBytes, this.#reply + replyBytes);
    sealReply(u32, this.#reply / 4, header, Math.max(0, Math.round((nowMs() - startMs) * 1000)),
      kernels.checksum(this.#reply + FRAME_HEADER_BYTES, replyBytes - FRAME_HEADER_BYTES));
    return heap.u8.buffer.slice(this.#reply, this.#reply + replyBytes);
  }

  /** Runs the first slot a few times on zeros, so that the first request meets optimised kernels (measured: the first tier is half as fast). */
  warm(): void {
    const slot = this.#warmUp;
    if (slot === undefined) return;
    const { heap, isolate: { kernels } } = this.#tenant;
    const formats = `${slot.gateUp} ${slot.down}`;
    const known = warmed.get(kernels) ?? new Set();
    if (known.has(formats)) return;
    warmed.set(kernels, known.add(formats));
    heap.u8.fill(0, this.#request, this.#request + 8 * this.#rowBytes);
    const tokens = [0, 1, 2, 3, 4, 5, 6, 7];
    for (const nTokens of [1, 2, 4, 8]) {
      for (let call = 0; call < WARM_CALLS; call++) this.#runner.runGroup(slot, tokens, 0, nTokens, this.#request, this.#rowBytes, this.#reply + FRAME_HEADER_BYTES);
    }
  }
}
