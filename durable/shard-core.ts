// What a shard does, without the platform: the handshake, loading, several epochs of one pack at a time, frames, and bytes for other shards.
// Owns the hellos it serves, the order of loads, and what a frame is answered. Refuses public requests, work outside an epoch's slots, and waiting inside a
// frame: it answers `warming` instead. docs/protocol.md sections 1 and 2. The host (shard-host.ts) brings memory, time, storage and the ways to weights.

import { ModelError } from "../model/config.ts";
import { CapacityError } from "../model/heap.ts";
import type { NamedBlob, PackManifest } from "../formats/manifest.ts";
import { sleep } from "./clock.ts";
import { PROTOCOL_VERSION, type Hello, type Retirement, type ShardReport, type Welcome } from "./handshake.ts";
import { blobsOfSlots } from "./memory-plan.ts";
import { failureOf, LoadRefusal, refused, type Refused } from "./load-refusal.ts";
import { decodeHeader, encodeRefusal, type FrameHeader } from "./protocol.ts";
import { ServedExperts } from "./served-experts.ts";
import { keyOf, rangesOf, ServedHellos } from "./served-hellos.ts";
import { admit, neighbourOf } from "./shard-admission.ts";
import type { ShardHost, ShardSocket } from "./shard-host.ts";
import { WeightKeeper } from "./weight-keeper.ts";
import { WeightReads } from "./weight-reads.ts";

export type { ExtentCache, ShardHost, ShardSocket } from "./shard-host.ts";

interface Loading {
  readonly done: Promise<void>;
  loadedBytes: number;
  totalBytes: number;
}

export class ShardCore {
  readonly #host: ShardHost;
  readonly #reads: WeightReads;
  readonly #keeper: WeightKeeper;
  /** What is served, or was before the object lost its memory. */
  readonly #hellos: ServedHellos;
  #served: ServedExperts | null = null;
  #servedKeys: ReadonlySet<string> = new Set();
  readonly #loadings = new Map<string, Loading>();
  /** Loads run one after the other. */
  #lastLoad: Promise<void> = Promise.resolve();
  readonly #failures = new Map<string, Refused>();
  /** Weights were read since an orchestrator was told. */
  #hasRead = false;
  #frames = 0;
  readonly #nowMs = (): number => this.#host.clock.nowMs();

  constructor(host: ShardHost) {
    this.#host = host;
    this.#reads = new WeightReads(host);
    this.#keeper = new WeightKeeper(host, () => this.#frames);
    this.#hellos = new ServedHellos(host);
  }

