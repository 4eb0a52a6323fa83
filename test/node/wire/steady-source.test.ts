// A store that fails, stalls and comes back: what was given is not given again, a source with ranges is not read again either, and the last cause is told.

import { describe, expect, it } from "vitest";
import { SeededRandom } from "../../../durable/clock.ts";
import { LIMITS } from "../../../durable/limits.ts";
import { SteadySource } from "../../../durable/steady-source.ts";
import { type ByteSource, SourceError } from "../../../formats/byte-source.ts";
import { FakeClock } from "./fake-clock.ts";

const bytes = Uint8Array.from({ length: 1000 }, (_, i) => (i * 37) & 255);

/** Gives chunks of 100 bytes; each read ends as its script says, after so many chunks. */
function scripted(hasRanges: boolean, script: readonly (readonly ["fail" | "stall", chunks: number])[]) {
  const reads: [number | undefined, number | undefined][] = [];
  const source: ByteSource = {
    description: "the script", hasRanges, size: async () => bytes.length,
    async *read(_, offset, length) {
      const fault = script[reads.length];
      reads.push([offset, length]);
      const from = offset ?? 0;
      const end = from + (length ?? bytes.length - from);
      for (let at = from, n = 0; at < end; at += 100, n++) {
        if (fault?.[1] === n) {
          if (fault[0] === "stall") await new Promise(() => {});
          throw new SourceError("the script answered with status 503.");
        }
        yield bytes.subarray(at, Math.min(end, at + 100));
      }
    },
  };
  return { source, reads };
}

async function all(source: ByteSource, clock: FakeClock, offset?: number, length?: number): Promise<Uint8Array> {
  const steady = new SteadySource(source, { clock, random: new SeededRandom(1), limits: LIMITS });
  const gather = async (): Promise<Uint8Array> => {
    const out: number[] = [];
    for await (const chunk of steady.read("part", offset, length)) out.push(...chunk);
    return Uint8Array.from(out);
  };
  const result = await clock.until(gather());
  if (result.status === "rejected") throw result.reason;
  return result.value;
}

describe("a read that breaks off or stalls", () => {
  for (const fault of ["fail", "stall"] as const) {
    it(`goes on where it was, where there are ranges (${fault})`, async () => {
      const { source, reads } = scripted(true, [[fault, 0], [fault, 3], [fault, 1]]);
      expect(await all(source, new FakeClock(), 50, 700)).toEqual(bytes.subarray(50, 750));
      expect(reads).toEqual([[50, 700], [50, 700], [350, 400], [450, 300]]);
    });

    it(`begins again and passes over what was given, where there are none (${fault})`, async () => {
      const { source, reads } = scripted(false, [[fault, 4], [fault, 2], [fault, 7]]);
      expect(await all(source, new FakeClock())).toEqual(bytes);
      expect(reads).toEqual([[undefined, undefined], [undefined, undefined], [undefined, undefined], [undefined, undefined]]);
    });

    it(`is given up after ${LIMITS.storeAttempts} attempts, with the last cause (${fault})`, async () => {
      const { source, reads } = scripted(true, Array.from({ length: 9 }, () => [fault, 1] as const));
      const clock = new FakeClock();
      await expect(all(source, clock)).rejects.toThrow(fault === "fail" ? "the script answered with status 503. (after 4 attempts)" : "the script, part: not a byte came in 10000 ms (after 4 attempts)");
      expect([reads.length, clock.pendingTimers]).toEqual([LIMITS.storeAttempts, 0]);
    });
  }
});

it("beyond the end of a file there is nothing to try again", async () => {
  const { source, reads } = scripted(true, [["fail", 10]]);
  await expect(all({ ...source, read: (name, offset) => source.read(name, offset, 1100) }, new FakeClock(), 0, 1100)).rejects.toThrow("status 503. (after 1 attempt)");
  expect(reads.length).toBe(1);
});

it("a reader that leaves early ends the read", async () => {
  let ended = false;
  const source: ByteSource = {
    description: "x", hasRanges: true, size: async () => 1,
    async *read() {
      try {
        for (;;) yield bytes;
      } finally {
        ended = true;
      }
    },
  };
  for await (const _ of new SteadySource(source, { clock: new FakeClock(), random: new SeededRandom(1), limits: LIMITS }).read("part")) break;
  expect(ended).toBe(true);
});
