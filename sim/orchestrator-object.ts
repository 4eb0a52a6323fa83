// The orchestrator of a simulated fleet: the fleet's own Scheduler, Engine, experts over the wire and lines to shards, put together as durable/orchestrator.ts and
// served-model.ts do it on the platform, in an isolate that may die. Owns its lives and the stream of events to a reader (POST /generate).
// Refuses to resume anything: that is the reader's business (durable/generate-client.ts).

import { within } from "../durable/clock.ts";
import type { AdoptReply } from "../durable/adoption.ts";
import { fanOutOf, type FanOut, type LineParts } from "../durable/epoch-lines.ts";
import { EpochSwitch } from "../durable/epoch-switch.ts";
import type { FleetPlan } from "../fleet/fleet-plan.ts";
import { isOf, PlanInForce } from "../durable/plan-in-force.ts";
import { FAILURE_STATUS, type GenerateFailure } from "../durable/generate.ts";
import type { GenerateTarget } from "../durable/generate-client.ts";
import { isFailure, parseGenerateRequest } from "../durable/generate-request.ts";
import type { InFlightBudget } from "../durable/in-flight-budget.ts";
import type { Isolate, Tenant } from "../durable/isolate.ts";
import { trunkBlobs } from "../durable/memory-plan.ts";
import { Scheduler, type StepEngine } from "../durable/scheduler.ts";
import { bindPackTrunk, bindShared, segmentCounts } from "../formats/load-model.ts";
import { MemorySource } from "../formats/memory-source.ts";
import { CapacityError } from "../model/heap.ts";
import { Engine } from "../model/engine.ts";
import type { Experts } from "../model/experts.ts";
import { EventLoop } from "./event-loop.ts";
import { EventStream } from "./event-stream.ts";
import { SIM_LIMITS, type Machines } from "./machines.ts";
import { call, type Link } from "./network.ts";
import type { TinyPack } from "./tiny-model.ts";
import type { VirtualTime } from "./virtual-time.ts";

/** Machines that hold the trunk for good: reading it is not what is simulated. */
export class TrunkMachines {
  readonly #machines: Machines;
  readonly #pack: TinyPack;
  readonly #free: Isolate[] = [];
  #made = 0;

  constructor(machines: Machines, pack: TinyPack) {
    this.#machines = machines;
    this.#pack = pack;
  }

  async fill(count: number): Promise<void> {
    while (this.#free.length < count) {
      const { isolate } = this.#machines.take(`orchestrator ${this.#made++}`, 2 * SIM_LIMITS.isolateBytes);
      const { manifest, files } = this.#pack;
      await isolate.enter("trunk", "shard", "trunk", this, false).load(new MemorySource(files), manifest, trunkBlobs(manifest), () => {});
      this.#free.push(isolate);
    }
  }

  take(): Isolate {
    const isolate = this.#free.pop();
    if (isolate === undefined) throw new Error("More orchestrators live in one run than machines were made for.");
    return isolate;
  }

  /** Returns bytes that the orchestrator has not given back. */
  give(isolate: Isolate): number {
    for (const tenant of isolate.tenants) if (tenant.kind === "orchestrator") tenant.leave();
    this.#free.push(isolate);
    return isolate.heap.usedBytes - isolate.tenants.reduce((sum, { weightBytes }) => Math.max(sum, weightBytes), 0);
  }
}

export interface OrchestratorParts {
  readonly name: string;
  readonly time: VirtualTime;
  readonly machines: TrunkMachines;
  readonly pack: TinyPack;
  readonly link: Link;
  readonly budget: () => InFlightBudget;
  /** Tokens of a round; steps are two of them at most. */
  readonly roundTokens: number;
  readonly stepTokens: number;
  /** The plan where nobody knows another one. */
  readonly initial: FleetPlan;
  readonly lines: (loop: EventLoop, tenant: Tenant, budget: InFlightBudget) => LineParts;
  /** Experts behind the lines of a plan. */
  readonly expertsOf: (fanOut: FanOut, tenant: Tenant, frame: number) => Experts;
  readonly register: (loop: EventLoop, initial: FleetPlan) => Promise<FleetPlan>;
  readonly startMs: () => number;
  /** How a stream's bytes are cut: after so many of them, again and again. */
  readonly chunkBytes: () => number;
}

interface Serving {
  readonly scheduler: Scheduler;
  readonly engine: Engine;
  readonly epochs: EpochSwitch;
}

