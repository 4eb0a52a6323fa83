// Where the weights of a Durable Object come from: the deployment's store, the object's own SQLite, other shards by RPC.
// Owns those ways for shards, orchestrators and stages alike. Refuses the order in which they are asked (weight-reads.ts).

import { packSource, type PackEnv } from "./byte-sources.ts";
import { SeededRandom, systemClock } from "./clock.ts";
import type { Donor } from "./handshake.ts";
import type { DonorRead, WeightHost } from "./shard-host.ts";
import type { Tenant } from "./isolate.ts";
import { SqlWeightCache } from "./weight-cache.ts";

/** `donor`: the way to another shard; absent where no shard holds such weights. */
export const objectWeights = (env: PackEnv, storage: DurableObjectStorage, tenant: Tenant, donor: (donor: Donor) => DonorRead | null = () => null): WeightHost => ({
  tenant, clock: systemClock, random: new SeededRandom(crypto.getRandomValues(new Uint32Array(1))[0]!),
  weights: { store: () => packSource(env), cache: new SqlWeightCache(storage, () => tenant.isolate.limits), donor },
});
