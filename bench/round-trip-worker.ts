// The round-trip benchmark's Worker: the real shards, shards that only echo, and an object that times rounds over both.
// Owns the three measurements: fan-out through WebSocketExperts, a bare echo of frames of the same sizes, the same experts without a wire.
// Of use on a local machine only: there the clock advances during computation (2026-11), which production's does not.

import { DurableObject } from "cloudflare:workers";
import { SeededRandom } from "../durable/clock.ts";
import type { DurableEnv } from "../durable/env.ts";
import { hostIsolate } from "../durable/host-isolate.ts";
import { openFanOut } from "../durable/fan-out.ts";
import { blobsOfSlots, maxSegmentsOf } from "../durable/memory-plan.ts";
import { currentPack } from "../durable/opened-packs.ts";
import { replyFrameBytes, requestLayout } from "../durable/protocol.ts";
import { expertInputSize, expertsPerInputRow, inputRowsPerToken, type ModelConfig } from "../model/config.ts";
import type { PackManifest } from "../formats/manifest.ts";
import type { ExpertBatch } from "../model/experts.ts";
import { activationRowBytes, formatCode } from "../model/kernels.ts";
import { ExpertRunner, LocalExperts } from "../model/local-experts.ts";

export { Orchestrator } from "../durable/orchestrator.ts";
export { ExpertShard } from "../durable/shard.ts";

interface BenchEnv extends DurableEnv {
  readonly ECHO: DurableObjectNamespace<EchoShard>;
  readonly BENCH: DurableObjectNamespace<RoundTrips>;
}

/** Answers each message with as many bytes as its first word says, and does nothing else: the floor of any round. */
export class EchoShard extends DurableObject<BenchEnv> {
  override async fetch(): Promise<Response> {
    const { 0: client, 1: server } = new WebSocketPair();
    this.ctx.acceptWebSocket(server);
    return new Response(null, { status: 101, webSocket: client });
  }
  override async webSocketMessage(socket: WebSocket, data: string | ArrayBuffer): Promise<void> {
    if (typeof data !== "string") socket.send(new ArrayBuffer(new Uint32Array(data, 0, 1)[0]!));
  }
}

interface Round {
  readonly batch: ExpertBatch;
  /** Request and reply bytes per shard; shards that take no part are absent. */
  readonly frames: readonly { readonly shard: number; readonly request: ArrayBuffer }[];
}

