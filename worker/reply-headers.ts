// Headers of replies that are ours to promise: what each says, and which answers have it. Owns the list the OpenAPI document is made of; tests hold real
// answers to it. Refuses headers that HTTP itself explains (Content-Type, Cache-Control) and those of CORS. Sent by log-middleware.ts, admission.ts, errors.ts.

import type { Endpoint } from "./openapi.ts";

interface ReplyHeader {
  readonly type: "string" | "integer";
  readonly description: string;
  /** Whether an answer of this status may have it. */
  readonly isSent: (status: number, endpoint: Endpoint) => boolean;
}

const isGenerated = (status: number, { event }: Endpoint): boolean => status === 200 && event !== undefined;
const isCounted = (status: number, endpoint: Endpoint): boolean => isGenerated(status, endpoint) || (status === 200 && endpoint.reply === "EmbeddingList");

export const REPLY_HEADERS: Readonly<Record<string, ReplyHeader>> = {
  "X-Request-Id": { type: "string", description: "The request's name in the log.", isSent: () => true },
  "Server-Timing": { type: "string", description: "Milliseconds of auth, tokenise, queue, first_token and total, as far as the request came before its headers went out.", isSent: () => true },
  "Retry-After": { type: "integer", description: "Seconds after which asking again may help; absent from a 503 where it does not.", isSent: (status) => status === 429 || status === 503 },
  "X-Served-By": { type: "string", description: "The lane that answered, behind its region where the deployment has regions, such as \"weur/0\".", isSent: isCounted },
  "X-Max-Tokens": { type: "integer", description: "Most tokens of a reply, where the key has such a limit.", isSent: isGenerated },
  "X-RateLimit-Limit-Tokens": { type: "integer", description: "Tokens of a day, where the key has such a limit.", isSent: isCounted },
  "X-RateLimit-Remaining-Tokens": { type: "integer", description: "Of these, what is left once this request has had the most it may need.", isSent: isCounted },
  "X-RateLimit-Reset-Tokens": { type: "string", description: "Seconds until the next day begins, such as \"3600s\".", isSent: isCounted },
  "WWW-Authenticate": { type: "string", description: "\"Bearer\".", isSent: (status) => status === 401 },
  "Allow": { type: "string", description: "Methods the path takes.", isSent: (status) => status === 405 },
};
