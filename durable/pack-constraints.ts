// The grammar library over the vocabulary of the pack that is served: loaded when a request first asks for a constraint, kept as long as the revision is the same.
// Owns that a load that failed is tried again by the next request. Refuses what constraints mean and what they cost (constraints.ts, grammar-bounds.ts).

import grammarModule from "../build/xgrammar.wasm";
import { readTokenizerJson, type OpenPack } from "../formats/pack-reader.ts";
import { ModelError } from "../model/config.ts";
import { createTokenizer } from "../model/tokenizer.ts";
import { packSource } from "./byte-sources.ts";
import { Constraints } from "./constraints.ts";
import type { DurableEnv } from "./env.ts";
import type { Limits } from "./limits.ts";

export class PackConstraints {
  readonly #env: DurableEnv;
  readonly #limits: Limits;
  #last: { readonly packHash: string; readonly loaded: Promise<Constraints> } | null = null;

  constructor(env: DurableEnv, limits: Limits) {
    this.#env = env;
    this.#limits = limits;
  }

  /** Throws ModelError where the pack has no tokenizer, and SourceError. */
  of(pack: Pick<OpenPack, "manifest" | "packHash">): Promise<Constraints> {
    if (this.#last?.packHash === pack.packHash) return this.#last.loaded;
    const loaded = this.#load(pack);
    this.#last = { packHash: pack.packHash, loaded };
    loaded.catch(() => { this.#last = null; });
    return loaded;
  }

  async #load({ manifest }: Pick<OpenPack, "manifest">): Promise<Constraints> {
    const json = await readTokenizerJson(packSource(this.#env), manifest);
    if (json === null) throw new ModelError(`The pack ${manifest.id} has no tokenizer, so its replies cannot be held to a grammar.`);
    return Constraints.create(grammarModule, createTokenizer(json), manifest.config.vocabSize, this.#limits);
  }
}