interface Life {
  readonly loop: EventLoop;
  readonly isolate: Isolate;
  readonly tenant: Tenant;
  readonly budget: InFlightBudget;
  serving: Serving | null;
  loading: Promise<Serving> | null;
}

export class OrchestratorObject implements GenerateTarget {
  readonly #p: OrchestratorParts;
  readonly name: string;
  #life: Life | null = null;
  #lives = 0;
  readonly #streams = new Set<EventStream>();
  leakedBytes = 0;
  #keptPlan: FleetPlan | undefined;
  /** Switches to another plan while somebody was being answered. */
  flips = 0;
  /** The next calls fail. */
  failingCalls = 0;

  constructor(parts: OrchestratorParts) {
    this.#p = parts;
    this.name = parts.name;
  }

  /** Isolates it has had so far. */
  get lives(): number { return this.#lives; }
  get life(): Life | null { return this.#life; }

  #up(): Life {
    if (this.#life !== null) return this.#life;
    const { time, machines, budget, startMs } = this.#p;
    const loop = new EventLoop(time);
    if (this.#lives++ > 0) loop.occupy(startMs());
    const isolate = machines.take();
    const tenant = isolate.enter("orchestrator", "orchestrator", "orchestrator", loop, false);
    const inFlight = budget();
    return (this.#life = { loop, isolate, tenant, budget: inFlight, serving: null, loading: null });
  }

  #model(life: Life): Promise<Serving> {
    if (life.serving !== null) return Promise.resolve(life.serving);
    life.loading ??= this.#bringUp(life).finally(() => { life.loading = null; });
    return life.loading;
  }

  async #bringUp(life: Life): Promise<Serving> {
    const { pack: { manifest }, roundTokens, stepTokens, initial, register, expertsOf } = this.#p;
    const { tenant, isolate, loop } = life;
    const plans = new PlanInForce({
      name: this.name, clock: loop.clock, limits: SIM_LIMITS,
      storage: { get: async () => this.#keptPlan, put: async (_key, plan) => { if (!loop.dead) this.#keptPlan = plan; } },
      directory: () => ({ register: (_name, plan) => register(loop, plan) }),
    });
    const plan = await plans.atStart(initial);
    const live: { epochs: EpochSwitch | null } = { epochs: null };
    const lines = { ...this.#p.lines(loop, tenant, life.budget), stale: () => live.epochs?.stale() };
    const fanOut = fanOutOf(lines, plan);
    try {
      await fanOut.connect();
    } catch (error) {
      fanOut.close("the model could not be loaded");
      throw error;
    }
    if (!tenant.adopt(trunkBlobs(manifest))) throw new Error("The trunk is not resident.");
    const frame = tenant.heap.alloc(SIM_LIMITS.frameBytes, "frames");
    const epochs = new EpochSwitch({ lines, plans, ownSlots: [], switched: () => { if ((life.serving?.scheduler.activeCount ?? 0) > 0) this.flips++; }, expertsOf: (of) => expertsOf(of, tenant, frame) }, fanOut);
    live.epochs = epochs;
    const ptrOf = (hash: string): number => tenant.ptrOf(hash);
    const engine = new Engine({
      config: manifest.config, kernels: isolate.kernels, heap: tenant.heap, kvFormat: manifest.kvFormat, activations: manifest.activations, maxChunkTokens: stepTokens,
      maxRoundTokens: roundTokens, segmentCounts: segmentCounts(manifest), shared: bindShared(manifest, ptrOf), experts: epochs.experts, trunk: bindPackTrunk(manifest, ptrOf),
    });
    const inEpochs: StepEngine = {
      config: engine.config, kv: engine.kv, maxChunkTokens: engine.maxChunkTokens, contextLength: engine.contextLength,
      step: (entries, taps = []) => epochs.step(() => engine.step(entries, taps)),
    };
    return (life.serving = { engine, epochs, scheduler: new Scheduler(inEpochs, loop.clock, SIM_LIMITS) });
  }

  /** RPC of the directory, as durable/orchestrator.ts answers it. */
  adopt(near: EventLoop, plan: FleetPlan): Promise<AdoptReply> {
    return call(this.#p.time, this.#p.link, near, () => this.#up().loop, async () => {
      const life = this.#up();
      if (life.loading !== null) await life.loading.catch(() => undefined);
      if (life.serving !== null) return life.serving.epochs.adopt(plan);
      const kept = this.#keptPlan;
      if (kept !== undefined && isOf(kept, plan) && kept.epoch >= plan.epoch) return { state: "adopted", epoch: kept.epoch };
      this.#keptPlan = plan;
      return { state: "adopted", epoch: plan.epoch };
    }, 3000);
  }

  /** The isolate dies: streams break, lines to shards end, memory is gone. */
  kill(): void {
    const life = this.#life;
    if (life === null) return;
    this.#life = null;
    life.loop.kill();
    for (const stream of [...this.#streams]) stream.breakOff();
    this.#streams.clear();
    this.#giveBack(life);
  }

  /** The streams of readers break, and their generations are cancelled as on the platform; the isolate lives on. */
  breakStreams(): number {
    const broken = this.#streams.size;
    for (const stream of [...this.#streams]) stream.breakOff();
    this.#streams.clear();
    return broken;
  }

  #giveBack(life: Life): void {
    // Bytes of an engine go with its isolate; what is counted here is what nobody would ever give back.
    this.leakedBytes += this.#p.machines.give(life.isolate);
  }

  end(): void {
    for (const client of this.#life?.serving?.epochs.clients ?? []) client.close("the run is over");
    this.kill();
  }

  /** POST /generate as durable/orchestrator.ts answers it. The reader lives in a Worker of its own, at the far end of a link. */
  fetch(_input: string, init: RequestInit): Promise<Response> {
    const { time, link } = this.#p;
    return new Promise<Response>((resolve, reject) => {
      let over = false;
      const settle = (act: () => void): void => {
        if (over) return;
        over = true;
        time.after(link.latencyMs(), act);
      };
      const lost = (): void => settle(() => reject(new Error("Network connection lost.")));
      const { signal } = init;
      signal?.addEventListener("abort", () => settle(() => reject(signal.reason instanceof Error ? signal.reason : new Error("aborted"))));
      time.after(link.latencyMs(), () => {
        if (this.failingCalls > 0) {
          this.failingCalls--;
          return lost();
        }
        const life = this.#up();
        const forget = life.loop.onDeath(lost);
        life.loop.post(() => {
          void this.#generate(life, init.body as string, signal ?? null).then((response) => {
            forget();
            settle(() => resolve(response));
          }, (error: unknown) => {
            forget();
            settle(() => reject(error));
          });
        });
      });
    });
  }

  async #generate(life: Life, body: string, signal: AbortSignal | null): Promise<Response> {
    const { time, link, chunkBytes } = this.#p;
    const parsed = parsedOnce(body);
    if (isFailure(parsed)) return refusal(parsed);
    let serving: Serving;
    try {
      serving = await within(life.loop.clock, SIM_LIMITS.requestWaitMs, this.#model(life), "warming");
    } catch (cause) {
      if (life.loading !== null) return refusal({ type: "error", code: "warming", retryable: true, retryAfterMs: 1000, message: "The model is loading." });
      return refusal({ type: "error", code: "load-failed", retryable: true, message: `The model could not be loaded: ${cause instanceof Error ? cause.message : String(cause)}` });
    }
    const stream = new EventStream(time, link, chunkBytes());
    try {
      const generation = serving.scheduler.submit(parsed, (event) => stream.emit(event));
      stream.onCancel = () => life.loop.post(() => generation.cancel());
      signal?.addEventListener("abort", () => {
        stream.abandon();
        time.after(link.latencyMs(), stream.onCancel);
      });
      if (signal?.aborted === true) generation.cancel();
      const refused = await generation.accepted;
      if (refused !== null) return refusal(refused);
    } catch (cause) {
      if (cause instanceof CapacityError) return refusal({ type: "error", code: "capacity", retryable: true, message: cause.message });
      throw cause;
    }
    this.#streams.add(stream);
    stream.onEnd = () => void this.#streams.delete(stream);
    return { ok: true, status: 200, body: { getReader: () => stream } } as unknown as Response;
  }
}

/** The catalogue's requests come again and again, and reading one takes as long as a step. */
const parsedBodies = new Map<string, ReturnType<typeof parseGenerateRequest>>();

function parsedOnce(body: string): ReturnType<typeof parseGenerateRequest> {
  let parsed = parsedBodies.get(body);
  if (parsed === undefined) {
    if (parsedBodies.size >= 4096) parsedBodies.clear();
    parsedBodies.set(body, (parsed = parseGenerateRequest(body)));
  }
  return parsed;
}

const refusal = (failure: GenerateFailure): Response =>
  ({ ok: false, status: FAILURE_STATUS[failure.code], text: async () => JSON.stringify(failure) }) as unknown as Response;
