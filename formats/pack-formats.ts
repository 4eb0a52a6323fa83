// Which kernel format every matrix of a pack takes (docs/formats.md, "Quantisation at pack time"). Owns the rule that all
// experts of a pack take one activation format. Refuses mixed files, naming the tensors.

import { type ActivationFormat, type KvFormat, type MatrixFormat, activationFormatOf } from "../model/kernels.ts";
import { type ExpertKind, ModelError, sharedWidth } from "../model/config.ts";
import { isGated } from "../model/expert-kinds.ts";
import type { Checkpoint, MatrixPlace } from "./checkpoint.ts";
import { sourceFormat } from "./requantize.ts";
import { FILE_TYPES, formatOfType, type KernelType } from "./stored-types.ts";

export const QUANTS = ["source", "f32", "q8", "q4", "q4m", "q4k", "q6k", "q2", "q3", "mxfp4"] as const;
export type Quant = (typeof QUANTS)[number];

/** Types of single matrices, as a bit plan says them (passes/bit-plan.ts); null: as the file has it. */
export interface TypePlan {
  /** As it was written. */
  readonly text: string;
  typeOf(place: Pick<MatrixPlace, "name" | "nRows">): KernelType | null;
}

/** In one word, or the plan's rules: what a manifest says was asked for. */
export const quantText = (quant: Quant | TypePlan): string => (typeof quant === "string" ? quant : quant.text);

/** Kinds of tensors in summaries. */
export type TensorClass = "embedding" | "attention" | "router" | "keys" | "product" | "head" | "gate and up" | "down";

export function tensorClass(name: string): TensorClass {
  const last = name.split(".").at(-1)!;
  if (name.includes(".product.")) return last.startsWith("w") ? "keys" : "product";
  if (last === "embed") return "embedding";
  if (last === "head" || last === "router") return last;
  // What decides about experts, and the one row that weighs the shared one.
  if (/(^|\.)(router(Hidden|Spread)|taskRouter(\.\d+)?|sharedGate)$/.test(name)) return "router";
  if (last === "down") return "down";
  return last === "gate" || last === "up" ? "gate and up" : "attention";
}

/** Kernel format of one matrix. Routers are small and decide much: they stay f32, which holds every stored type exactly. Keys of product experts decide as much, but are many: at least q8. */
export function formatOf(place: Pick<MatrixPlace, "name" | "type" | "storedType" | "nCols">, quant: Quant): MatrixFormat;
export function formatOf(place: Pick<MatrixPlace, "name" | "type" | "storedType" | "nRows" | "nCols">, quant: Quant | TypePlan): MatrixFormat;
export function formatOf(place: Pick<MatrixPlace, "name" | "type" | "storedType" | "nCols"> & { readonly nRows?: number }, quant: Quant | TypePlan): MatrixFormat {
  const kind = tensorClass(place.name);
  if (kind === "router" || quant === "f32") return "f32";
  if (typeof quant === "object") {
    const type = quant.typeOf({ name: place.name, nRows: place.nRows! });
    return type === null ? sourceFormat(place) : formatOfType(type);
  }
  if (quant === "source") return sourceFormat(place);
  return kind === "embedding" || kind === "head" || kind === "keys" ? "q8" : quant;
}

const typesThatTake = (activations: ActivationFormat): string => FILE_TYPES.filter((t) => activationFormatOf(sourceFormat({ type: t, storedType: t, nCols: 256 })) === activations).join(", ");

export interface PackFormats {
  readonly activations: ActivationFormat;
  readonly kvFormat: KvFormat;
}

/** What experts consume, and the format of the KV cache: `kvFormat`, or one by the weights. Throws ModelError where the file mixes what one pack cannot hold. */
export function packFormats(checkpoint: Checkpoint, quant: Quant | TypePlan, kvFormat?: KvFormat): PackFormats {
  const { config: c } = checkpoint;
  const firstOf = new Map<ActivationFormat, MatrixPlace>();
  const ofOneType = (at: string, kind: ExpertKind): readonly [first: MatrixPlace, down: MatrixPlace] => {
    const [up, down] = [checkpoint.place(`${at}up`), checkpoint.place(`${at}down`)];
    if (!isGated(kind)) return [up, down];
    const gate = checkpoint.place(`${at}gate`);
    if (formatOf(gate, quant) !== formatOf(up, quant)) {
      throw new ModelError(`${checkpoint.description}: tensor ${gate.tensor} has type ${gate.type} and ${up.tensor} has ${up.type}; `
        + "gate and up of an expert must have one type. Pack with --quant q8, q4 or f32.");
    }
    return [gate, down];
  };
  const refuseTwo = (a: MatrixPlace, b: MatrixPlace): never => {
    if (typeof quant === "object") {
      throw new ModelError(`${checkpoint.description}: the bit plan "${quant.text}" makes ${a.name} ${formatOf(a, quant)} and ${b.name} ${formatOf(b, quant)}; experts of one pack must all take the same activations: `
        + "give bits to all of them, or to none.");
    }
    throw new ModelError(`${checkpoint.description}: tensor ${a.tensor} has type ${a.type} and ${b.tensor} has ${b.type}; experts of one pack `
      + `must all take the same activations (${typesThatTake("f32")} take f32; ${typesThatTake("qa8")} take int8). Pack with --quant q8, q4 or f32.`);
  };
  for (let layer = 0; layer < c.nLayers; layer++) {
    if (sharedWidth(c, layer) > 0) {
      const [gate, down] = ofOneType(`layers.${layer}.shared.`, "swiglu");
      if (activationFormatOf(formatOf(gate, quant)) !== activationFormatOf(formatOf(down, quant))) refuseTwo(gate, down);
    }
    if (c.layerFfns[layer] !== "moe") continue;
    for (let expert = 0; expert < c.nExperts; expert++) {
      for (const place of ofOneType(`layers.${layer}.experts.${expert}.`, c.expertKind)) {
        const activations = activationFormatOf(formatOf(place, quant));
        if (!firstOf.has(activations)) firstOf.set(activations, place);
      }
    }
  }
  if (firstOf.size > 1) refuseTwo(...[...firstOf.values()] as [MatrixPlace, MatrixPlace]);
  const matrices = [...checkpoint.places()].filter((p) => p.nRows > 1 && tensorClass(p.name) !== "router");
  return {
    activations: firstOf.keys().next().value ?? "f32",
    kvFormat: kvFormat ?? (matrices.every((p) => formatOf(p, quant) === "f32") ? "f32" : "f16"),
  };
}
