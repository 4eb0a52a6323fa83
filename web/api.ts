// The page's side of the HTTP API: health, models and the fleet. Failures become ApiProblem with the server's own sentence.
// Refuses state and the DOM; streamed generations are stream.ts.

import type { FleetReply, HealthReply, ModelList } from "../worker/wire-types.ts";

export class ApiProblem extends Error {
  /** The response's status; 0 where a stream broke or ended with an error. */
  readonly status: number;
  readonly retryAfterSeconds: number;
  constructor(status: number, message: string, retryAfterSeconds: number) {
    super(message);
    this.status = status;
    this.retryAfterSeconds = retryAfterSeconds;
  }
}

export const authorization = (key: string): Record<string, string> => (key === "" ? {} : { Authorization: `Bearer ${key}` });

export async function problemOf(response: Response): Promise<ApiProblem> {
  const body = (await response.json().catch(() => null)) as { error?: { message?: string } } | null;
  const message = body?.error?.message ?? `The server answered with status ${response.status}.`;
  return new ApiProblem(response.status, message, Number(response.headers.get("Retry-After") ?? "1") || 1);
}

/** Asking starts the loading of the model. */
export async function health(key: string): Promise<HealthReply> {
  const response = await fetch("/health", { headers: authorization(key) });
  if (response.status !== 200 && response.status !== 503) throw await problemOf(response);
  return (await response.json()) as HealthReply;
}

async function get<T>(path: string, key: string): Promise<T> {
  const response = await fetch(path, { headers: authorization(key) });
  if (!response.ok) throw await problemOf(response);
  return (await response.json()) as T;
}

export const models = (key: string): Promise<ModelList> => get("/v1/models", key);
export const fleet = (key: string): Promise<FleetReply> => get("/v1/fleet", key);
