// The experts one shard holds, ready to answer frames: slots in memory, regions for rows, one runner.
// Owns the way from a request frame's payload to a reply frame. Refuses sockets and loading (shard.ts), and to add rows up.
// A reply is a pure function of slot bytes and request payload. docs/protocol.md section 2.

import { segmentName, type NamedBlob, type PackExpert, type PackManifest } from "../formats/manifest.ts";
import { ModelError } from "../model/config.ts";
import { activationRowBytes } from "../model/kernels.ts";
import { ExpertRunner, type SegmentWeights } from "../model/local-experts.ts";
import type { SlotRange } from "./handshake.ts";
import type { Tenant } from "./isolate.ts";
import { FRAME_HEADER_BYTES, replyFrameBytes, requestViews, sealReply, type FrameHeader } from "./protocol.ts";

interface Slot {
  readonly layer: number;
  readonly expert: number;
  readonly segment: number;
  readonly of: PackExpert;
}

function* slotsOf(manifest: PackManifest, ranges: readonly SlotRange[]): Iterable<Slot> {
  const table = new Map(manifest.experts.map((entry) => [entry.layer * 65536 + entry.expert, entry]));
  for (const { layer, expert, segments: [first, end] } of ranges) {
    const of = table.get(layer * 65536 + expert);
    if (of === undefined) throw new ModelError(`The plan asks for layer ${layer}, expert ${expert}, which pack ${manifest.id} does not have.`);
    if (first < 0 || end > of.segments.length || first >= end) {
      throw new ModelError(`The plan asks for segments ${first} to ${end} of layer ${layer}, expert ${expert}; it has ${of.segments.length}.`);
    }
    for (let segment = first; segment < end; segment++) yield { layer, expert, segment, of };
  }
}

/** The blobs behind the slots. Throws ModelError when the pack has no such slot. */
export const blobsOfSlots = (manifest: PackManifest, ranges: readonly SlotRange[]): NamedBlob[] =>
  Array.from(slotsOf(manifest, ranges), ({ layer, expert, segment, of }) => ({ name: segmentName(layer, expert, segment), blob: of.segments[segment]! }));

/** Calls per batch size that make the engine compile a kernel with its optimising tier before the first request. */
const WARM_CALLS = 24;

export class ServedExperts {
  readonly #tenant: Tenant;
  readonly #manifest: PackManifest;
  readonly #runner: ExpertRunner;
  readonly #slots = new Map<number, SegmentWeights>();
  readonly #rowBytes: number;
  readonly #activations: number;
  readonly #rows: number;

  /** The blobs must be held by the tenant. Throws CapacityError when the regions do not fit. */
  constructor(tenant: Tenant, manifest: PackManifest, ranges: readonly SlotRange[]) {
    const { limits, kernels } = tenant.isolate;
    const hidden = manifest.config.hiddenSize;
    this.#tenant = tenant;
    this.#manifest = manifest;
    this.#rowBytes = activationRowBytes(manifest.activations, hidden);
    let maxWidth = 1;
    for (const { layer, expert, segment, of } of slotsOf(manifest, ranges)) {
      const { start, end, hash } = of.segments[segment]!;
      maxWidth = Math.max(maxWidth, end - start);
      this.#slots.set(this.#key(layer, expert, segment), { ptr: tenant.ptrOf(hash), width: end - start, gateUp: of.gateUp, down: of.down });
    }
    this.#runner = new ExpertRunner(kernels, tenant.heap, hidden, maxWidth, Math.min(0xffff, Math.ceil(limits.frameBytes / this.#rowBytes)));
    this.#activations = tenant.heap.alloc(limits.frameBytes, "frames");
    this.#rows = tenant.heap.alloc(limits.frameBytes, "frames");
  }

  /** Gives the regions back; the blobs stay with the tenant. */
  close(): void {
    this.#runner.close();
    this.#tenant.heap.free(this.#activations);
    this.#tenant.heap.free(this.#rows);
  }

  #key(layer: number, expert: number, segment: number): number {
    return (layer * 65536 + expert) * 1024 + segment;
  }

  /** Null when the request fits what is served; otherwise what does not, as a refusal. */
  refusalOf(header: FrameHeader, buffer: ArrayBuffer): { readonly code: "bad-frame" | "unknown-slot"; readonly message: string } | null {
    const { config, activations } = this.#manifest;
    if (header.hidden !== config.hiddenSize || header.activations !== activations) {
      return { code: "bad-frame", message: `The frame has rows of ${header.hidden} in ${header.activations}; pack ${this.#manifest.id} has ${config.hiddenSize} in ${activations}.` };
    }
    if (replyFrameBytes(header.nTokens, header.hidden) > this.#tenant.isolate.limits.frameBytes) {
      return { code: "bad-frame", message: `The reply of ${header.nTokens} rows would have ${replyFrameBytes(header.nTokens, header.hidden)} bytes; ${this.#tenant.isolate.limits.frameBytes} is the limit.` };
    }
    const { groups } = requestViews(buffer, header);
    for (let g = 0; g < header.nGroups; g++) {
      const [expert, segment] = [groups[2 * g]! & 0xffff, groups[2 * g]! >>> 16];
      if (!this.#slots.has(this.#key(header.layer, expert, segment))) {
        return { code: "unknown-slot", message: `Layer ${header.layer}, expert ${expert}, segment ${segment} is not held here.` };
      }
    }
    return null;
  }

  /** The reply frame to a request for which refusalOf is null. `nowMs` brackets the computation for the frame's compute time. */
  answer(header: FrameHeader, buffer: ArrayBuffer, nowMs: () => number): ArrayBuffer {
    const startMs = nowMs();
    const { heap } = this.#tenant;
    const { activations, groups, tokens } = requestViews(buffer, header);
    heap.u8.set(activations, this.#activations);
    for (let g = 0, row = 0; g < header.nGroups; g++) {
      const count = groups[2 * g + 1]!;
      const slot = this.#slots.get(this.#key(header.layer, groups[2 * g]! & 0xffff, groups[2 * g]! >>> 16))!;
      this.#runner.runGroup(slot, tokens, row, row + count, this.#activations, this.#rowBytes, this.#rows + row * header.hidden * 4);
      row += count;
    }
    const reply = new ArrayBuffer(replyFrameBytes(header.nTokens, header.hidden));
    const words = (header.nTokens * header.hidden * 4) / 4;
    new Uint32Array(reply, FRAME_HEADER_BYTES, words).set(heap.u32.subarray(this.#rows / 4, this.#rows / 4 + words));
    sealReply(reply, header, Math.max(0, Math.round((nowMs() - startMs) * 1000)));
    return reply;
  }

  /** Runs the first slot a few times on zeros, so that the first request meets optimised kernels (measured: the first tier is half as fast). */
  warm(): void {
    const slot = this.#slots.values().next().value;
    if (slot === undefined) return;
    const { heap } = this.#tenant;
    heap.u8.fill(0, this.#activations, this.#activations + 8 * this.#rowBytes);
    const tokens = [0, 1, 2, 3, 4, 5, 6, 7];
    for (const nTokens of [1, 2, 4, 8]) {
      for (let call = 0; call < WARM_CALLS; call++) this.#runner.runGroup(slot, tokens, 0, nTokens, this.#activations, this.#rowBytes, this.#rows);
    }
  }
}
