// What quantising cost, counted while a pack is written: by kind of tensor and by tensor. Owns the adding up, and the losses of the blob at
// hand, which the journal of an unfinished pack keeps, so that a pack written in two runs reports what one run would. Refuses to judge.

import type { MatrixFormat } from "../model/kernels.ts";
import type { MatrixPlace } from "./checkpoint.ts";
import { type TensorClass, tensorClass } from "./pack-formats.ts";
import { type QuantizationLoss, addLoss, noLoss } from "./quantize.ts";

/** What a part of one stored tensor lost. */
export interface TensorLoss {
  readonly tensor: string;
  readonly kind: TensorClass;
  /** The file's own word for its type. */
  readonly from: string;
  readonly to: MatrixFormat;
  readonly loss: QuantizationLoss;
}

export class LossLedger {
  readonly byKind = new Map<TensorClass, QuantizationLoss>();
  /** By stored tensor, which may hold several matrices. */
  readonly byTensor = new Map<string, TensorLoss>();
  #blob = new Map<string, TensorLoss>();

  /** Counts what quantising rows of `place` cost. */
  record(place: MatrixPlace, to: MatrixFormat, loss: QuantizationLoss): void {
    const entry = { tensor: place.tensor, kind: tensorClass(place.name), from: place.storedType, to };
    addTo(this.#blob, entry, loss);
    this.#total({ ...entry, loss });
  }

  /** The losses since the last call: those of one blob. */
  takeBlob(): TensorLoss[] {
    const taken = [...this.#blob.values()];
    this.#blob = new Map();
    return taken;
  }

  /** Counts the losses of a blob that an earlier run wrote. */
  replay(losses: readonly TensorLoss[]): void {
    for (const entry of losses) this.#total(entry);
  }

  #total(entry: TensorLoss): void {
    const kind = this.byKind.get(entry.kind) ?? noLoss();
    addLoss(kind, entry.loss);
    this.byKind.set(entry.kind, kind);
    addTo(this.byTensor, entry, entry.loss);
  }
}

function addTo(losses: Map<string, TensorLoss>, entry: Omit<TensorLoss, "loss">, loss: QuantizationLoss): void {
  const key = `${entry.tensor} ${entry.kind} ${entry.to}`;
  const sum = losses.get(key) ?? { ...entry, loss: noLoss() };
  addLoss(sum.loss, loss);
  losses.set(key, sum);
}
