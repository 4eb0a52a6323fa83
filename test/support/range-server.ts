// A loopback HTTP server for tests of remote sources: files with ranges, and every way a server can fail to be one. Refuses nothing by itself.

import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

export interface Answer {
  /** "whole" ignores ranges. */
  readonly kind?: "ranges" | "whole";
  readonly etag?: string;
  readonly status?: number;
  readonly headers?: Readonly<Record<string, string>>;
  /** Breaks the connection after so many bytes of the body. */
  readonly cutAfter?: number;
  /** Ends the body after so many bytes as if that were all. */
  readonly endAfter?: number;
  readonly body?: Uint8Array;
}

export interface RangeServer {
  readonly address: string;
  readonly requests: { readonly path: string; readonly range: string | undefined; readonly headers: IncomingMessage["headers"] }[];
  /** Decides on answers; by default ranges with one ETag. `n` counts requests from 0. */
  answer: (path: string, n: number, request: IncomingMessage) => Answer;
  close(): Promise<void>;
}

export async function startRangeServer(files: ReadonlyMap<string, Uint8Array>): Promise<RangeServer> {
  const server = createServer((request, response) => respond(state, files, request, response));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const state: RangeServer = {
    address: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, requests: [], answer: () => ({}),
    close: () => new Promise((resolve) => { server.closeAllConnections(); server.close(() => resolve()); }),
  };
  return state;
}

function respond(state: RangeServer, files: ReadonlyMap<string, Uint8Array>, request: IncomingMessage, response: ServerResponse): void {
  const path = decodeURIComponent(new URL(request.url!, "http://x").pathname);
  const n = state.requests.length;
  state.requests.push({ path: request.url!, range: request.headers.range, headers: request.headers });
  const { kind = "ranges", etag = '"v1"', status, headers = {}, cutAfter, endAfter, body } = state.answer(path, n, request);
  const file = body ?? files.get(path);
  if (status !== undefined) return void response.writeHead(status, headers).end("no");
  if (file === undefined) return void response.writeHead(404).end("not here");
  const [, from, to] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? "") ?? [];
  const common = etag === "" ? {} : { etag };
  if (kind === "whole" || from === undefined) return void response.writeHead(200, { ...common, "content-length": file.length }).end(file);
  const start = Number(from);
  const end = Math.min(Number(to) + 1, file.length);
  if (start >= file.length) return void response.writeHead(416, { ...common, "content-range": `bytes */${file.length}` }).end();
  response.writeHead(206, { ...common, "content-length": endAfter ?? end - start, "content-range": `bytes ${start}-${end - 1}/${file.length}`, ...headers });
  if (endAfter !== undefined) return void response.end(file.subarray(start, start + endAfter));
  if (cutAfter === undefined || cutAfter >= end - start) return void response.end(file.subarray(start, end));
  response.write(file.subarray(start, start + cutAfter), () => response.destroy());
}
