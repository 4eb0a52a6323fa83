// When a process with shards is started again, and when it is left alone: without processes, without a clock. What the real thing does: cluster.test.ts.

import { describe, expect, it } from "vitest";
import { ShardProcess, type RunningProcess, type ShardProcessParts } from "../../../cli/shard-process.ts";

/** A process that comes up when it is told to, and ends when it is. */
class Fake implements RunningProcess {
  readonly pid: number;
  readonly ended: Promise<string>;
  ends = 0;
  readonly #up: Promise<boolean>;
  #isUp!: (up: boolean) => void;
  #end!: (how: string) => void;

  constructor(pid: number) {
    this.pid = pid;
    this.ended = new Promise((done) => (this.#end = done));
    this.#up = new Promise((done) => (this.#isUp = done));
  }

  isUp(): Promise<boolean> { return this.#up; }
  end(): void {
    this.ends++;
    this.die("killed by SIGKILL");
  }
  comesUp(): void { this.#isUp(true); }
  takesTooLong(): void { this.#isUp(false); }
  die(how: string): void {
    this.#isUp(false);
    this.#end(how);
  }
}

/** Lets everything that can happen without a new event happen. */
const settle = (): Promise<void> => new Promise((done) => setImmediate(done));

function cluster(random = 0.5): { process: ShardProcess; started: Fake[]; said: string[]; pausesMs: number[]; states: string[]; clock: { nowMs: number } } {
  const [started, said, pausesMs, states, clock]: [Fake[], string[], number[], string[], { nowMs: number }] = [[], [], [], [], { nowMs: 0 }];
  const parts: ShardProcessParts = {
    label: "Shard process 1 of 2", say: (line) => said.push(line), random: () => random, nowMs: () => clock.nowMs,
    changed: () => states.push(`${process.state} ${process.pid}`),
    start: () => {
      const fake = new Fake(100 + started.length);
      started.push(fake);
      return fake;
    },
    sleep: (ms) => {
      pausesMs.push(ms);
      clock.nowMs += ms;
      return Promise.resolve();
    },
  };
  const process = new ShardProcess(parts);
  return { process, started, said, pausesMs, states, clock };
}

async function up(): Promise<ReturnType<typeof cluster>> {
  const made = cluster();
  const started = made.process.start();
  made.started[0]!.comesUp();
  expect(await started).toBe(true);
  return made;
}

describe("ShardProcess", () => {
  it("starts a process that ended once more, and says how long it was gone", async () => {
    const { process, started, said, states, clock } = await up();
    started[0]!.die("killed by SIGKILL");
    await settle();
    expect([process.state, process.pid]).toEqual(["starting", 101]);
    clock.nowMs += 2950;
    started[1]!.comesUp();
    await settle();
    expect(said).toEqual(["Shard process 1 of 2 ended (killed by SIGKILL); it is up again after 3.0 s, as pid 101."]);
    expect([process.restarts, process.lastOutageMs]).toEqual([1, 3000]);
    expect(states).toEqual(["starting 100", "up 100", "down null", "starting 101", "up 101"]);
  });

  it("does so however often it ends, as long as it comes up in between", async () => {
    const { process, started } = await up();
    for (let n = 0; n < 20; n++) {
      started[n]!.die("exit code 1");
      await settle();
      started[n + 1]!.comesUp();
      await settle();
    }
    expect([process.state, process.restarts, started.length]).toEqual(["up", 20, 21]);
  });

  it("pauses longer before each start that follows one that failed, and gives up after five", async () => {
    const { process, started, said, pausesMs, states } = await up();
    started[0]!.die("exit code 1");
    for (let n = 1; n <= 5; n++) {
      await settle();
      started[n]!.die("exit code 7");
    }
    await process.kept;
    expect(pausesMs).toEqual([50, 100, 200, 400, 800]);
    expect([process.state, process.pid, started.length]).toEqual(["given up", null, 6]);
    expect(said).toHaveLength(1);
    expect(said[0]).toMatch(/^Shard process 1 of 2 ended \(exit code 1\) and did not come up in 5 attempts, the last after 1\.6 s\. The server goes on without it/);
    expect(states.at(-1)).toBe("given up null");
  });

  it("ends a start that took too long before it tries another", async () => {
    const { process, started } = await up();
    started[0]!.die("exit code 1");
    await settle();
    const slow = started[1]!;
    slow.takesTooLong();
    await settle();
    expect(slow.ends).toBe(1);
    started[2]!.comesUp();
    await settle();
    expect([process.state, process.pid]).toEqual(["up", 102]);
  });

  it("is not started again once it was stopped, whenever that was", async () => {
    const running = await up();
    running.process.stop();
    await running.process.kept;
    expect([running.started.length, running.started[0]!.ends, running.process.state, running.pausesMs]).toEqual([1, 1, "down", []]);

    const restarting = await up();
    restarting.started[0]!.die("exit code 1");
    await settle();
    restarting.process.stop();
    await restarting.process.kept;
    expect([restarting.started.length, restarting.started[1]!.ends > 0, restarting.process.state, restarting.said]).toEqual([2, true, "down", []]);
  });

  it("reports a first start that failed, and does not try it again", async () => {
    const { process, started, said } = cluster();
    const first = process.start();
    started[0]!.die("exit code 1");
    expect(await first).toBe(false);
    await process.kept;
    expect([process.state, started.length, said]).toEqual(["down", 1, []]);
  });
});
