// The JavaScript heap of a Worker in workerd through its inspector: collects, then asks how much is used. Owns the protocol's few messages (Chrome DevTools
// Protocol). A snapshot collects first, and is asked for that alone: workerd leaves HeapProfiler.collectGarbage unanswered (2026-11). Refuses to keep snapshots.

export interface Heap {
  /** Used after a forced collection, in MiB. */
  usedMiB(): Promise<number>;
  close(): void;
}

/** Throws when no inspector answers on the port, or none of the Worker `name`. */
export async function openHeap(port: number, name: string): Promise<Heap> {
  const targets = (await (await fetch(`http://127.0.0.1:${port}/json`)).json()) as { title: string; webSocketDebuggerUrl: string }[];
  const own = targets.filter(({ title }) => title.split(/[ :]/).includes(name));
  if (own.length === 0) throw new Error(`The inspector on port ${port} knows ${targets.map(({ title }) => title).join(", ")}; expected the Worker "${name}".`);
  const sessions = await Promise.all(own.map(({ webSocketDebuggerUrl }) => connect(webSocketDebuggerUrl)));
  return {
    usedMiB: async () => {
      let used = 0;
      for (const { call } of sessions) {
        // What the first collection finishes the second one frees.
        for (let i = 0; i < 2; i++) await call("HeapProfiler.takeHeapSnapshot");
        used += ((await call("Runtime.getHeapUsage")) as { usedSize: number }).usedSize;
      }
      return used / 2 ** 20;
    },
    close: () => { for (const { socket } of sessions) socket.close(); },
  };
}

async function connect(url: string): Promise<{ socket: WebSocket; call: (method: string) => Promise<unknown> }> {
  const socket = new WebSocket(url);
  await new Promise((done, failed) => {
    socket.addEventListener("open", done, { once: true });
    socket.addEventListener("error", () => failed(new Error(`No inspector answers at ${url}.`)), { once: true });
  });
  const waiting = new Map<number, { done: (result: unknown) => void; failed: (error: Error) => void }>();
  socket.addEventListener("message", ({ data }) => {
    const text = String(data);
    if (text.startsWith('{"method":"HeapProfiler.addHeapSnapshotChunk"')) return;
    const { id, result, error } = JSON.parse(text) as { id?: number; result?: unknown; error?: { message: string } };
    const caller = id === undefined ? undefined : waiting.get(id);
    if (caller === undefined) return;
    waiting.delete(id!);
    if (error === undefined) caller.done(result);
    else caller.failed(new Error(error.message));
  });
  let nextId = 1;
  return {
    socket,
    call: (method) => new Promise((done, failed) => {
      waiting.set(nextId, { done, failed });
      socket.send(JSON.stringify({ id: nextId++, method }));
    }),
  };
}
