// The platform's way to a shard object, as the client's ShardTransport: RPC for the handshake, one WebSocket for frames.
// Owns names of objects and the quirks of client sockets. Refuses retries (shard-line.ts, client.ts).

import type { FleetPlan } from "../fleet/fleet-plan.ts";
import type { DurableEnv } from "./env.ts";
import type { FrameSocket, ShardTransport, SocketHandlers } from "./frame-socket.ts";
import type { Hello, Welcome } from "./handshake.ts";
import { plain } from "./rpc-result.ts";

/**
 * Name of a shard object: objects never move and never change their revision, so the name carries both, and the region where one is asked
 * for: another region is another object. No epoch: an object lives on from plan to plan. `nameAttempt` above 0 is another object for the same
 * work, tried when the first landed in a shared isolate.
 */
export const shardName = ({ packId, packHash, fleet }: Pick<FleetPlan, "packId" | "packHash" | "fleet">, shard: number, region: string | null, nameAttempt: number): string =>
  `${packId}/${packHash.slice(0, 12)}/${fleet}/${shard}${region === null ? "" : `@${region}`}${nameAttempt === 0 ? "" : `~${nameAttempt}`}`;

export class ObjectTransport implements ShardTransport {
  readonly name: string;
  readonly #shards: DurableEnv["SHARDS"];
  readonly #where: DurableObjectNamespaceGetDurableObjectOptions;

  constructor(shards: DurableEnv["SHARDS"], name: string, region: DurableObjectLocationHint | null) {
    this.#shards = shards;
    this.name = name;
    this.#where = region === null ? {} : { locationHint: region };
  }

  /** A fresh stub each time: one that has seen its object fail stays broken. The hint counts where the object is made, by whichever call comes first. */
  get #shard(): ReturnType<DurableEnv["SHARDS"]["getByName"]> {
    return this.#shards.getByName(this.name, this.#where);
  }

  async prepare(hello: Hello): Promise<Welcome> {
    return plain(await this.#shard.prepare(hello));
  }

  open(connection: number, handlers: SocketHandlers): Promise<FrameSocket> {
    return openFrameSocket(this.#shard, `http://shard/connect?connection=${connection}`, handlers);
  }
}

/** A WebSocket to an object that answers upgrades at `url`. */
export async function openFrameSocket(object: { fetch(url: string, init: RequestInit): Promise<Response> }, url: string, handlers: SocketHandlers): Promise<FrameSocket> {
  const response = await object.fetch(url, { headers: { Upgrade: "websocket" } });
  const socket = response.webSocket;
  if (socket === null) throw new Error(`the upgrade was answered with status ${response.status}`);
  // Sockets a client opened deliver Blob unless told otherwise (2026-11).
  socket.binaryType = "arraybuffer";
  let open = true;
  const closed = (reason: string): void => {
    if (!open) return;
    open = false;
    handlers.closed(reason);
  };
  socket.addEventListener("message", (event) => {
    if (event.data instanceof ArrayBuffer) handlers.message(event.data);
    else closed("it sent text");
  });
  socket.addEventListener("close", (event) => closed(`code ${event.code}${event.reason === "" ? "" : `, ${event.reason}`}`));
  socket.addEventListener("error", (event) => closed(event.message === "" ? "error" : event.message));
  socket.accept();
  return {
    send: (bytes) => socket.send(bytes),
    close: (code, reason) => socket.close(code, reason),
  };
}
