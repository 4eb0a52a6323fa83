// The plan of a deployment as a record: which shard holds which segments, the ring's stages, how many lanes, where, and of which epoch.
// Owns the document (docs/formats.md, "The plan") and its validation. Refuses to make plans (plan.ts, placement.ts, capacity.ts) and to change one:
// another placement is another record with a higher epoch. A plan never changes a bit of any answer.

import { z } from "zod";
import type { Span, StageSpan } from "../model/stage-span.ts";
import type { Plan, PlannedRange } from "./plan.ts";

export const FLEET_PLAN_VERSION = 1;

export interface PlannedShard {
  /** Ascending by (layer, expert, segment). A segment may be on several shards: these are its replicas. Empty: the shard is at rest, its number stays its own. */
  readonly slots: readonly PlannedRange[];
  /** Location hint; null where the platform chooses. */
  readonly region: string | null;
}

/** One orchestrator of a ring. Spans of all stages together cover embedding rows, layers and head rows once, ascending. */
export interface PlannedStage extends StageSpan {
  /** Experts of its own layers that it computes itself. */
  readonly slots: readonly PlannedRange[];
}

export interface FleetPlan {
  readonly version: typeof FLEET_PLAN_VERSION;
  readonly packId: string;
  /** SHA-256 (hex) of the pack's manifest.json. */
  readonly packHash: string;
  /** Names the line of epochs this plan belongs to: objects of one fleet live on from epoch to epoch. */
  readonly fleet: string;
  /** From 1, one more with each change. */
  readonly epoch: number;
  readonly shards: readonly PlannedShard[];
  /** Of one lane; all lanes are alike. */
  readonly stages: readonly PlannedStage[];
  readonly lanes: number;
  /** Every object lives in it and never leaves; null: none. */
  readonly jurisdiction: string | null;
}

const count = z.int().min(0).max(0xffffffff);
const span = z.tuple([count, count]).refine(([from, to]) => to >= from, "a span ends before it begins");
const range = z.strictObject({ layer: z.int().min(0).max(0xffff), expert: z.int().min(0).max(0xffff), segments: span.refine(([from, to]) => to > from, "a range of segments is empty") });
const slots = z.array(range).superRefine((ranges, context) => {
  const place = ({ layer, expert }: PlannedRange): number => layer * 0x10000 + expert;
  ranges.forEach((next, i) => {
    const last = ranges[i - 1];
    if (last === undefined || place(last) < place(next) || (place(last) === place(next) && last.segments[1] <= next.segments[0])) return;
    context.addIssue({ code: "custom", path: [i], message: "ranges ascend by layer, expert and segment, and hold each segment once" });
  });
});
const stages = z.array(z.strictObject({ embeddingRows: span, layers: span, headRows: span, slots })).min(1).max(1024).superRefine((all, context) => {
  for (const field of ["embeddingRows", "layers", "headRows"] as const) {
    let end = 0;
    all.forEach(({ [field]: [from, to] }, i) => {
      if (from === to) return; // a stage without any of them
      if (from !== end) context.addIssue({ code: "custom", path: [i, field], message: `the stages before reach up to ${end} and this one begins at ${from}` });
      end = to;
    });
  }
});
const document = z.strictObject({
  version: z.literal(FLEET_PLAN_VERSION), packId: z.string().min(1), packHash: z.string().regex(/^[0-9a-f]{64}$/), fleet: z.string().regex(/^[\w.-]{1,64}$/, "1 to 64 letters, digits, points, hyphens or underscores were expected"), epoch: z.int().min(1).max(0xffffffff),
  shards: z.array(z.strictObject({ slots, region: z.string().nullable() })).max(0xffff),
  stages, lanes: z.int().min(1).max(1024), jurisdiction: z.string().nullable(),
});

/** The record in a parsed JSON document. Throws RangeError naming the field. */
export function parseFleetPlan(value: unknown): FleetPlan {
  const found = document.safeParse(value);
  if (found.success) return found.data;
  const [issue] = found.error.issues;
  throw new RangeError(`The plan's field ${issue!.path.join(".") || "(the document)"} is not as expected: ${issue!.message}.`);
}

/** What a plan of shards becomes as a record. `ownShard`: the number of the part that a sole orchestrator computes itself; null where it has none. */
export function recordOf(plan: Plan, of: Pick<FleetPlan, "packId" | "packHash" | "fleet"> & {
  readonly nLayers: number; readonly vocabSize: number; readonly ownShard: number | null; readonly regionOf: (shard: number) => string | null;
}): FleetPlan {
  const rows: Span = [0, of.vocabSize];
  return {
    version: FLEET_PLAN_VERSION, packId: of.packId, packHash: of.packHash, fleet: of.fleet, epoch: plan.epoch,
    shards: plan.slots.flatMap((slots, shard) => (shard === of.ownShard ? [] : [{ slots, region: of.regionOf(shard) }])),
    stages: [{ embeddingRows: rows, layers: [0, of.nLayers], headRows: rows, slots: of.ownShard === null ? [] : plan.slots[of.ownShard]! }],
    lanes: 1, jurisdiction: null,
  };
}
