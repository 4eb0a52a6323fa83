// Shards over plain objects for tests: isolates of given size, storage that outlives a core, a pack in memory, frames and their replies.
// Owns no assertion. Everything a test makes fail is a port of durable/shard-host.ts.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { SeededRandom } from "../../../durable/clock.ts";
import type { Donor, Hello, Retirement, SlotRange, Welcome } from "../../../durable/handshake.ts";
import { Isolate, isolateParts, type Tenant } from "../../../durable/isolate.ts";
import { LIMITS, type Limits } from "../../../durable/limits.ts";
import { addressFrame, decodeHeader, FRAME_HEADER_BYTES, refusalMessage, requestLayout, type FrameRefusal } from "../../../durable/protocol.ts";
import { ShardCore, type ShardSocket } from "../../../durable/shard-core.ts";
import type { DonorRead, ExtentCache } from "../../../durable/shard-host.ts";
import type { ByteSource } from "../../../formats/byte-source.ts";
import { MemorySource, type MemoryFiles } from "../../../formats/memory-source.ts";
import { openPack, type OpenPack } from "../../../formats/pack-reader.ts";
import { openTinyHuggingFace, packToMemory } from "../../support/pack-to-memory.ts";
import { tinyModel } from "../../support/tiny-models.ts";
import type { FakeClock } from "./fake-clock.ts";
import { sealRequestFrame } from "./whole-frame.ts";

const simd128 = new WebAssembly.Module(new Uint8Array(readFileSync(join(import.meta.dirname, "../../../build/kernels-simd128.wasm"))));

export function newIsolate(limits: Partial<Limits> = {}): Isolate {
  const all = { ...LIMITS, memoryMaximumBytes: 64 << 20, ...limits };
  return new Isolate(isolateParts({ simd128 }, all), all);
}

/** A store in memory that counts the bytes read of each part, and does what a test asks before a read. */
export class CountingStore extends MemorySource {
  bytes = 0;
  readonly reads: string[] = [];
  before: (name: string) => Promise<void> | void = () => undefined;

  override async *read(name: string, offset?: number, length?: number): AsyncIterable<Uint8Array> {
    this.reads.push(name);
    await this.before(name);
    for await (const chunk of super.read(name, offset, length)) {
      this.bytes += chunk.length;
      yield chunk;
    }
  }
}

export interface TestPack extends OpenPack {
  readonly files: MemoryFiles;
}

export async function testPack(seed = 11): Promise<TestPack> {
  const { source, files } = await packToMemory(await openTinyHuggingFace(tinyModel("olmoe", seed, { config: { num_hidden_layers: 2, intermediate_size: 64 } })), { quant: "q8" });
  return { ...await openPack(source), files };
}

export class MapCache implements ExtentCache {
  readonly rows = new Map<string, Uint8Array<ArrayBuffer>>();
  list(): string[] { return [...this.rows.keys()]; }
  read(hash: string, bytes: number): Uint8Array<ArrayBuffer> | null {
    const row = this.rows.get(hash);
    return row === undefined || row.length !== bytes ? null : row;
  }
  write(hash: string, bytes: Uint8Array): void { this.rows.set(hash, new Uint8Array(bytes)); }
  remove(hash: string): void { this.rows.delete(hash); }
}

/** What outlives a core. */
export interface Kept {
  hellos: readonly Hello[];
  retired: Retirement | null;
}

export interface CoreParts {
  readonly pack: TestPack;
  readonly clock: FakeClock;
  readonly store: ByteSource;
  readonly isolate?: Isolate;
  readonly kept?: Kept;
  readonly cache?: ExtentCache | null;
  readonly donor?: (donor: Donor) => DonorRead | null;
  readonly key?: string;
}

export interface TestCore {
  readonly core: ShardCore;
  readonly isolate: Isolate;
  readonly tenant: Tenant;
  readonly kept: Kept;
}

/** Held, so that no object counts as gone. */
const instances: object[] = [];

export function newCore({ pack, clock, store, isolate = newIsolate(), kept = { hellos: [], retired: null }, cache = null, donor = () => null, key = "a" }: CoreParts): TestCore {
  const instance = {};
  instances.push(instance);
  const tenant = isolate.enter(key, "shard", `shard ${key}`, instance, false);
  let connection = 0;
  const core = new ShardCore({
    tenant, clock, random: new SeededRandom(5), newConnection: () => ++connection,
    hellos: { get: () => kept.hellos, put: (hellos) => { kept.hellos = structuredClone(hellos); } },
    retired: { get: () => kept.retired, put: (retired) => { kept.retired = retired; } },
    packs: { known: (hash) => (hash === pack.packHash ? pack : undefined), current: async () => pack },
    weights: { store: () => store, cache, donor },
  });
  return { core, isolate, tenant, kept };
}

/** Experts [from, end) of a layer, whole. */
export const experts = (layer: number, from: number, end: number): SlotRange[] => Array.from({ length: end - from }, (_, i) => ({ layer, expert: from + i, segments: [0, 1] as const }));

export const helloOf = ({ packHash }: OpenPack, epoch: number, slots: readonly SlotRange[], donors: readonly Donor[] = []): Hello =>
  ({ protocolVersion: 3, packHash, epoch, slots, strictIsolates: false, donors });

/** Asks until the shard is ready or refuses. Hashes are computed on threads, which no fake clock waits for: the test's timeout is the only limit. */
export async function settled(clock: FakeClock, core: ShardCore, hello: Hello): Promise<Exclude<Welcome, { state: "loading" }>> {
  for (;;) {
    const answer = await clock.until(core.prepare(hello));
    if (answer.status === "rejected") throw answer.reason;
    if (answer.value.state !== "loading") return answer.value;
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}

/** Lets a second pass, and what is computed on threads meanwhile, until `ready` holds. */
export async function until(clock: FakeClock, ready: () => boolean): Promise<void> {
  while (!ready()) {
    await clock.advance(1000);
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}

/** The reply to one token of one expert as hexadecimal digits of its row, or the refusal with its message. */
export function ask({ core }: Pick<TestCore, "core">, pack: OpenPack, epoch: number, layer: number, expert: number): string {
  const { hiddenSize } = pack.manifest.config;
  const shape = { nRows: 1, nGroups: 1, nTokens: 1, hidden: hiddenSize, input: hiddenSize, activations: pack.manifest.activations };
  const at = requestLayout(shape);
  const frame = new ArrayBuffer(at.frameBytes);
  new Uint8Array(frame, at.activations, at.groups - at.activations).fill(0x3d); // of either format: numbers around one
  new Uint32Array(frame).set([expert, 1], at.groups / 4);
  sealRequestFrame(frame, shape, layer, 0);
  addressFrame(frame, 7, 1, epoch, 0);
  const said: string[] = [];
  const socket: ShardSocket = {
    connection: 7,
    send: (bytes) => {
      const decoded = decodeHeader(bytes);
      if (!decoded.ok) throw new Error(decoded.message);
      const { kind, refusal } = decoded.header;
      said.push(kind === "refusal" ? `${refusal satisfies FrameRefusal | null}: ${refusalMessage(bytes)}` : Buffer.from(bytes, FRAME_HEADER_BYTES, hiddenSize * 4).toString("hex"));
    },
    close: (_, reason) => void said.push(`closed: ${reason}`),
  };
  core.message(socket, frame);
  return said.join(" ");
}

export const isRow = (reply: string): boolean => /^[0-9a-f]+$/.test(reply);
