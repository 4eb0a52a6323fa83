// How stage 0 brings a ring about: stages that load, refuse, fail or hang, sockets that open late, close early or carry damage. Every ring is lost once, nothing
// stays open, and the patience ends.

import { describe, expect, it } from "vitest";
import { SeededRandom } from "../../../durable/clock.ts";
import { LIMITS } from "../../../durable/limits.ts";
import type { OpenRing } from "../../../durable/ring-engine.ts";
import { encodeRing, NO_TALLY, type RingFrame } from "../../../durable/ring-frame.ts";
import { RingLine, type StageTransport } from "../../../durable/ring-line.ts";
import type { SocketHandlers } from "../../../durable/frame-socket.ts";
import { ShardError } from "../../../durable/shard-error.ts";
import type { StageHello, StageWelcome } from "../../../durable/stage-handshake.ts";
import type { FleetPlan } from "../../../fleet/fleet-plan.ts";
import { FakeClock } from "./fake-clock.ts";

type Answer = "ready" | "loading" | "throw" | "hang" | "refuse" | "refuse for good";

/** Stages that answer by a script, "ready" after it; the last one connects to stage 0 as it gets ready. */
class ScriptedStages {
  readonly clock = new FakeClock();
  readonly hellos: StageHello[] = [];
  readonly sent: ArrayBuffer[] = [];
  /** Sockets to stage 1, and from the last stage, that are open. */
  readonly open = new Set<string>();
  out: SocketHandlers | null = null;
  lastConnects = true;
  opens: "opens" | "throws" | "closes" = "opens";
  readonly frames: RingFrame[] = [];
  readonly lost: number[] = [];
  readonly line: RingLine;
  readonly #scripts: Answer[][];

