// GET /v1/traces: the sampled routing of real traffic, as a trace file (docs/formats.md), of all orchestrators of the deployment in one. Owns the numbers of
// requests in it, which each orchestrator counts for itself. Refuses to keep any: what is kept, and of whom, is the orchestrators'. A model that sleeps has
// nothing kept, which is said and not waited for.

import { readTrace, traceHeaderBytes, traceRecordBytes } from "../formats/trace.ts";
import { RequestError } from "./errors.ts";
import { fromLanes, type LaneAt } from "./lane-states.ts";

export async function tracesResponse(lanes: readonly LaneAt[], isPlural: boolean): Promise<Response> {
  const files = await fromLanes(lanes, isPlural, async (target) => {
    const response = await target.fetch("https://orchestrator/traces", { method: "GET" });
    return response.status === 204 ? null : new Uint8Array(await response.arrayBuffer());
  });
  const kept = files.filter((file) => file !== null);
  if (kept.length === 0) throw new RequestError({ status: 503, code: "model_warming", message: "No model is awake, so no routing is kept. GET /health wakes it; TRACE_SHARE says what share of the generations is kept.", retryAfterSeconds: 1 });
  return new Response(mergedTraces(kept), { headers: { "Content-Type": "application/octet-stream", "Cache-Control": "no-store" } });
}

/** Records of files that are of one model, which are those of the first's; requests of the later ones get numbers behind those before. */
export function mergedTraces(files: readonly Uint8Array<ArrayBuffer>[]): Uint8Array<ArrayBuffer> {
  const [first] = files;
  if (files.length === 1) return first!;
  const { header } = readTrace(first!, "the first trace");
  const head = traceHeaderBytes(header);
  const stride = traceRecordBytes(header);
  const parts = files.filter((file) => head.every((byte, i) => file[i] === byte)).map((file) => file.slice(head.length));
  const merged = new Uint8Array(head.length + parts.reduce((sum, { length }) => sum + length, 0));
  merged.set(head);
  let [at, nextRequest] = [head.length, 0];
  for (const part of parts) {
    const view = new DataView(part.buffer);
    const from = nextRequest;
    for (let record = 0; record + stride <= part.length; record += stride) {
      const request = from + view.getUint32(record, true);
      view.setUint32(record, request, true);
      nextRequest = Math.max(nextRequest, request + 1);
    }
    merged.set(part, at);
    at += part.length;
  }
  return merged;
}
