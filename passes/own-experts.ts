// Passes that work on one layer after another, with a layer's experts as its own. Owns the refusal of models where they are not: a pool's experts belong to several
// layers, and what one of these saw of them says too little; branches give parts of a row, which fits and scores of whole rows do not know.

import type { MatrixSource } from "../formats/checkpoint.ts";
import { ModelError } from "../model/config.ts";

/** Throws ModelError unless every layer has experts of its own that give whole rows. */
export function requireOwnExperts({ config: { expertPool, router }, description }: Pick<MatrixSource, "config" | "description">, pass: string): void {
  if (expertPool !== undefined) throw new ModelError(`In ${description} ${expertPool.layers} layers share a pool of experts, and ${pass} works on one layer after another; only \`compress nearest\` and \`compress online-pruning\` take it.`);
  if (router.branches !== undefined) throw new ModelError(`In ${description} experts of ${router.branches.length} branches give parts of a row, and ${pass} looks at whole ones; only \`compress nearest\` takes it.`);
}
