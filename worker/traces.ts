// GET /v1/traces: the sampled routing of real traffic, as a trace file (docs/formats.md). Refuses to be more than the way to it: what is kept, and of
// whom, is the orchestrator's. A model that sleeps has nothing kept, which is said and not waited for.

import type { GenerateTarget } from "../durable/generate-client.ts";
import { RequestError } from "./errors.ts";

export async function tracesResponse(target: GenerateTarget): Promise<Response> {
  const response = await target.fetch("https://orchestrator/traces", { method: "GET" });
  if (response.status === 204) throw new RequestError({ status: 503, code: "model_warming", message: "No model is awake, so no routing is kept. GET /health wakes it; TRACE_SHARE says what share of the generations is kept.", retryAfterSeconds: 1 });
  return new Response(response.body, { headers: { "Content-Type": "application/octet-stream", "Cache-Control": "no-store" } });
}
