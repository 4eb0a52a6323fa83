// One process of a local cluster that holds shards: started, watched, and started again when it ends, at the same port over the same state.
// Owns when to try again (jittered) and when to stop trying. Refuses to know what a process is: whoever starts one says how (local-cluster.ts).
// The server lives on without it: streams that need its shards wait for it as docs/protocol.md section 3 says.

/** Starts in a row that did not come up before it is left down: what fails five times needs somebody who looks. */
const MOST_FAILURES = 5;
/** Full-jitter pause before a start: uniform in [0, base * 2^failures). The first is short, since nothing says that it would fail. */
const PAUSE_BASE_MS = 100;

/** A process that was started. */
export interface RunningProcess {
  readonly pid: number;
  /** How it ended, in words: "killed by SIGKILL", "exit code 1". What it had started is gone then, too. */
  readonly ended: Promise<string>;
  /** True once its shards can be reached; false when it ended before, or took too long. */
  isUp(): Promise<boolean>;
  /** Ends it and what it started. */
  end(): void;
}

export type ShardProcessState = "starting" | "up" | "down" | "given up";

export interface ShardProcessParts {
  /** "Shard process 2 of 3". */
  readonly label: string;
  start(): RunningProcess;
  say(line: string): void;
  /** Its state, or its pid, is another. */
  changed(): void;
  /** In [0, 1). */
  random(): number;
  sleep(ms: number): Promise<void>;
  nowMs(): number;
}

export class ShardProcess {
  readonly #p: ShardProcessParts;
  #running: RunningProcess | null = null;
  #state: ShardProcessState = "down";
  #isStopping = false;
  #restarts = 0;
  #lastOutageMs: number | null = null;
  #kept: Promise<void> = Promise.resolve();

  constructor(parts: ShardProcessParts) {
    this.#p = parts;
  }

  get state(): ShardProcessState { return this.#state; }
  get pid(): number | null { return this.#running?.pid ?? null; }
  /** How often it has come up again. */
  get restarts(): number { return this.#restarts; }
  /** From its last end to when its shards could be reached again; null before the first. */
  get lastOutageMs(): number | null { return this.#lastOutageMs; }
  /** Settles when it was stopped, or given up, and nothing of it runs. */
  get kept(): Promise<void> { return this.#kept; }

  /** The first start, which is not tried again: true when it is up, and watched from then on. */
  async start(): Promise<boolean> {
    const running = this.#begin();
    this.#kept = running.ended.then(() => undefined);
    if (!(await running.isUp())) {
      running.end();
      await running.ended;
      this.#become("down", null);
      return false;
    }
    this.#become("up", running);
    this.#kept = this.#keep(running);
    return true;
  }

  /** It is not started again. */
  stop(): void {
    this.#isStopping = true;
    this.#running?.end();
  }

  async #keep(first: RunningProcess): Promise<void> {
    for (let running: RunningProcess | null = first; running !== null;) {
      const how: string = await running.ended;
      this.#become("down", null);
      running = this.#isStopping ? null : await this.#again(how);
    }
  }

  /** Starts until it is up; null when it was stopped meanwhile, or is given up. */
  async #again(how: string): Promise<RunningProcess | null> {
    const { label, say, random, sleep, nowMs } = this.#p;
    const sinceMs = nowMs();
    for (let failures = 0; failures < MOST_FAILURES; failures++) {
      await sleep(random() * PAUSE_BASE_MS * 2 ** failures);
      if (this.#isStopping) return null;
      const running = this.#begin();
      if (await running.isUp()) {
        this.#restarts++;
        this.#lastOutageMs = nowMs() - sinceMs;
        this.#become("up", running);
        say(`${label} ended (${how}); it is up again after ${(this.#lastOutageMs / 1000).toFixed(1)} s, as pid ${running.pid}.`);
        return running;
      }
      running.end();
      await running.ended;
      this.#become("down", null);
      if (this.#isStopping) return null;
    }
    say(`${label} ended (${how}) and did not come up in ${MOST_FAILURES} attempts, the last after ${((nowMs() - sinceMs) / 1000).toFixed(1)} s. The server goes on without it; what it said is above.`);
    this.#become("given up", null);
    return null;
  }

  #begin(): RunningProcess {
    const running = this.#p.start();
    this.#become("starting", running);
    return running;
  }

  #become(state: ShardProcessState, running: RunningProcess | null): void {
    this.#state = state;
    this.#running = running;
    this.#p.changed();
  }
}