  /** The handshake. Starts loading what is missing, waits a moment for it, and answers; asking again reports progress. */
  async prepare(hello: Hello): Promise<Welcome> {
    const { tenant, clock } = this.#host;
    const { limits } = tenant.isolate;
    if (hello.protocolVersion !== PROTOCOL_VERSION) {
      return refused("protocol-version", true, `The orchestrator speaks version ${hello.protocolVersion} of the protocol; this shard speaks ${PROTOCOL_VERSION}. A deployment may still be rolling out.`);
    }
    const over = this.#retirementOf(hello);
    if (over !== null) return refused("retired", false, over);
    const neighbour = neighbourOf(tenant, hello);
    if (neighbour !== null) return refused("isolate-shared", true, neighbour);
    const key = keyOf(hello);
    if (!this.#servedKeys.has(key) && !this.#loadings.has(key)) {
      // Said once; asking again after that tries again.
      const failure = this.#failureOf(key);
      if (failure !== null) return failure;
      if (!this.#adopt(hello)) this.#startLoading(key, hello);
    }
    const loading = this.#loadings.get(key);
    if (loading !== undefined) await Promise.race([loading.done, sleep(clock, limits.loadPollMs)]);
    if (this.#servedKeys.has(key)) {
      const hasRead = this.#hasRead;
      this.#hasRead = false;
      return { state: "ready", connection: this.#host.newConnection(), isolate: tenant.isolate.name, hasRead, read: this.#reads.figures };
    }
    return this.#failureOf(key) ?? { state: "loading", loadedBytes: loading?.loadedBytes ?? 0, totalBytes: loading?.totalBytes ?? 0, retryAfterMs: limits.loadPollMs };
  }

  /** Ends the epochs below a number and lets go of what only they needed. What a load under way shares with them stays until it is done. */
  retire(retirement: Retirement): void {
    const left = this.#hellos.retire(retirement);
    if (left === null) return;
    const manifest = this.#host.packs.known(retirement.packHash)?.manifest;
    if (this.#loadings.size === 0 && manifest !== undefined && this.#served !== null) return this.#serve(manifest, left);
    this.#hellos.set(left);
    if (left.length === 0 && this.#loadings.size === 0) this.#letGo();
  }

  /** Bytes of a blob that lies in memory here, for another shard; null where it does not, or where the range is no part of it. */
  read(hash: string, offset: number, length: number): ArrayBuffer | null {
    const { isolate } = this.#host.tenant;
    const blob = isolate.resident(hash);
    if (blob === undefined || !Number.isInteger(offset) || !Number.isInteger(length) || offset < 0 || length < 1) return null;
    if (length > isolate.limits.donorReadBytes || offset + length > blob.bytes) return null;
    return isolate.heap.u8.buffer.slice(blob.ptr + offset, blob.ptr + offset + length);
  }

  /** What it serves and what that took. */
  report(): ShardReport {
    const { tenant } = this.#host;
    return {
      ...this.#reads.figures, epochs: this.#served === null ? [] : this.#hellos.epochs,
      state: this.#loadings.size > 0 ? "loading" : this.#served !== null ? "serving" : this.#hellos.epochs.length > 0 ? "cold" : "empty",
      isolate: tenant.isolate.name, weightBytes: tenant.weightBytes, uncachedExtents: this.#keeper.pending,
    };
  }

  /** A message of an open socket: a frame is answered or refused before this returns. */
  message(socket: ShardSocket, data: string | ArrayBuffer): void {
    if (typeof data === "string") return socket.close(1003, "frames are binary");
    const decoded = decodeHeader(data);
    if (!decoded.ok) {
      // Without a header there is nothing to answer to: the client fails what is pending and connects anew.
      if (decoded.header === null) return socket.close(1002, decoded.message.slice(0, 100));
      return this.#refuse(socket, decoded.header, decoded.fault, decoded.message);
    }
    const { header, buffer } = decoded;
    if (header.kind !== "request" || header.connection !== socket.connection) {
      return this.#refuse(socket, header, "bad-frame", `A ${header.kind} frame of connection ${header.connection} came on connection ${socket.connection}.`);
    }
    const { epochs } = this.#hellos;
    if (epochs.length === 0) return this.#refuse(socket, header, "unknown-slot", "This shard has not been told what to serve.");
    if (!epochs.includes(header.epoch)) {
      return this.#refuse(socket, header, "wrong-epoch", `The frame is of epoch ${header.epoch}; this shard serves ${epochs.join(", ")}.`);
    }
    if (this.#served === null && !this.#wake()) {
      // The client prepares anew and is told the reason there, and what to do about it.
      for (const { message } of this.#failures.values()) return this.#refuse(socket, header, "unknown-slot", message);
      return this.#refuse(socket, header, "warming", "The shard was evicted and is loading its experts again.", this.#host.tenant.isolate.limits.loadPollMs);
    }
    try {
      this.#frames++;
      const reply = this.#served!.answer(header, buffer, this.#nowMs);
      if (reply instanceof ArrayBuffer) socket.send(reply);
      else this.#refuse(socket, header, reply.code, reply.message);
    } catch (cause) {
      this.#refuse(socket, header, "internal", cause instanceof Error ? cause.message : String(cause));
    }
  }

  #refuse(socket: ShardSocket, header: FrameHeader, code: Parameters<typeof encodeRefusal>[1], message: string, retryAfterMs = 0): void {
    socket.send(encodeRefusal(header, code, message, retryAfterMs));
  }

  /** The words for an epoch that is over; null where it is not. */
  #retirementOf(hello: Hello): string | null {
    const below = this.#hellos.overBelow(hello);
    return below === null ? null : `Epoch ${hello.epoch} is over: every epoch below ${below} was retired on ${this.#host.tenant.name}.`;
  }

  /** A failure, once. */
  #failureOf(key: string): Refused | null {
    const failure = this.#failures.get(key) ?? null;
    this.#failures.delete(key);
    return failure;
  }

  /** After eviction: adopts or starts loading all that was served. True when frames can be answered now. */
  #wake(): boolean {
    const hello = this.#hellos.all.at(-1)!;
    if (this.#adopt(hello)) return true;
    if (this.#loadings.size === 0 && this.#failures.size === 0) this.#startLoading(keyOf(hello), hello);
    return false;
  }

  /** Serves from blobs that are resident already, without reading anything. */
  #adopt(hello: Hello): boolean {
    const { tenant, packs } = this.#host;
    const pack = packs.known(hello.packHash);
    if (pack === undefined || this.#loadings.size > 0 || neighbourOf(tenant, hello) !== null) return false;
    try {
      const blobs = blobsOfSlots(pack.manifest, rangesOf(this.#hellos.with(hello)));
      if (!blobs.every(({ blob }) => tenant.isolate.resident(blob.hash) !== undefined)) return false;
      admit(tenant, pack.manifest, this.#hellos.with(hello), hello);
      this.#makeRoom(pack.manifest, hello);
      this.#reads.adopted(blobs);
      if (!tenant.adopt([...this.#servedBlobs(pack.manifest), ...blobs])) return false;
      this.#serve(pack.manifest, this.#hellos.with(hello));
      return true;
    } catch (error) {
      if (error instanceof CapacityError || error instanceof ModelError || error instanceof LoadRefusal) return false; // loading finds the same and says so
      throw error;
    }
  }

  #servedBlobs(manifest: PackManifest): NamedBlob[] {
    return this.#served === null ? [] : blobsOfSlots(manifest, rangesOf(this.#hellos.all));
  }

  /** Ends what `hello` takes the place of. */
  #makeRoom(manifest: PackManifest, hello: Hello): void {
    const left = this.#hellos.without(hello);
    if (left.length === this.#hellos.all.length) return;
    if (this.#served === null) this.#hellos.set(left);
    else this.#serve(manifest, left);
  }

  /** Serves exactly these, whose blobs are resident, in one turn: no frame comes between. Throws CapacityError, with what was served before in its place. */
  #serve(manifest: PackManifest, hellos: readonly Hello[]): void {
    const { tenant } = this.#host;
    if (hellos.length === 0) {
      this.#letGo();
      return this.#hellos.set(hellos);
    }
    const former = this.#served === null ? [] : this.#hellos.all;
    const [formerBlobs, blobs] = [this.#servedBlobs(manifest), blobsOfSlots(manifest, rangesOf(hellos))];
    // Both at first: making room for the new regions must not free what either needs.
    tenant.hold([...formerBlobs, ...blobs]);
    this.#served?.close();
    try {
      this.#served = new ServedExperts(tenant, manifest, hellos);
    } catch (error) {
      this.#served = former.length === 0 ? null : new ServedExperts(tenant, manifest, former);
      tenant.hold(formerBlobs);
      throw error;
    }
    tenant.hold(blobs);
    this.#servedKeys = new Set(hellos.map(keyOf));
    this.#failures.clear();
    this.#hellos.set(hellos);
    this.#keeper.keep(blobs);
  }

  /** Serves nothing any more and holds nothing. */
  #letGo(): void {
    this.#served?.close();
    this.#served = null;
    this.#servedKeys = new Set();
    this.#host.tenant.hold([]);
    this.#keeper.keep([]);
  }

  #startLoading(key: string, hello: Hello): void {
    const loading: Loading = {
      loadedBytes: 0, totalBytes: 0,
      done: this.#lastLoad.then(() => this.#load(hello, loading)).catch((cause: unknown) => {
        // Nobody may ever come back to be told.
        for (const old of this.#failures.keys()) if (this.#failures.size >= this.#host.tenant.isolate.limits.servedEpochs) this.#failures.delete(old);
        this.#failures.set(key, failureOf(cause));
      }).finally(() => void this.#loadings.delete(key)),
    };
    this.#loadings.set(key, loading);
    this.#lastLoad = loading.done;
  }

  /** Brings a hello's slots in beside what is served, which goes on meanwhile. */
  async #load(hello: Hello, loading: Loading): Promise<void> {
    const { tenant, packs, weights } = this.#host;
    const pack = packs.known(hello.packHash) ?? await packs.current(hello.packHash);
    if (pack.packHash !== hello.packHash) {
      throw new LoadRefusal("pack-hash", true, `${weights.store().description} holds revision ${pack.packHash}; the orchestrator serves ${hello.packHash}.`);
    }
    const { manifest } = pack;
    const requireWanted = (): void => {
      const over = this.#retirementOf(hello);
      if (over !== null) throw new LoadRefusal("retired", false, over);
    };
    requireWanted();
    if (this.#servedKeys.has(keyOf(hello))) return;
    const blobs = blobsOfSlots(manifest, rangesOf(this.#hellos.with(hello)));
    loading.totalBytes = blobs.reduce((sum, { blob }) => sum + blob.bytes, 0);
    const neighbour = neighbourOf(tenant, hello);
    if (neighbour !== null) throw new LoadRefusal("isolate-shared", true, neighbour);
    admit(tenant, manifest, this.#hellos.with(hello), hello);
    this.#makeRoom(manifest, hello);
    const isCold = this.#served === null;
    try {
      await this.#reads.load(manifest, blobs, hello.donors, (loadedBytes) => { loading.loadedBytes = loadedBytes; });
      requireWanted();
      // What was retired meanwhile is gone from the list, and what only it needed goes now.
      this.#serve(manifest, this.#hellos.with(hello));
      this.#hasRead = true;
    } catch (error) {
      if (this.#served === null) tenant.freeOwn();
      else this.#serve(manifest, this.#hellos.all);
      throw error;
    }
    if (isCold) this.#served!.warm();
  }
}
