// A network that fails on purpose: an HTTP proxy before the served model that follows a script for its POSTs, one entry each, and lets all else through.
// Owns the ways a stream can drop. Refuses to change a byte of what it passes on.

import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";

export type Fault =
  /** The connection is cut in the middle of the event after this many, once the page shows that many tokens. */
  | { readonly kind: "cut"; readonly afterEvents: number; readonly shownTokens: number }
  /** The body ends, in good order and too early, after this many events. */
  | { readonly kind: "end"; readonly afterEvents: number }
  /** The answer is this status, and the server hears nothing. */
  | { readonly kind: "status"; readonly status: number }
  /** An event of the stream says that it failed, after this many. */
  | { readonly kind: "refuse"; readonly afterEvents: number };

export interface BreakingProxy {
  readonly url: string;
  /** What the next POSTs meet; after the last entry all is well. */
  readonly script: Fault[];
  /** The header Last-Event-ID of every POST so far. */
  readonly asked: (string | null)[];
  /** Resolves when the page shows this many tokens. A browser throws away what it has received and not yet handed over when a connection is cut. */
  shown: (nTokens: number) => Promise<unknown>;
  readonly close: () => Promise<void>;
}

export async function breakingProxy(target: string): Promise<BreakingProxy> {
  const script: Fault[] = [];
  const asked: (string | null)[] = [];
  const server: Server = createServer((request, response) => {
    const isPost = request.method === "POST";
    if (isPost) asked.push((request.headers["last-event-id"] as string | undefined) ?? null);
    pass(target, request, response, isPost ? script.shift() ?? null : null, (nTokens) => proxy.shown(nTokens)).catch(() => response.destroy());
  });
  await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
  const { port } = server.address() as { port: number };
  const proxy: BreakingProxy = {
    url: `http://127.0.0.1:${port}`, script, asked, shown: () => Promise.resolve(),
    close: () => new Promise((done) => {
      server.closeAllConnections();
      server.close(() => done());
    }),
  };
  return proxy;
}

async function pass(target: string, request: IncomingMessage, response: ServerResponse, fault: Fault | null, shown: BreakingProxy["shown"]): Promise<void> {
  const body: Buffer[] = [];
  for await (const part of request) body.push(part as Buffer);
  if (fault?.kind === "status") {
    response.writeHead(fault.status, { "Content-Type": "application/json", "Retry-After": "1" });
    response.end(JSON.stringify({ error: { message: "The model is loading." } }));
    return;
  }
  const names = ["content-type", "last-event-id", "authorization"].filter((name) => request.headers[name] !== undefined);
  const left = new AbortController();
  response.on("close", () => left.abort());
  const answer = await fetch(`${target}${request.url ?? "/"}`, {
    method: request.method!, headers: Object.fromEntries(names.map((name) => [name, String(request.headers[name])])), signal: left.signal,
    ...(request.method === "POST" ? { body: Buffer.concat(body) } : {}),
  });
  const headers = Object.fromEntries([...answer.headers].filter(([name]) => !["content-encoding", "content-length", "transfer-encoding", "connection"].includes(name)));
  response.writeHead(answer.status, headers);
  if (fault === null || answer.body === null) {
    for await (const part of answer.body ?? []) response.write(part);
    response.end();
    return;
  }
  await cut(answer.body, response, fault, shown);
}

async function cut(body: ReadableStream<Uint8Array>, response: ServerResponse, fault: Exclude<Fault, { kind: "status" }>, shown: BreakingProxy["shown"]): Promise<void> {
  let text = "";
  const decoder = new TextDecoder();
  for await (const part of body) {
    text += decoder.decode(part, { stream: true });
    const events = text.split("\n\n");
    if (events.length <= fault.afterEvents + 1) continue;
    const whole = events.slice(0, fault.afterEvents).map((event) => `${event}\n\n`).join("");
    const next = events[fault.afterEvents]!;
    if (fault.kind === "end") response.end(whole);
    else if (fault.kind === "refuse") response.end(`${whole}${next.split("\n")[0]}\ndata: {"error":{"message":"The step failed for good."}}\n\n`);
    else {
      response.write(whole + next.slice(0, next.length >> 1));
      await shown(fault.shownTokens);
      response.destroy();
    }
    return;
  }
}
