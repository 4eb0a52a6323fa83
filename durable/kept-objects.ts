// The objects an orchestrator keeps warm (keep-warm.ts): the shards its lines lead to, and the further stages of its ring, which see to their own shards.
// Owns that list and the store's word on which revision is current. Refuses when they are called.

import { readManifest } from "../formats/pack-reader.ts";
import { sha256Hex } from "../formats/read-bytes.ts";
import { packSource } from "./byte-sources.ts";
import type { DurableEnv } from "./env.ts";
import type { KeptObject } from "./keep-warm.ts";
import { placeOf } from "./place-names.ts";
import type { ServedModel } from "./served-model.ts";
import { StageObject } from "./stage-objects.ts";

export function keptObjects(env: DurableEnv, name: string, { epochs: { clients, plan } }: Pick<ServedModel, "epochs">): KeptObject[] {
  const shards = clients.filter((_, shard) => plan.shards[shard]!.slots.length > 0).map((client): KeptObject => ({ name: client.name, asked: client.frames, touch: () => client.touch() }));
  const stages = plan.stages.slice(1).map((_, i): KeptObject => {
    const stage = new StageObject(env, plan, name, placeOf(name).lane, i + 1);
    return { name: stage.name, asked: 0, touch: () => stage.touch() };
  });
  return [...shards, ...stages];
}

/** Whether the store's manifest is the one of a revision. Throws SourceError where the store does not answer. */
export const isCurrentRevision = async (env: DurableEnv, packHash: string): Promise<boolean> => (await sha256Hex(await readManifest(packSource(env)))) === packHash;
