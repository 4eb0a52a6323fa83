// The page's side of the HTTP API: health, models, what is known of their routing, and the fleet. Failures become ApiProblem with the server's own sentence.
// Refuses state and the DOM; streamed generations are stream.ts.

import type { FleetReply, HealthReply, ModelList, ProfileList, RoutingMap, RoutingProfile } from "../worker/wire-types.ts";

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

export const routingMap = (key: string): Promise<RoutingMap> => get("/v1/routing-map", key);
/** Those the key may use. */
export const profiles = (key: string): Promise<ProfileList> => get("/v1/profiles", key);
export const profile = (name: string, key: string): Promise<RoutingProfile> => get(`/v1/profiles/${encodeURIComponent(name)}`, key);

export interface FleetAnswer {
  readonly reply: FleetReply;
  /** The server's clock, by which its times are to be read. */
  readonly nowMs: number;
}

/** Clocks this near are taken for one: the header has whole seconds, and ages should not jump. */
const SAME_CLOCK_MS = 3000;

export async function fleet(key: string): Promise<FleetAnswer> {
  const response = await fetch("/v1/fleet", { headers: authorization(key) });
  if (!response.ok) throw await problemOf(response);
  const [hereMs, thereMs] = [Date.now(), Date.parse(response.headers.get("Date") ?? "")];
  return { reply: (await response.json()) as FleetReply, nowMs: Math.abs(thereMs - hereMs) > SAME_CLOCK_MS ? thereMs : hereMs };
}

/** Begins a change of the plan; what is left out stays as it is. */
export async function askForFleet(key: string, wish: Readonly<Record<string, number | string>>): Promise<void> {
  const response = await fetch("/v1/fleet", { method: "POST", headers: { ...authorization(key), "Content-Type": "application/json" }, body: JSON.stringify(wish) });
  if (!response.ok) throw await problemOf(response);
}
