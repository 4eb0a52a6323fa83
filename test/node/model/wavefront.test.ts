// The two halves of a long step: while one's experts are out, the other's attention runs, and neither bits nor failures can tell.
// Time is the test's own: experts answer when they are told to, in whichever order.
import { describe, expect, test } from "vitest";
import { MAX_ROUNDS, ONE_PART, type ExpertBatch, type ExpertRunInfo, type Experts, type Placement } from "../../../model/experts.ts";
import { LocalExperts, MixedExperts } from "../../../model/local-experts.ts";
import { createScalarKernels } from "../../../model/scalar-kernels.ts";
import type { Tap } from "../../../model/taps.ts";
import { directEngine, logitsOf, type DirectOptions } from "../../support/direct-engine.ts";
import { seededConfig as config, seededWeights } from "../../support/seeded-model.ts";

const ids = Array.from({ length: 32 }, (_, i) => (i * i * 5 + 7 * i + 2) % config.vocabSize);
const bits = (x: Float32Array) => new Uint32Array(x.buffer, x.byteOffset, x.length);
const weights = seededWeights(config, 9);
const options = (more: Partial<DirectOptions> = {}): DirectOptions =>
  ({ kernels: createScalarKernels(new WebAssembly.Memory({ initial: 2 })), contextLength: 64, maxChunkTokens: 32, kvFormat: "f16", ...more });
const plain = async (): Promise<Uint32Array> => bits(await logitsOf(directEngine(config, weights, 65536, options()).engine, ids, [32]));

/** Experts elsewhere: computed at once, but their rows are written only when the round is let go. */
class HeldExperts implements Experts {
  readonly overlapTokens: number;
  readonly placement: Placement;
  readonly rounds: { readonly layer: number; readonly nTokens: number; release(): void; fail(error: Error): void }[] = [];
  outstanding = 0;
  mostOutstanding = 0;
  readonly #local: LocalExperts;
  readonly #onRun: (held: HeldExperts) => void;
  constructor(local: LocalExperts, overlapTokens: number, onRun: (held: HeldExperts) => void = () => {}, placement: Placement = ONE_PART) {
    this.#local = local;
    this.overlapTokens = overlapTokens;
    this.#onRun = onRun;
    this.placement = placement;
  }
  /** Departures wait for this, where there is something to wait for. */
  departure: Promise<void> | undefined;
  depart(): Promise<void> | undefined {
    return this.departure;
  }
  run(layer: number, batch: ExpertBatch): Promise<ExpertRunInfo> {
    this.mostOutstanding = Math.max(this.mostOutstanding, ++this.outstanding);
    return new Promise((resolve, reject) => {
      const end = (act: () => void) => () => {
        this.outstanding--;
        act();
      };
      this.rounds.push({
        layer, nTokens: batch.nTokens,
        release: end(() => {
          this.#local.runPart(layer, batch, 0);
          resolve({ frames: 1, bytes: 10, retries: 0, hedges: 0, parts: [] });
        }),
        fail: (error) => end(() => reject(error))(),
      });
      this.#onRun(this);
    });
  }
}

/** Lets every promise that can settle do so. */
const settle = () => new Promise((resolve) => setTimeout(resolve, 0));

