// The notes of one step: where it was begun again (another epoch, a lost shard), they are those of the last time, whole. Out of scope: what is noted over a real fleet
// (test/workerd/trace.test.ts).

import { describe, expect, it } from "vitest";
import { StepTrace } from "../../../durable/step-trace.ts";
import type { ExpertBatch } from "../../../model/experts.ts";
import type { TapEvent } from "../../../model/taps.ts";

/** One token of timeline 7 at position 3, two experts of one part each. */
function layer(trace: StepTrace, number: number, ids: [number, number], stopsBefore: "rows" | null = null): void {
  const at = { layer: number, nTokens: 1, timelines: Uint32Array.of(7), positions: Uint32Array.of(3), values: new Float32Array(0), rowLength: 0 };
  const [selection, output] = trace.taps;
  selection!.run({ ...at, ids: Uint32Array.from(ids), weights: Float32Array.of(0.75, 0.25) } satisfies TapEvent);
  if (stopsBefore === "rows") return;
  const batch = { partStart: Uint32Array.of(0, 1, 2), groupExpert: Uint32Array.from(ids), groupSegment: new Uint32Array(2), groupStart: Uint32Array.of(0, 1, 2), groupTokens: new Uint32Array(2) } as unknown as ExpertBatch;
  const round = { frames: 2, bytes: 20, retries: 0, hedges: 0, parts: [0, 1].map((part) => ({ part, ms: 1, bytes: 10 })) };
  output!.run({ ...at, ids: new Uint32Array(0), weights: new Float32Array(0), batch, round });
}

describe.each<[string, number | null]>([["all layers", null], ["one layer", 0]])("of %s", (_, only) => {
  it("a step begun again leaves the notes of a step done once", () => {
    const traced = (): StepTrace => new StepTrace([{ timeline: 7, from: 0, layer: only }], 2);
    const [once, twice] = [traced(), traced()];
    layer(twice, 0, [1, 2]);
    layer(twice, 1, [3, 4], "rows");
    for (const trace of [once, twice]) for (const number of [0, 1]) layer(trace, number, [number, number + 5]);
    expect(twice.routeOf(7, 3)).toEqual(once.routeOf(7, 3));
    expect(twice.routeOf(7, 3)!.experts).toEqual(only === null ? [[0, 5], [1, 6]] : [[0, 5]]);
    expect(twice.routesOf(7, 3, 4)).toHaveLength(1);
  });
});
