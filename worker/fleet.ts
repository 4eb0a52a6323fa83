// GET and POST /v1/fleet: what the directory knows of the plan, beside what the orchestrator says of itself, and the start of a change.
// Owns how the directory's refusals become errors. Refuses to wait for a change to end: GET tells how it goes (docs/fleet.md, "Epochs").

import type { z } from "zod";
import type { DesireReply, Directory } from "../durable/directory.ts";
import type { FleetStatus } from "../durable/directory-record.ts";
import { fleetDirectory, type DurableEnv } from "../durable/env.ts";
import type { OrchestratorStatus } from "../durable/generate.ts";
import { badConfiguration, invalid, RequestError } from "./errors.ts";
import { edgePack } from "./pack.ts";
import type { fleetChangeSchema } from "./schemas.ts";
import type { FleetReply } from "./wire-types.ts";

async function directoryOf(env: DurableEnv): Promise<DurableObjectStub<Directory>> {
  const directory = fleetDirectory(env, (await edgePack(env)).hash);
  if (directory === null) throw badConfiguration("This deployment has no binding DIRECTORY, so its plan is the one its variables make; expected one to the class Directory (docs/deploy.md).");
  return directory;
}

/** A call's result as a plain value: the runtime keeps a call open until its result is disposed of (2026-11). */
function plain<T>(answer: unknown): T {
  const value = structuredClone(answer) as T;
  (answer as Partial<Disposable> | null)?.[Symbol.dispose]?.();
  return value;
}

/** Without a directory, or where it cannot be reached, the rest is told all the same. */
export async function fleetReply(status: OrchestratorStatus, env: DurableEnv): Promise<FleetReply> {
  try {
    return { ...status, directory: plain<FleetStatus>(await (await directoryOf(env)).status()) };
  } catch {
    return { ...status, directory: null };
  }
}

export async function changeFleet({ shards, replicas, plan }: z.infer<typeof fleetChangeSchema>, env: DurableEnv): Promise<FleetStatus> {
  const wish = { ...(typeof shards === "number" ? { shards } : {}), ...(typeof replicas === "number" ? { replicas } : {}), ...(plan ? { plan } : {}) };
  if (Object.keys(wish).length === 0) throw invalid(null, "The body wishes for nothing; expected `shards`, `replicas` and/or `plan`.");
  const reply = plain<DesireReply>(await (await directoryOf(env)).desire(wish));
  if (reply.state === "begun") return reply.fleet;
  throw reply.code === "impossible" ? invalid(null, reply.message, "impossible_plan") : new RequestError({ status: 409, code: "change_conflict", message: reply.message });
}

export async function planInForce(env: DurableEnv): Promise<object> {
  const plan = plain<object | null>(await (await directoryOf(env)).plan());
  if (plan === null) throw new RequestError({ status: 409, code: "no_plan", message: "The fleet has no plan yet: its first orchestrator brings one when it wakes (GET /health wakes it)." });
  return plan;
}
