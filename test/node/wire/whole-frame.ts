// A frame as one buffer, checked in every respect and read through views: what tests and scripted shards use, without linear memory.
// Owns no rule: header, checksum and lists are judged by durable/protocol.ts.

import { decodeHeader, faultOfLists, faultOfPayload, payloadChecksum, requestLayout, sealReply, sealRequest, type Decoded, type FrameHeader, type RequestShape } from "../../../durable/protocol.ts";

export function decodeFrame(buffer: ArrayBuffer): Decoded {
  const decoded = decodeHeader(buffer);
  if (!decoded.ok) return decoded;
  const { header } = decoded;
  const damage = faultOfPayload(header, payloadChecksum(buffer));
  if (damage !== null) return { ok: false, fault: "bad-checksum", header, message: damage };
  if (header.kind !== "request") return decoded;
  const at = requestLayout(header);
  const fault = faultOfLists(header, new Uint32Array(buffer), at.groups / 4, new Uint16Array(buffer), at.tokens / 2);
  return fault === null ? decoded : { ok: false, fault: "bad-frame", header, message: fault };
}

/** Views on a request's lists. Group g is words[2g] = expert | segment << 16, words[2g + 1] = count. */
export function requestViews(buffer: ArrayBuffer, header: FrameHeader): { readonly activations: Uint8Array; readonly groups: Uint32Array; readonly tokens: Uint16Array } {
  const at = requestLayout(header);
  return {
    activations: new Uint8Array(buffer, at.activations, at.groups - at.activations),
    groups: new Uint32Array(buffer, at.groups, header.nGroups * 2),
    tokens: new Uint16Array(buffer, at.tokens, header.nTokens),
  };
}

export const sealRequestFrame = (buffer: ArrayBuffer, shape: RequestShape, layer: number, step: number): void =>
  sealRequest(new Uint32Array(buffer), 0, shape, buffer.byteLength, layer, step, payloadChecksum(buffer));

export const sealReplyFrame = (buffer: ArrayBuffer, request: FrameHeader, computeUs: number): void =>
  sealReply(new Uint32Array(buffer), 0, request, computeUs, payloadChecksum(buffer));
