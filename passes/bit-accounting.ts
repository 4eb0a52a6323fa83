// What a bit plan makes of a model, to the bit: weights and their bits with scales, by part. Owns the sums. Refuses plans whose types do not fit a matrix's columns.
// Stored bits are those of rows in a canonical model (docs/formats.md); a pack holds the same blocks, padded to whole row blocks of 32.

import type { Checkpoint, MatrixPlace } from "../formats/checkpoint.ts";
import { type StoredType, storedBlock } from "../formats/stored-types.ts";
import { ModelError } from "../model/config.ts";
import { type PlannedPart, partOf, storedBits } from "./bit-plan.ts";

export interface BitSum {
  weights: number;
  bits: number;
}

export interface BitAccount {
  /** Of each part that the model has. */
  readonly parts: ReadonlyMap<PlannedPart, BitSum>;
  /** Of all matrices within layers that a plan can reach: all parts but embedding and head. */
  readonly layers: BitSum;
  /** Of all matrices that a plan can reach. */
  readonly all: BitSum;
}

export const averageBits = ({ weights, bits }: BitSum): number => (weights === 0 ? 0 : bits / weights);

/** Throws ModelError where rows of the type do not fill the columns. */
export function checkColumns({ tensor, name, nCols }: Pick<MatrixPlace, "tensor" | "name" | "nCols">, type: StoredType): void {
  const { elements } = storedBlock(type);
  if (nCols % elements !== 0) throw new ModelError(`Tensor ${tensor} (${name}) has ${nCols} columns; the plan's ${type} takes multiples of ${elements}.`);
}

/** Matrices that the plan (of bit-plan.ts, or what a pack will hold) leaves as they are count with the type they have. */
export function accountBits(checkpoint: Pick<Checkpoint, "config" | "places">, plan: { typeOf(place: MatrixPlace): StoredType | null }): BitAccount {
  const parts = new Map<PlannedPart, BitSum>();
  const [layers, all]: [BitSum, BitSum] = [{ weights: 0, bits: 0 }, { weights: 0, bits: 0 }];
  for (const place of checkpoint.places()) {
    const { structure } = partOf(checkpoint.config, place.name);
    if (structure === null || place.nRows === 1) continue;
    const type = plan.typeOf(place);
    if (type !== null) checkColumns(place, type);
    const weights = place.nRows * place.nCols;
    const bits = storedBits(type ?? place.type, place.nRows, place.nCols);
    const part = parts.get(structure) ?? { weights: 0, bits: 0 };
    parts.set(structure, part);
    for (const sum of structure === "embed" || structure === "head" ? [part, all] : [part, layers, all]) {
      sum.weights += weights;
      sum.bits += bits;
    }
  }
  return { parts, layers, all };
}
