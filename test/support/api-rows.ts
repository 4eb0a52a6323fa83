// What a row of the API conformance table is: a requirement, the request that puts it to the test, and the answer expected.
// Rows live in test/workerd/api-refusals.test.ts; this file owns only their form and the comparison.

export interface ApiRow {
  readonly requirement: string;
  /** "POST /v1/completions"; GET has no body. */
  readonly call: string;
  /** A JSON value, or text sent as it is. */
  readonly body?: unknown;
  readonly rawBody?: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly status: number;
  /** Fields of OpenAI's error object; `message` is a pattern. */
  readonly error?: { readonly code?: string | null; readonly type?: string; readonly param?: string | null; readonly message?: RegExp };
}

export const toRequest = (row: ApiRow, origin = "https://edge"): Request => {
  const [method, path] = row.call.split(" ") as [string, string];
  const body = row.rawBody ?? (row.body === undefined ? undefined : JSON.stringify(row.body));
  return new Request(origin + path, { method, headers: { "Content-Type": "application/json", ...row.headers }, ...(body === undefined ? {} : { body }) });
};
