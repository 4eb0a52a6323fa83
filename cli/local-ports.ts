// Ports of this machine for local servers. Refuses to guess: a taken port is an error that says how to choose another.

import { InvalidArgumentError } from "commander";
import { createServer } from "node:net";
import { positiveInteger } from "./positive-integer.ts";

/** Everything local listens on loopback only. */
export const HOST = "127.0.0.1";

/** A port for a process that only its siblings talk to. */
export function freePort(): Promise<number> {
  return new Promise((done, failed) => {
    const probe = createServer().once("error", failed).listen(0, HOST, () => {
      const { port } = probe.address() as { port: number };
      probe.close(() => done(port));
    });
  });
}

/** Throws when something listens on the port already. */
export async function requireFreePort(port: number): Promise<void> {
  await new Promise<void>((free, taken) => {
    const probe = createServer();
    probe.once("error", (cause: NodeJS.ErrnoException) => {
      taken(new Error(cause.code === "EADDRINUSE"
        ? `Port ${port} is taken by another program. Choose another: \`PORT=${port + 1} npm start\` or \`--port ${port + 1}\`.`
        : `Port ${port} cannot be used: ${cause.message}.`));
    });
    probe.listen(port, HOST, () => probe.close(() => free()));
  });
}

export function portNumber(text: string): number {
  const port = positiveInteger(text);
  if (port > 65_535) throw new InvalidArgumentError("Expected a port number from 1 to 65535.");
  return port;
}