describe("a step of two halves", () => {
  test("runs the second half's attention while the first half's experts are out, layer by layer", async () => {
    let held!: HeldExperts;
    const { engine } = directEngine(config, weights, 65536, options({ experts: (local) => (held = new HeldExperts(local, 16)) }));
    const log: string[] = [];
    const taps = (["input", "layerOutput"] as const).map((at): Tap => ({ at, run: (e) => void log.push(`${at} ${e.layer} from ${e.positions[0]}`) }));
    const timeline = engine.kv.open(32);
    const running = engine.step([{ timeline, ids: ids.slice(0, 20), logits: "all" }], taps);
    await settle();
    // Nobody has answered: both halves have been through layer 0's attention.
    expect(log).toEqual(["input 0 from 0", "input 0 from 16"]);
    expect(held.rounds.map(({ layer, nTokens }) => [layer, nTokens])).toEqual([[0, 16], [0, 4]]);
    held.rounds[0]!.release();
    await settle();
    // The first half is a layer ahead while the second one's experts of layer 0 are still out.
    expect(log.slice(2)).toEqual(["layerOutput 0 from 0", "input 1 from 0"]);
    expect(held.outstanding).toBe(2);
    held.rounds[1]!.release();
    await settle();
    expect(log.slice(4)).toEqual(["layerOutput 0 from 16", "input 1 from 16"]);
    expect(timeline.length).toBe(0);
    held.rounds[3]!.release();
    held.rounds[2]!.release();
    const { logits, frames, bytes } = await running;
    expect([timeline.length, frames, bytes, held.mostOutstanding]).toEqual([20, 4, 40, MAX_ROUNDS]);
    expect(bits(logits[0]!)).toEqual((await plain()).slice(0, 20 * config.vocabSize));
  });

  test.each([["in order", (n: number) => n], ["the newest first", (n: number) => -n], ["by a mixed rule", (n: number) => (n * 7) % 5]])("gives the same bits when rounds end %s, in any chunking", async (_, rank) => {
    const expected = await plain();
    for (const [chunks, maxRoundTokens] of [[[32], 32], [[32], 16], [[20, 9, 2, 1], 16], [[3, 29], 16], [[17, 15], 32], [[1, 31], 16]] as const) {
      const { engine } = directEngine(config, weights, 65536, options({
        maxRoundTokens,
        experts: (local) => new HeldExperts(local, 2, (held) => setTimeout(() => {
          const waiting = held.rounds.map((round, n) => ({ round, n })).sort((a, b) => rank(a.n) - rank(b.n));
          const [next] = waiting;
          held.rounds.splice(held.rounds.indexOf(next!.round), 1);
          next!.round.release();
        }, 0)),
      }));
      expect(bits(await logitsOf(engine, ids, chunks)), `${chunks.join(" ")} by ${maxRoundTokens}`).toEqual(expected);
    }
  });

  test("is made only of steps that are long enough, or too long for one round", async () => {
    for (const [overlapTokens, maxRoundTokens, nTokens, expected] of [[Infinity, 32, 32, [32]], [20, 32, 19, [19]], [20, 32, 20, [16, 4]], [2, 32, 1, [1]], [2, 32, 2, [1, 1]], [Infinity, 16, 16, [16]], [Infinity, 16, 17, [16, 1]], [Infinity, 16, 32, [16, 16]]] as const) {
      const seen: number[] = [];
      const { engine } = directEngine(config, weights, 65536, options({ maxRoundTokens, experts: (local) => new HeldExperts(local, overlapTokens, (held) => {
        if (held.rounds.at(-1)!.layer === 0) seen.push(held.rounds.at(-1)!.nTokens);
        held.rounds.at(-1)!.release();
      }) }));
      await engine.step([{ timeline: engine.kv.open(32), ids: ids.slice(0, nTokens), logits: "none" }]);
      expect(seen, `${nTokens} tokens, rounds of ${maxRoundTokens}, overlap from ${overlapTokens}`).toEqual(expected);
    }
    expect(() => directEngine(config, weights, 65536, options({ maxRoundTokens: 15 }))).toThrow(/Steps of 32 tokens were asked for in rounds of 15; at most 2 rounds/);
  });

  test.each(["first", "second"] as const)("that loses its %s half fails when both have ended, changes nothing and can be repeated", async (which) => {
    const expected = await plain();
    let held!: HeldExperts;
    const { engine } = directEngine(config, weights, 65536, options({ experts: (local) => (held = new HeldExperts(local, 2)) }));
    const timeline = engine.kv.open(32);
    for (const failing of [0, 1]) {
      held.rounds.length = 0;
      const step = engine.step([{ timeline, ids, logits: "all" }]);
      let ended = false;
      const failed = step.then(() => null, (error: Error) => error).finally(() => { ended = true; });
      await settle();
      if (failing === 1) {
        held.rounds[0]!.release();
        held.rounds[1]!.release();
        await settle();
      }
      const [lost, other] = which === "first" ? [failing * 2, failing * 2 + 1] : [failing * 2 + 1, failing * 2];
      held.rounds[lost]!.fail(new Error("lost"));
      await settle();
      expect([ended, held.outstanding]).toEqual([false, 1]); // the other half's rows may still be written
      await expect(engine.step([{ timeline, ids: [1], logits: "none" }])).rejects.toThrow(/await the previous/);
      held.rounds[other]!.release();
      // The half that lives on may have sent another layer's round by then.
      await settle();
      for (const round of held.rounds.slice(failing * 2 + 2)) round.release();
      expect([(await failed)?.message, timeline.length]).toEqual(["lost", 0]);
    }
    held.rounds.length = 0;
    const again = engine.step([{ timeline, ids, logits: "all" }]);
    for (let i = 0; i < 4; i++) {
      await settle();
      held.rounds[i]!.release();
    }
    expect(bits((await again).logits[0]!)).toEqual(expected);
  });
});

