// GET /health and GET /ready: the orchestrator's status in the words of the API. Refuses to decide whether asking starts the loading (index.ts).

import type { OrchestratorStatus } from "../durable/generate.ts";
import { RequestError } from "./errors.ts";

/** How long a client should wait before asking again while the model loads: loading takes seconds, and asking is cheap. */
const RETRY_AFTER_SECONDS = 1;

/** 200 when ready or degraded; 503 with Retry-After while cold or warming; throws when the model cannot be loaded. */
export function healthResponse(status: OrchestratorStatus): Response {
  const model = status.pack === null ? {} : { model: status.pack.id };
  switch (status.status) {
    case "ready":
    case "degraded":
      return Response.json({ status: status.status, ...model, generations: status.generations });
    case "cold":
    case "warming":
      return Response.json({ status: status.status, loaded: status.loaded, ...model }, { status: 503, headers: { "Retry-After": String(RETRY_AFTER_SECONDS) } });
    case "failed":
      throw new RequestError({ status: 500, code: "model_load_failed", message: status.message ?? "The model could not be loaded." });
  }
}
