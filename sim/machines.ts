// Isolates for simulated runs, each a real one of durable/isolate.ts over a range of one memory, with one compiled instance of the kernels for all of them: compiling
// and self-testing takes longer than a run. Owns that nothing of a former life is left: all memory given back, and overwritten.
// Also stands in for two things of the platform: compiled modules are read from build/, and digests are computed at once instead of on another thread.

import { hash } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { Isolate } from "../durable/isolate.ts";
import { LIMITS, type Limits } from "../durable/limits.ts";
import { Heap } from "../model/heap.ts";
import type { Kernels } from "../model/kernels.ts";
import { chooseKernels, RESERVED_BYTES } from "../model/wasm-kernels.ts";

const KIB = 1024;

/**
 * The fleet's own limits, but for sizes: a small model in small memories. Waits and attempts are what they are; how long frames take is believed after fewer of
 * them, for a run has no hundreds, and its frames would never be late enough to be asked of others.
 */
export const SIM_LIMITS: Limits = Object.freeze({ ...LIMITS, isolateBytes: 512 * KIB, frameBytes: 16 * KIB, inFlightBytes: 64 * KIB, latencyLeastSamples: 4 });

/** Of what a dead isolate leaves behind nothing may be taken for weights. */
const POISON = 0xa5;

function sharedKernels(memory: WebAssembly.Memory): Kernels {
  const file = fileURLToPath(new URL("../build/kernels-simd128.wasm", import.meta.url));
  if (!existsSync(file)) throw new Error(`${file} is missing. Run \`npm run build\` first.`);
  return chooseKernels({ modules: { simd128: new WebAssembly.Module(readFileSync(file)) }, memory }).kernels;
}

/** A digest on another thread comes back whenever the machine likes; a run must not depend on it. */
export function computeDigestsAtOnce(): void {
  const digest = async (algorithm: AlgorithmIdentifier, data: BufferSource): Promise<ArrayBuffer> => {
    if (algorithm !== "SHA-256") throw new Error(`A digest by ${JSON.stringify(algorithm)} was asked for; expected SHA-256.`);
    const bytes = ArrayBuffer.isView(data) ? new Uint8Array(data.buffer, data.byteOffset, data.byteLength) : new Uint8Array(data);
    return new Uint8Array(hash("sha256", bytes, "buffer")).buffer;
  };
  Object.defineProperty(crypto.subtle, "digest", { value: digest, configurable: true, writable: true });
}

/** A range of the memory. */
export interface Machine {
  readonly base: number;
  readonly isolate: Isolate;
}

export class Machines {
  readonly #memory = new WebAssembly.Memory({ initial: RESERVED_BYTES / 65536, maximum: 4096 });
  readonly #kernels = sharedKernels(this.#memory);
  readonly #free: number[] = [];
  #end = RESERVED_BYTES;

  /** An isolate of this name with nothing in it, in a range nobody else has. */
  take(name: string, bytes = SIM_LIMITS.isolateBytes): Machine {
    const base = bytes === SIM_LIMITS.isolateBytes ? this.#free.pop() ?? this.#range(bytes) : this.#range(bytes);
    const limits = bytes === SIM_LIMITS.isolateBytes ? SIM_LIMITS : { ...SIM_LIMITS, isolateBytes: bytes };
    return { base, isolate: new Isolate({ kernels: this.#kernels, heap: new Heap(this.#memory, base, bytes), name }, limits) };
  }

  /** Takes a machine of the usual size back. Returns the bytes that nobody has given back although everybody has left: none, or there is a leak. */
  give({ base, isolate }: Machine): number {
    for (const tenant of isolate.tenants) tenant.leave();
    const leftBytes = isolate.heap.usedBytes;
    new Uint8Array(this.#memory.buffer, base, SIM_LIMITS.isolateBytes).fill(POISON);
    this.#free.push(base);
    return leftBytes;
  }

  #range(bytes: number): number {
    const base = this.#end;
    this.#end += bytes;
    const missing = this.#end - this.#memory.buffer.byteLength;
    if (missing > 0) this.#memory.grow(Math.ceil(missing / 65536));
    return base;
  }
}
