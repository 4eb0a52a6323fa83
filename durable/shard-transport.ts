// The platform's way to a shard object, as the client's ShardTransport: RPC for the handshake, one WebSocket for frames.
// Owns names of objects and the quirks of client sockets. Refuses retries (client.ts).

import type { FrameSocket, ShardTransport, SocketHandlers } from "./client.ts";
import type { DurableEnv } from "./env.ts";
import type { Hello, Welcome } from "./handshake.ts";

/**
 * Name of a shard object: objects never move and never change their revision, so the name carries both. `nameAttempt` above 0 is
 * another object for the same work, tried when the first landed in a shared isolate.
 */
export const shardName = (packId: string, packHash: string, epoch: number, shard: number, nShards: number, nameAttempt: number): string =>
  `${packId}/${packHash.slice(0, 12)}/epoch-${epoch}/${shard}-of-${nShards}${nameAttempt === 0 ? "" : `~${nameAttempt}`}`;

export class ObjectTransport implements ShardTransport {
  readonly name: string;
  readonly #shards: DurableEnv["SHARDS"];

  constructor(shards: DurableEnv["SHARDS"], name: string) {
    this.#shards = shards;
    this.name = name;
  }

  /** A fresh stub each time: one that has seen its object fail stays broken. */
  async prepare(hello: Hello): Promise<Welcome> {
    const answer = await this.#shards.getByName(this.name).prepare(hello);
    const welcome = { ...answer };
    // The runtime keeps a call open, and complains, until its result is disposed of (2026-11).
    (answer as Partial<Disposable>)[Symbol.dispose]?.();
    return welcome;
  }

  async open(connection: number, handlers: SocketHandlers): Promise<FrameSocket> {
    const response = await this.#shards.getByName(this.name).fetch(`http://shard/connect?connection=${connection}`, { headers: { Upgrade: "websocket" } });
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
}
