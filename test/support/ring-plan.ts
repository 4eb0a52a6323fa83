// A plan that cuts a small pack into a ring of two stages: embedding and first layer, the other layers and the head; experts evenly on shards.
// Refuses packs whose head is their embedding, which cannot be cut between them.

import { join } from "node:path";
import { writeFileSync } from "node:fs";
import { FolderSource } from "../../cli/file-source.ts";
import { recordOf, type FleetPlan } from "../../fleet/fleet-plan.ts";
import { makePlan } from "../../fleet/plan.ts";
import { openPack } from "../../formats/pack-reader.ts";

/** Writes it beside the pack's files; its path. */
export async function writeRingPlan(folder: string, { shards, lanes }: { readonly shards: number; readonly lanes: number }): Promise<string> {
  const { manifest: { id, config: { nLayers, vocabSize }, experts }, packHash } = await openPack(new FolderSource(folder));
  const even = makePlan(experts.map(({ layer, expert, segments }) => ({ layer, expert, segmentBytes: segments.map(({ bytes }) => bytes) })), shards);
  const plan: FleetPlan = {
    ...recordOf(even, { packId: id, packHash, fleet: "ring", nLayers, vocabSize, ownShard: null, regionOf: () => null }), lanes,
    stages: [{ embeddingRows: [0, vocabSize], layers: [0, 1], headRows: [0, 0], slots: [] }, { embeddingRows: [vocabSize, vocabSize], layers: [1, nLayers], headRows: [0, vocabSize], slots: [] }],
  };
  const path = join(folder, "ring-plan.json");
  writeFileSync(path, JSON.stringify(plan));
  return path;
}