  constructor(...scripts: Answer[][]) {
    this.#scripts = scripts;
    this.line = new RingLine({
      transports: scripts.map((_, i): StageTransport => ({ name: `stage-${i + 1}`, prepare: (hello) => this.#prepare(i, hello), open: (ring, handlers) => this.#open(ring, handlers) })),
      hello: { protocolVersion: 3, plan: {} as FleetPlan, lane: 0, first: "me", strictIsolates: false }, limits: LIMITS, clock: this.clock, random: new SeededRandom(4),
    });
  }

  async #prepare(i: number, hello: StageHello): Promise<StageWelcome> {
    this.hellos.push(hello);
    switch (this.#scripts[i]!.shift() ?? "ready") {
      case "throw": throw new Error("the object was reset");
      case "hang": return new Promise(() => {});
      case "loading": return { state: "loading", loadedBytes: 1, totalBytes: 4, retryAfterMs: 250 };
      case "refuse": return { state: "refused", code: "load-failed", retryable: true, message: "the store is away." };
      case "refuse for good": return { state: "refused", code: "memory", retryable: false, message: "it does not fit." };
      case "ready":
        if (i === this.#scripts.length - 1 && this.lastConnects) this.connect(hello.ring);
        return { state: "ready", kept: i === 0, pages: 40 + i, chunkTokens: 30 - i, totalBytes: 4, isolate: `isolate ${i}` };
    }
  }

  connect(ring: number): boolean {
    const wanted = this.line.accept(ring, () => void this.open.delete(`in ${ring}`));
    if (wanted) this.open.add(`in ${ring}`);
    return wanted;
  }

  async #open(ring: number, handlers: SocketHandlers) {
    if (this.opens === "throws") throw new Error("no upgrade");
    this.out = handlers;
    this.open.add(`out ${ring}`);
    if (this.opens === "closes") handlers.closed("1006");
    return { send: (bytes: ArrayBuffer) => void this.sent.push(bytes), close: () => void this.open.delete(`out ${ring}`) };
  }

  /** The ring, or why it did not come about. */
  async build(forMs = 100_000): Promise<OpenRing | Error> {
    let result: OpenRing | Error | null = null;
    this.line.open({ frame: (frame) => void this.frames.push(frame), lost: (ring) => void this.lost.push(ring) }).then((ring) => { result = ring; }, (cause: Error) => { result = cause; });
    for (let ms = 0; ms < forMs && result === null; ms += 100) await this.clock.advance(100);
    if (result === null) throw new Error("Neither a ring nor a refusal came about.");
    return result;
  }
  async ring(): Promise<OpenRing> {
    const ring = await this.build();
    if (ring instanceof Error) throw ring;
    return ring;
  }
}

const done = (ring: number): ArrayBuffer => encodeRing({ kind: "done", ring, step: 5, stage: 2, epoch: 1, tally: NO_TALLY });

describe("a ring", () => {
  it("stands when all stages are ready and both sockets are there, with the least any stage takes", async () => {
    const stages = new ScriptedStages(["loading", "loading"], [], ["loading"]);
    const ring = await stages.ring();
    expect(ring).toMatchObject({ kept: false, pages: 40, chunkTokens: 28 });
    expect(stages.hellos.map(({ stage }) => stage).sort()).toEqual([1, 1, 1, 2, 3, 3]);
    expect(new Set(stages.hellos.map((hello) => hello.ring))).toEqual(new Set([ring.ring]));
    expect([...stages.open].sort()).toEqual([`in ${ring.ring}`, `out ${ring.ring}`]);
    ring.send({ kind: "probe", ring: ring.ring, step: 0, stage: 0, epoch: 1, tally: NO_TALLY });
    expect(stages.sent).toHaveLength(1);
    stages.line.received(ring.ring, done(ring.ring));
    expect(stages.frames).toMatchObject([{ kind: "done", step: 5 }]);
    ring.close("idle");
    expect([...stages.open]).toEqual([]);
    expect(stages.lost).toEqual([]);
  });

  it.each([
    ["a stage that fails", [["throw"], []]], ["one that refuses for now", [["refuse", "refuse"], []]], ["one that hangs", [[], ["hang"]]],
  ] as const)("is built anew after %s, under another number", async (_, scripts) => {
    const stages = new ScriptedStages(...scripts.map((script) => [...script]));
    const ring = await stages.ring();
    expect(new Set(stages.hellos.map((hello) => hello.ring)).size).toBeGreaterThan(1);
    expect([...stages.open].sort()).toEqual([`in ${ring.ring}`, `out ${ring.ring}`]);
  });

  it("waits for the last stage's socket, and takes it early", async () => {
    const stages = new ScriptedStages([], []);
    stages.lastConnects = false;
    const building = stages.build();
    await stages.clock.advance(300);
    expect(stages.connect(12345)).toBe(false); // of no ring
    expect(stages.connect(stages.hellos[0]!.ring)).toBe(true);
    expect(await building).toMatchObject({ ring: stages.hellos[0]!.ring });
  });

  it("is given up with a sentence: at once where a stage refuses for good, else when the patience ends", async () => {
    const full = new ScriptedStages([], ["refuse for good"]);
    expect(await full.build()).toMatchObject({ name: "ShardError", retryable: false, message: "Stage 2 (stage-2) refused (memory): it does not fit." });
    const away = new ScriptedStages(Array.from({ length: 10_000 }, (): Answer => "throw"));
    const error = await away.build(LIMITS.outageMs + 20_000);
    expect(error).toBeInstanceOf(ShardError);
    expect((error as Error).message).toMatch(/^The ring of 2 stages could not be built for \d+ ms; last: the object was reset\.$/);
    for (const opens of ["throws", "closes"] as const) {
      const unreachable = new ScriptedStages([]);
      unreachable.opens = opens;
      expect(((await unreachable.build(LIMITS.outageMs + 60_000)) as Error).message).toMatch(/could not be built/);
      expect([...unreachable.open].filter((name) => name.startsWith("in"))).toEqual([]);
    }
  });

  it.each([
    ["the socket to stage 1 closes", (s: ScriptedStages) => s.out!.closed("1006")], ["stage 1 answers on it", (s: ScriptedStages) => s.out!.message(new ArrayBuffer(80))],
    ["the last stage's closes", (s: ScriptedStages, ring: number) => s.line.ended(ring, "1006")], ["a frame is damaged", (s: ScriptedStages, ring: number) => s.line.received(ring, done(ring).slice(16))],
    ["a frame is text", (s: ScriptedStages, ring: number) => s.line.received(ring, "hello")],
  ] as const)("is lost, once, when %s", async (_, act) => {
    const stages = new ScriptedStages([], []);
    const { ring } = await stages.ring();
    for (let n = 0; n < 3; n++) act(stages, ring);
    stages.line.ended(ring, "again");
    expect(stages.lost).toEqual([ring]);
    expect([...stages.open]).toEqual([]);
    stages.line.received(ring, done(ring));
    expect(stages.frames).toEqual([]);
    expect(stages.connect(ring)).toBe(false);
    const next = await stages.ring();
    expect(next.ring).not.toBe(ring);
    act(stages, ring === next.ring ? -1 : ring); // late events of the old ring, where they say which
  });

  it("is not built any more once the line is closed", async () => {
    const stages = new ScriptedStages(["throw", "throw"], []);
    const building = stages.build();
    stages.line.close("the model could not be loaded");
    expect(await building).toBeInstanceOf(Error);
    expect([...stages.open]).toEqual([]);
  });
});
