// A checkpoint some of whose experts stand by, with vectors that a test gives, through the canonical form that passes write. Owns nothing but that way.

import { openModelFolder } from "../../formats/canonical-model.ts";
import { afterPass, writeCanonical } from "../../formats/canonical-writer.ts";
import type { Checkpoint } from "../../formats/checkpoint.ts";
import { MemorySink, MemorySource } from "../../formats/memory-source.ts";
import { type AuxiliariesConfig, moeLayersOf } from "../../model/config.ts";
import { compressedConfig, compressedTensors, scalesName } from "../../passes/compressed-experts.ts";

/** `scale` gives value i of a layer's vectors, less one; experts follow each other. */
export async function standBy(checkpoint: Checkpoint, run: number, weighAmong: AuxiliariesConfig["weighAmong"], scale: (layer: number, i: number) => number): Promise<Checkpoint> {
  const config = compressedConfig(checkpoint, { run, weighAmong });
  const scales = new Map(moeLayersOf(config).map((layer) => [scalesName(layer), Float32Array.from({ length: config.nExperts * config.hiddenSize }, (_, i) => scale(layer, i))]));
  const sink = new MemorySink();
  await writeCanonical(sink, { ...afterPass(checkpoint, { pass: "auxiliary", options: {} }), config }, compressedTensors(checkpoint, config, scales));
  return openModelFolder(new MemorySource(sink.files), "stand-by");
}