export class RoundTrips extends DurableObject<BenchEnv> {
  override async fetch(request: Request): Promise<Response> {
    const params = new URL(request.url).searchParams;
    return Response.json(await this.#measure(Number(params.get("tokens")), Number(params.get("repeats"))));
  }

  async #measure(nTokens: number, repeats: number): Promise<object> {
    const tenant = hostIsolate().enter("bench", "orchestrator", "benchmark", this, false);
    const { limits, kernels } = tenant.isolate;
    const { heap } = tenant;
    const { manifest, packHash } = await currentPack(this.env);
    const { config: c, activations } = manifest;
    const { plan, placement, clients, ownSlots, ...lines } = openFanOut(this.env, manifest, packHash, limits, tenant.isolate);
    await lines.connect();
    const echoes = await Promise.all(clients.map((_, shard) => this.#echo(`echo-${shard}`)));

    // The experts themselves, adopted from the same memory.
    const everything = [...plan.shards.flatMap(({ slots }) => slots), ...ownSlots];
    if (!tenant.adopt(blobsOfSlots(manifest, everything))) throw new Error("The shards' experts are not in this isolate; the benchmark expects one process.");
    const table = new Map(manifest.experts.map((e) => [e.layer * 65536 + e.expert, e]));
    const local = new LocalExperts(new ExpertRunner(kernels, heap, c, c.expertIntermediateSize, 8), (layer, expert, segment) => {
      const e = table.get(layer * 65536 + expert)!;
      const { start, end, hash } = e.segments[segment]!;
      return { ptr: tenant.ptrOf(hash), width: end - start, gateUp: formatCode(e.gateUp), down: formatCode(e.down) };
    });
    const fanOut = lines.experts(heap, kernels, 1, () => local);

    const rowBytes = activationRowBytes(activations, expertInputSize(c));
    const acts = heap.alloc(inputRowsPerToken(c) * rowBytes, "benchmark");
    const rows = heap.alloc(c.router.topK * maxSegmentsOf(manifest) * c.hiddenSize * 4, "benchmark");
    heap.u8.fill(3, acts, acts + inputRowsPerToken(c) * rowBytes);
    const made = routings(nTokens, c).map((routing) => roundOf(routing, manifest, (layer, expert, segment) => placement.partOf(layer, expert, segment), clients.length, acts, rowBytes, rows));

    const kinds: Record<string, (round: Round) => Promise<unknown> | unknown> = {
      fanOut: (round) => fanOut.run(round.batch.layer, round.batch),
      echo: (round) => Promise.all(round.frames.map(({ shard, request }) => echoes[shard]!(request))),
      inProcess: (round) => local.run(round.batch.layer, { ...round.batch, partStart: Uint32Array.of(0, round.batch.nGroups) }),
    };
    const microseconds: Record<string, number[]> = { fanOut: [], echo: [], inProcess: [] };
    // Interleaved, so that a noisy moment of the machine hits all of them; the first repeat warms up.
    for (let repeat = 0; repeat <= repeats; repeat++) {
      for (const [kind, run] of Object.entries(kinds)) {
        const start = performance.now();
        for (const round of made) await run(round);
        if (repeat > 0) microseconds[kind]!.push(((performance.now() - start) * 1000) / made.length);
      }
    }
    return {
      rounds: made.length, shards: clients.length, layers: c.nLayers, kernels: kernels.name, microseconds,
      framesPerRound: made.reduce((n, round) => n + round.frames.length, 0) / made.length,
      requestBytes: made[0]!.frames[0]!.request.byteLength, replyBytesPerRound: made[0]!.frames.reduce((n, f) => n + new Uint32Array(f.request, 0, 1)[0]!, 0),
      retries: clients.reduce((n, client) => n + client.retries, 0),
    };
  }

  /** A function that sends one message to an echoing object and resolves with its answer. */
  async #echo(name: string): Promise<(request: ArrayBuffer) => Promise<void>> {
    const socket = (await this.env.ECHO.getByName(name).fetch("http://echo/", { headers: { Upgrade: "websocket" } })).webSocket!;
    socket.binaryType = "arraybuffer";
    let answered: () => void = () => {};
    socket.addEventListener("message", () => answered());
    socket.accept();
    return (request) => new Promise((resolve) => {
      answered = resolve;
      socket.send(request);
    });
  }
}

interface Routing {
  readonly layer: number;
  readonly chosen: readonly number[];
}

/** Experts of every layer of `nTokens` decoded tokens, drawn evenly. */
function routings(nTokens: number, config: ModelConfig): Routing[] {
  const random = new SeededRandom(5);
  return Array.from({ length: nTokens * config.nLayers }, (_, i) => {
    const chosen = new Set<number>();
    while (chosen.size < config.router.topK) chosen.add(Math.floor(random.next() * config.nExperts));
    return { layer: i % config.nLayers, chosen: [...chosen].sort((a, b) => a - b) };
  });
}

/** One token through one layer, as a batch and as the sizes of its frames. */
function roundOf({ layer, chosen }: Routing, manifest: PackManifest, shardOf: (layer: number, expert: number, segment: number) => number, nShards: number, acts: number, rowBytes: number, rows: number): Round {
  const { config, activations } = manifest;
  const inOrder = chosen.flatMap((expert) => manifest.experts.find((e) => e.layer === layer && e.expert === expert)!.segments.map((_, segment) => [expert, segment] as const));
  const partOf = ([expert, segment]: readonly [number, number]): number => shardOf(layer, expert, segment);
  const groups = Array.from({ length: nShards }, (_, part) => inOrder.filter((group) => partOf(group) === part)).flat();
  const inputOf = ([expert]: readonly [number, number]): number => Math.floor(expert / expertsPerInputRow(config));
  const batch: ExpertBatch = {
    layer, step: 0, nTokens: 1, activations: acts, activationStride: rowBytes, rowsPerToken: inputRowsPerToken(config), nGroups: groups.length, rows,
    partStart: Uint32Array.from({ length: nShards + 1 }, (_, part) => groups.filter((group) => partOf(group) < part).length),
    groupInput: Uint32Array.from(groups, inputOf), groupRow: Uint32Array.from(groups, (_, i) => i),
    groupExpert: Uint32Array.from(groups, ([expert]) => expert), groupSegment: Uint32Array.from(groups, ([, segment]) => segment),
    groupStart: Uint32Array.from({ length: groups.length + 1 }, (_, i) => i), groupTokens: new Uint32Array(groups.length),
  };
  const frames = Array.from({ length: nShards }, (_, shard) => {
    const own = groups.filter((group) => partOf(group) === shard);
    const nGroups = own.length;
    const shape = { nRows: new Set(own.map(inputOf)).size, nGroups, nTokens: nGroups, hidden: config.hiddenSize, input: expertInputSize(config), activations };
    const request = new ArrayBuffer(requestLayout(shape).frameBytes);
    new Uint32Array(request)[0] = replyFrameBytes(nGroups, config.hiddenSize);
    return { shard, request, nGroups };
  }).filter(({ nGroups }) => nGroups > 0);
  return { batch, frames };
}

export default {
  async fetch(request: Request, env: BenchEnv): Promise<Response> {
    return env.BENCH.getByName("bench").fetch(request);
  },
};