describe("experts here and elsewhere in one layer", () => {
  // Odd experts elsewhere; expert 2 is cut, its second half elsewhere too.
  const placement: Placement = { nParts: 2, partOf: (_, expert, segment) => (expert % 2 === 1 || (expert === 2 && segment === 1) ? 0 : 1) };

  test("run together: those here are done when the others have only been sent, with the same bits", async () => {
    const expected = bits(await logitsOf(directEngine(config, weights, 65536, options({ segmentWidth: 32 })).engine, ids, [32]));
    const done: string[] = [];
    const { engine } = directEngine(config, weights, 65536, options({
      segmentWidth: 32,
      experts: (local) => {
        const here = new LocalExperts({ runBatchGroup: () => {} } as never, () => undefined);
        here.runPart = (layer, batch, part) => {
          done.push(`here ${layer}.${part}`);
          local.runPart(layer, batch, part);
        };
        return new MixedExperts(new HeldExperts(local, Infinity, (held) => {
          done.push(`sent ${held.rounds.at(-1)!.layer}`);
          setTimeout(() => {
            done.push(`back ${held.rounds.at(-1)!.layer}`);
            held.rounds.at(-1)!.release();
          }, 0);
        }, placement), here, 1);
      },
    }));
    expect(bits(await logitsOf(engine, ids, [32]))).toEqual(expected);
    expect(done).toEqual([0, 1].flatMap((layer) => [`sent ${layer}`, `here ${layer}.1`, `back ${layer}`]));
  });

  test("wait until the others have departed, as does a second half: a runtime sends only when nothing runs", async () => {
    let depart!: () => void;
    const departure = new Promise<void>((resolve) => { depart = resolve; });
    const done: string[] = [];
    const { engine } = directEngine(config, weights, 65536, options({ experts: (local) => {
      const held = new HeldExperts(local, 2, ({ rounds }) => void done.push(`sent ${rounds.at(-1)!.nTokens}`), placement);
      held.departure = departure;
      const here = new LocalExperts({} as never, () => undefined);
      here.runPart = (_, batch) => void done.push(`here ${batch.nTokens}`);
      return new MixedExperts(held, here, 1);
    } }));
    void engine.step([{ timeline: engine.kv.open(32), ids: ids.slice(0, 24), logits: "none" }]);
    await settle();
    expect(done).toEqual(["sent 16"]);
    depart();
    await settle();
    expect(done).toEqual(["sent 16", "here 16", "sent 8", "here 8"]);
  });

  test("fail together: an expert that is missing here fails the step when the others have ended", async () => {
    let held!: HeldExperts;
    const { engine } = directEngine(config, weights, 65536, options({
      segmentWidth: 32,
      experts: (local) => new MixedExperts(held = new HeldExperts(local, Infinity, undefined, placement), new LocalExperts({} as never, () => undefined), 1),
    }));
    let ended = false;
    const failed = engine.step([{ timeline: engine.kv.open(32), ids, logits: "none" }]).then(() => null, (error: Error) => error).finally(() => { ended = true; });
    await settle();
    expect(ended).toBe(false);
    held.rounds[0]!.release();
    expect((await failed)?.message).toMatch(/Expert \d segment 0 of layer 0 is not in this isolate/);
  });
});
