// The seam between lines and whatever carries their frames: a socket, what is told of it, and the way to one shard that opens one.
// Owns the contract, which the platform (shard-transport.ts, stage-objects.ts), the simulation and tests fulfil. Refuses to know what the bytes mean.

import type { Hello, Welcome } from "./handshake.ts";

/** An open socket. Sending on a dead one may succeed silently; only an answer proves anything. */
export interface FrameSocket {
  /** The buffer must not be changed afterwards: the runtime may still be reading it. */
  send(bytes: ArrayBuffer): void;
  close(code: number, reason: string): void;
}

export interface SocketHandlers {
  message(data: ArrayBuffer): void;
  /** Called at most once, for close and error alike. */
  closed(reason: string): void;
}

/** The way to one shard object. `name` is for messages. */
export interface ShardTransport {
  readonly name: string;
  prepare(hello: Hello): Promise<Welcome>;
  open(connection: number, handlers: SocketHandlers): Promise<FrameSocket>;
}

export function closeQuietly(socket: Pick<FrameSocket, "close"> | null, code: number, reason: string): void {
  try {
    socket?.close(code, reason);
  } catch {
    // A socket that cannot be closed is already gone.
  }
}
