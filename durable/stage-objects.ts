// The platform's way to the objects of a ring: their names, where they live, RPC for the handshake, one WebSocket to each from the stage before.
// Owns which namespace holds which stage. Refuses what they say to each other (ring-line.ts, stage-ring.ts).

import type { FleetPlan } from "../fleet/fleet-plan.ts";
import type { AdoptReply } from "./adoption.ts";
import type { DurableEnv } from "./env.ts";
import { placeOf } from "./place-names.ts";
import { hintOf, namedOrchestrator, withinJurisdiction } from "./places.ts";
import type { StageTransport } from "./ring-line.ts";
import { openFrameSocket } from "./shard-transport.ts";
import type { StageFigures, StageHello, StageWelcome } from "./stage-handshake.ts";
import type { Stage } from "./stage.ts";
import { plain } from "./rpc-result.ts";

/** Name of stage `stage` of the ring that begins at the orchestrator `first`. */
export const stageName = (first: string, stage: number): string => `${first}/stage-${stage}`;

const STAGE_NAME = /^(.*)\/stage-(\d+)$/;

/** Where a stage lives. Throws RangeError when the bindings are not there. */
export function stageNamespace(env: DurableEnv, { stages }: Pick<FleetPlan, "stages">, lane: number, stage: number): DurableObjectNamespace<Stage> {
  const scripts = Number(env.STAGE_SCRIPTS ?? "0");
  if (!Number.isInteger(scripts) || scripts < 0) throw new RangeError(`The variable STAGE_SCRIPTS is "${env.STAGE_SCRIPTS}"; expected a number of scripts.`);
  if (scripts === 0) {
    if (env.STAGES === undefined) throw new RangeError(`The plan has ${stages.length} stages, but there is no binding STAGES for those after the first.`);
    return env.STAGES;
  }
  const binding = `STAGES_${(lane * (stages.length - 1) + stage - 1) % scripts}`;
  const namespace = (env as unknown as Readonly<Record<string, DurableObjectNamespace<Stage> | undefined>>)[binding];
  if (namespace === undefined) throw new RangeError(`The variable STAGE_SCRIPTS is "${scripts}", but there is no binding ${binding}.`);
  return namespace;
}

/** Stage `stage` of the ring of `first`, which is lane `lane`. */
export class StageObject implements StageTransport {
  readonly name: string;
  readonly #namespace: DurableObjectNamespace<Stage>;
  readonly #where: DurableObjectNamespaceGetDurableObjectOptions;

  constructor(env: DurableEnv, plan: FleetPlan, first: string, lane: number, stage: number) {
    this.name = stageName(first, stage);
    this.#namespace = withinJurisdiction(stageNamespace(env, plan, lane, stage), plan.jurisdiction);
    this.#where = hintOf(placeOf(first).region);
  }

  /** A fresh stub each time: one that has seen its object fail stays broken. */
  get #stage(): DurableObjectStub<Stage> { return this.#namespace.getByName(this.name, this.#where); }

  async prepare(hello: StageHello): Promise<StageWelcome> {
    return plain(await this.#stage.prepare(hello));
  }

  open: StageTransport["open"] = (ring, handlers) => openFrameSocket(this.#stage, `http://stage/ring?ring=${ring}`, handlers);

  async touch(): Promise<void> { await this.#stage.touch(); }

  async figures(): Promise<StageFigures | null> { return plain(await this.#stage.figures()); }

  async adopt(plan: FleetPlan): Promise<AdoptReply> { return { ...await this.#stage.adopt(plan) }; }
}

/** The object of stage 0, as the last stage reaches it. */
export const openToFirst = (env: DurableEnv, first: string): StageTransport["open"] => (ring, handlers) => openFrameSocket(namedOrchestrator(env, first), `http://orchestrator/ring?ring=${ring}`, handlers);

/** Tells whoever registered under a name of a plan: an orchestrator, or a stage of its ring. */
export async function adoptAt(env: DurableEnv, name: string, plan: FleetPlan): Promise<AdoptReply> {
  const [, first, stage] = STAGE_NAME.exec(name) ?? [];
  if (first === undefined) return { ...await namedOrchestrator(env, name).adopt(plan) };
  return new StageObject(env, plan, first, placeOf(name).lane, Number(stage)).adopt(plan);
}
