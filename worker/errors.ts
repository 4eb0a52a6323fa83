// Errors of the API in OpenAI's shape. Everything that goes wrong inside is thrown and rendered here, once, at the edge.
// A message is a full sentence: what was found, what was expected. Refuses to leak stacks: an unknown error is named, not dumped.

import { ModelError, oneLine } from "../model/config.ts";

export interface OpenAiError {
  readonly error: { readonly message: string; readonly type: string; readonly param: string | null; readonly code: string | null };
}

export interface RequestErrorInit {
  readonly status: number;
  readonly message: string;
  readonly type?: string;
  readonly param?: string | null;
  readonly code?: string | null;
  readonly retryAfterSeconds?: number;
}

/** A request that cannot be served, with the status and the fields of OpenAI's error object. */
export class RequestError extends Error {
  override readonly name = "RequestError";
  readonly status: number;
  readonly type: string;
  readonly param: string | null;
  readonly code: string | null;
  readonly retryAfterSeconds: number | null;

  constructor(init: RequestErrorInit) {
    super(oneLine(init.message));
    this.status = init.status;
    this.type = init.type ?? (init.status >= 500 ? "server_error" : "invalid_request_error");
    this.param = init.param ?? null;
    this.code = init.code ?? null;
    this.retryAfterSeconds = init.retryAfterSeconds ?? null;
  }
}

/** A 400 about one parameter. */
export const invalid = (param: string | null, message: string, code: string | null = null): RequestError =>
  new RequestError({ status: 400, message, param, code });

/** A 500 about a variable or secret of the deployment: its owner must see it, and nobody is served by guessing. */
export const badConfiguration = (message: string): RequestError => new RequestError({ status: 500, message, code: "bad_configuration" });

/** Any thrown value as a RequestError: ours as they are, a pack that this version cannot use as what it is, everything else a 500 that names the error. */
export function toRequestError(thrown: unknown): RequestError {
  if (thrown instanceof RequestError) return thrown;
  if (thrown instanceof ModelError) return new RequestError({ status: 503, code: "pack_unusable", message: `The pack of this deployment cannot be used: ${thrown.message}` });
  const message = thrown instanceof Error ? `${thrown.name}: ${thrown.message}` : String(thrown);
  return new RequestError({ status: 500, message: `The server failed: ${message}`, code: "internal_error" });
}

/** The JSON body of an error. */
export const errorBody = (error: RequestError): OpenAiError => ({
  error: { message: error.message, type: error.type, param: error.param, code: error.code },
});

/** The whole response of an error that happens before any byte was streamed; `body` is its document in the API's own shape. */
export function errorResponse(thrown: unknown, body: (error: RequestError) => object = errorBody): Response {
  const error = toRequestError(thrown);
  const headers = new Headers();
  if (error.retryAfterSeconds !== null) headers.set("Retry-After", String(error.retryAfterSeconds));
  if (error.status === 401) headers.set("WWW-Authenticate", "Bearer");
  return Response.json(body(error), { status: error.status, headers });
}
